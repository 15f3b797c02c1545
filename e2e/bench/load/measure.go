package load

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Each text begins with a mark, which stands nowhere else in it, and then says when it was due.
const (
	mark     = '~'
	stampLen = 14 // hex digits of nanoseconds since the crowd began
)

// patience is how long a message may be on its way to the last client before it counts as lost.
const patience = 3 * time.Second

// measurement is the state of a running one.
type measurement struct {
	task      Task
	text      []byte
	frame     []byte
	number    int64 // of the next message, counted through all measurements
	expected  int64
	delivered int64
	lost      int64
	closed    int64
	progress  time.Duration // when something was delivered last
	blocked   int           // publishers whose frame the kernel has not taken whole
	flying    []flight      // the oldest first
	times     *Times        // nil while warming up
	now       time.Duration // since the crowd began
	failure   error
}

// flight is a message on its way.
type flight struct {
	target int64 // deliveries that are there when it has reached everybody
	since  time.Duration
}

// Measure publishes as the task says, and returns when everything has arrived that is going to.
func (c *Crowd) Measure(t Task) (Result, error) {
	if t.Size < 1+stampLen {
		return Result{}, fmt.Errorf("a message has %d bytes at least, not %d", 1+stampLen, t.Size)
	}
	if t.Window <= 0 && t.Rate <= 0 {
		return Result{}, errors.New("a task needs a window or a rate")
	}
	c.measurement = measurement{
		task: t, number: c.number, closed: c.closed, blocked: c.blocked,
		text: []byte(string(mark) + strings.Repeat("x", t.Size-1)),
	}
	start := c.number
	if err := c.publishFor(t.Warm); err != nil {
		return Result{}, err
	}
	c.times = new(Times)
	c.lost, c.expected = 0, c.delivered
	first, delivered := c.number, c.delivered
	server, err := cpuOf(t.Pids)
	if err != nil {
		return Result{}, err
	}
	own, begun := ownCPU(), time.Now()
	if err := c.publishFor(t.For); err != nil {
		return Result{}, err
	}
	seconds := time.Since(begun).Seconds()
	spent, err := cpuOf(t.Pids)
	if err != nil {
		return Result{}, err
	}
	r := Result{
		Messages: c.number - first, Warming: first - start, Deliveries: c.delivered - delivered,
		Lost: c.lost + c.expected - c.delivered, Closed: c.closed, Seconds: seconds,
	}
	each := 1 / 1000. / float64(max(1, r.Deliveries))
	r.ServerCPU, r.ClientCPU = float64(spent-server)*each, float64(ownCPU()-own)*each
	r.P50, r.P99, r.P999 = c.times.At(0.5), c.times.At(0.99), c.times.At(0.999)
	return r, nil
}

// Idle answers the server's pings for a moment: a crowd between measurements must call it again and again.
func (c *Crowd) Idle() error {
	c.step()
	return c.failure
}

// publishFor publishes for a while, and then waits for what is on its way.
func (c *Crowd) publishFor(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	c.now = time.Since(c.begun)
	begun := c.now
	due := c.now
	interval := time.Duration(0)
	if c.task.Rate > 0 {
		interval = time.Duration(float64(time.Second) / c.task.Rate)
		if err := c.tick(interval); err != nil {
			return err
		}
	}
	c.progress = c.now
	for c.now-begun < d {
		for c.mayPublish() {
			since := c.now
			if interval > 0 {
				if due > c.now {
					break
				}
				since = due
				due += interval
			}
			c.publish(since)
		}
		c.step()
		if c.failure != nil {
			return c.failure
		}
	}
	if err := c.tick(0); err != nil {
		return err
	}
	for c.delivered < c.expected && c.failure == nil {
		c.step()
	}
	return c.failure
}

func (c *Crowd) mayPublish() bool {
	return c.failure == nil && c.blocked == 0 && (c.task.Window <= 0 || len(c.flying) < c.task.Window)
}

// publish sends one message, which was due at since.
func (c *Crowd) publish(since time.Duration) {
	publisher := c.publishers[c.number%int64(len(c.publishers))]
	stamp(c.text[1:1+stampLen], since)
	c.frame = c.frame[:0]
	reached := 1
	if c.task.Direct {
		c.frame = c.dialect.direct(c.frame, c.number, c.clients[c.number%int64(len(c.clients))].name, c.text)
	} else {
		to := c.number % int64(len(c.names))
		reached = c.readers[to]
		c.frame = c.dialect.publish(c.frame, c.number, c.names[to], c.text)
	}
	c.number++
	c.expected += int64(reached)
	c.flying = append(c.flying, flight{c.expected, since})
	all, err := publisher.say(appendFrame(nil, opText, c.frame))
	if err == nil && !all {
		c.blocked++
		err = c.watch(unix.EPOLL_CTL_MOD, publisher.fd, publisher.number, unix.EPOLLIN|unix.EPOLLOUT)
	}
	if err != nil {
		c.failure = fmt.Errorf("publish: %w", err)
	}
}

// step waits for what happens next, for a tenth of a second at most, and sees to it.
func (c *Crowd) step() {
	var events [512]unix.EpollEvent
	n, err := unix.EpollWait(c.epoll, events[:], 100)
	if err != nil && !errors.Is(err, unix.EINTR) {
		c.failure = fmt.Errorf("epoll: %w", err)
		return
	}
	before := c.delivered
	for _, e := range events[:max(n, 0)] {
		if e.Fd == timerNumber {
			_, _ = unix.Read(c.timer, c.buf[:8]) // how often it has rung does not matter: what is due is known
			continue
		}
		conn := c.conns[e.Fd]
		if e.Events&unix.EPOLLOUT != 0 {
			c.resume(conn)
		}
		switch {
		case int(e.Fd) < c.plan.Slow:
			c.gone(conn)
		case e.Events&^unix.EPOLLOUT != 0:
			c.read(conn)
		}
	}
	c.now = time.Since(c.begun)
	if c.delivered > before {
		c.progress = c.now
	}
	c.land()
}

// land takes out of the flying messages what has arrived, and what never will.
func (c *Crowd) land() {
	landed := 0
	for landed < len(c.flying) && c.flying[landed].target <= c.delivered {
		if c.times != nil && c.task.Window == 1 && c.task.Rate == 0 {
			c.times.Add(c.now - c.flying[landed].since)
		}
		landed++
	}
	c.flying = append(c.flying[:0], c.flying[landed:]...)
	if c.delivered < c.expected && c.now-c.progress > patience {
		if c.times != nil && c.task.Window == 1 && c.task.Rate == 0 {
			for _, f := range c.flying {
				c.times.Add(c.now - f.since)
			}
		}
		c.lost += c.expected - c.delivered
		c.expected = c.delivered
		c.flying = c.flying[:0]
		c.progress = c.now
	}
}

func (c *Crowd) resume(conn *conn) {
	all, err := conn.flush()
	if err == nil && all {
		c.blocked--
		err = c.watch(unix.EPOLL_CTL_MOD, conn.fd, conn.number, unix.EPOLLIN)
	}
	if err != nil {
		c.failure = fmt.Errorf("publish: %w", err)
	}
}

func (c *Crowd) read(conn *conn) {
	n, err := unix.Read(conn.fd, c.buf)
	switch {
	case n > 0:
		c.now = time.Since(c.begun) // of this client, not of all that have something to read
		conn.feed(c.buf[:n], c)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	default:
		c.gone(conn)
	}
}

// gone takes a client out that the server has closed: what was on its way to it is lost, and nothing more is expected.
func (c *Crowd) gone(conn *conn) {
	c.closed++
	if i := int(conn.number); i >= c.plan.Slow && i < len(c.clients) && len(c.readers) > 0 {
		c.readers[i%len(c.readers)]--
	}
	_ = unix.EpollCtl(c.epoll, unix.EPOLL_CTL_DEL, conn.fd, nil)
}

// heard counts the marks in a piece of a message. When each delivery is timed it reads what stands behind them, too.
func (c *Crowd) heard(conn *conn, piece []byte) {
	if c.times == nil || c.task.Rate == 0 {
		c.delivered += int64(bytes.Count(piece, []byte{mark}))
		return
	}
	for len(piece) > 0 {
		if conn.cut == 0 {
			at := bytes.IndexByte(piece, mark)
			if at < 0 {
				return
			}
			piece = piece[at:]
		}
		n := copy(conn.text[conn.cut:], piece)
		conn.cut += n
		piece = piece[n:]
		if conn.cut == len(conn.text) {
			conn.cut = 0
			c.delivered++
			c.times.Add(c.now - stamped(conn.text[1:]))
		}
	}
}

// tick makes the timer ring at an interval, or with 0 not any more.
func (c *Crowd) tick(interval time.Duration) error {
	every := unix.NsecToTimespec(int64(interval))
	if err := unix.TimerfdSettime(c.timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	return nil
}

func stamp(dst []byte, d time.Duration) {
	const digits = "0123456789abcdef"
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = digits[d&15]
		d >>= 4
	}
}

func stamped(text []byte) time.Duration {
	var b [stampLen / 2]byte
	if _, err := hex.Decode(b[:], text); err != nil {
		return 0
	}
	var n time.Duration
	for _, digits := range b {
		n = n<<8 | time.Duration(digits)
	}
	return n
}
