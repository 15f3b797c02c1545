package drivertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
)

// stage is what a case plays on.
type stage struct {
	testing.TB
	harness  func() Harness // for a fresh backend; called by the first open
	backend  *Harness
	patience time.Duration // how long what must happen may take
	rounds   int           // how often cases repeat what depends on who is faster
}

// topic is one of the app that most cases play in.
func topic(channel string) core.Topic { return core.Topic{App: "app", Channel: channel} }

// on returns the backend of this case.
func (s *stage) on() *Harness {
	s.Helper()
	if s.backend == nil {
		backend := s.harness()
		s.backend = &backend
	}
	return s.backend
}

// soon returns a context for one call.
func (s *stage) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.Context(), s.patience)
}

// node opens a link for a new node. It is closed when the case ends.
func (s *stage) node() *peer {
	s.Helper()
	return s.open(NewNode())
}

// publisher opens a link without a node.
func (s *stage) publisher() *peer {
	s.Helper()
	return s.open(nil)
}

func (s *stage) open(n *Node) *peer {
	s.Helper()
	ctx, cancel := s.soon()
	defer cancel()
	p, err := s.tryOpen(ctx, n)
	if err != nil {
		s.Fatalf("Open: %v", err)
	}
	s.Cleanup(func() {
		if n != nil {
			n.DrainAll()
		}
		if !p.closed {
			p.close()
		}
	})
	return p
}

func (s *stage) tryOpen(ctx context.Context, n *Node) (*peer, error) {
	var node core.Node // stays nil for a publisher, not a nil *Node
	if n != nil {
		node = n
	}
	link, err := s.on().Driver().Open(ctx, node)
	return &peer{Node: n, link: link, s: s}, err
}

// waits waits until there is true, and reports whether it became so.
func (s *stage) waits(there func() bool) bool {
	deadline := time.Now().Add(s.patience)
	for pause := 50 * time.Microsecond; !there(); pause = min(2*pause, 10*time.Millisecond) {
		if time.Now().After(deadline) {
			return there()
		}
		<-time.After(pause)
	}
	return true
}

// await waits until there is true, or fails the case.
func (s *stage) await(what string, there func() bool) {
	s.Helper()
	if !s.waits(there) {
		s.Fatalf("waited %v for %s", s.patience, what)
	}
}

// within fails the case when call does not return. A call that hangs is left behind.
func (s *stage) within(what string, call func()) {
	s.Helper()
	returned := make(chan struct{})
	go func() { // ends with the call
		defer close(returned)
		call()
	}()
	select {
	case <-returned:
	case <-time.After(s.patience):
		s.Fatalf("%s did not return in %v", what, s.patience)
	}
}

// atOnce runs n calls at the same time, waits for them, and fails the case when one of them failed.
func (s *stage) atOnce(n int, call func(i int) error) {
	s.Helper()
	errs := make([]error, n)
	var begin, ended sync.WaitGroup
	begin.Add(1)
	for i := range n {
		ended.Go(func() { // ends with its call
			begin.Wait()
			errs[i] = call(i)
		})
	}
	begin.Done()
	ended.Wait()
	for _, err := range errs {
		if err != nil {
			s.Fatal(err)
		}
	}
}

// peer is a node on the backend, or a publisher without one, and its link. The methods fail the case on an error.
type peer struct {
	*Node  // nil for a publisher
	link   core.Link
	s      *stage
	closed bool
}

func (p *peer) must(what string, call func(ctx context.Context) error) {
	p.s.Helper()
	ctx, cancel := p.s.soon()
	defer cancel()
	if err := call(ctx); err != nil {
		p.s.Fatalf("%s: %v", what, err)
	}
}

// publish publishes payloads in their order, and waits for no word.
func (p *peer) publish(t core.Topic, payloads ...string) {
	p.s.Helper()
	for _, payload := range payloads {
		p.must("Publish", func(ctx context.Context) error {
			return p.link.Publish(ctx, core.Publication{Topic: t, Payload: []byte(payload)}, func(error) {})
		})
	}
}

// expect waits until the node has got exactly these payloads in t, in this order.
func (p *peer) expect(t core.Topic, want ...string) {
	p.s.Helper()
	p.s.waits(func() bool { return len(p.Got(t)) >= len(want) })
	if got := p.Got(t); !slices.Equal(got, want) {
		p.s.Fatalf("in %q: got %s, want %s", t, brief(got), brief(want))
	}
}

// brief cuts what nobody wants to read in a failure.
func brief(payloads []string) string {
	var cut []string
	for _, p := range payloads {
		if len(p) > 40 {
			p = fmt.Sprintf("%s... (%d bytes)", p[:40], len(p))
		}
		cut = append(cut, p)
	}
	return fmt.Sprintf("%d %q", len(payloads), cut)
}

func (p *peer) subscribe(topics ...core.Topic) {
	p.s.Helper()
	p.Watch(topics...)
	p.must("Subscribe", func(ctx context.Context) error { return p.link.Subscribe(ctx, topics...) })
}

func (p *peer) unsubscribe(topics ...core.Topic) {
	p.s.Helper()
	p.Unwatch(topics...)
	p.must("Unsubscribe", func(ctx context.Context) error { return p.link.Unsubscribe(ctx, topics...) })
}

// register makes m one of the node's connections and returns its number.
func (p *peer) register(app string, m core.Member) (number uint64) {
	p.s.Helper()
	p.must("Register", func(ctx context.Context) (err error) {
		number, err = p.tryRegister(ctx, app, m)
		return err
	})
	return number
}

func (p *peer) tryRegister(ctx context.Context, app string, m core.Member) (number uint64, err error) {
	show := p.Connect(app, m)
	err = p.link.Register(ctx, app, m, func(n uint64) {
		number = n
		show(n)
	})
	return number, err
}

func (p *peer) join(m core.Member, topics ...core.Topic) (first []core.Topic) {
	p.s.Helper()
	p.must("Join", func(ctx context.Context) (err error) {
		first, err = p.tryJoin(ctx, m, topics...)
		return err
	})
	return first
}

func (p *peer) tryJoin(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	p.Enter(m, topics...)
	return p.link.Join(ctx, m, topics...)
}

// leave takes m out of topics; one without a channel takes back its registration.
func (p *peer) leave(m core.Member, topics ...core.Topic) (last []core.Topic) {
	p.s.Helper()
	p.must("Leave", func(ctx context.Context) (err error) {
		last, err = p.tryLeave(ctx, m, topics...)
		return err
	})
	return last
}

func (p *peer) tryLeave(ctx context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	p.Exit(m, topics...)
	if slices.ContainsFunc(topics, func(t core.Topic) bool { return t.Channel == "" }) {
		p.Disconnect(m)
	}
	last, err = p.link.Leave(ctx, m, topics...)
	// Whether the app's own topic is reported is open: nobody is told of it.
	return slices.DeleteFunc(last, func(t core.Topic) bool { return t.Channel == "" }), err
}

func (p *peer) members(t core.Topic, limit int) (members []core.Member) {
	p.s.Helper()
	p.must("Members", func(ctx context.Context) (err error) {
		members, err = p.link.Members(ctx, t, limit)
		return err
	})
	return members
}

func (p *peer) count(t core.Topic) (n int) {
	p.s.Helper()
	p.must("Count", func(ctx context.Context) (err error) {
		n, err = p.link.Count(ctx, t)
		return err
	})
	return n
}

func (p *peer) find(app, clientID string) (found []core.Member) {
	p.s.Helper()
	p.must("Find", func(ctx context.Context) (err error) {
		found, err = p.link.Find(ctx, app, clientID)
		return err
	})
	return found
}

// command returns what the driver does.
func (p *peer) command(node string, c core.Command) error {
	ctx, cancel := p.s.soon()
	defer cancel()
	return p.link.Command(ctx, node, c)
}

// close closes the link. It is no part of the stage's cleanup then.
func (p *peer) close() {
	p.s.Helper()
	p.closed = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.s.Context()), p.s.patience)
	defer cancel()
	if err := p.link.Close(ctx); err != nil {
		p.s.Errorf("Close: %v", err)
	}
}
