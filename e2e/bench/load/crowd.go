package load

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Crowd is many clients and who publishes to them. It is not for concurrent use.
type Crowd struct {
	plan       Plan
	dialect    dialect
	clients    []*conn
	publishers []*conn
	names      []string // of the channels
	readers    []int    // by channel, the clients that read

	epoll int
	timer int
	conns []*conn // what epoll knows, by the number that it has there
	begun time.Time
	buf   []byte

	measurement
}

// dialers is how many connections are being opened at the same time.
const dialers = 32

// Open opens a crowd. All that were opened are closed when it fails.
func Open(p Plan) (*Crowd, Opened, error) {
	d, ok := dialects[p.Dialect]
	if !ok {
		return nil, Opened{}, fmt.Errorf("there is no dialect %q", p.Dialect)
	}
	if p.Publish == "" {
		p.Publish = p.URL
	}
	to, err := parseServer(p.URL)
	if err != nil {
		return nil, Opened{}, err
	}
	through, err := parseServer(p.Publish)
	if err != nil {
		return nil, Opened{}, err
	}
	c := &Crowd{plan: p, dialect: d, epoll: -1, timer: -1, begun: time.Now(), buf: make([]byte, 256<<10)}
	opened, err := c.open(to, through)
	if err != nil {
		c.Close()
		return nil, Opened{}, err
	}
	return c, opened, nil
}

func (c *Crowd) open(to, through server) (opened Opened, err error) {
	for i := range c.plan.Channels {
		c.names = append(c.names, c.plan.Name+"-"+strconv.Itoa(i))
	}
	c.readers = make([]int, c.plan.Channels)
	c.clients = make([]*conn, c.plan.Clients)
	begun := time.Now()
	if err := c.dialAll(to); err != nil {
		return opened, err
	}
	opened.PerSecond = float64(c.plan.Clients) / time.Since(begun).Seconds()
	if c.plan.Everyone {
		c.publishers = c.clients
	} else {
		publisher, err := through.dial(0, c.plan.Name+"-publisher", false)
		if err != nil {
			return opened, err
		}
		c.publishers = []*conn{publisher}
		if c.dialect.connect != "" {
			if err := publisher.ask(c.dialect.connect); err != nil {
				return opened, err
			}
		}
	}
	return opened, c.watchAll()
}

// dialAll opens the clients, several at a time.
func (c *Crowd) dialAll(to server) error {
	var next atomic.Int64
	failures := make([]error, dialers)
	var wg sync.WaitGroup
	for worker := range dialers {
		wg.Go(func() { // ends when there is nobody left to be opened, or one has failed
			for failures[worker] == nil {
				i := int(next.Add(1) - 1)
				if i >= len(c.clients) {
					return
				}
				c.clients[i], failures[worker] = c.join(to, i)
			}
		})
	}
	wg.Wait()
	for _, err := range failures { // one says it: the others are most often the same
		if err != nil {
			return err
		}
	}
	return nil
}

// join opens client i and waits until it has subscribed.
func (c *Crowd) join(to server, i int) (*conn, error) {
	client, err := to.dial(i, c.plan.Name+"-"+strconv.Itoa(i), i < c.plan.Slow)
	if err != nil {
		return nil, err
	}
	if c.dialect.connect != "" {
		err = client.ask(c.dialect.connect)
	}
	if err == nil && c.plan.Channels > 0 {
		err = client.ask(c.dialect.subscribe(c.names[i%c.plan.Channels]))
	}
	if err != nil {
		_ = unix.Close(client.fd)
		return nil, err
	}
	return client, nil
}

// watchAll gives all to epoll.
func (c *Crowd) watchAll() (err error) {
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if c.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	if err := c.watch(unix.EPOLL_CTL_ADD, c.timer, timerNumber, unix.EPOLLIN); err != nil {
		return err
	}
	conns := c.clients
	if !c.plan.Everyone {
		conns = append(slices.Clip(conns), c.publishers...)
	}
	for i, conn := range conns {
		if err := unix.SetNonblock(conn.fd, true); err != nil {
			return fmt.Errorf("nonblock: %w", err)
		}
		conn.number = int32(i)
		c.conns = append(c.conns, conn)
		what := uint32(unix.EPOLLIN)
		switch {
		case i < c.plan.Slow:
			what = unix.EPOLLRDHUP // that it is reset, which epoll tells along with this
		case c.plan.Channels > 0 && i < len(c.clients):
			c.readers[i%c.plan.Channels]++
		}
		if err := c.watch(unix.EPOLL_CTL_ADD, conn.fd, conn.number, what); err != nil {
			return err
		}
	}
	return nil
}

const timerNumber = -1

func (c *Crowd) watch(op, fd int, number int32, what uint32) error {
	if err := unix.EpollCtl(c.epoll, op, fd, &unix.EpollEvent{Events: what, Fd: number}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// Close closes all connections, without a goodbye.
func (c *Crowd) Close() {
	for _, conn := range append(c.clients, c.publishers...) {
		if conn != nil && conn.fd >= 0 {
			_ = unix.Close(conn.fd)
			conn.fd = -1
		}
	}
	for _, fd := range []int{c.epoll, c.timer} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	c.epoll, c.timer = -1, -1
}
