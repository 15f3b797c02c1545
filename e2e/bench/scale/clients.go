package main

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// order is what the command tells a process of clients, several times a second.
type order struct {
	Phase int            // of the texts that are published, and counted
	Rates [kinds]float64 // messages per second that this process publishes, by kind
}

// report is what a process of clients says of itself.
type report struct {
	Open     int           // connections
	Joined   int           // clients that are in all their rooms
	JoinedAt time.Duration // when the last one was, of the machine's clock; 0 while some are not

	// Of this phase. Expected counts the members of the rooms that were published to, Delivered what arrived here.
	Sent, Expected, Delivered [kinds]int64

	// How long deliveries took since the last report, in microseconds: from publishers on the same node, and on others.
	Took [kinds][2][]uint32

	Closed  map[int]int // connections that the node has ended, by close code; 1006 is without one
	Failed  int         // attempts to connect and join that were not successful
	Gaps    int         // times that a client was told that it may have missed something
	Failure string      // why the process cannot go on
}

// dialers is how many clients of a process connect and join at the same time.
const dialers = 32

// joinTimeout is how long one of them may take before it begins again.
const joinTimeout = 15 * time.Second

// clients is a process that holds the clients of one node. It has one goroutine and waits in epoll alone.
type clients struct {
	plan    plan
	to      server
	epoll   int
	timer   int
	armed   time.Duration // when the timer rings
	now     time.Duration
	all     []client
	waiting queue // who is going to connect
	opening []int // who is at it
	buf     []byte
	frame   []byte

	order order
	due   [kinds]time.Duration // when the next message of a kind is
	report
}

type client struct {
	socket

	state   int
	since   time.Duration // of the attempt to connect
	answers int           // to what was subscribed
}

const (
	away       = iota // has no connection
	connecting        // TCP
	upgrading         // HTTP
	joining           // has asked to be let into its rooms
	joined
)

// Numbers of descriptors that are no client's, with epoll.
const (
	timerNumber  = -1
	ordersNumber = -2
)

// serveClients is the whole of that process: in begins with a plan, orders follow, and its end is the end of the process.
// Each of them is answered with a report.
func serveClients(in *os.File, out io.Writer) error {
	reports := json.NewEncoder(out)
	c := &clients{buf: make([]byte, 256<<10), report: report{Closed: map[int]int{}}}
	line, err := readLine(in)
	if err == nil {
		err = json.Unmarshal(line, &c.plan)
	}
	if err != nil {
		return fmt.Errorf("the plan: %w", err)
	}
	if err := c.begin(in); err != nil {
		return err
	}
	if err := reports.Encode(c.report); err != nil {
		return fmt.Errorf("the report: %w", err)
	}
	for {
		asked, err := c.step()
		if err != nil {
			c.Failure = err.Error()
		}
		if !asked && err == nil {
			continue
		}
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var o order
		if err == nil {
			err = json.Unmarshal(line, &o)
		}
		if err != nil {
			return fmt.Errorf("the order: %w", err)
		}
		c.obey(o)
		if err := reports.Encode(c.report); err != nil {
			return fmt.Errorf("the report: %w", err)
		}
		c.Took = [kinds][2][]uint32{}
	}
}

// readLine reads a line. There is never more than one: the command waits for the answer.
func readLine(in io.Reader) ([]byte, error) {
	var line []byte
	for b := make([]byte, 4<<10); ; {
		n, err := in.Read(b)
		line = append(line, b[:n]...)
		if bytes.HasSuffix(line, []byte("\n")) {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *clients) begin(in *os.File) (err error) {
	if c.to, err = parseServer(c.plan.Addr); err != nil {
		return err
	}
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if c.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	if err := c.watch(unix.EPOLL_CTL_ADD, c.timer, timerNumber, unix.EPOLLIN); err != nil {
		return err
	}
	if err := c.watch(unix.EPOLL_CTL_ADD, int(in.Fd()), ordersNumber, unix.EPOLLIN); err != nil {
		return err
	}
	c.now = monotonic()
	c.all = make([]client, c.plan.clients(c.plan.Node))
	interval := time.Duration(float64(time.Second) * float64(c.plan.Nodes) / c.plan.Rate)
	for k := range c.all {
		heap.Push(&c.waiting, turn{c.now + time.Duration(k)*interval, k})
	}
	return nil
}

func (c *clients) watch(op, fd, number int, what uint32) error {
	if err := unix.EpollCtl(c.epoll, op, fd, &unix.EpollEvent{Events: what, Fd: int32(number)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// obey begins a phase, or changes what is published in it.
func (c *clients) obey(o order) {
	c.now = monotonic()
	if o.Phase != c.order.Phase {
		c.Sent, c.Expected, c.Delivered = [kinds]int64{}, [kinds]int64{}, [kinds]int64{}
		c.Took = [kinds][2][]uint32{}
	}
	for kind, rate := range o.Rates {
		if rate > 0 && rate != c.order.Rates[kind] {
			// The processes take turns.
			share := (float64(c.plan.Node) + 0.5) / float64(c.plan.Nodes)
			c.due[kind] = c.now + time.Duration(share*float64(time.Second)/rate)
		}
	}
	c.order = o
}

// step does what is due, waits for what happens next, and sees to it. asked says that an order is there.
func (c *clients) step() (asked bool, err error) {
	c.now = monotonic()
	c.expire()
	for len(c.opening) < dialers && len(c.waiting) > 0 && c.waiting[0].at <= c.now {
		k := heap.Pop(&c.waiting).(turn).client //nolint:errcheck,forcetypeassert // nothing else is pushed
		if err := c.connect(k); err != nil {
			return false, err
		}
	}
	for kind, rate := range c.order.Rates {
		for ; rate > 0 && c.due[kind] <= c.now; c.due[kind] += time.Duration(float64(time.Second) / rate) {
			c.publish(kind, c.due[kind])
		}
	}
	if err := c.arm(); err != nil {
		return false, err
	}
	var events [512]unix.EpollEvent
	n, err := unix.EpollWait(c.epoll, events[:], -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("epoll: %w", err)
	}
	for _, e := range events[:max(n, 0)] {
		switch e.Fd {
		case timerNumber:
			_, _ = unix.Read(c.timer, c.buf[:8]) // how often it has rung does not matter: what is due is known
			c.armed = 0
		case ordersNumber:
			asked = true
		default:
			c.now = monotonic()
			if err := c.ready(int(e.Fd)); err != nil {
				return false, err
			}
		}
	}
	return asked, nil
}

// arm makes the timer ring when the next thing is due.
func (c *clients) arm() error {
	next := c.now + time.Second // for those who take too long to join
	if len(c.opening) < dialers && len(c.waiting) > 0 {
		next = min(next, c.waiting[0].at)
	}
	for kind, rate := range c.order.Rates {
		if rate > 0 {
			next = min(next, c.due[kind])
		}
	}
	if c.armed > c.now && c.armed <= next {
		return nil
	}
	c.armed = next
	spec := &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(next))}
	if err := unix.TimerfdSettime(c.timer, unix.TFD_TIMER_ABSTIME, spec, nil); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	return nil
}

// number is a client's, counted over all nodes.
func (c *clients) number(k int) int { return k*c.plan.Nodes + c.plan.Node }

func (c *clients) connect(k int) error {
	fd, err := c.to.connect(k)
	if errors.Is(err, unix.EMFILE) {
		return err // it would not get better
	}
	if err != nil {
		c.Failed++
		c.later(k)
		return nil
	}
	c.all[k] = client{socket: socket{fd: fd}, state: connecting, since: c.now}
	c.opening = append(c.opening, k)
	return c.watch(unix.EPOLL_CTL_ADD, fd, k, unix.EPOLLOUT)
}

// later makes a client that has no connection try again.
func (c *clients) later(k int) {
	heap.Push(&c.waiting, turn{c.now + rand.N(c.plan.Spread), k})
}

// expire ends the attempts that have taken too long.
func (c *clients) expire() {
	for _, k := range slices.Clone(c.opening) {
		if c.now-c.all[k].since > joinTimeout {
			c.lose(k, 1006)
		}
	}
}

// ready goes on with a client whose socket is.
func (c *clients) ready(k int) error {
	cl := &c.all[k]
	if cl.state == connecting {
		if c.to.upgrade(cl.fd, "client-"+strconv.Itoa(c.number(k))) != nil {
			c.lose(k, 1006)
			return nil
		}
		cl.state = upgrading
		return c.watch(unix.EPOLL_CTL_MOD, cl.fd, k, unix.EPOLLIN)
	}
	n, err := unix.Read(cl.fd, c.buf)
	switch {
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return nil
	case n <= 0:
		c.lose(k, 1006)
		return nil
	}
	b := c.buf[:n]
	if len(cl.rest) > 0 {
		b = append(cl.rest, b...)
	}
	return c.read(k, b)
}

// read goes through what a client has got.
func (c *clients) read(k int, b []byte) error {
	cl := &c.all[k]
	if cl.state == upgrading {
		open, rest, ok := cutHead(b)
		switch {
		case !ok:
			cl.rest = slices.Clone(b)
			return nil
		case !open:
			c.lose(k, 1006)
			return nil
		}
		b = rest
		c.Open++
		cl.state = joining
		if !c.join(k) {
			return nil
		}
	}
	for {
		opcode, payload, rest, ok := cutFrame(b)
		if !ok {
			break
		}
		b = rest
		switch opcode {
		case opText:
			if err := c.heard(k, payload); err != nil {
				return err
			}
		case opPing:
			_ = write(cl.fd, appendFrame(nil, opPong, string(payload))) // a broken connection shows when it is read
		case opClose:
			code := 1005
			if len(payload) >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
			_ = write(cl.fd, appendFrame(nil, opClose, string(payload)))
			c.lose(k, code)
			if code < 3000 || code >= 3500 {
				return fmt.Errorf("client %d was closed with %d and may not come back: %q", c.number(k), code, payload[min(2, len(payload)):])
			}
		}
		if cl.state == away {
			return nil
		}
	}
	cl.rest = nil
	if len(b) > 0 {
		cl.rest = slices.Clone(b)
	}
	return nil
}

// join asks for a client's rooms, all at once.
func (c *clients) join(k int) bool {
	c.frame = c.frame[:0]
	for kind := range kinds {
		room := roomName(kind, c.plan.roomOf(c.number(k), kind))
		c.frame = appendFrame(c.frame, opText, `{"id":"`+strconv.Itoa(kind)+`","type":"subscribe","channel":"`+room+`"}`)
	}
	if write(c.all[k].fd, c.frame) != nil {
		c.lose(k, 1006)
		return false
	}
	return true
}

// lose forgets a connection, and has its client connect again.
func (c *clients) lose(k, code int) {
	cl := &c.all[k]
	_ = unix.Close(cl.fd)
	if cl.state >= joining {
		c.Open--
	}
	if cl.state == joined {
		c.Joined--
		c.JoinedAt = 0
		c.Closed[code]++
	} else {
		c.Failed++
		c.opened(k)
	}
	*cl = client{}
	c.later(k)
}

// opened makes room for the next one that connects.
func (c *clients) opened(k int) {
	if i := slices.Index(c.opening, k); i >= 0 {
		c.opening = slices.Delete(c.opening, i, i+1)
	}
}

// heard takes a text: a message of ours, or an answer.
func (c *clients) heard(k int, text []byte) error {
	if at := bytes.IndexByte(text, mark); at >= 0 {
		s, err := parseStamp(text[at:])
		if err != nil {
			return fmt.Errorf("client %d: %w: %.200q", c.number(k), err, text)
		}
		if s.phase == c.order.Phase {
			c.Delivered[s.kind]++
			from := 0
			if s.node != c.plan.Node {
				from = 1
			}
			took := &c.Took[s.kind][from]
			*took = append(*took, uint32(max(0, c.now-s.due)/time.Microsecond))
		}
		return nil
	}
	switch {
	case bytes.Contains(text, []byte(`"type":"receive"`)):
		cl := &c.all[k]
		if cl.answers++; cl.answers == kinds {
			cl.state = joined
			c.opened(k)
			if c.Joined++; c.Joined == len(c.all) {
				c.JoinedAt = c.now
			}
		}
	case bytes.Contains(text, []byte(`"type":"gap"`)):
		c.Gaps++
	default: // an error: try again, from the beginning
		c.lose(k, 1006)
	}
	return nil
}

// publish has one of the clients publish to its room of that kind.
func (c *clients) publish(kind int, due time.Duration) {
	k := rand.IntN(len(c.all))
	for range 10 {
		if c.all[k].state == joined {
			break
		}
		k = rand.IntN(len(c.all))
	}
	if c.all[k].state != joined {
		return // this node is being restarted
	}
	room := c.plan.roomOf(c.number(k), kind)
	text := stamp{c.order.Phase, kind, c.plan.Node, due}.String()
	c.frame = appendFrame(c.frame[:0], opText,
		`{"type":"message","channel":"`+roomName(kind, room)+`","message":"`+text+`"}`)
	if write(c.all[k].fd, c.frame) != nil {
		c.lose(k, 1006)
		return
	}
	c.Sent[kind]++
	c.Expected[kind] += int64(c.plan.members(kind, room))
}

// turn is when a client connects.
type turn struct {
	at     time.Duration
	client int
}

// queue holds turns, the next one first: it is a heap.
type queue []turn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push and Pop are those of container/heap.
func (q *queue) Push(x any) { *q = append(*q, x.(turn)) } //nolint:errcheck,forcetypeassert // nothing else is pushed

// Pop takes the last one off.
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
