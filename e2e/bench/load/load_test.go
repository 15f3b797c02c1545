package load

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const short = 50 * time.Millisecond

func TestEverybodyInTheChannelIsExpectedToHear(t *testing.T) {
	t.Parallel()
	warming := atomic.Int64{}
	h := newHost(t, func(_ *host, _ message, deliver func()) {
		warming.Add(1)
		deliver()
	})
	c := h.open(t, Plan{Clients: 7, Channels: 1})
	for _, task := range []Task{
		{Window: 1, For: short},
		{Window: 64, Warm: short, For: short, Size: 70_000},
		{Rate: 1000, Warm: short, For: short},
	} {
		warming.Store(0)
		r := measure(t, c, task)
		if r.Deliveries != 7*r.Messages || r.Lost != 0 || r.Closed != 0 || r.Messages+r.Warming != warming.Load() {
			t.Errorf("%+v of %d messages", r, warming.Load())
		}
		if (r.P50 > 0) != (task.Window <= 1) || r.P50 > r.P99 || r.P99 > r.P999 {
			t.Errorf("%+v: %+v", task, r)
		}
	}
}

func TestWhatIsLostIsCountedAndTheMeasurementEnds(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	h := newHost(t, func(_ *host, _ message, deliver func()) {
		if n.Add(1) != 3 {
			deliver()
		}
	})
	c := h.open(t, Plan{Clients: 2, Channels: 1})
	r := measure(t, c, Task{Window: 1, For: short})
	if r.Lost != 2 || r.Deliveries != 2*(r.Messages-1) {
		t.Errorf("%+v", r)
	}
	if r := measure(t, c, Task{Window: 1, For: short}); r.Lost != 0 {
		t.Errorf("once more: %+v", r)
	}
}

func TestWhatComesTwiceIsLostLessThanNotAtAll(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	h := newHost(t, func(_ *host, _ message, deliver func()) {
		if n.Add(1) == 3 {
			deliver()
		}
		deliver()
	})
	c := h.open(t, Plan{Clients: 2, Channels: 1})
	if r := measure(t, c, Task{Rate: 500, For: 2 * short}); r.Lost != -2 || r.Deliveries != 2*(r.Messages+1) {
		t.Errorf("%+v", r)
	}
}

func TestAWindowBoundsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1, 4} {
		var flying, most int
		landed := make(chan struct{}, 100)
		h := newHost(t, func(_ *host, _ message, deliver func()) {
			for done := false; !done; {
				select {
				case <-landed:
					flying--
				default:
					done = true
				}
			}
			flying++
			most = max(most, flying)
			time.AfterFunc(10*time.Millisecond, func() {
				landed <- struct{}{}
				deliver()
			})
		})
		c := h.open(t, Plan{Clients: 1, Channels: 1})
		r := measure(t, c, Task{Window: window, For: 2 * short})
		h.leave(c)
		if most != window || r.Lost != 0 {
			t.Errorf("%d in flight, not %d: %+v", most, window, r)
		}
		if held := r.P50 >= 9_800; held != (window == 1) {
			t.Errorf("held for 10 ms: %+v", r)
		}
	}
}

// A server that stands for 150 of 200 ms makes most messages late, also those that could not be sent meanwhile.
func TestWithARateAMessageIsLateFromWhenItWasDue(t *testing.T) {
	t.Parallel()
	for _, window := range []int{0, 1} {
		first := true
		h := newHost(t, func(_ *host, _ message, deliver func()) {
			if first {
				first = false
				<-time.After(150 * time.Millisecond)
			}
			deliver()
		})
		c := h.open(t, Plan{Clients: 2, Channels: 1})
		r := measure(t, c, Task{Rate: 1000, Window: window, For: 200 * time.Millisecond})
		if r.P50 < 30_000 || r.P99 < 140_000 || r.P999 < r.P99 || r.Lost != 0 {
			t.Errorf("window %d: %+v", window, r)
		}
		if r.Messages > 201 {
			t.Errorf("window %d: %d messages, 200 were due", window, r.Messages)
		}
	}
}

func TestAPublisherGoesOnWhenTheServerReadsAgain(t *testing.T) {
	t.Parallel()
	reads := make(chan struct{})
	h := newHost(t, func(_ *host, _ message, deliver func()) {
		<-reads
		deliver()
	})
	c := h.open(t, Plan{Clients: 1, Channels: 1})
	c.text = []byte("~" + strings.Repeat("x", 64<<10))
	for c.blocked == 0 && c.failure == nil {
		c.publish(0)
	}
	if c.mayPublish() {
		t.Error("publishes though the kernel takes no more")
	}
	close(reads)
	c.progress = time.Since(c.begun)
	for (c.delivered < c.expected || c.blocked > 0) && c.lost == 0 && c.failure == nil {
		c.step()
	}
	if c.failure != nil || c.lost != 0 || c.number < 2 || !c.mayPublish() {
		t.Errorf("%v, %d of %d messages lost, %d blocked", c.failure, c.lost, c.number, c.blocked)
	}
}

func TestPingsAreAnsweredAlsoBetweenMeasurements(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(h *host, _ message, deliver func()) {
		h.ping()
		deliver()
	})
	c := h.open(t, Plan{Clients: 3, Channels: 1})
	pinged := 0
	for range 2 {
		h.ping()
		pinged += 4
		for h.ponged() < pinged && t.Context().Err() == nil {
			if err := c.Idle(); err != nil {
				t.Fatal(err)
			}
		}
		r := measure(t, c, Task{Window: 1, For: short})
		if r.Deliveries != 3*r.Messages || r.Lost != 0 {
			t.Errorf("%+v", r)
		}
		pinged += 4 * int(r.Messages)
	}
	for h.ponged() < pinged {
		if err := c.Idle(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlowClientsReadNothingAndAreNotExpectedTo(t *testing.T) {
	t.Parallel()
	var closes atomic.Bool
	stuck := false
	h := newHost(t, func(h *host, _ message, deliver func()) {
		if closes.CompareAndSwap(true, false) {
			h.mu.Lock()
			nc := h.clients["c-0"].NetConn()
			_ = nc.SetWriteDeadline(time.Now().Add(short))
			for range 1000 { // more than all the kernel's buffers
				if _, err := nc.Write(make([]byte, 64<<10)); err != nil {
					stuck = os.IsTimeout(err)
					break
				}
			}
			_ = reset(h.clients["c-0"])
			h.mu.Unlock()
		}
		deliver()
	})
	c := h.open(t, Plan{Clients: 4, Channels: 2, Slow: 1})
	before := measure(t, c, Task{Window: 2, For: short})
	if before.Closed != 0 || before.Lost != 0 {
		t.Errorf("before it is closed: %+v", before)
	}
	closes.Store(true)
	r := measure(t, c, Task{Window: 2, For: 2 * short})
	h.leave(c)
	n := before.Messages + r.Messages // one reader and two by turns
	if got, want := before.Deliveries+r.Deliveries, n/2*3+n%2; got != want || r.Lost != 0 || r.Closed != 1 || !stuck {
		t.Errorf("%+v, %d deliveries instead of %d; stuck: %t", r, got, want, stuck)
	}
}

// reset closes a connection so that its peer sees it at once.
func reset(c *websocket.Conn) error {
	if err := c.NetConn().(interface{ SetLinger(sec int) error }).SetLinger(0); err != nil { //nolint:errcheck // it is TCP
		return err
	}
	return c.NetConn().Close()
}

func TestDirectMessagesGoToEachClientInTurn(t *testing.T) {
	t.Parallel()
	to := map[string]int64{}
	h := newHost(t, func(_ *host, m message, deliver func()) {
		to[m.Type+" "+m.Channel]++
		deliver()
	})
	c := h.open(t, Plan{Clients: 3})
	r := measure(t, c, Task{Window: 8, Direct: true, For: short})
	h.leave(c)
	if r.Deliveries != r.Messages || r.Lost != 0 || len(to) != 3 || to["direct c-0"]-to["direct c-2"] > 1 {
		t.Errorf("%+v: %v", r, to)
	}
}

func TestEveryonePublishesToTheChannels(t *testing.T) {
	t.Parallel()
	from := map[string]int{}
	h := newHost(t, func(h *host, m message, deliver func()) {
		h.mu.Lock()
		from[m.from+" to "+m.Channel]++
		h.mu.Unlock()
		deliver()
	})
	c := h.open(t, Plan{Clients: 6, Channels: 3, Everyone: true})
	r := measure(t, c, Task{Window: 12, For: short})
	h.leave(c)
	if r.Deliveries != 2*r.Messages || r.Lost != 0 || len(from) != 6 || from["c-4 to c-1"] == 0 {
		t.Errorf("%+v: %v", r, from)
	}
}

func TestAClientThatIsClosedLosesWhatWasOnItsWayAndIsNotWaitedForAnyMore(t *testing.T) {
	t.Parallel()
	n := 0
	h := newHost(t, func(h *host, _ message, deliver func()) {
		if n++; n == 2 {
			h.mu.Lock()
			_ = h.clients["c-1"].Close()
			h.mu.Unlock()
		}
		deliver()
	})
	c := h.open(t, Plan{Clients: 2, Channels: 1})
	if r := measure(t, c, Task{Window: 100, Rate: 200, For: short}); r.Closed != 1 || r.Lost != 1 || r.Deliveries != r.Messages+1 {
		t.Errorf("%+v", r)
	}
	if r := measure(t, c, Task{Window: 1, For: short}); r.Closed != 1 || r.Lost != 0 || r.Deliveries != r.Messages {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestACrowdInAnotherProcess(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	plan := Plan{URL: h.url, Dialect: "gows", Name: "p", Clients: 5, Channels: 1}
	p, opened, err := Start(crowdCommand(t), plan)
	if err != nil {
		t.Fatal(err)
	}
	if opened.PerSecond <= 0 {
		t.Errorf("opened %+v", opened)
	}
	task := Task{Size: 128, Window: 1, For: short, Pids: []int{os.Getpid()}}
	for range 2 {
		r, err := p.Measure(task)
		if err != nil || r.Deliveries != 5*r.Messages || r.Messages == 0 || r.ServerCPU <= 0 || r.ClientCPU <= 0 {
			t.Errorf("%v, %+v", err, r)
		}
		if _, err := p.Measure(Task{Size: 3, Window: 1}); err == nil || !strings.Contains(err.Error(), "15 bytes at least") {
			t.Errorf("the error that crosses: %v", err)
		}
		h.ping() // which it answers while it has nothing to do
	}
	for h.ponged() < 2*6 && t.Context().Err() == nil {
		<-time.After(time.Millisecond)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := p.Measure(task); err == nil {
		t.Error("measured by a process that has ended")
	}
}

func TestACrowdThatCannotBeOpenedSaysWhy(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	refuses := httptest.NewServer(nil) // answers 404
	t.Cleanup(refuses.Close)
	for _, tt := range []struct{ url, dialect, says string }{
		{"ws://example.com:80/ws", "gows", "loopback address"},
		{"ws://127.0.0.1/ws", "gows", "loopback address"},
		{"ws://127.0.0.1:1/ws", "gows", "connect: connection refused"},
		{"ws" + strings.TrimPrefix(refuses.URL, "http") + "/ws", "gows", "404 Not Found"},
		{h.url, "latin", `no dialect "latin"`},
	} {
		_, _, err := Start(crowdCommand(t), Plan{URL: tt.url, Dialect: tt.dialect, Clients: 2})
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, not %q", tt.url, err, tt.says)
		}
	}
	_, _, err := Start(exec.CommandContext(t.Context(), "true"), Plan{})
	if err == nil {
		t.Error("a process that says nothing")
	}
}

func crowdCommand(t *testing.T) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), program, "load")
}

func TestMemoryAndCPUAreThoseOfTheProcess(t *testing.T) {
	t.Parallel()
	if n, err := Memory(os.Getpid()); err != nil || n < 1<<20 || n > 1<<34 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if d, err := CPU(os.Getpid()); err != nil || d <= 0 || d > time.Hour {
		t.Errorf("%v of CPU, %v", d, err)
	}
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := CPU(ended.Process.Pid); err == nil {
		t.Error("the CPU of a process that has ended")
	}
	if _, err := Memory(ended.Process.Pid); err == nil {
		t.Error("the memory of a process that has ended")
	}
}
