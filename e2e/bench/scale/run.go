package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
)

// scale is a run.
type scale struct {
	config
	*progress
	processes

	redis  *redisServer
	nodes  []*node
	crowds []*crowd // by node
	down   int      // the node that is meant to end; -1 for none
	ticker *time.Ticker

	order order
	took  [kinds][2]load.Times // of this phase, like report.Took
}

// run is the whole of it.
func run(ctx context.Context, c config, p *progress) (*result, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	// The children die with the thread that starts them: this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeoutCause(ctx, c.Limit, fmt.Errorf("the limit of %s is over: raise -limit, or take fewer -connections", c.Limit))
	dir, err := os.MkdirTemp("", "gows-scale-")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("a directory for logs: %w", err)
	}
	s := &scale{config: c, progress: p, processes: processes{dir: dir}, down: -1, ticker: time.NewTicker(200 * time.Millisecond)}
	defer s.end(cancel)

	p.say("%s connections on %d nodes over Redis. Each client is in a room of %s, one of %s and one of %s, whose members sit on\n"+
		"different nodes. They join, are idle, publish, come back from a restart of each node in turn, and publish again.\n"+
		"It ends after %s, or above %s of memory, whatever is done by then.",
		group(c.Connections), c.Nodes, group(c.Rooms[pair]), group(c.Rooms[team]), group(c.Rooms[hall]), c.Limit, bytesText(c.Memory))
	r := &result{Machine: machine(), Connections: c.Connections, Nodes: c.Nodes, Rooms: c.Rooms, Closed: map[int]int{}}
	if err := s.measure(ctx, r); err != nil {
		p.clear()
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = cause // the rest follows from it
		}
		return nil, err
	}
	p.clear()
	return r, nil
}

// measure runs one phase after the other.
func (s *scale) measure(ctx context.Context, r *result) error {
	if err := s.startServers(ctx, r); err != nil {
		return err
	}
	before, err := s.footprint(ctx)
	if err != nil {
		return err
	}
	if err := s.join(ctx, r); err != nil {
		return err
	}
	after, err := s.footprint(ctx)
	if err != nil {
		return err
	}
	r.Memory = after.since(before, s.Connections)

	if r.Idle, err = s.idle(ctx); err != nil {
		return err
	}
	if r.Load, err = s.publish(ctx, func() error { return s.during(ctx, "load", s.For) }); err != nil {
		return err
	}
	r.expectAll("under load", r.Load)
	r.Restart, err = s.publish(ctx, func() error {
		for i := range s.nodes {
			back, err := s.restart(ctx, i)
			if err != nil {
				return err
			}
			r.Restarts = append(r.Restarts, back)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Restart.Use = use{} // whose processes have changed meanwhile
	if r.After, err = s.publish(ctx, func() error { return s.during(ctx, "load again", s.For) }); err != nil {
		return err
	}
	r.expectAll("after the restarts", r.After)
	return s.inspect(ctx, r)
}

// end ends all processes and waits for them.
func (s *scale) end(cancel func()) {
	cancel()
	s.ticker.Stop()
	s.wait()
	_ = os.RemoveAll(s.dir) // the system cleans up what is left
}

func (s *scale) servers() (all []*child) {
	for _, n := range s.nodes {
		all = append(all, n.child)
	}
	return all
}

func (s *scale) holders() (all []*child) {
	for _, c := range s.crowds {
		all = append(all, c.child)
	}
	return all
}

func (s *scale) startServers(ctx context.Context, r *result) (err error) {
	if s.redis, err = s.startRedis(ctx); err != nil {
		return err
	}
	info, err := s.redis.info()
	if err != nil {
		return err
	}
	r.Redis = info["redis_version"]
	for i := range s.Nodes {
		addr, err := freePort()
		if err != nil {
			return err
		}
		n, err := s.startNode(ctx, nodeName(i), addr, s.redis.addr)
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, n)
		if err := n.await(ctx, func() error { return n.ready(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

func nodeName(i int) string { return fmt.Sprintf("node %d", i+1) }

// join starts the clients and returns when all are in their rooms.
func (s *scale) join(ctx context.Context, r *result) error {
	begun := monotonic()
	for i, n := range s.nodes {
		c, err := s.startCrowd(ctx, fmt.Sprintf("clients of node %d", i+1), s.plan(i, n.addr))
		if err != nil {
			return err
		}
		s.crowds = append(s.crowds, c)
	}
	if err := s.until(ctx, "joining", func() bool { return s.joined() == s.Connections }); err != nil {
		return err
	}
	for _, c := range s.crowds {
		r.Joining = max(r.Joining, (c.JoinedAt - begun).Seconds())
	}
	return nil
}

func (s *scale) plan(i int, addr string) plan {
	return plan{
		Connections: s.Connections, Nodes: s.Nodes, Rooms: s.Rooms, Rate: s.Connects, Spread: s.Spread, Node: i, Addr: addr,
	}
}

// idle measures what connections cost that nobody uses.
func (s *scale) idle(ctx context.Context) (q quiet, err error) {
	before, err := s.redis.info()
	if err != nil {
		return q, err
	}
	used := s.use()
	if err := s.during(ctx, "idle", s.For); err != nil {
		return q, err
	}
	q.Use = used()
	after, err := s.redis.info()
	if err != nil {
		return q, err
	}
	q.Commands = commands(before, after, q.Use.Seconds)
	return q, nil
}

// publish has the clients publish while body runs, and returns when everything has arrived that is going to.
func (s *scale) publish(ctx context.Context, body func() error) (traffic, error) {
	s.order.Phase++
	for kind, rate := range s.Rates {
		s.order.Rates[kind] = rate / float64(s.Nodes)
	}
	s.took = [kinds][2]load.Times{}
	used := s.use()
	if err := body(); err != nil {
		return traffic{}, err
	}
	t := traffic{Use: used()}
	s.order.Rates = [kinds]float64{}
	// Two rounds, because the first one's orders end what is published.
	round, since, seen := 0, time.Now(), int64(0)
	err := s.until(ctx, "the last ones", func() bool {
		expected, delivered := s.deliveries()
		if round++; delivered != seen {
			since, seen = time.Now(), delivered
		}
		return round > 1 && (delivered == expected || time.Since(since) > patience)
	})
	t.gather(s)
	return t, err
}

// patience is how long nothing must arrive until what is missing counts as lost.
const patience = 3 * time.Second

// restart restarts node i, and returns when its clients are back.
func (s *scale) restart(ctx context.Context, i int) (b back, err error) {
	phase := "restart of " + nodeName(i)
	old, begun := s.nodes[i], monotonic()
	s.down = i
	if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return b, fmt.Errorf("%s: %w", old.name, err)
	}
	if err := s.until(ctx, phase, func() bool { return !old.alive() }); err != nil {
		return b, err
	}
	if !old.cmd.ProcessState.Success() {
		return b, old.ended()
	}
	b.Ended = (old.gone - begun).Seconds()
	if s.nodes[i], err = s.startNode(ctx, old.name, old.addr, s.redis.addr); err != nil {
		return b, err
	}
	s.down = -1
	c := s.crowds[i]
	b.Clients = s.plan(i, "").clients(i)
	err = s.until(ctx, phase, func() bool { return c.Joined == b.Clients && c.JoinedAt > begun })
	b.Back = (c.JoinedAt - begun).Seconds()
	return b, err
}

// inspect asks the nodes who is there, in the end.
func (s *scale) inspect(ctx context.Context, r *result) error {
	r.Back = s.joined()
	if r.Back != s.Connections {
		r.problem("%s of %s clients are back", group(r.Back), group(s.Connections))
	}
	connections := 0
	for _, n := range s.nodes {
		stats, err := n.stats(ctx)
		if err != nil {
			return err
		}
		connections += stats.Connections
		if stats.Dropped+stats.Gaps+stats.Slow+stats.Faults > 0 || stats.DriverAway > 0 {
			r.problem("%s has counted faults: %+v", n.name, stats)
		}
	}
	if connections != s.Connections {
		r.problem("the nodes have %s connections", group(connections))
	}
	p := s.plan(0, "")
	for kind := range kinds {
		sample := min(20, p.rooms(kind))
		for i := range sample {
			room := i * p.rooms(kind) / sample
			n, err := s.nodes[i%len(s.nodes)].count(ctx, roomName(kind, room))
			if err != nil {
				return err
			}
			if r.Counted++; n != p.members(kind, room) {
				r.problem("%s has %d members, not %d", roomName(kind, room), n, p.members(kind, room))
			}
		}
	}
	for _, c := range s.crowds {
		r.Failed += c.Failed
		r.Gaps += c.Gaps
		for code, n := range c.Closed {
			r.Closed[code] += n
		}
	}
	for code, n := range r.Closed {
		if code != 3001 {
			r.problem("%s connections were closed with %d", group(n), code)
		}
	}
	if r.Gaps > 0 {
		r.problem("%s times a client was told of a gap", group(r.Gaps))
	}
	return nil
}

// during goes on for a while.
func (s *scale) during(ctx context.Context, phase string, d time.Duration) error {
	end := time.Now().Add(d)
	return s.until(ctx, phase, func() bool { return !time.Now().Before(end) })
}

// until goes on until done says so.
func (s *scale) until(ctx context.Context, phase string, done func() bool) error {
	for {
		if err := s.tick(ctx, phase); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause // our processes end then, which is no news
			}
			return fmt.Errorf("%s: %w", phase, err)
		}
		if done() {
			return nil
		}
	}
}

// tick is one round: everybody is looked at, and the clients are told what to do and report.
func (s *scale) tick(ctx context.Context, phase string) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ticker.C:
	}
	for i, c := range append(s.servers(), s.redis.child) {
		if i != s.down && !c.alive() {
			return c.ended()
		}
	}
	for _, c := range s.crowds {
		if err := c.orders.Encode(s.order); err != nil && !errors.Is(err, syscall.EPIPE) { // hear says why it is broken
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, c := range s.crowds {
		if err := c.hear(); err != nil {
			return err
		}
		for kind := range kinds {
			for from, took := range c.Took[kind] {
				for _, microseconds := range took {
					d := time.Duration(microseconds) * time.Microsecond
					s.took[kind][from].Add(d)
					s.recent.Add(d)
				}
			}
		}
	}
	own, err := load.Memory(os.Getpid())
	if err != nil {
		return err
	}
	if all := own + resident(s.all...); all > s.Memory {
		return fmt.Errorf("all processes together have %s of memory, which is above the limit: raise -memory, or take fewer -connections",
			bytesText(all))
	}
	s.show(ctx, phase, s)
	return nil
}

func (s *scale) joined() (n int) {
	for _, c := range s.crowds {
		n += c.Joined
	}
	return n
}

func (s *scale) deliveries() (expected, delivered int64) {
	for _, c := range s.crowds {
		for kind := range kinds {
			expected += c.Expected[kind]
			delivered += c.Delivered[kind]
		}
	}
	return expected, delivered
}
