package drivers_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// provider lets everybody do everything.
func provider() *core.Provider {
	return &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	}
}

// nodes runs two services that share a memory driver.
func nodes(t *testing.T, opts ...core.Option) (a, b *core.Service) {
	t.Helper()
	driver := drivers.NewMemoryDriver()
	opts = append([]core.Option{provider()}, opts...)
	return coretest.RunOn(t, driver, opts...), coretest.RunOn(t, driver, opts...)
}

// in connects a client and subscribes it to channels.
func in(t *testing.T, s *core.Service, id string, channels ...string) *coretest.Conn {
	t.Helper()
	c := coretest.Connect(t, s, map[string]any{"client_id": id, "name": "Name of " + id})
	c.Do(core.Message{Type: "ping"}) // it is registered
	for _, channel := range channels {
		c.Do(core.Message{Type: "subscribe", Channel: channel})
	}
	return c
}

// connOf returns the ConnID of the only connection of a client id in a channel.
func connOf(t *testing.T, s *core.Service, channel, id string) string {
	t.Helper()
	members, err := s.Members(t.Context(), channel, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.ClientID == id {
			return m.ConnID
		}
	}
	t.Fatalf("%s is not in %v", id, members)
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatOneNodePushesReachesClientsOfBoth(t *testing.T) {
	t.Parallel()
	a, b := nodes(t)
	anna, bert := in(t, a, "anna", "room"), in(t, b, "bert", "room")
	other := in(t, b, "carl", "other")
	must(t, a.Push([]string{"room"}, core.Message{Type: "news", Message: "hi"}))
	for _, c := range []*coretest.Conn{anna, bert} {
		if got := c.Expect("news"); got.Message.Message != "hi" || got.Channel != "room" {
			t.Error(got.Raw)
		}
	}
	must(t, b.Push([]string{"room"}, "again", core.ExceptConn(connOf(t, b, "room", "anna"))))
	bert.Expect("message")
	anna.Nothing()
	other.Nothing()

	anna.Do(core.Message{Type: "message", Channel: "room", Message: "from anna"})
	if got := bert.Expect("message"); got.ClientID != "anna" {
		t.Error(got.Raw)
	}
}

func TestBroadcastReachesEveryConnectionOfTheApp(t *testing.T) {
	t.Parallel()
	a, b := nodes(t)
	must(t, a.RegisterProvider("shop", provider()))
	anna, bert := in(t, a, "anna"), in(t, b, "bert", "room")
	shopper := coretest.Connect(t, a, map[string]any{"client_id": "anna", "app": "shop"})
	shopper.Do(core.Message{Type: "subscribe", Channel: "room"})
	must(t, a.Broadcast(t.Context(), core.Message{Type: "news"}))
	anna.Expect("news")
	bert.Expect("news")
	must(t, b.Push([]string{"room"}, core.Message{Type: "news"}))
	bert.Expect("news")
	shopper.Nothing()
	must(t, b.App("shop").Push([]string{"room"}, core.Message{Type: "offer"})) // b has no such provider
	shopper.Expect("offer")
	bert.Nothing()
	anna.Nothing()
}

func TestSendFindsTheClientOnAnyNode(t *testing.T) {
	t.Parallel()
	a, b := nodes(t)
	one, two := in(t, a, "anna"), in(t, b, "anna")
	bert := in(t, b, "bert")
	must(t, a.Send(t.Context(), "anna", core.Message{Type: "letter"}))
	one.Expect("letter")
	two.Expect("letter")
	must(t, a.Send(t.Context(), "bert", core.Message{Type: "letter"}))
	bert.Expect("letter")
	one.Nothing()
	two.Nothing()
	if err := a.Send(t.Context(), "carl", "letter"); !errors.Is(err, core.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
}

func TestOnlineIsKnownEverywhereUntilTheLastConnectionEnds(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 2)
	p := provider()
	p.Event = func(name string, _ *core.Client) error {
		if name == core.EventOffline {
			gone <- struct{}{}
		}
		return nil
	}
	a, b := nodes(t, p)
	online := func(want bool) {
		t.Helper()
		for _, s := range []*core.Service{a, b} {
			if got, err := s.Online(t.Context(), "anna"); got != want || err != nil {
				t.Errorf("Online: got %v, %v, want %v", got, err, want)
			}
		}
	}
	online(false)
	one, two := in(t, a, "anna"), in(t, b, "anna")
	online(true)
	one.Close(1000, "")
	<-gone
	online(true)
	two.Cut()
	<-gone
	online(false)
}

func TestPresenceCoversBothNodes(t *testing.T) {
	t.Parallel()
	a, b := nodes(t, core.WithPresenceData("name"))
	in(t, a, "anna", "room")
	in(t, b, "anna", "room")
	bert := in(t, b, "bert", "room")
	for _, s := range []*core.Service{a, b} {
		if n, err := s.Count(t.Context(), "room"); n != 2 || err != nil {
			t.Errorf("Count: %d, %v, want 2", n, err)
		}
		members, err := s.Members(t.Context(), "room", 0)
		if err != nil || len(members) != 3 {
			t.Fatalf("Members: %v, %v, want 3", members, err)
		}
		var ids []string
		for _, m := range members {
			ids = append(ids, m.ClientID)
			if want := `{"name":"Name of ` + m.ClientID + `"}`; string(m.Data) != want || m.ConnID == "" {
				t.Errorf("got %+v, want Data %s", m, want)
			}
		}
		if slices.Sort(ids); !slices.Equal(ids, []string{"anna", "anna", "bert"}) {
			t.Errorf("Members: %q", ids)
		}
		if members, err = s.Members(t.Context(), "room", 2); len(members) != 2 || err != nil {
			t.Errorf("Members, 2 at most: %v, %v", members, err)
		}
	}
	var listed []core.Member
	answer := bert.Do(core.Message{Type: "presence", Channel: "room"})
	if err := answer.Bind(&listed); err != nil || len(listed) != 3 {
		t.Errorf("presence: %s, %v", answer.Raw, err)
	}
}

func TestJoinAndLeaveAreToldByClientIDAcrossNodes(t *testing.T) {
	t.Parallel()
	a, b := nodes(t, core.WithChannel("room", core.Rules{Presence: core.PresenceEvents}), core.WithPresenceData("name"))
	watcher := in(t, a, "watcher", "room")
	expect := func(kind, id string) {
		t.Helper()
		got := watcher.Expect(kind)
		var data struct{ Name string }
		if err := got.Bind(&data); err != nil || got.ClientID != id || got.Channel != "room" || data.Name != "Name of "+id {
			t.Error(got.Raw)
		}
	}
	one := in(t, b, "anna", "room")
	expect("join", "anna")
	two := in(t, a, "anna", "room") // a second connection, on another node
	watcher.Nothing()
	one.Do(core.Message{Type: "unsubscribe", Channel: "room"})
	watcher.Nothing()
	two.Close(1000, "")
	expect("leave", "anna")
	one.Do(core.Message{Type: "subscribe", Channel: "room"})
	expect("join", "anna")
	one.Cut()
	expect("leave", "anna")
}

func TestAKickReachesTheClientOnAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := nodes(t)
	one, two := in(t, a, "anna", "room"), in(t, b, "anna")
	bert := in(t, b, "bert")
	must(t, b.Disconnect(t.Context(), "anna", 4001, "enough", core.ExceptConn(connOf(t, b, "room", "anna"))))
	if why := two.Closed(); why.Code != 4001 || why.Reason != "enough" {
		t.Error(why)
	}
	one.Nothing()
	must(t, b.Disconnect(t.Context(), "anna", 0, ""))
	if why := one.Closed(); why.Code != core.CloseKicked {
		t.Error(why)
	}
	bert.Nothing()
	if err := b.Disconnect(t.Context(), "anna", 0, ""); !errors.Is(err, core.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
}

func TestSubscribeByClientIDReachesEveryConnection(t *testing.T) {
	t.Parallel()
	a, b := nodes(t)
	one, two := in(t, a, "anna"), in(t, b, "anna")
	must(t, a.Subscribe(t.Context(), "anna", "room", "hall"))
	must(t, b.Push([]string{"hall"}, core.Message{Type: "news"}))
	one.Expect("news")
	two.Expect("news")
	must(t, a.Unsubscribe(t.Context(), "anna", "hall"))
	for _, c := range []*coretest.Conn{one, two} {
		if got := c.Expect("unsubscribed"); got.Channel != "hall" {
			t.Error(got.Raw)
		}
	}
	must(t, b.Push([]string{"hall"}, core.Message{Type: "news"}))
	must(t, b.Push([]string{"room"}, core.Message{Type: "other"}))
	one.Expect("other")
	two.Expect("other")
	if err := a.Subscribe(t.Context(), "bert", "room"); !errors.Is(err, core.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
}

func TestANewSessionReplacesTheOldOneOnAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := nodes(t, core.WithSessions(core.ReplaceOld))
	bert := in(t, a, "bert")
	last := in(t, a, "anna", "room")
	for i := range 4 {
		next := in(t, []*core.Service{b, a, a, b}[i], "anna", "room")
		if why := last.Closed(); why.Code != core.CloseReplaced {
			t.Errorf("the older connection: %v", why)
		}
		last = next
	}
	must(t, a.Send(t.Context(), "anna", core.Message{Type: "letter"}))
	last.Expect("letter")
	bert.Nothing()
}

func TestASecondSessionIsRejectedOnAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := nodes(t, core.WithSessions(core.RejectNew))
	first := in(t, a, "anna")
	for _, s := range []*core.Service{a, b} {
		second := coretest.Connect(t, s, map[string]any{"client_id": "anna"})
		if why := second.Closed(); why.Code != core.CloseTooMany {
			t.Error(why)
		}
	}
	first.Nothing()
	in(t, b, "bert").Nothing()
}

func TestAServiceThatNeverRanSpeaksToTheNodes(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	node := coretest.RunOn(t, driver, provider())
	worker := core.New(driver)
	if err := worker.Send(t.Context(), "anna", "early"); !errors.Is(err, core.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
	anna := in(t, node, "anna", "room")
	must(t, worker.Push([]string{"room"}, core.Message{Type: "push"}))
	anna.Expect("push")
	must(t, worker.Send(t.Context(), "anna", core.Message{Type: "send"}))
	anna.Expect("send")
	must(t, worker.Broadcast(t.Context(), core.Message{Type: "broadcast"}))
	anna.Expect("broadcast")
	if n, err := worker.Count(t.Context(), "room"); n != 1 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if online, err := worker.Online(t.Context(), "anna"); !online || err != nil {
		t.Errorf("Online: %v, %v", online, err)
	}
	must(t, worker.Disconnect(t.Context(), "anna", 0, ""))
	_ = anna.Closed()
	must(t, worker.Shutdown(t.Context()))
	if err := worker.Push([]string{"room"}, "late"); !errors.Is(err, core.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestANodeThatShutsDownLeavesTheOtherAtWork(t *testing.T) {
	t.Parallel()
	a, b := nodes(t, core.WithChannel("room", core.Rules{Presence: core.PresenceEvents}))
	anna, bert := in(t, a, "anna", "room"), in(t, b, "bert", "room")
	anna.Expect("join")
	must(t, a.Shutdown(t.Context()))
	if why := anna.Closed(); why.Code != core.CloseRestart {
		t.Error(why)
	}
	if got := bert.Expect("leave"); got.ClientID != "anna" {
		t.Error(got.Raw)
	}
	if n, err := b.Count(t.Context(), "room"); n != 1 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if err := b.Send(t.Context(), "anna", "letter"); !errors.Is(err, core.ErrOffline) {
		t.Errorf("got %v, want ErrOffline", err)
	}
	must(t, b.Push([]string{"room"}, core.Message{Type: "news"}))
	bert.Expect("news")
	if err := a.Push([]string{"room"}, "late"); !errors.Is(err, core.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// A hook that hangs outlives Shutdown. Its connection is gone for the other nodes all the same.
func TestAConnectionWhoseHookHangsIsGoneAfterShutdown(t *testing.T) {
	t.Parallel()
	hang, entered := make(chan struct{}), make(chan struct{})
	p := provider()
	p.Message = func(*core.Message, *core.Client) error {
		close(entered)
		<-hang
		return nil
	}
	driver := drivers.NewMemoryDriver()
	a, b := core.New(driver, p), coretest.RunOn(t, driver, provider())
	must(t, a.Run())
	anna := in(t, a, "anna", "room")
	anna.Send(core.Message{Type: "hang"})
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Shutdown(ctx); err == nil {
		t.Error("Shutdown does not say that a hook runs")
	}
	if n, err := b.Count(t.Context(), "room"); n != 0 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if online, err := b.Online(t.Context(), "anna"); online || err != nil {
		t.Errorf("Online: %v, %v", online, err)
	}
	close(hang)
	_ = anna.Closed()
}
