package core_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// faultyDriver is a driver of one node whose calls fail. hurt does the failing call, or does not.
type faultyDriver struct {
	core.Driver
	*trigger

	hurt func(ctx context.Context, call func() error) error
}

func (d faultyDriver) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	return faultyLink{link, d}, err
}

type faultyLink struct {
	core.Link
	d faultyDriver
}

func (l faultyLink) do(ctx context.Context, verb string, call func() error) error {
	if l.d.strikes(verb) {
		return l.d.hurt(ctx, call)
	}
	return call()
}

// Publish fails by its word, too: what is lost has been accepted before.
func (l faultyLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	if !l.d.strikes("Publish") {
		return l.Link.Publish(ctx, p, done)
	}
	called := false
	err := l.d.hurt(ctx, func() error {
		called = true
		return l.Link.Publish(ctx, p, func(error) {})
	})
	if called {
		done(err)
		return nil
	}
	return err
}

func (l faultyLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	return l.do(ctx, "Subscribe", func() error { return l.Link.Subscribe(ctx, topics...) })
}

func (l faultyLink) Unsubscribe(ctx context.Context, topics ...core.Topic) error {
	return l.do(ctx, "Unsubscribe", func() error { return l.Link.Unsubscribe(ctx, topics...) })
}

func (l faultyLink) Register(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
	return l.do(ctx, "Register", func() error { return l.Link.Register(ctx, app, m, numbered) })
}

func (l faultyLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	err = l.do(ctx, "Join", func() (err error) {
		first, err = l.Link.Join(ctx, m, topics...)
		return err
	})
	return first, err
}

func (l faultyLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	err = l.do(ctx, "Leave", func() (err error) {
		last, err = l.Link.Leave(ctx, m, topics...)
		return err
	})
	return last, err
}

func (l faultyLink) Members(ctx context.Context, topic core.Topic, limit int) (members []core.Member, err error) {
	err = l.do(ctx, "Members", func() (err error) {
		members, err = l.Link.Members(ctx, topic, limit)
		return err
	})
	return members, err
}

func (l faultyLink) Count(ctx context.Context, topic core.Topic) (n int, err error) {
	err = l.do(ctx, "Count", func() (err error) {
		n, err = l.Link.Count(ctx, topic)
		return err
	})
	return n, err
}

func (l faultyLink) Find(ctx context.Context, app, clientID string) (found []core.Member, err error) {
	err = l.do(ctx, "Find", func() (err error) {
		found, err = l.Link.Find(ctx, app, clientID)
		return err
	})
	return found, err
}

func (l faultyLink) Command(ctx context.Context, node string, c core.Command) error {
	return l.do(ctx, "Command", func() error { return l.Link.Command(ctx, node, c) })
}

func (l faultyLink) Close(ctx context.Context) error {
	return l.do(ctx, "Close", func() error { return l.Link.Close(ctx) })
}

// The ways in which a call of the driver fails.
var driverFaults = map[string]func(ctx context.Context, call func() error) error{
	"refuses": func(context.Context, func() error) error { return errBroken },
	"loses its answer": func(_ context.Context, call func() error) error {
		_ = call()
		return errBroken
	},
	"hangs": func(ctx context.Context, _ func() error) error {
		<-ctx.Done()
		return ctx.Err()
	},
	"hangs with its answer": func(ctx context.Context, call func() error) error {
		_ = call()
		<-ctx.Done()
		return ctx.Err()
	},
	"panics": func(context.Context, func() error) error { panic("a mistake in the driver") },
}

// driverCalls are the calls of the driver, and how often a life makes each at least.
var driverCalls = map[string]int{
	"Publish": 5, "Subscribe": 2, "Unsubscribe": 1, "Register": 2, "Join": 3, "Leave": 3, "Members": 2, "Count": 1, "Find": 5,
	"Command": 4, "Close": 1,
}

func TestADriverWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for kind, hurt := range driverFaults {
		for verb, atLeast := range driverCalls {
			t.Run(verb+" "+kind, func(t *testing.T) {
				t.Parallel()
				everyCall(t, verb, atLeast, func(t *testing.T, f *trigger) {
					t.Helper()
					synctest.Test(t, func(t *testing.T) { liveWithDriver(t, f, hurt) })
				})
			})
		}
	}
}

// liveWithDriver is a life that makes every call of the driver.
func liveWithDriver(t *testing.T, f *trigger, hurt func(ctx context.Context, call func() error) error) {
	t.Helper()
	d := &diary{}
	s := core.New(faultyDriver{drivers.NewMemoryDriver(), f, hurt}, core.WithLogger(nil), asks(d), events("room"), core.WithSessions(core.ReplaceOld))
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	sc := &scene{t: t, s: s, d: d, owesLeaves: f.verb == "Leave"}
	sc.settle = func(func() bool) { synctest.Wait() }
	sc.setUp()
	f.arm()
	come := func() *witness {
		server, client := net.Pipe()
		s.Attach(server, nil, sc.admit("ann"))
		synctest.Wait()
		return newWitness(t, client)
	}
	// try makes a call, with a deadline as programs do, and reports whether there was no error.
	try := func(what string, call func(ctx context.Context) error) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := call(ctx)
		synctest.Wait()
		if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrOffline) {
			t.Errorf("%s: %v", what, err)
		}
		return err == nil
	}
	pushed := func() {
		sc.pushed++
		if try("Push", func(ctx context.Context) error { return s.PushContext(ctx, []string{"room"}, number(sc.pushed)) }) {
			sc.taken = append(sc.taken, strconv.Itoa(sc.pushed))
		}
	}
	ann := come()
	questions := []core.Message{
		{ID: "1", Type: "subscribe", Channel: "own"},
		{ID: "2", Type: "subscribe", Channel: "room"},
		{ID: "3", Type: "presence", Channel: "room"},
		{ID: "4", Type: "message", Channel: "room", Message: "hello"},
		{ID: "5", Type: "unsubscribe", Channel: "own"},
	}
	for _, m := range questions {
		ann.say(m)
		<-time.After(10 * time.Second)
	}
	pushed()
	pushed()
	for _, verb := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"Send", func(ctx context.Context) error { return s.Send(ctx, "ann", core.Message{Type: "note"}) }},
		{"Broadcast", func(ctx context.Context) error { return s.Broadcast(ctx, core.Message{Type: "note"}) }},
		{"Subscribe", func(ctx context.Context) error { return s.Subscribe(ctx, "ann", "more") }},
		{"Members", func(ctx context.Context) error {
			_, err := s.Members(ctx, "more", 0)
			return err
		}},
		{"Count", func(ctx context.Context) error {
			_, err := s.Count(ctx, "more")
			return err
		}},
		{"Online", func(ctx context.Context) error {
			_, err := s.Online(ctx, "ann")
			return err
		}},
		{"Unsubscribe", func(ctx context.Context) error { return s.Unsubscribe(ctx, "ann", "more") }},
	} {
		try(verb.name, verb.call)
	}
	answersEach(t, ann, len(questions))
	other := come() // which replaces her
	<-time.After(10 * time.Second)
	pushed()
	try("Disconnect", func(ctx context.Context) error { return s.Disconnect(ctx, "ann", 0, "") })
	_ = ann.nc.Close() // where that failed
	_ = other.nc.Close()
	<-time.After(20 * time.Second)

	if f.verb != "Close" {
		f.disarm()
	}
	sc.unharmed()
	sc.failsToClose = f.verb == "Close" && f.at == 1
	sc.shutDown()
}

// answersEach fails the test unless each of the questions got one answer, or the connection has ended.
func answersEach(t *testing.T, w *witness, questions int) {
	t.Helper()
	select {
	case <-w.ended:
		return
	default:
	}
	for id := 1; id <= questions; id++ {
		n := 0
		for _, word := range w.heard() {
			word, _, _ = strings.Cut(word, " ")
			if word == "receive"+strconv.Itoa(id) || word == "error"+strconv.Itoa(id) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("question %d has %d answers: %v", id, n, w.heard())
		}
	}
}

func TestADriverThatPanicsIsUnavailableAndLogged(t *testing.T) {
	t.Parallel()
	book, logged := keepJournal(t)
	f := &trigger{verb: "Publish", at: 1, on: true, armed: true}
	s := coretest.RunOn(t, faultyDriver{drivers.NewMemoryDriver(), f, driverFaults["panics"]}, logged, permissive())
	ann, _ := connect(t, s, "ann")
	ann.Error(503, core.Message{Type: "message", Channel: "room"})
	if err := s.Push([]string{"room"}, "x"); !errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
	ann.Nothing()
	if n := len(book.with("ERROR", "the driver panicked", "a mistake in the driver", "stack=", "faults_driver_test.go")); n != 2 {
		t.Error(book.with("panicked"))
	}
	dead := core.New(openPanics{}, core.WithLogger(nil))
	if err := dead.Run(); err == nil || !strings.Contains(err.Error(), "the driver panicked") {
		t.Error(err)
	}
	if err := dead.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A driver that has accepted a publication before it panics has given its word: the answer is there, and so is the error.
func TestADriverThatPanicsBehindItsWordHoldsUpNoPublisher(t *testing.T) {
	t.Parallel()
	s := coretest.RunOn(t, wordThenPanic{drivers.NewMemoryDriver()}, core.WithLogger(nil), permissive())
	ann, _ := connect(t, s, "ann")
	for range 3 {
		ann.Do(core.Message{Type: "message", Channel: "room"})
		ann.Expect("error")
	}
}

type wordThenPanic struct{ core.Driver }

func (d wordThenPanic) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	return wordThenPanicLink{link}, err
}

type wordThenPanicLink struct{ core.Link }

func (wordThenPanicLink) Publish(_ context.Context, _ core.Publication, done func(error)) error {
	done(nil)
	panic("behind its word")
}

// openPanics is a driver that was not made by its constructor, say.
type openPanics struct{ core.Driver }
