package drivers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// redisLink is one node's end, or that of a publisher, whose node is nil.
type redisLink struct {
	driver   *redisDriver
	servers  redisServers
	node     core.Node
	id       string
	lanes    []*redisLane
	commands redisCommands

	publishing sync.WaitGroup  // the publishers; they end when they are closed
	running    sync.WaitGroup  // everything else that runs; it ends with stop
	ctx        context.Context //nolint:containedctx // of what runs, not of a call
	stop       context.CancelFunc
	opened     chan struct{} // closed when everything is in force for the first time
	ended      chan struct{} // closed when nothing runs any more

	state  sync.Mutex // guards the rest, and is held while node.Down or node.Up is called: they must not overtake each other
	closed bool
	over   bool // nothing begins to run any more
	away   bool
	ready  bool  // opened is closed
	cause  error // why it is away
}

// redisLane is the part of a link that goes by way of one slot of a Cluster; elsewhere there is one.
type redisLane struct {
	link      *redisLink
	base      string // how its names begin
	pubBase   string // and those of topics
	publisher *redisPublisher
	receiver  *redisReceiver
	presence  *redisPresence
	missing   lanePart // guarded by link.state
}

// lanePart is what a lane of a node needs to be in force.
type lanePart uint8

const (
	subscribed lanePart = 1 << iota
	registered
)

func (d *redisDriver) Open(ctx context.Context, node core.Node) (core.Link, error) {
	l := &redisLink{
		driver: d, servers: d.connect(), node: node, id: rand.Text()[:16],
		opened: make(chan struct{}), ended: make(chan struct{}), away: true,
	}
	if node != nil {
		l.id = node.ID()
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.commands.init(l)
	for i := range d.lanes {
		lane := &redisLane{link: l, base: d.base(i), pubBase: d.base(i) + "pub:", missing: subscribed | registered}
		lane.publisher = &redisPublisher{lane: lane, wake: make(chan struct{}, 1)}
		lane.receiver = newReceiver(lane)
		lane.presence = newPresence(lane)
		l.lanes = append(l.lanes, lane)
	}
	for _, lane := range l.lanes {
		l.publishing.Go(func() { lane.publisher.run(l.ctx) })
		if node != nil {
			lane.receiver.start()
			l.spawn(lane.presence.run)
		}
	}
	if node == nil {
		return l, nil
	}
	l.commands.start() //nolint:contextcheck // it runs until Close
	ctx, cancel := within(ctx)
	defer cancel()
	select {
	case <-l.opened:
		return l, nil
	case <-ctx.Done():
	}
	l.state.Lock()
	cause := errors.Join(ctx.Err(), l.cause)
	l.state.Unlock()
	_ = l.Close(ctx)
	return nil, fmt.Errorf("redis at %s: %w", d.where, cause)
}

// within bounds a call whose context does not.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// sharded reports whether the lane is one of a Cluster, where only sharded pub/sub stays on one server.
func (l *redisLane) sharded() bool { return l.link.driver.lanes > 1 }

func (l *redisLane) server(ctx context.Context) (*redis.Client, error) {
	return l.link.servers.server(ctx, l.base)
}

// doubt has the server looked for anew when err says that it may not be the right one, or hangs.
func (l *redisLane) doubt(client *redis.Client, err error) {
	if client == nil || misplaced(err) || silent(err) || l.sharded() && !answered(err) {
		l.link.servers.doubt(l.link.ctx, client)
	}
}

// doubtOf is doubt for a call whose context may end sooner than a server is suspect.
func (l *redisLane) doubtOf(ctx context.Context, client *redis.Client, err error) {
	if ctx.Err() == nil {
		l.doubt(client, err)
	}
}

// lost notes that a part of the lane is not in force any more. The node is told once, for all.
func (l *redisLane) lost(part lanePart, err error) {
	link := l.link
	link.state.Lock()
	defer link.state.Unlock()
	l.missing |= part
	link.cause = err
	if !link.away && !link.closed {
		link.away = true
		link.node.Down(fmt.Errorf("redis at %s: %w", link.driver.where, err))
	}
}

// restored notes that a part of the lane is in force again.
func (l *redisLane) restored(part lanePart) {
	link := l.link
	link.state.Lock()
	defer link.state.Unlock()
	l.missing &^= part
	for _, lane := range link.lanes {
		if lane.missing != 0 {
			return
		}
	}
	switch {
	case !link.away || link.closed:
	case link.ready:
		link.away = false
		link.node.Up()
	default:
		link.away, link.ready = false, true
		close(link.opened)
	}
}

// open returns an error after Close.
func (l *redisLink) open() error {
	l.state.Lock()
	defer l.state.Unlock()
	if l.closed {
		return core.ErrClosed
	}
	return nil
}

// openNode is open for what only a node can do.
func (l *redisLink) openNode() error {
	if l.node == nil {
		return errPublisher
	}
	return l.open()
}

// Close waits until what was published has been sent, takes the registration back and ends everything.
func (l *redisLink) Close(ctx context.Context) error {
	l.state.Lock()
	first := !l.closed
	l.closed = true
	l.state.Unlock()
	if first {
		go l.end(ctx) // ends with everything that the link runs
	}
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		l.stop()
		return ctx.Err()
	}
}

func (l *redisLink) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, l.stop)()
	var leaving sync.WaitGroup
	for _, lane := range l.lanes {
		lane.publisher.close()
		if l.node != nil {
			leaving.Go(func() { lane.presence.resign(ctx) })
		}
	}
	leaving.Wait()
	l.publishing.Wait()
	l.stop()
	l.state.Lock()
	l.over = true
	l.state.Unlock()
	l.running.Wait()
	l.commands.close()
	l.servers.close()
	close(l.ended)
}

// spawn runs f, which ends with stop, unless that is over.
func (l *redisLink) spawn(f func(ctx context.Context)) {
	l.state.Lock()
	defer l.state.Unlock()
	if !l.over {
		l.running.Go(func() { f(l.ctx) })
	}
}
