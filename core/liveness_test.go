package core_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// In all of these the sweeper looks once a second, so that everything may come a second or two late.

func TestASilentPeerIsPingedAndItsPongKeepsItConnected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		s := coretest.Run(t, &core.Provider{Event: d.note})
		p, c := wirePipe(t, s, "ann")
		_ = p.nc.SetReadDeadline(time.Time{})
		for range 3 {
			quiet := time.Now()
			op, payload, err := p.frame()
			if err != nil || op != 9 || len(payload) != 0 {
				t.Fatalf("frame %d %q %v, want a ping", op, payload, err)
			}
			if waited := time.Since(quiet); waited < 22*time.Second || waited > 27*time.Second {
				t.Fatalf("pinged after %v, want 25 s less up to a tenth", waited)
			}
			<-time.After(8 * time.Second) // in time
			p.write(10, nil)
		}
		p.ping()
		if c.Closed() || s.Stats().Connections != 1 {
			t.Fatal(cause(c))
		}
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		pings := 0
		for _, e := range d.events {
			if strings.HasPrefix(e, core.EventPing) {
				pings++
			}
		}
		if pings != 5 { // three pongs, and a {"type":"ping"} before and behind them
			t.Fatalf("%d ping events of 5: %q", pings, d.events)
		}
	})
}

func TestAPeerThatTalksIsNotPinged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t)
		p, _ := wirePipe(t, s, "ann")
		for range 20 {
			<-time.After(20 * time.Second)
			p.ping() // fails if a ping frame comes first
		}
	})
}

func TestAPeerThatVanishedIsClosedAfterPingAndPongTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		s := coretest.Run(t, permissive(), core.WithPing(40*time.Second, 15*time.Second))
		if err := s.RegisterProvider("", &core.Provider{Event: d.note}); err != nil {
			t.Fatal(err)
		}
		p, c := wirePipe(t, s, "ann")
		sub(t, c, "room")
		begun := time.Now()
		go func() { // takes everything and says nothing; ends with the connection
			_ = p.nc.SetReadDeadline(time.Time{})
			for {
				if _, _, err := p.frame(); err != nil {
					return
				}
			}
		}()
		<-c.Context().Done()
		if waited := time.Since(begun); waited < 50*time.Second || waited > 58*time.Second {
			t.Fatalf("closed after %v, want 40 s less a tenth and 15 s", waited)
		}
		if why := cause(c); why.Code != core.CloseNoPong {
			t.Fatal(why)
		}
		<-time.After(2 * time.Second) // it might have answered the close
		if got := d.of(c); got != "online0 offline0" {
			t.Fatal(got)
		}
		if n, err := s.Count(t.Context(), "room"); n != 0 || err != nil || s.Stats().Connections != 0 {
			t.Fatal(n, err, s.Stats().Connections)
		}
	})
}

func TestAPeerThatVanishedOverTCPIsClosed(t *testing.T) {
	t.Parallel()
	var d diary
	s := coretest.Run(t, &core.Provider{Event: d.note}, core.WithPing(100*time.Millisecond, 50*time.Millisecond))
	p, c := wireTCP(t, s, "ann") // reads nothing any more, and its kernel goes on taking it in
	<-c.Context().Done()
	if why := cause(c); why.Code != core.CloseNoPong {
		t.Fatal(why)
	}
	eventually(t, "offline", func() bool { return d.of(c) == "online0 offline0" && s.Stats().Connections == 0 })
	op, _, err := p.frame()
	if op != 9 || err != nil {
		t.Fatalf("frame %d %v, want the ping", op, err)
	}
	if texts, why := p.rest(); len(texts) != 0 || why.Code != core.CloseNoPong {
		t.Fatal(texts, why)
	}
}

func TestManyPeersAreNotPingedAtTheSameMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, core.WithPing(100*time.Second, 10*time.Second))
		pings := map[time.Duration]int{}
		begun := time.Now()
		for range 100 {
			core.AttachStub(s, "ann", func(p []byte) {
				if p[0] == 0x89 {
					pings[time.Since(begun)]++
				}
			})
		}
		<-time.After(105 * time.Second)
		synctest.Wait()
		total := 0
		for when, n := range pings {
			if total += n; n > 40 || when < 89*time.Second || when > 102*time.Second {
				t.Errorf("%d pings after %v", n, when)
			}
		}
		if total != 100 {
			t.Errorf("%d pings", total)
		}
	})
}

// While something waits for the peer, the write stall judges it, not the ping.
func TestAPeerWithABacklogIsNotPinged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithPing(10*time.Second, 5*time.Second))
		p, c := wirePipe(t, s, "ann")
		if err := c.Send(strings.Repeat("x", 900<<10)); err != nil {
			t.Fatal(err)
		}
		_ = p.nc.SetReadDeadline(time.Time{})
		p.in.Reset(&trickle{p.nc, 16 << 10}) // a minute of reading
		begun := time.Now()
		op, payload, err := p.frame()
		if op != 1 || err != nil {
			t.Fatalf("frame %d %.40q %v; %v", op, payload, err, cause(c))
		}
		if waited := time.Since(begun); waited < 40*time.Second {
			t.Fatalf("it took %v only", waited)
		}
		p.in.Reset(p.nc)
		if op, _, err := p.frame(); op != 9 || err != nil { // now it is asked whether it is there
			t.Fatalf("frame %d %v, want a ping; %v", op, err, cause(c))
		}
		p.write(10, nil)
		p.ping()
	})
}

func TestNoPingIsPutBehindABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithPing(10*time.Second, 5*time.Second), core.WithWriteStall(time.Hour))
		_, c := wirePipe(t, s, "ann")
		if err := c.Send(number(1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before := core.BacklogBytes(c)
		<-time.After(time.Minute)
		if after := core.BacklogBytes(c); after != before || c.Closed() {
			t.Fatalf("%d bytes wait instead of %d; %v", after, before, cause(c))
		}
	})
}

// A ping that was sent before the backlog grew is not held against a peer that is busy reading.
func TestThePongTimeStandsStillWhileSomethingWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithPing(10*time.Second, 5*time.Second))
		p, c := wirePipe(t, s, "ann")
		_ = p.nc.SetReadDeadline(time.Time{})
		if op, _, err := p.frame(); op != 9 || err != nil {
			t.Fatalf("frame %d %v, want a ping; %v", op, err, cause(c))
		}
		if err := c.Send(strings.Repeat("x", 500<<10)); err != nil {
			t.Fatal(err)
		}
		p.in.Reset(&trickle{p.nc, 16 << 10})
		if op, _, err := p.frame(); op != 1 || err != nil {
			t.Fatalf("frame %d %v; %v", op, err, cause(c))
		}
		if c.Closed() {
			t.Fatal(cause(c))
		}
		p.write(10, nil)
		p.in.Reset(p.nc)
		p.ping()
	})
}

func TestAClientWhoseHookRunsIsNotSilentAndItsHookIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, log := keepJournal(t)
		s := coretest.Run(t, log, &core.Provider{Message: func(_ *core.Message, c *core.Client) error {
			<-time.After(3 * time.Minute)
			return c.Send(core.Message{Type: "sent in the hook"})
		}})
		conn, _ := connect(t, s, "ann")
		connect(t, s, "bob")
		conn.Send(core.Message{Type: "slow", ID: "1"})
		<-time.After(9 * time.Second)
		if found := book.with("hook"); len(found) != 0 {
			t.Fatal(found)
		}
		<-time.After(3 * time.Second)
		book.has("WARN", "hook has been running", "client=ann")
		<-time.After(3 * time.Minute)
		conn.Expect("sent in the hook")
		conn.Expect("receive")
		book.has("WARN", "hook has been running") // once
		conn.Nothing()
	})
}

// The same holds while a verb waits for the driver.
func TestAClientWhoseVerbWaitsForTheDriverIsNotSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := coretest.RunOn(t, d, permissive(), core.WithPing(time.Second, time.Second))
		p, c := wirePipe(t, s, "ann")
		d.on(func(_ context.Context, c driverCall) error {
			if c.verb == "subscribe" && c.channels == "room" {
				<-time.After(4 * time.Second)
			}
			return nil
		})
		begun := time.Now()
		p.write(1, []byte(`{"type":"ping","id":"1"}`), `{"type":"subscribe","id":"2","channel":"room"}`)
		if got := p.text(); got != `{"type":"pong","id":"1"}` || time.Since(begun) > time.Second {
			t.Fatalf("got %s after %v", got, time.Since(begun))
		}
		if got := p.text(); !strings.HasPrefix(got, `{"id":"2","type":"receive"`) {
			t.Fatal(got, cause(c))
		}
	})
}

// Answers gathered before a hook that takes its time do not wait for it.
func TestAnswersDoNotWaitForTheHookOfALaterMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, &core.Provider{Message: func(m *core.Message, _ *core.Client) error {
			if m.Type == "slow" {
				<-time.After(5 * time.Second)
			}
			return nil
		}})
		p, _ := wirePipe(t, s, "ann")
		begun := time.Now()
		p.write(1, []byte(`{"type":"quick","id":"1"}`), `{"type":"slow","id":"2"}`)
		if got := p.text(); !strings.HasPrefix(got, `{"id":"1","type":"receive"`) {
			t.Fatal(got)
		}
		if waited := time.Since(begun); waited > 2*time.Second {
			t.Fatalf("the answer waited %v for the next hook", waited)
		}
	})
}

func TestAnExpiredTokenClosesTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t)
		begun := time.Now()
		short, long := user("short"), user("long")
		short["exp"] = begun.Add(30 * time.Second)
		long["exp"] = begun.Add(time.Hour).Unix()
		one, other := coretest.Connect(t, s, short), coretest.Connect(t, s, long)
		if <-time.After(29 * time.Second); len(core.FindClients(s, "", "short")) != 1 {
			t.Fatal("closed before its time")
		}
		if why := one.Closed(); why.Code != core.CloseExpired {
			t.Fatal(why)
		}
		if waited := time.Since(begun); waited < 30*time.Second || waited > 32*time.Second {
			t.Fatalf("closed after %v, want 30 s", waited)
		}
		other.Nothing()
	})
}

// A process that was paused (a laptop's lid, a virtual machine's move) must not close everybody for its own silence: the
// sweeper counts its ticks, not the clock.
func TestAClockThatJumpsClosesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, core.WithPing(10*time.Second, 5*time.Second))
		p, c := wirePipe(t, s, "ann")
		pinged := make(chan struct{}, 9)
		go func() { // takes in what comes; ends with the connection
			_ = p.nc.SetReadDeadline(time.Time{})
			for {
				op, _, err := p.frame()
				if err != nil {
					return
				}
				if op == 9 {
					pinged <- struct{}{}
				}
			}
		}()
		<-pinged
		held, resume := make(chan struct{}), make(chan struct{})
		core.AttachStub(s, "holds the sweeper", func(p []byte) {
			if p[0] == 0x89 {
				close(held)
				<-resume
			}
		})
		p.write(10, nil)
		<-held
		<-time.After(time.Hour)
		close(resume)
		<-time.After(3 * time.Second)
		if c.Closed() {
			t.Fatal(cause(c))
		}
	})
}

func TestTheContextOfAClientEndsWithIt(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t)
	conn, early := connect(t, s, "ann")
	ctx := early.Context()
	if ctx.Err() != nil || early.Context() != ctx {
		t.Fatal(ctx.Err())
	}
	conn.Close(4321, "done")
	<-ctx.Done()
	if why := cause(early); *why != (core.CloseError{Code: 4321, Reason: "done"}) {
		t.Fatal(why)
	}
	_, late := connect(t, s, "bob")
	if err := late.Close(4000, "x"); err != nil {
		t.Fatal(err)
	}
	if err := context.Cause(late.Context()); err == nil || err.Error() != "gows: closed with code 4000: x" {
		t.Fatal(err)
	}
}
