package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// Whatever ends a connection and whenever: online, its messages, offline; each hook alone, and offline once.
func TestTheHooksOfAConnectionRunInOrderAndOneAtATime(t *testing.T) {
	t.Parallel()
	var d diary
	var running sync.Map // ConnID → *atomic.Int32
	alone := func(c *core.Client) func() {
		counter, _ := running.LoadOrStore(c.ConnID, new(atomic.Int32))
		n := counter.(*atomic.Int32) //nolint:errcheck // nothing else is stored
		if n.Add(1) != 1 {
			t.Error("two hooks of one connection run at the same time")
		}
		return func() { n.Add(-1) }
	}
	s := coretest.Run(t, core.WithLogger(nil), &core.Provider{
		Event: func(name string, c *core.Client) error {
			defer alone(c)()
			return d.note(name, c)
		},
		Message: func(_ *core.Message, c *core.Client) error {
			defer alone(c)()
			return d.note("message", c)
		},
	})
	const clients = 90
	ends := make([]*core.Client, clients)
	var talking sync.WaitGroup
	for i := range clients {
		p, c := wirePipe(t, s, strconv.Itoa(i))
		ends[i] = c
		talking.Go(func() { // takes in what comes
			_ = p.nc.SetReadDeadline(time.Time{})
			for {
				if _, _, err := p.frame(); err != nil {
					return
				}
			}
		})
		talking.Go(func() {
			for n := range 30 {
				if _, err := p.nc.Write(appendFrame(appendFrame(nil, 1, []byte(`{"type":"x","id":"1"}`)), 9, nil)); err != nil {
					return
				}
				switch {
				case n == i%30 && i%3 == 0:
					_ = c.Close(0, "")
				case n == i%30 && i%3 == 1:
					_ = p.nc.Close()
				case n == i%30:
					_, _ = p.nc.Write(appendFrame(nil, 8, nil))
				}
			}
		})
	}
	eventually(t, "the end of all", func() bool { return s.Stats().Connections == 0 })
	talking.Wait()
	for _, c := range ends {
		events := strings.Fields(d.of(c))
		for i, e := range events {
			want := "message0"
			switch i {
			case 0:
				want = "online0"
			case len(events) - 1:
				want = "offline0"
			}
			if e != want {
				t.Fatal(events)
			}
		}
		if len(events) < 2 {
			t.Fatal(events)
		}
	}
}

// everyHook is a provider all of whose hooks call what a test sets, with the hook's name.
func everyHook(do func(hook string, c *core.Client) error) *core.Provider {
	return &core.Provider{
		Event:     do,
		Message:   func(_ *core.Message, c *core.Client) error { return do("Message", c) },
		Subscribe: func(c *core.Client, _ string) error { return do("Subscribe", c) },
		Publish:   func(c *core.Client, _ *core.Message) error { return do("Publish", c) },
	}
}

// causes makes each hook run, for a client that is connected.
var causes = map[string]func(conn *coretest.Conn){
	core.EventOnline:  func(*coretest.Conn) {},
	core.EventPing:    func(conn *coretest.Conn) { conn.Send(core.Message{Type: "ping"}) },
	"Message":         func(conn *coretest.Conn) { conn.Send(core.Message{Type: "x", ID: "x"}) },
	"Subscribe":       func(conn *coretest.Conn) { conn.Send(core.Message{Type: "subscribe", ID: "x", Channel: "asked"}) },
	"Publish":         func(conn *coretest.Conn) { conn.Send(core.Message{Type: "message", ID: "x", Channel: "asked"}) },
	core.EventOffline: func(conn *coretest.Conn) { conn.Close(1000, "") },
}

func TestEveryVerbMayBeCalledFromEveryHookAndNoneWaits(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	tests := map[string]struct {
		call  func(s *core.Service, c *core.Client) error
		after error // in offline
	}{
		"Client.Send":        {func(_ *core.Service, c *core.Client) error { return c.Send("x") }, core.ErrClosed},
		"Client.Push":        {func(_ *core.Service, c *core.Client) error { return c.Push([]string{"room"}, "x") }, core.ErrClosed},
		"Client.Sub":         {func(_ *core.Service, c *core.Client) error { return c.Sub("room", "second") }, core.ErrClosed},
		"Client.Unsub":       {func(_ *core.Service, c *core.Client) error { return c.Unsub("room") }, core.ErrClosed},
		"Client.Close":       {func(_ *core.Service, c *core.Client) error { return c.Close(4000, "in a hook") }, core.ErrClosed},
		"Service.Push":       {func(s *core.Service, _ *core.Client) error { return s.Push([]string{"room"}, "x") }, nil},
		"Service.Broadcast":  {func(s *core.Service, _ *core.Client) error { return s.Broadcast(ctx, "x") }, nil},
		"Service.Send":       {func(s *core.Service, c *core.Client) error { return s.Send(ctx, c.ClientID, "x") }, core.ErrOffline},
		"Service.Subscribe":  {func(s *core.Service, c *core.Client) error { return s.Subscribe(ctx, c.ClientID, "room") }, core.ErrOffline},
		"Service.Disconnect": {func(s *core.Service, c *core.Client) error { return s.Disconnect(ctx, c.ClientID, 0, "") }, core.ErrOffline},
		"Service.Online": {func(s *core.Service, c *core.Client) error {
			online, err := s.Online(ctx, c.ClientID)
			if online == c.Closed() {
				return fmt.Errorf("online: %v", online)
			}
			return err
		}, nil},
		"Service.Members": {func(s *core.Service, _ *core.Client) error {
			_, err := s.Members(ctx, "room", 0)
			return err
		}, nil},
	}
	for verb, test := range tests {
		for hook, cause := range causes {
			t.Run(verb+" in "+hook, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var s *core.Service
					done := make(chan error, 1)
					s = coretest.Run(t, core.WithLogger(nil), everyHook(func(name string, c *core.Client) error {
						if name == hook && c.ClientID == "ann" {
							done <- test.call(s, c)
						}
						return nil
					}))
					begun := time.Now()
					conn := coretest.Connect(t, s, user("ann"))
					cause(conn)
					want := test.after
					if hook != core.EventOffline {
						want = nil
					}
					if err := <-done; !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
					if waited := time.Since(begun); waited > time.Second { // a close is given a second to be answered
						t.Errorf("it took %v", waited)
					}
				})
			})
		}
	}
}

func TestAPanicInAHookIsLoggedAndAnsweredAndTheConnectionLives(t *testing.T) {
	t.Parallel()
	for hook, cause := range causes {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			book, log := keepJournal(t)
			armed := true
			s := coretest.Run(t, log, everyHook(func(name string, c *core.Client) error {
				if name == hook && c.ClientID == "ann" && armed {
					armed = false
					panic("by design")
				}
				return nil
			}))
			bystander, _ := connect(t, s, "bystander")
			conn := coretest.Connect(t, s, user("ann"))
			cause(conn)
			switch hook {
			case core.EventOnline:
				if why := conn.Closed(); why.Code != core.CloseInternal {
					t.Error(why)
				}
			case core.EventOffline:
			case core.EventPing:
				conn.Expect("pong")
				conn.Nothing()
			default:
				if got := conn.Expect("error"); got.Code != 500 || got.ID != "x" || strings.Contains(got.Raw, "design") {
					t.Error(got.Raw)
				}
				conn.Nothing()
			}
			bystander.Nothing()
			eventually(t, "the log", func() bool { return len(book.with("panicked")) > 0 })
			book.has("ERROR", hook+" panicked", "by design", "client=ann", "hooks_test.go")
			if n := s.Stats().Hooks; n != 0 && hook != core.EventOffline {
				t.Errorf("%d hooks are counted as running", n)
			}
		})
	}
}

func TestAnErrorFromOnlineClosesWithoutOffline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		s := coretest.Run(t, core.WithLogger(nil), &core.Provider{
			Event: func(name string, c *core.Client) error {
				_ = d.note(name, c)
				return errors.New("the house is full")
			},
			Message: func(_ *core.Message, c *core.Client) error { return d.note("message", c) },
		})
		server, client := net.Pipe()
		p := wireTo(t, s, "ann", server, client)
		go func() { // ends when it is read, or the pipe
			_, _ = client.Write(appendFrame(nil, 1, []byte(`{"type":"too early"}`)))
		}()
		texts, why := p.rest()
		if len(texts) != 0 || why != (core.CloseError{Code: core.CloseRefused, Reason: "the house is full"}) {
			t.Fatal(texts, why)
		}
		synctest.Wait()
		if len(d.events) != 1 || !strings.HasPrefix(d.events[0], core.EventOnline) {
			t.Fatal(d.events)
		}
		if online, err := s.Online(t.Context(), "ann"); online || err != nil {
			t.Fatal(online, err)
		}
	})
}

func TestErrorsOfOfflineAndPingAreLogged(t *testing.T) {
	t.Parallel()
	book, log := keepJournal(t)
	s := coretest.Run(t, log, &core.Provider{Event: func(name string, _ *core.Client) error {
		if name == core.EventOnline {
			return nil
		}
		return errors.New("no " + name)
	}})
	conn, _ := connect(t, s, "ann")
	conn.Close(1000, "")
	eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
	book.has("ERROR", "no ping", "client=ann")
	book.has("ERROR", "no offline", "client=ann")
}

// Answers to messages that came together leave together, but never behind what was sent after them.
func TestAnswersAndWhatHooksSendKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, &core.Provider{Message: func(m *core.Message, c *core.Client) error {
		switch m.Type {
		case "send":
			return c.Send(core.Message{Type: "sent"})
		case "push":
			return c.Push([]string{"room"}, core.Message{Type: "pushed"})
		}
		return nil
	}})
	p, c := wirePipe(t, s, "ann")
	sub(t, c, "room")
	p.write(1, []byte(`{"type":"x","id":"1"}`), `{"type":"send","id":"2"}`, `{"type":"push","id":"3"}`, `{"type":"x","id":"4"}`)
	var got []string
	for range 6 {
		var m core.Message
		if err := json.Unmarshal([]byte(p.text()), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Type+m.ID)
	}
	if fmt.Sprint(got) != "[receive1 sent receive2 pushed receive3 receive4]" {
		t.Fatal(got)
	}
}

// Programs of the original ignore what Sub, Unsub and Push return.
func TestAnErrorOfAVerbInsideAHookIsAlsoLogged(t *testing.T) {
	t.Parallel()
	book, log := keepJournal(t)
	s := coretest.Run(t, log, core.WithMaxChannels(1), &core.Provider{Message: func(m *core.Message, c *core.Client) error {
		switch m.Type {
		case "sub":
			_ = c.Sub("one", "two")
		case "push":
			_ = c.Push([]string{""}, "x")
		case "closed":
			_ = c.Close(0, "")
			_ = c.Unsub("one")
		}
		return nil
	}})
	conn, client := connect(t, s, "ann")
	conn.Do(core.Message{Type: "sub"})
	book.has("WARN", "sub failed in a hook", "client=ann", "too many channels")
	conn.Do(core.Message{Type: "push"})
	book.has("WARN", "push failed in a hook", "client=ann", "bad channel name")
	if err := client.Sub(""); !errors.Is(err, core.ErrChannelName) {
		t.Fatal(err)
	}
	if found := book.with("bad channel name", "sub"); len(found) != 0 {
		t.Fatalf("logged outside a hook: %q", found)
	}
	conn.Send(core.Message{Type: "closed"})
	if why := conn.Closed(); why.Code != 1000 {
		t.Fatal(why)
	}
	eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
	book.has("WARN", "unsub failed in a hook", "closed")
}

func TestThePingEventIsForEverySignOfLife(t *testing.T) {
	t.Parallel()
	var d diary
	s := coretest.Run(t, &core.Provider{Event: d.note})
	p, _ := wirePipe(t, s, "ann")
	pings := func() (n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, e := range d.events {
			if strings.HasPrefix(e, core.EventPing+" ") {
				n++
			}
		}
		return n
	}
	before := pings()
	p.write(10, []byte("a pong nobody asked for"))
	eventually(t, "the pong's event", func() bool { return pings() == before+1 })
	p.write(9, []byte("payload"))
	if op, payload, err := p.frame(); op != 10 || string(payload) != "payload" || err != nil {
		t.Fatalf("frame %d %q %v, want the pong", op, payload, err)
	}
	eventually(t, "the ping's event", func() bool { return pings() == before+2 })
	p.ping()
	if got := pings(); got != before+3 {
		t.Fatalf("%d ping events, want 3", got-before)
	}
	p.send(core.Message{Type: "ping"}) // without an id
	if got := p.text(); got != `{"type":"pong"}` {
		t.Fatal(got)
	}
}

func TestInOfflineTheClientIsGoneForEverybody(t *testing.T) {
	t.Parallel()
	var s *core.Service
	done := make(chan error, 1)
	s = coretest.Run(t, &core.Provider{Event: func(name string, c *core.Client) error {
		if name != core.EventOffline || c.ClientID != "ann" {
			return nil
		}
		members, err := s.Members(context.Background(), "room", 0)
		switch why := cause(c); {
		case err != nil || len(members) != 1:
			err = fmt.Errorf("members: %v, %w", members, err)
		case c.Channels() != nil:
			err = fmt.Errorf("channels: %v", c.Channels())
		case why == nil || *why != (core.CloseError{Code: 4007, Reason: "bye"}):
			err = fmt.Errorf("cause: %w", why)
		case c.Data["client_id"] != "ann" || c.Get("kept") != "value" || c.RemoteAddr() != "pipe":
			err = fmt.Errorf("%v %v %v", c.Data, c.Get("kept"), c.RemoteAddr())
		default:
			err = s.Push([]string{"room"}, number(1)) // who stays can be told
		}
		done <- err
		return nil
	}})
	conn, client := connect(t, s, "ann")
	other, stays := connect(t, s, "bob")
	sub(t, client, "room")
	sub(t, stays, "room")
	client.Set("kept", "value")
	conn.Close(4007, "bye")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	other.Expect("n")
}

// later is a driver that accepts publications and says so when the test wants.
type later struct {
	core.Driver
	mu   sync.Mutex
	open []func()
	most int
}

type laterLink struct {
	core.Link
	d *later
}

func (d *later) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	return laterLink{link, d}, err
}

func (l laterLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	p.Payload = []byte(string(p.Payload))
	l.d.open = append(l.d.open, func() {
		if err := l.Link.Publish(context.WithoutCancel(ctx), p, done); err != nil {
			done(err)
		}
	})
	l.d.most = max(l.d.most, len(l.d.open))
	return nil
}

// settle lets the oldest n publications through.
func (d *later) settle(n int) {
	d.mu.Lock()
	settled := d.open[:min(n, len(d.open))]
	d.open = d.open[len(settled):]
	d.mu.Unlock()
	for _, publish := range settled {
		publish()
	}
}

func TestThePublishVerbDoesNotWaitForTheDriverAndAnswersInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &later{Driver: drivers.NewMemoryDriver()}
		s := coretest.RunOn(t, d, permissive())
		p, _ := wirePipe(t, s, "ann")
		watcher, watching := connect(t, s, "bob")
		sub(t, watching, "room")
		const messages = 200
		go func() { // ends when all of it has been read
			for n := range messages {
				p.send(core.Message{Type: "message", ID: strconv.Itoa(n), Channel: "room"})
			}
			p.send(core.Message{Type: "ping", ID: "behind"})
		}()
		synctest.Wait()
		if n := len(d.open); n != 64 {
			t.Fatalf("%d publications are open, want 64", n)
		}
		next, ponged := 0, false
		for next < messages {
			d.settle(10)
			synctest.Wait()
			for range 10 {
				if got := watcher.Expect("message"); got.ID != strconv.Itoa(next) || got.ClientID != "ann" {
					t.Fatalf("got %s, want message %d", got.Raw, next)
				}
				got := p.text()
				if got == `{"type":"pong","id":"behind"}` { // the reader went on while publications were open
					ponged = true
					got = p.text()
				}
				if !strings.HasPrefix(got, fmt.Sprintf(`{"id":"%d","type":"receive"`, next)) {
					t.Fatalf("got %s, want the answer to %d", got, next)
				}
				next++
			}
		}
		if d.most != 64 || !ponged {
			t.Fatalf("%d were open at a time, want 64; pong before the last answer: %v", d.most, ponged)
		}
		p.ping()
	})
}

func TestAClientThatEndsWithOpenPublicationsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &later{Driver: drivers.NewMemoryDriver()}
		var events diary
		book, log := keepJournal(t)
		allows := permissive()
		allows.Event = events.note
		s := coretest.RunOn(t, d, allows, log)
		p, client := wirePipe(t, s, "ann")
		go func() { // ends with the connection
			for range 100 {
				if _, err := p.nc.Write(appendFrame(nil, 1, []byte(`{"type":"message","channel":"room","id":"1"}`))); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if err := client.Close(0, ""); err != nil {
			t.Fatal(err)
		}
		p.rest()
		synctest.Wait()
		if got := events.of(client); got != "online0 offline0" {
			t.Fatal(got)
		}
		d.settle(64)
		if failures := book.with("ERROR"); len(failures) != 0 { // that a client has ended is no failure
			t.Fatal(failures)
		}
	})
}

func TestAPublicationThatTheDriverLosesIsAnsweredWithAnError(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
	conn, client := connect(t, s, "ann")
	d.on(func(_ context.Context, c driverCall) error {
		if c.verb == "publish" {
			return errScripted
		}
		return nil
	})
	conn.Error(503, core.Message{Type: "message", Channel: "room"})
	if err := client.Push([]string{"room"}, "x"); !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, errScripted) {
		t.Fatal(err)
	}
	d.on(nil)
	conn.Do(core.Message{Type: "message", Channel: "room"})
}
