package core_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

func TestTheLargestDebtorsAreCutOffFirst(t *testing.T) {
	t.Parallel()
	j, log := keepJournal(t)
	s := coretest.Run(t, permissive(), log, core.WithTotalOutboxBytes(8<<20), core.WithOutboxBytes(8<<20))
	small, smallClient := wireTCP(t, s, "small")
	var large []*core.Client
	for n := range 3 {
		_, c := wireTCP(t, s, "large"+strconv.Itoa(n))
		large = append(large, c)
	}
	text := core.Message{Type: "n", Message: "0 " + strings.Repeat("x", 300<<10)}
	for range 2 {
		if err := smallClient.Send(text); err != nil {
			t.Fatal(err)
		}
	}
	closed := func() (n int) {
		for _, c := range large {
			if c.Closed() {
				n++
			}
		}
		return n
	}
	for n := 0; closed() == 0; n++ {
		if n > 100 {
			t.Fatal("nobody is cut off: ", core.DebtBytes(s), " bytes wait")
		}
		for _, c := range large[:1+n%len(large)] { // the first gets the most
			_ = c.Send(text)
		}
	}
	if !large[0].Closed() {
		t.Error("it was not the largest debtor that was cut off")
	}
	eventually(t, "the debt to fall", func() bool { return core.DebtBytes(s) <= 8<<20 })
	eventually(t, "the log", func() bool {
		return len(j.with("too slow", "code=3003", "too much waits for all clients together")) > 0
	})
	for range 2 { // what waits for the others is theirs
		if got := small.text(); numberIn(got) != 0 {
			t.Fatalf("%.40s", got)
		}
	}
	small.ping()
	if n := s.Stats().Slow; n != int64(closed()) {
		t.Errorf("%d slow clients are counted, %d were closed", n, closed())
	}
}

func TestWhatWaitsIsForgottenHoweverAConnectionEnds(t *testing.T) {
	t.Parallel()
	ends := map[string]func(p *wire, c *core.Client){
		"it reads everything":     func(p *wire, _ *core.Client) { p.text() },
		"it goes":                 func(p *wire, _ *core.Client) { _ = p.nc.Close() },
		"it is closed and reads":  func(p *wire, c *core.Client) { _ = c.Close(4000, ""); p.rest() },
		"it is closed and stalls": func(_ *wire, c *core.Client) { _ = c.Close(4000, "") },
		"it stalls":               func(*wire, *core.Client) {},
		"it breaks the protocol":  func(p *wire, _ *core.Client) { p.write(3, nil) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for transport, pair := range transports {
				s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithWriteStall(100*time.Millisecond))
				server, client := pair(t)
				p := wireTo(t, s, "ann", server, client)
				p.ping()
				c := core.FindClients(s, "", "ann")[0]
				if err := c.Send(core.Message{Type: "n", Message: "0 " + strings.Repeat("x", 900<<10)}); err != nil {
					t.Fatal(err)
				}
				if core.DebtBytes(s) == 0 {
					t.Fatal("nothing waits")
				}
				end(p, c)
				eventually(t, transport+": the debt to be forgotten", func() bool { return core.DebtBytes(s) == 0 })
			}
		})
	}
}

func TestOneMessageDoesNotWaitInAllOutboxesAtOnce(t *testing.T) {
	t.Parallel()
	const limit, size = 1 << 20, 700 << 10
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(limit))
	var peers []*wire
	for n := range 3 * core.Ahead {
		p, c := wireTCP(t, s, strconv.Itoa(n))
		sub(t, c, "room")
		peers = append(peers, p)
	}
	push(t, s, "room", core.Message{Type: "n", Message: "7 " + strings.Repeat("x", size)})
	var most int
	for n, p := range peers { // one after the other takes it in
		eventually(t, "the message to be on its way", func() bool {
			most = max(most, core.DebtBytes(s))
			return core.BacklogBytes(core.FindClients(s, "", strconv.Itoa(n))[0]) > 0
		})
		if got := p.text(); numberIn(got) != 7 || len(got) < size {
			t.Fatalf("%.40s", got)
		}
	}
	if most > limit+core.Ahead*(size+100) {
		t.Errorf("%d bytes waited at a time", most)
	}
	if most <= limit {
		t.Errorf("never more than %d bytes waited, %d may", most, limit)
	}
	push(t, s, "room", number(8))
	for _, p := range peers {
		if got := p.text(); numberIn(got) != 8 {
			t.Fatalf("%.40s", got)
		}
	}
}

func TestWhoDoesNotTakeAMessageInFlightIsCutOffAndTheOthersGetIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(1), core.WithWriteStall(2*time.Second))
		p, slow := wirePipe(t, s, "slow")
		sub(t, slow, "room")
		var reading sync.WaitGroup
		reading.Go(func() {
			for buf := make([]byte, 4<<10); !slow.Closed(); <-time.After(100 * time.Millisecond) {
				_, _ = p.nc.Read(buf)
			}
		})
		for n := range 20 {
			p, c := wirePipe(t, s, strconv.Itoa(n))
			sub(t, c, "room")
			reading.Go(func() {
				if got := p.text(); numberIn(got) != 7 || c.Closed() {
					t.Errorf("%.40s", got)
				}
			})
		}
		begun := time.Now()
		push(t, s, "room", core.Message{Type: "n", Message: "7 " + strings.Repeat("x", 300<<10)})
		reading.Wait()
		var why *core.CloseError
		if !errors.As(context.Cause(slow.Context()), &why) || *why != (core.CloseError{Code: core.CloseTooSlow, Reason: "did not take a message in 2s"}) {
			t.Error(why)
		}
		if took := time.Since(begun); took > 2200*time.Millisecond {
			t.Error("it took", took)
		}
	})
}

// A chunk that its drainer writes cannot be freed at once: the loop went on to the next debtor, and on.
func TestNoMoreDebtorsAreCutOffThanNeedBe(t *testing.T) {
	t.Parallel()
	const clients, size = 100, 30 << 10
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithTotalOutboxBytes(clients*size-1000))
	all := make([]*core.Client, clients)
	for i := range all {
		_, all[i] = wirePipe(t, s, strconv.Itoa(i))
	}
	for _, c := range all {
		_ = c.Send(core.Message{Type: "n", Message: strings.Repeat("x", size)})
	}
	eventually(t, "the debt to fall", func() bool { return core.DebtBytes(s) < clients*size*3/4 })
	closed := 0
	for _, c := range all {
		if c.Closed() {
			closed++
		}
	}
	if closed < clients/4 || closed > clients/3 {
		t.Errorf("%d of %d were cut off", closed, clients)
	}
}

// No two batches shared a chunk of the outbox: 240 KB that waited took 10 MB.
func TestWhatIsTooSmallToFillAFlightSharesChunks(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(64<<20))
	_, slow := wirePipe(t, s, "slow")
	sub(t, slow, "room")
	for n := range 5000 {
		push(t, s, "room", number(n))
	}
	eventually(t, "all to be written", func() bool { return core.PendingBytes(s, "room") == 0 })
	if held, waits := core.HeldBytes(slow), core.BacklogBytes(slow); held > 2*waits {
		t.Errorf("%d bytes are held for %d that wait", held, waits)
	}
}

// Up to four subscribers are written to by the publisher itself, which in the Redis driver is who reads all channels.
func TestAPublisherDoesNotWaitForWhatIsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(64<<10))
		_, slow := wirePipe(t, s, "slow")
		sub(t, slow, "room")
		begun := time.Now()
		push(t, s, "room", core.Message{Type: "n", Message: strings.Repeat("x", 100<<10)})
		if waited := time.Since(begun); waited > 0 {
			t.Error("Push waited", waited)
		}
	})
}

// It ran the turn of its own message, did not read its pongs meanwhile, and was closed with 3002.
func TestAPublishingClientIsNotClosedForTheSlownessOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(32<<10))
		ann := coretest.Connect(t, s, user("ann"))
		for n := range 5 * core.Ahead {
			_, slow := wirePipe(t, s, strconv.Itoa(n))
			sub(t, slow, "room")
		}
		ann.Do(core.Message{Type: "message", Channel: "room", Message: strings.Repeat("x", 40<<10)})
		<-time.After(2 * time.Minute)
		ann.Nothing()
	})
}
