package drivers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// redisLink is one node's end, or that of a publisher, whose node is nil.
type redisLink struct {
	driver   *redisDriver
	servers  redisServers // see redisDriver.connect
	own      redisServers // see redisDriver.own
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

	telling sync.Mutex // held while node.Down or node.Up is called: they must not overtake each other

	state  sync.Mutex // guards the rest
	closed bool
	over   bool // nothing begins to run any more
	ready  bool // opened is closed
}

// redisLane is the part of a link that goes by way of one slot of a Cluster; elsewhere there is one.
type redisLane struct {
	link      *redisLink
	base      string // how its names begin
	pubBase   string // and those of topics
	publisher *redisPublisher
	receiver  *redisReceiver
	presence  *redisPresence

	// Guarded by link.state:
	missing lanePart
	away    bool  // the node has been told Down
	cause   error // why something is missing
}

// lanePart is what a lane of a node needs to be in force.
type lanePart uint8

const (
	subscribed lanePart = 1 << iota
	registered
)

func (d *redisDriver) Open(ctx context.Context, node core.Node) (core.Link, error) {
	l := &redisLink{
		driver: d, servers: d.connect(), own: d.own(), node: node, id: rand.Text()[:16],
		opened: make(chan struct{}), ended: make(chan struct{}),
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
	ready := l.ready
	l.state.Unlock()
	if ready { // at the last moment
		return l, nil
	}
	cause := ctx.Err()
	for _, lane := range l.lanes {
		if why := lane.why(); why != nil {
			cause = errors.Join(why, cause)
			break // the others' is the same in all likelihood
		}
	}
	l.stop()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = l.Close(ending) // the node must not be called any more
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

// server returns the lane's server for what the driver does by itself, reader for what it is asked to.
func (l *redisLane) server(ctx context.Context) (*redis.Client, error) {
	return l.link.own.server(ctx, l.base)
}

func (l *redisLane) reader(ctx context.Context) (*redis.Client, error) {
	return l.link.servers.server(ctx, l.base)
}

// doubt has the server looked for anew when err says that it may not be the right one, or hangs.
func (l *redisLane) doubt(client *redis.Client, err error) {
	if client == nil || doubtful(err) || l.sharded() && fateOf(err) == unknown {
		l.link.own.doubt(l.link.ctx, client)
	}
}

// doubtReader is doubt for a client from reader. That ctx was over says nothing about the server.
//
//nolint:contextcheck // what it begins outlasts the call
func (l *redisLane) doubtReader(ctx context.Context, client *redis.Client, err error) {
	if end, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(end) { // a socket's may be over before the context's
		return
	}
	if client == nil || doubtful(err) || l.sharded() && fateOf(err) == unknown {
		l.link.servers.doubt(l.link.ctx, client)
	}
}

// part is the topics of the lane; nil means all.
func (l *redisLane) part() func(core.Topic) bool {
	if !l.sharded() {
		return nil
	}
	return func(t core.Topic) bool { return l.link.laneOf(topicText(t)) == l }
}

// lost notes that a part of the lane is not in force any more.
func (l *redisLane) lost(part lanePart, err error) {
	link := l.link
	link.telling.Lock()
	defer link.telling.Unlock()
	link.state.Lock()
	if l.missing == 0 || l.cause == nil || fateOf(err) != unknown || fateOf(l.cause) == unknown { // what a server said tells more
		l.cause = err
	}
	l.missing |= part
	tell := link.ready && !l.away && !link.closed
	l.away = l.away || tell
	link.state.Unlock()
	if tell {
		link.node.Down(fmt.Errorf("redis at %s: %w", link.driver.where, err), l.part())
	}
}

// restored notes that a part of the lane is in force again.
func (l *redisLane) restored(part lanePart) {
	link := l.link
	link.telling.Lock()
	defer link.telling.Unlock()
	link.state.Lock()
	l.missing &^= part
	tell := l.away && l.missing == 0 && !link.closed
	l.away = l.away && !tell
	if !link.ready && !slices.ContainsFunc(link.lanes, func(l *redisLane) bool { return l.missing != 0 }) {
		link.ready = true
		close(link.opened)
	}
	link.state.Unlock()
	if tell {
		link.node.Up(l.part())
	}
}

// resubscribed notes that the subscription is in force. Whatever broke it may have ended the registration as well, which
// the next beat tells.
func (l *redisLane) resubscribed() {
	l.link.state.Lock()
	if l.link.node != nil {
		l.missing |= registered
	}
	l.link.state.Unlock()
	l.restored(subscribed)
	signal(l.presence.hurry)
}

// why returns why the lane is not in force, nil if it is.
func (l *redisLane) why() error {
	l.link.state.Lock()
	defer l.link.state.Unlock()
	if l.missing == 0 {
		return nil
	}
	return l.cause
}

// fault tells the node what can be returned to nobody.
func (l *redisLink) fault(err error) {
	if l.node != nil {
		l.node.Fault(err)
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
	l.own.close()
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
