package core_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// scripted is a driver for one node whose calls a test sees, and may fail, delay or answer itself.
type scripted struct {
	untold sync.Map // core.Member by ConnID: registered, and the node has not been told its number

	core.Driver

	mu     sync.Mutex // guards the rest
	opened core.Node
	calls  []driverCall
	script func(ctx context.Context, c driverCall) error // called before the driver; its error is the call's
}

// driverCall is one call of the link: the topics as channel names, sorted.
type driverCall struct {
	verb     string
	channels string
	client   string
}

func newScripted(d core.Driver) *scripted { return &scripted{Driver: d} }

func (d *scripted) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	d.mu.Lock()
	d.opened = node
	d.mu.Unlock()
	return &scriptedLink{link, d}, err
}

// node is the service as the driver sees it.
func (d *scripted) node() core.Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// on sets what happens before a call reaches the driver.
func (d *scripted) on(script func(ctx context.Context, c driverCall) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script = script
}

func (d *scripted) note(ctx context.Context, verb, client string, topics ...core.Topic) error {
	var names []string
	for _, t := range topics {
		names = append(names, t.Channel)
	}
	slices.Sort(names)
	c := driverCall{verb, strings.Join(names, " "), client}
	d.mu.Lock()
	d.calls = append(d.calls, c)
	script := d.script
	d.mu.Unlock()
	if script == nil {
		return nil
	}
	return script(ctx, c)
}

// since returns the calls of some verbs after the first n, as "verb channels".
func (d *scripted) since(n int, verbs ...string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var calls []string
	for _, c := range d.calls[n:] {
		if slices.Contains(verbs, c.verb) {
			calls = append(calls, c.verb+" "+c.channels)
		}
	}
	return calls
}

// count is how many calls there were.
func (d *scripted) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.calls)
}

type scriptedLink struct {
	core.Link
	d *scripted
}

func (l *scriptedLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	if err := l.d.note(ctx, "publish", "", p.Topic); err != nil {
		return err
	}
	return l.Link.Publish(ctx, p, done)
}

func (l *scriptedLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	if err := l.d.note(ctx, "subscribe", "", topics...); err != nil {
		return err
	}
	return l.Link.Subscribe(ctx, topics...)
}

func (l *scriptedLink) Unsubscribe(ctx context.Context, topics ...core.Topic) error {
	if err := l.d.note(ctx, "unsubscribe", "", topics...); err != nil {
		return err
	}
	return l.Link.Unsubscribe(ctx, topics...)
}

func (l *scriptedLink) Register(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
	if err := l.d.note(ctx, "register", m.ClientID); err != nil {
		return err
	}
	if err := l.Link.Register(ctx, app, m, func(n uint64) { m.Number = n }); err != nil {
		return err
	}
	l.d.untold.Store(m.ConnID, m)
	err := l.d.note(ctx, "number", m.ClientID)
	numbered(m.Number)
	l.d.untold.Delete(m.ConnID)
	return err
}

func (l *scriptedLink) Find(ctx context.Context, app, clientID string) ([]core.Member, error) {
	if err := l.d.note(ctx, "find", clientID); err != nil {
		return nil, err
	}
	found, err := l.Link.Find(ctx, app, clientID)
	l.d.untold.Range(func(_, m any) bool { // the memory driver asks the node, which does not know it yet
		if m := m.(core.Member); m.ClientID == clientID { //nolint:errcheck // nothing else is in it
			found = append(found, m)
		}
		return true
	})
	return found, errors.Join(err, l.d.note(ctx, "found", clientID))
}

func (l *scriptedLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
	if err := l.d.note(ctx, "join", m.ClientID, topics...); err != nil {
		return nil, err
	}
	return l.Link.Join(ctx, m, topics...)
}

func (l *scriptedLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
	if err := l.d.note(ctx, "leave", m.ClientID, topics...); err != nil {
		return nil, err
	}
	return l.Link.Leave(ctx, m, topics...)
}

// hangs is a script in which the calls of one verb wait for their context.
func hangs(verb string) func(context.Context, driverCall) error {
	return func(ctx context.Context, c driverCall) error {
		if c.verb != verb {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

var errScripted = errors.New("the driver says no")

func TestTheFirstSubscriberAsksTheDriverAndTheOthersShareItsAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{"taken": nil, "refused": errScripted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newScripted(drivers.NewMemoryDriver())
				s := coretest.RunOn(t, d, permissive())
				clients := make([]*core.Client, 50)
				for i := range clients {
					_, clients[i] = connect(t, s, strconv.Itoa(i))
				}
				release := make(chan struct{})
				d.on(func(_ context.Context, c driverCall) error {
					if c.verb != "subscribe" {
						return nil
					}
					<-release
					return answer
				})
				before := d.count()
				results := make(chan error, len(clients))
				for _, c := range clients {
					go func() { results <- c.Sub("room") }()
				}
				synctest.Wait()
				close(release)
				for range clients {
					if err := <-results; !errors.Is(err, answer) {
						t.Fatalf("got %v, want %v", err, answer)
					}
				}
				if got := d.since(before, "subscribe"); len(got) != 1 {
					t.Fatalf("driver calls: %q, want one", got)
				}
				want := len(clients)
				if answer != nil {
					want = 0
				}
				if n, err := s.Count(t.Context(), "room"); n != want || err != nil {
					t.Fatal(n, err)
				}
				// A refusal is not for ever.
				d.on(nil)
				sub(t, clients[0], "room")
			})
		})
	}
}

func TestWhoWaitsForAnothersDriverCallWaitsNoLongerThanItsOwnContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		_, first := connect(t, s, "first")
		connect(t, s, "second")
		d.on(hangs("subscribe"))
		firsts := make(chan error, 1)
		go func() { firsts <- first.Sub("room") }() // ends after 5 s
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Subscribe(ctx, "second", "room"); !errors.Is(err, core.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		if waited := time.Since(begun); waited != time.Second {
			t.Fatalf("waited %v, want 1 s", waited)
		}
		if err := <-firsts; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited < 5*time.Second || waited > 6*time.Second {
			t.Fatalf("the first waited %v, want 5 to 6 s", waited)
		}
	})
}

func TestADriverThatHangsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		conn, client := connect(t, s, "ann")
		_, stuck := connect(t, s, "stuck")
		sub(t, client, "room")
		d.on(hangs("subscribe"))
		stuckSub := make(chan error, 1)
		go func() { stuckSub <- stuck.Sub("other") }() // ends after 5 s
		synctest.Wait()
		begun := time.Now()
		if err := s.Broadcast(t.Context(), number(1)); err != nil {
			t.Fatal(err)
		}
		push(t, s, "room", number(2))
		push(t, s, "other", number(3))
		conn.Expect("n")
		conn.Expect("n")
		late, _ := connect(t, s, "late")
		late.Do(core.Message{Type: "subscribe", Channel: "room"})
		conn.Do(core.Message{Type: "unsubscribe", Channel: "room"})
		if waited := time.Since(begun); waited != 0 {
			t.Fatalf("others waited %v for the driver", waited)
		}
		if err := <-stuckSub; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if got := stuck.Channels(); got != nil {
			t.Fatal("a Sub that failed left", got)
		}
	})
}

func TestSubsOfTheSameChannelsInAnotherOrderDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "subscribe" {
				<-time.After(time.Millisecond)
			}
			return nil
		})
		s := coretest.RunOn(t, d, permissive())
		begun := time.Now()
		var all sync.WaitGroup
		for i := range 6 {
			_, client := connect(t, s, strconv.Itoa(i))
			all.Go(func() {
				for n := range 20 {
					channels := []string{fmt.Sprint("a", n), fmt.Sprint("b", n), fmt.Sprint("c", n), fmt.Sprint("d", n)}
					for k := range i {
						channels[k%4], channels[(k+i)%4] = channels[(k+i)%4], channels[k%4]
					}
					// The last two in a call of their own, so that everybody holds something the others want.
					if err := errors.Join(client.Sub(channels[2:]...), client.Sub(channels...)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if waited := time.Since(begun); waited > time.Second {
			t.Fatalf("120 Subs took %v", waited)
		}
	})
}

// Two Subs of one client must not both subscribe it, and a leave must not overtake the join it undoes.
func TestSubAndUnsubOfOneClientTakeTurns(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	d.on(func(context.Context, driverCall) error {
		<-time.After(time.Duration(rand.IntN(300)) * time.Microsecond)
		return nil
	})
	s := coretest.RunOn(t, d, permissive())
	conn, client := connect(t, s, "ann")
	for n := range 30 {
		room := fmt.Sprint("room:", n) // a new one, so that the driver is asked
		var callers sync.WaitGroup
		for i := range 6 {
			callers.Go(func() {
				for k := range 5 {
					call := client.Sub
					if (i+k)%3 == 0 {
						call = client.Unsub
					}
					if err := call(room); err != nil {
						t.Error(err)
					}
				}
			})
		}
		callers.Wait()
		want := 0
		if len(client.Channels()) > 0 {
			want = 1
		}
		if count, err := s.Count(t.Context(), room); count != want || err != nil {
			t.Fatalf("the driver counts %d, the client is in %v, %v", count, client.Channels(), err)
		}
		sub(t, client, room)
		push(t, s, room, number(n))
		conn.Expect("n")
		conn.Nothing()
		if err := client.Unsub(); err != nil {
			t.Fatal(err)
		}
		if count, err := s.Count(t.Context(), room); count != 0 || err != nil {
			t.Fatal(count, err)
		}
	}
}

func TestSubTakesAllChannelsOrNone(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithMaxChannels(4))
	conn, client := connect(t, s, "ann")
	_, other := connect(t, s, "bob")
	sub(t, client, "kept")
	refuse := func(verb, channel string) {
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == verb && strings.Contains(c.channels, channel) {
				return errScripted
			}
			return nil
		})
	}
	tests := []struct {
		name   string
		breaks func()
		names  []string
		want   error
	}{
		{"the driver refuses one", func() { refuse("subscribe", "b") }, []string{"a", "b", "c"}, errScripted},
		{"presence fails", func() { refuse("join", "b") }, []string{"a", "b", "c", "kept"}, errScripted},
		{"a bad name", func() {}, []string{"a", "", "c"}, core.ErrChannelName},
		{"too many", func() {}, []string{"a", "b", "c", "d"}, core.ErrTooManyChannels},
	}
	for _, test := range tests {
		test.breaks()
		if err := client.Sub(test.names...); !errors.Is(err, test.want) {
			t.Fatalf("%s: got %v, want %v", test.name, err, test.want)
		}
		d.on(nil)
		if got := client.Channels(); !slices.Equal(got, []string{"kept"}) {
			t.Fatalf("%s: in %v afterwards", test.name, got)
		}
		for _, name := range []string{"a", "c"} {
			push(t, s, name, number(1))
			if members, err := s.Members(t.Context(), name, 0); len(members) != 0 || err != nil {
				t.Fatalf("%s: members of %s: %v, %v", test.name, name, members, err)
			}
		}
		conn.Nothing()
	}
	push(t, s, "kept", number(2))
	conn.Expect("n")
	sub(t, client, "a", "b", "kept", "c")
	sub(t, other, "a")
}

func TestUnsubscribeTakesAClientOutOfWhatIsNamedAndNothingElse(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	conn, client := connect(t, s, "ann")
	_, tab := connect(t, s, "ann")
	sub(t, client, "a", "b", "c")
	sub(t, tab, "d")
	if err := s.Unsubscribe(t.Context(), "ann", "d", "e"); err != nil {
		t.Fatal(err)
	}
	conn.Nothing()
	if got := client.Channels(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Fatalf("in %v", got)
	}
	if got := tab.Channels(); got != nil {
		t.Fatalf("in %v", got)
	}
	if err := s.Unsubscribe(t.Context(), "ann", "c", "a", "c"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c", "a"} {
		if got := conn.Expect("unsubscribed"); got.Channel != want || got.Code != 403 {
			t.Fatal(got.Raw)
		}
	}
	conn.Nothing()
	if err := client.Unsub("e"); err != nil {
		t.Fatal(err)
	}
	if got := client.Channels(); !slices.Equal(got, []string{"b"}) {
		t.Fatalf("in %v", got)
	}
	sub(t, client, "f")
	if err := client.Unsub(); err != nil || client.Channels() != nil {
		t.Fatal(err, client.Channels())
	}
	if err := s.Unsubscribe(t.Context(), "nobody", "a"); !errors.Is(err, core.ErrOffline) {
		t.Fatal(err)
	}
}

// It could come behind the answer to a newer subscription: then the client took itself for out while it was in.
func TestUnsubscribedComesBeforeTheClientCanSubscribeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
		conn, client := connect(t, s, "ann")
		sub(t, client, "room")
		leave := make(chan struct{})
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "leave" {
				<-leave
			}
			return nil
		})
		taken := make(chan error)
		go func() { taken <- s.Unsubscribe(t.Context(), "ann", "room") }() // ends with the driver call
		conn.Expect("unsubscribed")
		conn.Send(core.Message{ID: "again", Type: "subscribe", Channel: "room"})
		synctest.Wait()
		close(leave)
		if err := <-taken; err != nil {
			t.Error(err)
		}
		conn.Expect("receive")
		conn.Nothing()
		if got := client.Channels(); !slices.Equal(got, []string{"room"}) {
			t.Errorf("in %v", got)
		}
	})
}

func TestAChannelIsUnsubscribedASecondAfterItsLastSubscriberAndInOneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		_, client := connect(t, s, "ann")
		<-time.After(500 * time.Millisecond) // between two rounds of the janitor
		sub(t, client, "a", "b", "c", "kept")
		before := d.count()
		if err := client.Unsub("a", "b", "c"); err != nil {
			t.Fatal(err)
		}
		<-time.After(999 * time.Millisecond)
		synctest.Wait()
		if got := d.since(before, "unsubscribe"); got != nil {
			t.Fatalf("%q in less than a second", got)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if got := d.since(before, "subscribe", "unsubscribe"); fmt.Sprint(got) != "[unsubscribe a b c]" {
			t.Fatalf("driver calls: %q, want one unsubscribe of all three", got)
		}
		if n := s.Stats().Channels; n != 2 { // kept, and that of broadcasts
			t.Fatal("channels:", n)
		}
		sub(t, client, "a")
		if got := d.since(before, "subscribe"); fmt.Sprint(got) != "[subscribe a]" {
			t.Fatal(got)
		}
	})
}

func TestWhoComesRightBackCausesNoDriverCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		conn, client := connect(t, s, "ann")
		sub(t, client, "room")
		before := d.count()
		for range 5 {
			if err := client.Unsub("room"); err != nil {
				t.Fatal(err)
			}
			<-time.After(900 * time.Millisecond)
			sub(t, client, "room")
			<-time.After(2 * time.Second)
		}
		synctest.Wait()
		if got := d.since(before, "subscribe", "unsubscribe"); got != nil {
			t.Fatalf("driver calls: %q", got)
		}
		push(t, s, "room", number(1))
		conn.Expect("n")
	})
}

func TestAChannelThatCouldNotBeSubscribedIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		_, client := connect(t, s, "ann")
		d.on(func(context.Context, driverCall) error { return errScripted })
		for _, name := range []string{"a", "b"} {
			if err := client.Sub(name); !errors.Is(err, errScripted) {
				t.Fatal(err)
			}
		}
		d.on(nil)
		before := d.count()
		<-time.After(3 * time.Second)
		synctest.Wait()
		if n := s.Stats().Channels; n != 1 { // that of broadcasts
			t.Fatal("channels:", n)
		}
		if calls := d.since(before, "unsubscribe"); calls != nil {
			t.Fatal(calls)
		}
	})
}

// While the janitor is unsubscribing a channel, a new subscriber has to wait for that and subscribe again.
func TestASubDuringAnUnsubscribeIsInForceWhenItReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive())
		conn, client := connect(t, s, "ann")
		sub(t, client, "room")
		begun := make(chan struct{})
		release := make(chan struct{})
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "unsubscribe" {
				close(begun)
				<-release
			}
			return nil
		})
		if err := client.Unsub("room"); err != nil {
			t.Fatal(err)
		}
		<-begun
		before := d.count()
		done := make(chan error, 1)
		go func() { done <- client.Sub("room") }() // ends after release
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatal("Sub returned during the unsubscribe:", err)
		default:
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := d.since(before, "subscribe"); fmt.Sprint(got) != "[subscribe room]" {
			t.Fatalf("driver calls: %q", got)
		}
		push(t, s, "room", number(1))
		conn.Expect("n")
	})
}

func TestAJanitorWhoseUnsubscribeFailsGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
		conn, client := connect(t, s, "ann")
		sub(t, client, "room")
		d.on(hangs("unsubscribe"))
		if err := client.Unsub("room"); err != nil {
			t.Fatal(err)
		}
		<-time.After(8 * time.Second)
		d.on(nil)
		sub(t, client, "room", "other")
		push(t, s, "room", number(1))
		conn.Expect("n")
		if err := client.Unsub(); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second)
		synctest.Wait()
		if n := s.Stats().Channels; n != 1 { // that of broadcasts
			t.Fatal("channels:", n)
		}
	})
}

func TestWhileTheDriverIsDownSubWaitsAndAfterwardsTheGapIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
		conn, client := connect(t, s, "ann")
		_, waits := connect(t, s, "late")
		outside, impatient := connect(t, s, "impatient")
		sub(t, client, "room")
		d.node().Down(errScripted, nil)
		if err := s.Health(t.Context()); !errors.Is(err, errScripted) {
			t.Fatal("health:", err)
		}
		begun := time.Now()
		err := impatient.Sub("room")
		waited := time.Since(begun)
		if !errors.Is(err, core.ErrUnavailable) || waited < 5*time.Second || waited > 6*time.Second {
			t.Fatalf("got %v after %v, want ErrUnavailable after 5 to 6 s", err, waited)
		}
		if away := s.Stats().DriverAway; away != waited {
			t.Fatalf("away for %v, want %v", away, waited)
		}
		done := make(chan error, 1)
		go func() { done <- waits.Sub("room") }() // ends at Up
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatal("Sub returned while the driver was down:", err)
		default:
		}
		d.node().Up(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := conn.Expect("gap"); got.Channel != "room" {
			t.Fatal(got.Raw)
		}
		if got := outside.Expect("gap"); got.Channel != "" { // who is in no channel may have missed a broadcast
			t.Fatal(got.Raw)
		}
		push(t, s, "room", number(1))
		conn.Expect("n")
		if err := s.Health(t.Context()); err != nil || s.Stats().DriverAway != 0 {
			t.Fatal("health:", err)
		}
	})
}

func TestClosingAClientMakesOneDriverCall(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithChannel("quiet:*", core.Rules{Presence: core.PresenceOff}))
	conn, client := connect(t, s, "ann")
	sub(t, client, "a", "b", "c", "quiet:d")
	before := d.count()
	conn.Close(1000, "")
	eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
	if got := d.since(before, "leave"); fmt.Sprint(got) != "[leave  a b c]" { // the empty one is the registration
		t.Fatalf("driver calls: %q, want one", got)
	}
	if got := client.Channels(); got != nil {
		t.Fatal("still in", got)
	}
}

func TestAClientThatIsInNothingIsKnownToNobodyAfterItsEnd(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	conn, _ := connect(t, s, "ann")
	if online, err := s.Online(t.Context(), "ann"); !online || err != nil {
		t.Fatal(online, err)
	}
	conn.Cut()
	eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
	if online, err := s.Online(t.Context(), "ann"); online || err != nil {
		t.Fatal(online, err)
	}
}

// Whatever a Sub is waiting for when its client ends, and however long, nobody stays in the channel.
func TestASubThatIsUnderWayWhenItsClientEndsLeavesNoGhost(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"subscribe", "join"} {
		for _, takes := range []time.Duration{time.Second, 20 * time.Second} {
			t.Run(fmt.Sprint(verb, " takes ", takes), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newScripted(drivers.NewMemoryDriver())
					s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
					_, client := connect(t, s, "ann")
					d.on(func(_ context.Context, c driverCall) error {
						if c.verb == verb && c.channels == "room" {
							<-time.After(takes)
						}
						return nil
					})
					done := make(chan error, 1)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					go func() { done <- s.Subscribe(ctx, "ann", "room") }() // ends when the driver has answered
					synctest.Wait()
					if err := client.Close(1000, ""); err != nil {
						t.Fatal(err)
					}
					if err := <-done; err != nil && !errors.Is(err, core.ErrClosed) {
						t.Fatal(err)
					}
					<-time.After(10 * time.Second)
					synctest.Wait()
					if members, err := s.Members(t.Context(), "room", 0); len(members) != 0 || err != nil {
						t.Fatal("members:", members, err)
					}
					if n, err := s.Count(t.Context(), "room"); n != 0 || err != nil {
						t.Fatal("count:", n, err)
					}
					if n := s.Stats().Connections; n != 0 {
						t.Fatal("connections:", n)
					}
				})
			})
		}
	}
}

// A driver with tables of its own keeps what it is told last: Leave must come after Register.
func TestAClientThatEndsWhileItRegistersIsTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		var order []string
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "register" {
				<-time.After(2 * time.Second)
			}
			if c.verb == "register" || c.verb == "leave" {
				order = append(order, c.verb)
			}
			return nil
		})
		s := core.New(d, permissive(), core.WithLogger(nil))
		if err := s.Run(); err != nil {
			t.Fatal(err)
		}
		coretest.Connect(t, s, user("ann"))
		synctest.Wait()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(order) != "[register leave]" {
			t.Fatalf("driver calls: %v", order)
		}
	})
}

// On a Cluster a part of the topics may be lost: here that of broadcasts.
func TestAClientIsToldOfMissedBroadcastsWhenItsChannelsWereNotLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil))
		inside, client := connect(t, s, "ann")
		outside, _ := connect(t, s, "late")
		sub(t, client, "room")
		broadcasts := func(t core.Topic) bool { return t.Channel == "" }
		rooms := func(t core.Topic) bool { return t.Channel != "" }
		d.node().Down(errScripted, broadcasts)
		d.node().Down(errScripted, rooms)
		d.node().Up(rooms)
		if got := inside.Expect("gap"); got.Channel != "room" {
			t.Fatal(got.Raw)
		}
		outside.Nothing()
		if err := s.Health(t.Context()); !errors.Is(err, errScripted) {
			t.Fatal("health, when a part is still away:", err)
		}
		d.node().Up(broadcasts)
		for _, conn := range []*coretest.Conn{inside, outside} {
			if got := conn.Expect("gap"); got.Channel != "" {
				t.Fatal(got.Raw)
			}
			conn.Nothing()
		}
		if err := s.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
