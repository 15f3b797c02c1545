package core_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// connectTo connects a client to an app.
func connectTo(t testing.TB, s *core.Service, app, id string) (*coretest.Conn, *core.Client) {
	t.Helper()
	h := coretest.Handshake()
	h.App, h.Identity = app, user(id)
	conn := coretest.Dial(t, s, h)
	conn.Do(core.Message{Type: "ping"})
	return conn, core.FindClients(s, app, id)[0]
}

func TestAppsNeverSeeEachOthersClientsAndChannels(t *testing.T) {
	t.Parallel()
	nodes(t, []core.Option{permissive()}, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		for _, s := range []*core.Service{here, there} {
			if err := errors.Join(s.RegisterProvider("shop", permissive()), s.RegisterProvider("blog", permissive())); err != nil {
				t.Fatal(err)
			}
		}
		ctx := t.Context()
		conns := map[string]*coretest.Conn{}
		for app, s := range map[string]*core.Service{"": here, "shop": there, "blog": here} {
			conn, client := connectTo(t, s, app, "ann")
			if client.App != app || client.Scope().Name() != app {
				t.Fatal(client.App)
			}
			sub(t, client, "room")
			conns[app] = conn
		}
		shop := here.App("shop")
		for name, call := range map[string]func() error{
			"push":      func() error { return shop.Push([]string{"room"}, core.Message{Type: "it"}) },
			"broadcast": func() error { return shop.Broadcast(ctx, core.Message{Type: "it"}) },
			"send":      func() error { return shop.Send(ctx, "ann", core.Message{Type: "it"}) },
			"of a client": func() error {
				for _, s := range []*core.Service{here, there} {
					for _, c := range core.FindClients(s, "shop", "ann") {
						return c.Push([]string{"room"}, core.Message{Type: "it"})
					}
				}
				return nil
			},
		} {
			if err := call(); err != nil {
				t.Fatal(name, err)
			}
			conns["shop"].Expect("it")
			for _, conn := range conns {
				conn.Nothing()
			}
		}
		_, second := connectTo(t, here, "shop", "bob")
		sub(t, second, "room")
		for app, want := range map[string]int{"": 1, "shop": 2, "blog": 1, "none": 0} {
			members, err := there.App(app).Members(ctx, "room", 0)
			if n, err2 := here.App(app).Count(ctx, "room"); len(members) != want || n != want || err != nil || err2 != nil {
				t.Fatalf("app %q: members %v, count %d, %v, %v", app, members, n, err, err2)
			}
		}
		if online, err := here.Online(ctx, "bob"); online || err != nil {
			t.Fatal(online, err)
		}
		if err := here.App("blog").Disconnect(ctx, "bob", 0, ""); !errors.Is(err, core.ErrOffline) {
			t.Fatal(err)
		}
		if err := errors.Join(shop.Subscribe(ctx, "ann", "second"), shop.Unsubscribe(ctx, "ann", "second"), shop.Disconnect(ctx, "ann", 0, "")); err != nil {
			t.Fatal(err)
		}
		conns["shop"].Expect("unsubscribed")
		if why := conns["shop"].Closed(); why.Code != core.CloseKicked {
			t.Fatal(why)
		}
		conns[""].Nothing()
		conns["blog"].Nothing()
	})
}

// The policy counts each app's client ids on their own.
func TestSessionsOfOneAppDoNotReplaceThoseOfAnother(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithSessions(core.ReplaceOld))
	if err := s.RegisterProvider("shop", permissive()); err != nil {
		t.Fatal(err)
	}
	first, _ := connectTo(t, s, "", "ann")
	second, _ := connectTo(t, s, "shop", "ann")
	third, _ := connectTo(t, s, "shop", "ann")
	if why := second.Closed(); why.Code != core.CloseReplaced {
		t.Fatal(why)
	}
	first.Nothing()
	third.Nothing()
}

func TestProvidersAreRegisteredWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	says := func(what string) *core.Provider {
		return &core.Provider{Message: func(m *core.Message, _ *core.Client) error { return m.Reply(what) }}
	}
	s := coretest.Run(t, says("first"), core.WithLogger(nil))
	ask := func(conn *coretest.Conn, want string) {
		t.Helper()
		var got string
		if answer := conn.Do(core.Message{Type: "who"}); answer.Bind(&got) != nil || got != want {
			t.Fatalf("got %s, want %s", answer.Raw, want)
		}
	}
	old, _ := connectTo(t, s, "", "old")
	if err := s.RegisterProvider("", says("second")); err != nil {
		t.Fatal(err)
	}
	young, _ := connectTo(t, s, "", "young")
	ask(old, "first") // connections keep what they came with
	ask(young, "second")

	admit := func(app string) error {
		h := coretest.Handshake()
		h.App, h.Identity = app, user("x")
		_, err := s.Admit(t.Context(), h)
		return err
	}
	var refusal *core.Refusal
	if err := admit("shop"); !errors.As(err, &refusal) || refusal.Status != 404 {
		t.Fatal(err)
	}
	if err := s.RegisterProvider("*", says("any")); err != nil {
		t.Fatal(err)
	}
	any1, _ := connectTo(t, s, "shop", "any1")
	other, _ := connectTo(t, s, "another", "any1")
	ask(any1, "any")
	ask(young, "second")
	if err := s.RegisterProvider("shop", says("shop")); err != nil {
		t.Fatal(err)
	}
	shop, _ := connectTo(t, s, "shop", "shop")
	ask(shop, "shop")
	ask(any1, "any")
	if err := s.App("shop").Broadcast(t.Context(), core.Message{Type: "hello"}); err != nil { // apps under "*" are apart
		t.Fatal(err)
	}
	any1.Expect("hello")
	shop.Expect("hello")
	other.Nothing()
	if err := s.RegisterProvider("x", nil); err == nil {
		t.Fatal("a nil provider was taken")
	}
}

func TestStatsCountWhatHappens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithLogger(nil))
		if got, want := s.Stats(), (core.Stats{Node: s.Stats().Node}); got != want || got.Node == "" {
			t.Fatalf("%+v", got)
		}
		ann, first := connect(t, s, "ann")
		_, second := connect(t, s, "bob")
		sub(t, first, "a", "b")
		sub(t, second, "a")
		push(t, s, "a", "x")
		push(t, s, "b", "x")
		push(t, s, "nobody", "x")
		if err := s.Broadcast(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		ann.Do(core.Message{Type: "message", Channel: "a"})
		synctest.Wait()
		want := core.Stats{Node: s.Stats().Node, Connections: 2, Channels: 3, Published: 5, Delivered: 7}
		if got := s.Stats(); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		ann.Close(1000, "")
		if err := second.Unsub(); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second)
		want.Connections, want.Channels = 1, 1
		if got := s.Stats(); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestStatsCountRunningHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := coretest.Run(t, &core.Provider{Message: func(*core.Message, *core.Client) error {
			<-release
			return nil
		}})
		conn, _ := connect(t, s, "ann")
		conn.Send(core.Message{Type: "x", ID: "1"})
		synctest.Wait()
		if n := s.Stats().Hooks; n != 1 {
			t.Fatal(n)
		}
		close(release)
		conn.Expect("receive")
		synctest.Wait()
		if n := s.Stats().Hooks; n != 0 {
			t.Fatal(n)
		}
	})
}

func TestADriverThatIsAwayIsLoggedEveryMinuteAndWhenItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, log := keepJournal(t)
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, log)
		if err := s.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.node().Down(errScripted, nil)
		<-time.After(150 * time.Second)
		if n := len(book.with("ERROR", "driver away", errScripted.Error())); n != 3 {
			t.Fatalf("%d lines in 2.5 minutes, want one at once and one each minute", n)
		}
		if err := s.Health(t.Context()); !errors.Is(err, errScripted) || !strings.Contains(err.Error(), "2m30s") {
			t.Fatal(err)
		}
		d.node().Up(nil)
		<-time.After(2 * time.Second)
		book.has("driver back", "after=2m3")
		<-time.After(5 * time.Minute)
		if n := len(book.with("driver away")); n != 3 {
			t.Fatal(n)
		}
		if err := s.Health(t.Context()); err != nil || s.Stats().DriverAway != 0 {
			t.Fatal(err)
		}
	})
}

func TestADriverThatFailsForEverybodyIsLoggedOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, log := keepJournal(t)
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), log)
		var conns []*coretest.Conn
		for i := range 50 {
			conn, _ := connect(t, s, fmt.Sprint("client ", i))
			conns = append(conns, conn)
		}
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "leave" {
				return errScripted
			}
			return nil
		})
		for i, conn := range conns {
			if i == 25 {
				<-time.After(time.Minute)
			}
			conn.Close(1000, "")
		}
		synctest.Wait()
		if n := len(book.with("WARN", "leave failed", errScripted.Error())); n != 2 {
			t.Fatalf("%d lines, want one in each of two minutes", n)
		}
		for i := range 3 {
			d.node().Fault(fmt.Errorf("garbage %d", i))
		}
		if n := len(book.with("WARN", "gows: driver", "garbage 0")); n != 1 || len(book.with("garbage")) != 1 || s.Stats().Faults != 3 {
			t.Fatalf("%d lines, %d faults, want one line and three", len(book.with("garbage")), s.Stats().Faults)
		}
		d.on(nil)
	})
}
