package core_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// padded is a number with so much text behind it that a few dozen fill an outbox.
func padded(n int) core.Message {
	return core.Message{Type: "n", Message: strconv.Itoa(n) + " " + strings.Repeat("x", 1<<10)}
}

// cause is why a client has ended, or nil.
func cause(c *core.Client) *core.CloseError {
	var why *core.CloseError
	errors.As(context.Cause(c.Context()), &why)
	return why
}

func TestOneThatNeverReadsIsClosedAndAllOthersGetEverything(t *testing.T) {
	t.Parallel()
	const messages = 600
	s := coretest.Run(t, permissive(), core.WithOutboxBytes(128<<10), core.WithLogger(nil))
	stuck, client := wireTCP(t, s, "stuck")
	sub(t, client, "room")
	conns := make([]*coretest.Conn, 4)
	for i := range conns {
		conn, c := connect(t, s, strconv.Itoa(i))
		sub(t, c, "room")
		conns[i] = conn
	}
	for n := range messages {
		push(t, s, "room", padded(n))
		for _, conn := range conns { // they keep up
			if got := conn.Expect("n"); numberIn(got.Raw) != n {
				t.Fatalf("got %.40s, want %d", got.Raw, n)
			}
		}
	}
	texts, why := stuck.rest()
	if why.Code != core.CloseTooSlow || len(texts) < 128 || len(texts) == messages {
		t.Fatalf("%d messages, then %v", len(texts), why)
	}
	for n, text := range texts {
		if numberIn(text) != n {
			t.Fatalf("got %.40s, want %d", text, n)
		}
	}
	if stats := s.Stats(); stats.Slow != 1 {
		t.Fatalf("%+v", stats)
	}
}

// The bound is looked at before, not after: whatever its size, one message does not close a client that keeps up.
func TestOneMessageLargerThanTheOutboxClosesNobody(t *testing.T) {
	t.Parallel()
	onEach(t, []core.Option{core.WithOutboxBytes(1 << 10)}, func(p *wire, c *core.Client) {
		t := p.t
		sub(t, c, "room")
		for n := range 3 {
			text := core.Message{Type: "n", Message: strconv.Itoa(n) + " " + strings.Repeat("x", 700<<10)}
			if err := c.Scope().Push([]string{"room"}, text); err != nil {
				t.Fatal(err)
			}
			if got := p.text(); numberIn(got) != n {
				t.Fatalf("got %.40s, want %d", got, n)
			}
			eventually(t, "the backlog", func() bool { return core.Drained(c) })
		}
	})
}

func TestDropOldestDropsWholeFramesAndCountsThem(t *testing.T) {
	t.Parallel()
	const outbox, messages = 64 << 10, 2000
	rules := core.WithChannel("ticker", core.Rules{Slow: core.DropOldest})
	onEach(t, []core.Option{rules, core.WithOutboxBytes(outbox)}, func(p *wire, c *core.Client) {
		t := p.t
		s := c.Scope()
		sub(t, c, "ticker")
		for n := range messages {
			if err := s.Push([]string{"ticker"}, padded(n)); err != nil {
				t.Fatal(err)
			}
			if n%100 == 0 { // frames that nobody may drop, in between
				if err := c.Send(core.Message{Type: "sent", Message: strconv.Itoa(n)}); err != nil {
					t.Fatalf("Send to a slow client of a DropOldest channel, after %d messages: %v", n, err)
				}
			}
			if waits := core.BacklogBytes(c); waits > outbox+300<<10 {
				t.Fatalf("%d KiB wait, %d are allowed and 256 may be on top", waits>>10, outbox>>10)
			}
		}
		eventually(t, "the last turn", func() bool { return core.PendingBytes(c.Service(), "ticker") == 0 })
		if err := c.Send(core.Message{Type: "end"}); err != nil {
			t.Fatal(err)
		}
		last, got, answers := -1, 0, 0
		for {
			text := p.text()
			if text == `{"type":"end"}` {
				break
			}
			if n := numberIn(text); n >= 0 {
				if n <= last {
					t.Fatalf("%d came after %d", n, last)
				}
				last = n
				got++
			} else if text != fmt.Sprintf(`{"type":"sent","message":"%d"}`, answers*100) {
				t.Fatalf("got %.60s, want the message sent beside %d", text, answers*100)
			} else {
				answers++
			}
		}
		if answers != messages/100 || last != messages-1 || got == messages {
			t.Fatalf("%d messages of the channel, the last %d; %d others", got, last, answers)
		}
		if stats := c.Service().Stats(); int(stats.Delivered)+int(stats.Dropped) != messages || int(stats.Delivered) < got || stats.Slow != 0 {
			t.Fatalf("%d arrived, %+v", got, stats)
		}
	})
}

// A client that is over the bound because of a channel which may drop is not closed for an answer.
func TestAnAnswerMakesRoomInTheOutboxOfADropOldestChannel(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithOutboxBytes(16<<10),
		core.WithChannel("ticker", core.Rules{Slow: core.DropOldest}), core.WithLogger(nil))
	p, c := wirePipe(t, s, "ann")
	sub(t, c, "ticker", "room")
	for n := range 40 {
		push(t, s, "ticker", padded(n))
	}
	push(t, s, "room", number(1000)) // a channel that may close beside one that may drop
	p.send(core.Message{Type: "ping", ID: "alive"})
	if err := c.Send(number(1001)); err != nil {
		t.Fatal(err)
	}
	var others []string
	for last := -1; len(others) < 3; {
		text := p.text()
		if n := numberIn(text); n >= 0 && n < 40 {
			if n <= last {
				t.Fatalf("%d came after %d", n, last)
			}
			last = n
		} else {
			others = append(others, text)
		}
	}
	slices.Sort(others)
	want := []string{
		`{"type":"n","channel":"room","message":"1000"}`, `{"type":"n","message":"1001"}`, `{"type":"pong","id":"alive"}`,
	}
	if !slices.Equal(others, want) {
		t.Fatalf("got %q", others)
	}
	// What nobody may drop still closes.
	for n := 0; c.Send(padded(n)) == nil; n++ {
		if n > 100 {
			t.Fatal("100 KiB wait, and the client is not closed")
		}
	}
	if why := cause(c); why == nil || why.Code != core.CloseTooSlow {
		t.Fatal(why)
	}
}

func TestALatestChannelSkipsASlowClientAndThenSendsItsLastFrame(t *testing.T) {
	t.Parallel()
	rules := core.WithChannel("*", core.Rules{Slow: core.Latest})
	onEach(t, []core.Option{rules}, func(p *wire, c *core.Client) {
		t := p.t
		s := c.Service()
		sub(t, c, "gauge", "quiet")
		if err := c.Send(strings.Repeat("x", 300<<10)); err != nil { // what makes it slow
			t.Fatal(err)
		}
		for n := range 500 {
			push(t, s, "gauge", number(n))
		}
		eventually(t, "the last turn", func() bool { return core.PendingBytes(s, "gauge") == 0 && s.Stats().Dropped >= 500 })
		p.text()
		if got := p.text(); numberIn(got) != 499 {
			t.Fatalf("got %s, want 499 alone", got)
		}
		eventually(t, "the backlog", func() bool { return core.Drained(c) })
		push(t, s, "gauge", number(500))
		if got := p.text(); numberIn(got) != 500 {
			t.Fatalf("got %s, want 500", got)
		}
		eventually(t, "the backlog", func() bool { return core.Drained(c) })
		push(t, s, "quiet", number(501))
		if got := p.text(); numberIn(got) != 501 {
			t.Fatalf("got %s, want 501", got)
		}
		p.ping()
		if n := s.Stats().Slow; n != 0 {
			t.Fatal("slow:", n)
		}
	})
}

func TestTheLastFrameOfALatestChannelIsNotForThoseItExcludes(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithChannel("*", core.Rules{Slow: core.Latest}))
	p, c := wirePipe(t, s, "ann")
	sub(t, c, "gauge")
	if err := c.Send("makes it slow"); err != nil {
		t.Fatal(err)
	}
	push(t, s, "gauge", number(1))
	push(t, s, "gauge", number(2), core.Except(c))
	eventually(t, "the turn", func() bool { return s.Stats().Dropped == 1 })
	p.text()
	p.ping()
}

// A client catches up while a turn that it has not been reached by yet carries the same frames: they must not come twice.
func TestALatestChannelsLastFrameDoesNotComeTwice(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithChannel("*", core.Rules{Slow: core.Latest}))
	onItsWay, release := make(chan struct{}), make(chan struct{})
	sub(t, core.AttachStub(s, "before ann", func(frame []byte) {
		if bytes.Contains(frame, []byte(`"message":"2"`)) { // the turn has got no further
			close(onItsWay)
			<-release
		}
	}), "gauge")
	p, c := wirePipe(t, s, "ann")
	sub(t, c, "gauge")
	if err := c.Send("makes it slow"); err != nil {
		t.Fatal(err)
	}
	push(t, s, "gauge", number(1))
	eventually(t, "the turn", func() bool { return s.Stats().Dropped == 1 })
	var turn sync.WaitGroup
	defer turn.Wait()
	turn.Go(func() { // ends with the turn, which so few subscribers make the publisher's
		if err := s.Push([]string{"gauge"}, number(2)); err != nil {
			t.Error(err)
		}
	})
	<-onItsWay
	push(t, s, "gauge", number(3))
	p.text()
	if got := p.text(); numberIn(got) != 2 {
		t.Fatalf("got %s, want 2", got)
	}
	eventually(t, "the backlog", func() bool { return core.Drained(c) })
	close(release)
	if got := p.text(); numberIn(got) != 3 {
		t.Fatalf("got %s, want 3", got)
	}
	p.ping()
}

// Caught up with the batch, it was still behind by that one frame when the batch came round to it.
func TestALatestChannelsLastFrameDoesNotComeTwiceToWhoIsStillTakingIt(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithChannel("last", core.Rules{Slow: core.Latest}))
	var p *wire
	var slow *core.Client
	first := core.AttachStub(s, "first", func(frame []byte) { // the third message comes to this one before it comes to slow
		if strings.Contains(string(frame), `"3 `) {
			if got := p.text(); numberIn(got) != 1 {
				t.Error(got)
			}
			eventually(t, "slow to catch up", func() bool { return core.BacklogBytes(slow) == len(frame) })
		}
	})
	p, slow = wirePipe(t, s, "slow")
	sub(t, first, "last")
	sub(t, slow, "last")
	eventually(t, "the backlog", func() bool { return core.Drained(slow) })
	for n, length := range []int{10, 20, 30} {
		push(t, s, "last", core.Message{Type: "n", Message: fmt.Sprint(n+1, " ", strings.Repeat("x", length))})
		eventually(t, "the turn", func() bool { return s.Stats().Delivered+s.Stats().Dropped >= int64(2*(n+1)) })
	}
	if got := p.text(); numberIn(got) != 3 {
		t.Error(got)
	}
	p.ping()
}

func TestAPeerThatTakesNothingForTheWriteStallIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, log := keepJournal(t)
		offline := make(chan struct{})
		s := coretest.Run(t, log, &core.Provider{Event: func(name string, _ *core.Client) error {
			if name == core.EventOffline {
				close(offline)
			}
			return nil
		}})
		_, c := wirePipe(t, s, "ann")
		begun := time.Now()
		if err := c.Send(number(1)); err != nil {
			t.Fatal(err)
		}
		<-offline
		if waited := time.Since(begun); waited != 10*time.Second {
			t.Fatalf("closed after %v, want 10 s", waited)
		}
		if why := cause(c); why == nil || why.Code != core.CloseTooSlow || s.Stats().Slow != 1 {
			t.Fatalf("%v, %+v", why, s.Stats())
		}
		book.has("WARN", "too slow", "client=ann", "code=3003")
	})
}

// Slow progress is no stall: a peer that takes 8 KiB a second gets a megabyte, whatever kind of channel it comes from.
func TestSlowProgressIsNoStall(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]core.Slow{"close": core.CloseSlow, "drop": core.DropOldest, "latest": core.Latest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := coretest.Run(t, permissive(), core.WithChannel("*", core.Rules{Slow: slow}),
					core.WithPushBytes(2<<20), core.WithLogger(nil))
				p, c := wirePipe(t, s, "ann")
				sub(t, c, "room")
				push(t, s, "room", core.Message{Type: "n", Message: "1 " + strings.Repeat("x", 1<<20)})
				_ = p.nc.SetReadDeadline(time.Time{})
				p.in.Reset(&trickle{p.nc, 8 << 10})
				op, payload, err := p.frame()
				if err != nil || op != 1 || len(payload) < 1<<20 {
					t.Fatalf("frame %d, %d bytes, %v; closed: %v", op, len(payload), err, cause(c))
				}
			})
		})
	}
}

// trickle reads at most so many bytes a second.
type trickle struct {
	nc        net.Conn
	perSecond int
}

func (r *trickle) Read(p []byte) (int, error) {
	<-time.After(time.Second)
	return r.nc.Read(p[:min(len(p), r.perSecond)])
}

// Answers that wait for their reader's hook go first, and may be what closes the client: then nothing comes behind.
func TestNothingComesBehindTheCloseFrame(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]core.Slow{"close": core.CloseSlow, "drop": core.DropOldest, "latest": core.Latest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHook, release := make(chan struct{}), make(chan struct{})
			p := permissive()
			p.Message = func(m *core.Message, _ *core.Client) error {
				if m.Type == "wait" {
					close(inHook)
					<-release
				}
				return nil
			}
			s := coretest.Run(t, p, core.WithOutboxBytes(4<<10), core.WithLogger(nil), core.WithChannel("*", core.Rules{Slow: slow}))
			w, c := wirePipe(t, s, "ann")
			sub(t, c, "room")
			for core.BacklogBytes(c) < 4<<10 {
				if err := c.Send(padded(0)); err != nil {
					t.Fatal(err)
				}
			}
			w.write(1, []byte(`{"type":"first","id":"1"}`), `{"type":"wait"}`) // the answer to the first waits for the hook of the second
			<-inHook
			push(t, s, "room", padded(1))
			if slow == core.Latest { // which skips a slow client, so that somebody else must be what makes it too slow
				_ = c.Send(padded(2))
			}
			<-c.Context().Done()
			close(release)
			if _, why := w.rest(); why.Code != core.CloseTooSlow { // fails if a frame follows
				t.Fatal(why)
			}
			if n := s.Stats().Slow; n != 1 {
				t.Fatalf("%d clients were too slow, want 1", n)
			}
		})
	}
}

// Close does not wait, but what was sent before it has the write stall to leave, however late the peer begins to read.
func TestWhatWasSentBeforeCloseLeavesWithinTheWriteStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive())
		p, c := wirePipe(t, s, "ann")
		if err := errors.Join(c.Send(padded(1)), c.Send(padded(2)), c.Close(4000, "bye")); err != nil {
			t.Fatal(err)
		}
		<-time.After(9 * time.Second)
		if texts, why := p.rest(); len(texts) != 2 || why.Code != 4000 {
			t.Fatal(len(texts), why)
		}
	})
}

func TestABacklogTakesTheMemoryOfWhatWaits(t *testing.T) { // not parallel: it looks at the memory of the process
	const clients, frames = 50, 100
	s := coretest.Run(t, permissive())
	for i := range clients {
		_, c := wirePipe(t, s, strconv.Itoa(i))
		sub(t, c, "room")
	}
	before := core.HeapBytes()
	for range frames {
		push(t, s, "room", strings.Repeat("x", 1<<10))
	}
	eventually(t, "the last turn", func() bool { return s.Stats().Delivered == clients*frames })
	if each := (core.HeapBytes() - before) / clients; each > 256<<10 {
		t.Fatalf("a backlog of %d KiB takes %d KiB", frames, each>>10)
	}
}

// Whoever asks, from wherever, at any time: no panic, and ErrClosed after the end.
func TestEverythingCalledWhileAClientEndsReturns(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil))
	for i := range 60 {
		conn, c := connect(t, s, strconv.Itoa(i))
		var callers sync.WaitGroup
		for _, use := range []func() error{
			func() error { return c.Send("x") },
			func() error { return c.Push([]string{"room"}, "x") },
			func() error { return c.Sub("room") },
			func() error { return c.Unsub() },
			func() error { return s.Send(t.Context(), c.ClientID, "x") },
			func() error { c.Set("k", 1); c.Get("k"); c.Channels(); c.RemoteAddr(); return nil },
		} {
			callers.Go(func() {
				for range 50 {
					err := use()
					if err != nil && !errors.Is(err, core.ErrClosed) && !errors.Is(err, core.ErrOffline) {
						t.Error(err)
					}
				}
			})
		}
		switch i % 3 {
		case 0:
			_ = c.Close(0, "")
		case 1:
			conn.Cut()
		case 2:
			_ = s.Disconnect(t.Context(), c.ClientID, 0, "")
		}
		callers.Wait()
		for _, err := range []error{c.Send("x"), c.Push([]string{"room"}, "x"), c.Sub("room"), c.Unsub("room"), c.Close(0, "")} {
			if <-c.Context().Done(); !errors.Is(err, core.ErrClosed) && i%3 != 1 {
				t.Fatal("after the end:", err)
			}
		}
	}
	eventually(t, "the end of all", func() bool { return s.Stats().Connections == 0 })
	if n, err := s.Count(t.Context(), "room"); n != 0 || err != nil {
		t.Fatal(n, err)
	}
}
