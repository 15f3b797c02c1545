package core_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
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

// diary notes the events of clients, in order.
type diary struct {
	mu     sync.Mutex
	events []string
}

func (d *diary) note(event string, c *core.Client) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, event+" "+c.ConnID)
	return nil
}

// of returns the events of connections, in order, with the connections named by their position.
func (d *diary) of(clients ...*core.Client) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var events []string
	for _, e := range d.events {
		for i, c := range clients {
			if name, ok := strings.CutSuffix(e, " "+c.ConnID); ok && name != core.EventPing {
				events = append(events, fmt.Sprint(name, i))
			}
		}
	}
	return strings.Join(events, " ")
}

// pair are two nodes of a cluster, or the same one twice.
type pair struct {
	t           *testing.T
	here, there *core.Service
}

// nodes runs a test on one node, and on two that share a driver.
func nodes(t *testing.T, opts []core.Option, test func(n *pair)) {
	t.Helper()
	t.Run("one node", func(t *testing.T) {
		t.Parallel()
		s := coretest.Run(t, opts...)
		test(&pair{t, s, s})
	})
	t.Run("two nodes", func(t *testing.T) {
		t.Parallel()
		driver := drivers.NewMemoryDriver()
		test(&pair{t, coretest.RunOn(t, driver, opts...), coretest.RunOn(t, driver, opts...)})
	})
}

func TestAllowManyLetsConnectionsOfOneClientLiveSideBySide(t *testing.T) {
	t.Parallel()
	nodes(t, nil, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		first, _ := connect(t, here, "ann")
		second, _ := connect(t, there, "ann")
		third, _ := connect(t, here, "ann")
		if err := here.Send(t.Context(), "ann", number(1)); err != nil {
			t.Fatal(err)
		}
		for _, conn := range []*coretest.Conn{first, second, third} {
			conn.Expect("n")
			conn.Nothing()
		}
	})
}

func TestReplaceOldClosesTheOlderConnection(t *testing.T) {
	t.Parallel()
	nodes(t, []core.Option{core.WithSessions(core.ReplaceOld)}, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		bystander, _ := connect(t, here, "bob")
		old, older := connect(t, here, "ann")
		young, _ := connect(t, there, "ann")
		if why := old.Closed(); why.Code != core.CloseReplaced {
			t.Fatal(why)
		}
		if why := cause(older); why == nil || why.Code != core.CloseReplaced {
			t.Fatal(why)
		}
		young.Nothing()
		bystander.Nothing()
		if err := here.Send(t.Context(), "ann", number(1)); err != nil {
			t.Fatal(err)
		}
		young.Expect("n")
	})
}

// A program that keeps a table by client id must not remove the new connection in the offline of the old one.
func TestTheOldConnectionIsOfflineBeforeTheNewOneIsOnline(t *testing.T) {
	t.Parallel()
	for range 20 {
		var d diary
		s := coretest.Run(t, core.WithSessions(core.ReplaceOld), &core.Provider{Event: d.note})
		_, first := connect(t, s, "ann")
		_, second := connect(t, s, "ann")
		_, third := connect(t, s, "ann")
		if got := d.of(first, second, third); got != "online0 offline0 online1 offline1 online2" {
			t.Fatal(got)
		}
	}
}

func TestANewConnectionWaitsForAStuckOfflineNoLongerThan5Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := coretest.Run(t, core.WithSessions(core.ReplaceOld), core.WithLogger(nil),
			&core.Provider{Event: func(name string, c *core.Client) error {
				if name == core.EventOffline && c.Data["stuck"] == true {
					<-release
				}
				return nil
			}})
		defer close(release)
		identity := user("ann")
		identity["stuck"] = true
		coretest.Connect(t, s, identity).Do(core.Message{Type: "ping"})
		begun := time.Now()
		connect(t, s, "ann")
		if waited := time.Since(begun); waited < 4*time.Second || waited > 6*time.Second {
			t.Fatalf("online came after %v, want about 5 s", waited)
		}
	})
}

// Whoever connects at the same moment, wherever: exactly one stays.
func TestAStormOfReplacementsLeavesOneSurvivor(t *testing.T) {
	t.Parallel()
	nodes(t, []core.Option{core.WithSessions(core.ReplaceOld), core.WithLogger(nil)}, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		storm(t, here, there, core.CloseReplaced)
	})
}

func TestRejectNewRefusesTheNewerConnection(t *testing.T) {
	t.Parallel()
	nodes(t, []core.Option{core.WithSessions(core.RejectNew), core.WithLogger(nil)}, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		old, _ := connect(t, here, "ann")
		for range 2 {
			if why := coretest.Connect(t, there, user("ann")).Closed(); why.Code != core.CloseTooMany {
				t.Fatal(why)
			}
		}
		connect(t, there, "bob")
		old.Nothing()
		old.Close(1000, "")
		eventually(t, "the end", func() bool {
			online, err := there.Online(t.Context(), "ann")
			return err == nil && !online
		})
		connect(t, there, "ann")
	})
}

func TestAStormOfRejectionsLeavesOneSurvivor(t *testing.T) {
	t.Parallel()
	nodes(t, []core.Option{core.WithSessions(core.RejectNew), core.WithLogger(nil)}, func(n *pair) {
		t, here, there := n.t, n.here, n.there
		storm(t, here, there, core.CloseTooMany)
	})
}

// Of two that register before either of them looks for the other, the first stays.
func TestTwoThatRejectEachOtherLeaveTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, core.WithSessions(core.RejectNew), core.WithLogger(nil))
		var looking, looked sync.WaitGroup // both before and both after
		looking.Add(2)
		looked.Add(2)
		d.on(func(_ context.Context, c driverCall) error {
			switch c.verb {
			case "find":
				looking.Done()
				looking.Wait()
			case "found":
				looked.Done()
				looked.Wait()
			}
			return nil
		})
		first := coretest.Connect(t, s, user("ann"))
		synctest.Wait()
		second := coretest.Connect(t, s, user("ann"))
		if why := second.Closed(); why.Code != core.CloseTooMany {
			t.Fatal(why)
		}
		first.Nothing()
	})
}

// late returns a service whose driver takes a second for its first call of a verb.
func late(t *testing.T, verb string) (*scripted, *core.Service) {
	t.Helper()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, core.WithSessions(core.ReplaceOld), core.WithLogger(nil))
	var done atomic.Bool
	d.on(func(_ context.Context, c driverCall) error {
		if c.verb == verb && !done.Swap(true) {
			<-time.After(time.Second)
		}
		return nil
	})
	return d, s
}

// A connection may learn its number after a newer one has replaced it: the driver's answer was on its way.
func TestAConnectionThatWasReplacedBeforeItKnewItsNumberIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, s := late(t, "number")
		old := coretest.Connect(t, s, user("ann"))
		synctest.Wait()
		young := coretest.Connect(t, s, user("ann"))
		young.Nothing()
		if why := old.Closed(); why.Code != core.CloseReplaced {
			t.Fatal(why)
		}
		young.Nothing()
	})
}

// A kick may be faster than the driver, and a client that connects anew faster than what is left of its older connection.
func TestAConnectionThatEndedBeforeItHadANumberReplacesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, s := late(t, "register")
		old := coretest.Connect(t, s, user("ann"))
		synctest.Wait()
		kick := core.Command{Action: core.ActionClose, ClientID: "ann", Code: 4000}
		if err := d.node().Command(t.Context(), kick); err != nil {
			t.Fatal(err)
		}
		if why := old.Closed(); why.Code != 4000 {
			t.Fatal(why)
		}
		young := coretest.Connect(t, s, user("ann"))
		<-time.After(2 * time.Second)
		young.Nothing()
	})
}

// storm connects one client id many times at once. All but one of the connections must be closed with that code, and the
// one must be reached.
func storm(t *testing.T, here, there *core.Service, code int) {
	t.Helper()
	const connects = 40
	codes, texts := make(chan int, connects), make(chan string, connects)
	var reading sync.WaitGroup
	defer reading.Wait()
	for i := range connects {
		s := here
		if i%2 == 1 {
			s = there
		}
		server, client := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		reading.Go(func() {
			p := wireTo(t, s, "ann", server, client)
			for {
				switch op, payload, err := p.frame(); {
				case err != nil:
					t.Error(err)
					return
				case op == 8:
					p.write(8, payload[:2])
					codes <- int(binary.BigEndian.Uint16(payload))
					return
				case op == 1:
					texts <- string(payload)
				}
			}
		})
	}
	for range connects - 1 {
		if got := <-codes; got != code {
			t.Errorf("closed with %d, want %d", got, code)
		}
	}
	if err := there.Send(t.Context(), "ann", number(1)); err != nil {
		t.Error("the survivor cannot be reached:", err)
	}
	if got := <-texts; numberIn(got) != 1 {
		t.Error(got)
	}
	select {
	case got := <-codes:
		t.Error("the last one was closed too:", got)
	default:
	}
	if err := there.Disconnect(t.Context(), "ann", 4000, ""); err != nil {
		t.Error(err)
	}
}

func TestTwoTabsThatReplaceEachOtherAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, log := keepJournal(t)
		s := coretest.Run(t, core.WithSessions(core.ReplaceOld), log)
		replace := func(id string, times int) {
			for range times {
				connect(t, s, id)
				<-time.After(time.Millisecond)
			}
		}
		line := []string{"WARN", "AllowMany", "client=ann"}
		replace("ann", 5) // replaces four
		replace("bob", 5)
		if found := book.with(line...); len(found) != 0 {
			t.Fatal(found)
		}
		replace("ann", 1)
		book.has(line...)
		replace("ann", 3)
		book.has(line...) // once
		<-time.After(11 * time.Second)
		replace("ann", 4)
		book.has(line...)
		if found := book.with("WARN", "AllowMany"); !slices.Equal(found, book.with(line...)) {
			t.Fatal(found)
		}
	})
}

func TestASessionThatCannotBeLookedAtKeepsNoOtherFromIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil), core.WithSessions(core.ReplaceOld))
		for i := range 26 {
			connect(t, s, fmt.Sprint("client ", i))
		}
		var mu sync.Mutex // guards looked
		looked := map[string]int{}
		d.on(func(_ context.Context, c driverCall) error {
			mu.Lock()
			defer mu.Unlock()
			if c.verb == "find" {
				looked[c.client]++
			}
			if c.verb == "find" && c.client == "client 13" {
				return errScripted
			}
			return nil
		})
		d.node().Down(errScripted, nil)
		d.node().Up(nil)
		<-time.After(time.Minute)
		d.on(nil)
		mu.Lock()
		defer mu.Unlock()
		if len(looked) != 26 || looked["client 13"] < 50 {
			t.Fatalf("%d of 26 were looked at, the one that fails %d times in a minute", len(looked), looked["client 13"])
		}
	})
}
