package drivertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/internal/leaktest"
)

var closing = []scene{
	{name: "closing twice does no harm", run: closedTwice},
	{name: "after Close everything returns an error", run: errorsAfterClose},
	{name: "a node is not called after Close has returned", run: silentAfterClose},
	{name: "Close waits for the calls that are running", run: closeWaits},
	{name: "Close returns when its context ends", run: closeEnds},
	{name: "a closed node is in no answer", run: closedIsGone},
	{name: "nodes come and go without harm to others", run: comeAndGo},
	{name: "no goroutine is left when every link is closed", run: noGoroutineLeft},
}

func closedTwice(s *stage) {
	for _, p := range []*peer{s.node(), s.publisher()} {
		p.close()
		s.within("the second Close", func() { _ = p.link.Close(context.WithoutCancel(s.Context())) })
	}
}

// call is one call of each method of a link but Close.
type call struct {
	name string
	of   func(ctx context.Context) error
}

func (p *peer) calls(node string, m core.Member, done func(error)) []call {
	room := topic("room")
	return []call{
		{"Publish", func(ctx context.Context) error {
			return p.link.Publish(ctx, core.Publication{Topic: room, Payload: []byte("x")}, done)
		}},
		{"Subscribe", func(ctx context.Context) error { return p.link.Subscribe(ctx, topic("more")) }},
		{"Unsubscribe", func(ctx context.Context) error { return p.link.Unsubscribe(ctx, topic("more")) }},
		{"Register", func(ctx context.Context) error { return p.link.Register(ctx, "app", m, func(uint64) {}) }},
		{"Join", func(ctx context.Context) error {
			_, err := p.link.Join(ctx, m, room)
			return err
		}},
		{"Leave", func(ctx context.Context) error {
			_, err := p.link.Leave(ctx, m, room)
			return err
		}},
		{"Members", func(ctx context.Context) error {
			_, err := p.link.Members(ctx, room, 0)
			return err
		}},
		{"Count", func(ctx context.Context) error {
			_, err := p.link.Count(ctx, room)
			return err
		}},
		{"Find", func(ctx context.Context) error {
			_, err := p.link.Find(ctx, "app", m.ClientID)
			return err
		}},
		{"Command", func(ctx context.Context) error { return p.link.Command(ctx, node, commands()[0]) }},
	}
}

func errorsAfterClose(s *stage) {
	a, b, from, stays := s.node(), s.node(), s.publisher(), s.publisher()
	b.subscribe(topic("room"))
	m := a.Member("anna")
	a.close()
	from.close()
	var done atomic.Int32
	for _, p := range []*peer{a, from} {
		for _, c := range p.calls(b.ID(), m, func(error) { done.Add(1) }) {
			var err error
			s.within(c.name+" after Close", func() { err = c.of(s.Context()) })
			if err == nil || errors.Is(err, core.ErrOffline) {
				s.Errorf("%s after Close returned %v", c.name, err)
			}
		}
	}
	stays.publish(topic("room"), "last")
	b.expect(topic("room"), "last")
	b.wantCommands()
	if n := done.Load(); n > 0 {
		s.Fatalf("done was called %d times after Close", n)
	}
}

func silentAfterClose(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	b.subscribe(room)
	m := a.Member("anna")
	a.register("app", m)
	a.join(m, room)
	var publishing sync.WaitGroup
	stop := make(chan struct{})
	publishing.Go(func() { // ends with stop
		pause := time.NewTicker(100 * time.Microsecond) // a driver that queues must not be busy with this for long afterwards
		defer pause.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pause.C:
				_ = from.link.Publish(s.Context(), core.Publication{Topic: room, Payload: []byte("x")}, func(error) {})
			}
		}
	})
	end := sync.OnceFunc(func() {
		close(stop)
		publishing.Wait()
	})
	defer end() // where the case fails half way
	s.await("publications", func() bool { return len(a.Got(room)) > 0 })
	a.close()
	a.End()
	b.find("app", "anna")
	b.members(room, 0)
	b.count(room)
	if err := b.command("", commands()[0]); err != nil {
		s.Fatalf("Command: %v", err)
	}
	b.wantCommands(commands()[0])
	end()
	from.publish(room, "last")
	s.await("the last publication", func() bool { return slices.Contains(b.Got(room), "last") })
	if late := a.Late(); len(late) > 0 {
		s.Fatalf("called after Close had returned: %q", late)
	}
}

// occupied returns a node that is carrying out a command until release is called.
func (s *stage) occupied() (p *peer, release func()) {
	s.Helper()
	a, b := s.node(), s.node()
	began, free := make(chan struct{}, 1), make(chan struct{})
	a.Answer(func(core.Command) error {
		began <- struct{}{}
		<-free
		return nil
	})
	release = sync.OnceFunc(func() { close(free) })
	var commanding sync.WaitGroup
	commanding.Go(func() { _ = b.command(a.ID(), commands()[0]) }) // ends with the command
	s.Cleanup(func() {
		release()
		commanding.Wait()
	})
	select {
	case <-began:
	case <-time.After(s.patience):
		s.Fatalf("waited %v for a command", s.patience)
	}
	return a, release
}

func closeWaits(s *stage) {
	a, release := s.occupied()
	// Closing must have begun when the command ends. If it has not, a driver that does not wait may get away with it.
	timer := time.AfterFunc(20*time.Millisecond, release)
	defer timer.Stop()
	a.close()
	if n := a.Running(); n > 0 {
		s.Fatalf("Close returned while %d calls of the node were running", n)
	}
}

func closeEnds(s *stage) {
	a, release := s.occupied()
	a.closed = true
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	s.within("Close", func() { _ = a.link.Close(ended) })
	release()
}

func closedIsGone(s *stage) {
	a, b := s.node(), s.node()
	room := topic("room")
	gone, stays := a.Member("anna"), b.Member("bert")
	a.subscribe(room)
	a.register("app", gone)
	a.join(gone, room, topic("other"))
	b.register("app", stays)
	b.join(stays, room)
	a.close()
	b.wantMembers(b.members(room, 0), stays)
	b.wantMembers(b.find("app", "anna"))
	if n := b.count(room); n != 1 {
		s.Fatalf("Count: got %d, want 1", n)
	}
	if n := b.count(topic("other")); n != 0 {
		s.Fatalf("Count of what only the closed node was in: got %d, want 0", n)
	}
	back := b.Member("anna")
	b.wantTopics("first of a client id that was on the closed node", b.join(back, room), room)
	b.wantTopics("its last", b.leave(back, room), room)
}

func comeAndGo(s *stage) {
	from := s.publisher()
	room := topic("room")
	stays := s.node()
	stays.subscribe(room)
	for range 3 {
		p := s.node()
		p.subscribe(room)
		from.publish(room, "x")
		p.expect(room, "x")
		p.close()
	}
	stays.expect(room, "x", "x", "x")
	stays.close()
	from.publish(room, "nobody")
	from.close()

	a, b := s.node(), s.node() // on a backend that everybody has left
	a.subscribe(room)
	b.publish(room, "y")
	a.expect(room, "y")
	m := b.Member("anna")
	b.wantTopics("first", b.join(m, room), room)
	a.wantMembers(a.members(room, 0), m)
}

func noGoroutineLeft(s *stage) {
	leaktest.Check(s) // first: its cleanup runs last
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	b.subscribe(room)
	from.publish(room, "one")
	a.expect(room, "one")
	b.expect(room, "one")
	m := a.Member("anna")
	a.register("app", m)
	a.join(m, room)
	_ = b.command("", commands()[0])
	a.unsubscribe(room)
	a.leave(m, room, core.Topic{App: "app"})
	b.find("app", "anna")
	a.close()
}
