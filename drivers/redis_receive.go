package drivers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// redisReceiver keeps one connection that is subscribed to what a node wants of one lane, and hands over what arrives. One
// goroutine reads, so order holds; it waits for nobody. Another one writes SUBSCRIBE and UNSUBSCRIBE, in batches.
type redisReceiver struct {
	lane  *redisLane
	wake  chan struct{} // holds one: the queue is not empty
	reads atomic.Uint64 // what has arrived

	mu        sync.Mutex // guards the rest
	started   bool
	wanted    map[string]*subscribing    // by the last one that wants it; nil for what is wanted anyway
	unheard   map[string][]*confirmation // waiting for the confirmation of a SUBSCRIBE that was or will be written, in order
	leaving   map[string]int             // UNSUBSCRIBEs whose confirmation is to come
	queue     []interest                 // to be written to conn
	conn      *redis.PubSub              // nil while there is none
	unsettled map[string]bool            // of a new connection: not confirmed yet; nil once all are
}

type interest struct {
	name string
	join bool
}

// confirmation is closed when every name of one Subscribe was confirmed. Several wait together after a reconnection.
type confirmation struct {
	waiting []*subscribing
}

type subscribing struct {
	names []string
	added []string // those of names that were not wanted before
	left  int      // guarded by redisReceiver.mu
	done  chan struct{}
}

// subscribeLength is how many names one SUBSCRIBE has at most.
const subscribeLength = 512

var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func newReceiver(lane *redisLane) *redisReceiver {
	r := &redisReceiver{
		lane: lane, wake: make(chan struct{}, 1),
		wanted: map[string]*subscribing{}, unheard: map[string][]*confirmation{}, leaving: map[string]int{},
	}
	r.wanted[lane.nodeName(lane.link.id)] = nil
	if lane.link.node != nil && lane.base == lane.link.driver.base(0) {
		r.wanted[lane.everybody()] = nil
	}
	return r
}

// start begins to receive, once.
func (r *redisReceiver) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return
	}
	r.started = true
	r.lane.link.spawn(r.run)
	r.lane.link.spawn(r.write)
}

func (l *redisLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	if err := l.openNode(); err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	byLane := l.byLane(topics)
	waits := make(map[*redisLane]*subscribing, len(byLane))
	for lane, names := range byLane {
		waits[lane] = lane.receiver.want(names)
	}
	for lane, s := range waits {
		if err := lane.receiver.await(ctx, s); err != nil {
			for lane, s := range waits {
				lane.receiver.forget(s)
			}
			return err
		}
	}
	return nil
}

// await returns when all of one want is confirmed.
func (r *redisReceiver) await(ctx context.Context, s *subscribing) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("redis has not confirmed the subscription: %w", errors.Join(ctx.Err(), r.lane.why()))
	case <-r.lane.link.ctx.Done():
		return core.ErrClosed
	}
}

func (l *redisLink) Unsubscribe(_ context.Context, topics ...core.Topic) error {
	if err := l.openNode(); err != nil {
		return err
	}
	for lane, names := range l.byLane(topics) {
		lane.receiver.unwant(names)
	}
	return nil
}

// byLane returns the pub/sub channels of topics.
func (l *redisLink) byLane(topics []core.Topic) map[*redisLane][]string {
	names := make(map[*redisLane][]string, 1)
	for _, t := range topics {
		lane, name := l.pubOf(t)
		names[lane] = append(names[lane], name)
	}
	return names
}

// want has names subscribed to.
func (r *redisReceiver) want(names []string) *subscribing {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &subscribing{names: names, left: len(names), done: make(chan struct{})}
	for _, name := range names {
		if _, wanted := r.wanted[name]; !wanted {
			s.added = append(s.added, name)
		}
		r.wanted[name] = s
		r.unheard[name] = append(r.unheard[name], &confirmation{[]*subscribing{s}})
		r.enqueueLocked(interest{name, true})
	}
	return s
}

// unwant has names unsubscribed from, which nobody waits for.
func (r *redisReceiver) unwant(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwantLocked(names)
}

func (r *redisReceiver) unwantLocked(names []string) {
	for _, name := range names {
		if _, wanted := r.wanted[name]; wanted {
			delete(r.wanted, name)
			r.enqueueLocked(interest{name, false})
		}
	}
}

// forget undoes a want that nobody waits for any more.
func (r *redisReceiver) forget(s *subscribing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwantLocked(slices.DeleteFunc(s.added, func(name string) bool { return r.wanted[name] != s })) // others may want it by now
	for _, name := range s.names {
		waiting := r.unheard[name]
		for _, c := range waiting {
			c.waiting = slices.DeleteFunc(c.waiting, func(other *subscribing) bool { return other == s })
		}
		if r.conn == nil { // else what was written is going to be confirmed, one by one
			waiting = slices.DeleteFunc(waiting, func(c *confirmation) bool { return len(c.waiting) == 0 })
		}
		if r.unheard[name] = waiting; len(waiting) == 0 {
			delete(r.unheard, name)
		}
	}
}

// enqueueLocked leaves it to a connection that is to come when there is none: that begins with everything wanted.
func (r *redisReceiver) enqueueLocked(i interest) {
	if r.conn == nil {
		return
	}
	r.queue = append(r.queue, i)
	if !i.join {
		r.leaving[i.name]++
	}
	signal(r.wake)
}

// write writes what is queued until ctx ends. What it cannot write the reader finds out.
func (r *redisReceiver) write(ctx context.Context) {
	ctx = context.WithValue(ctx, received{}, true)
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		queue, conn := r.queue, r.conn
		r.queue = nil
		r.mu.Unlock()
		for conn != nil && len(queue) > 0 {
			n := 1
			for n < min(len(queue), subscribeLength) && queue[n].join == queue[0].join {
				n++
			}
			names := make([]string, n)
			for i := range names {
				names[i] = queue[i].name
			}
			_ = r.command(conn, queue[0].join)(ctx, names...)
			queue = queue[n:]
		}
	}
}

func (r *redisReceiver) command(conn *redis.PubSub, join bool) func(context.Context, ...string) error {
	switch sharded := r.lane.sharded(); {
	case sharded && join:
		return conn.SSubscribe
	case sharded:
		return conn.SUnsubscribe
	case join:
		return conn.Subscribe
	}
	return conn.Unsubscribe
}

// run keeps a connection until ctx ends.
func (r *redisReceiver) run(ctx context.Context) {
	wait := firstPause
	for ctx.Err() == nil {
		wasUp, err := r.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		r.lane.lost(subscribed, err)
		if wasUp {
			wait = firstPause
		}
		pause(ctx, wait)
		wait = min(2*wait, lastPause)
	}
}

// serve makes a connection, subscribes it to all that is wanted, and reads it until it fails.
func (r *redisReceiver) serve(ctx context.Context) (wasUp bool, err error) {
	client, err := r.lane.server(ctx)
	if err != nil {
		r.lane.doubt(nil, err)
		return false, err
	}
	defer func() { r.lane.doubt(client, err) }()
	var conn *redis.PubSub
	if r.lane.sharded() {
		conn = client.SSubscribe(ctx)
	} else {
		conn = client.Subscribe(ctx)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // else the reader would not hear of it
	dialing, cancel := context.WithTimeout(ctx, dialTimeout+replyTimeout)
	defer cancel()
	if err := conn.Ping(dialing); err != nil { // the first command dials
		return false, err
	}
	r.begin(conn)
	defer r.stop(conn)
	ctx = context.WithValue(ctx, received{}, true)
	for {
		var message any
		if wasUp {
			message, err = conn.Receive(ctx)
		} else {
			message, err = conn.ReceiveTimeout(ctx, replyTimeout)
		}
		if err != nil {
			return wasUp, err
		}
		r.reads.Add(1)
		switch m := message.(type) {
		case *redis.Message:
			r.lane.take(m.Channel, m.Payload) //nolint:contextcheck // it waits for nobody
		case *redis.Subscription:
			settled, err := r.confirmed(m)
			if err != nil {
				return wasUp, err
			}
			if settled && !wasUp {
				wasUp = true
				r.lane.resubscribed()
			}
		}
	}
}

// begin has everything wanted subscribed to on a new connection. Who waited for a confirmation waits for that one.
func (r *redisReceiver) begin(conn *redis.PubSub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = conn
	r.leaving = map[string]int{}
	r.unsettled = make(map[string]bool, len(r.wanted))
	r.queue = nil
	for name := range r.wanted {
		r.unsettled[name] = true
		r.queue = append(r.queue, interest{name, true})
		all := &confirmation{}
		for _, c := range r.unheard[name] {
			all.waiting = append(all.waiting, c.waiting...)
		}
		r.unheard[name] = []*confirmation{all}
	}
	for name := range r.unheard {
		if _, wanted := r.wanted[name]; !wanted {
			delete(r.unheard, name)
		}
	}
	signal(r.wake)
}

func (r *redisReceiver) stop(conn *redis.PubSub) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == conn {
		r.conn = nil
	}
}

// confirmed takes the server's word that it has subscribed or unsubscribed, and reports whether all of a new connection's
// names are confirmed.
func (r *redisReceiver) confirmed(m *redis.Subscription) (settled bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.HasSuffix(m.Kind, "unsubscribe") {
		if r.leaving[m.Channel]--; r.leaving[m.Channel] < 0 { // the slot has moved to another server
			return false, fmt.Errorf("redis has ended the subscription to %q", m.Channel)
		}
		if r.leaving[m.Channel] == 0 {
			delete(r.leaving, m.Channel)
		}
		return r.unsettled == nil, nil
	}
	if waiting := r.unheard[m.Channel]; len(waiting) > 0 {
		for _, s := range waiting[0].waiting {
			if s.left--; s.left == 0 {
				close(s.done)
			}
		}
		if waiting = slices.Delete(waiting, 0, 1); len(waiting) == 0 {
			delete(r.unheard, m.Channel)
		} else {
			r.unheard[m.Channel] = waiting
		}
	}
	if r.unsettled != nil {
		delete(r.unsettled, m.Channel)
		if len(r.unsettled) == 0 {
			r.unsettled = nil
		}
	}
	return r.unsettled == nil, nil
}

// reopen ends the connection, so that the reader makes a new one.
func (r *redisReceiver) reopen() {
	r.mu.Lock()
	conn := r.conn
	r.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// topics returns the topics that are wanted.
func (r *redisReceiver) topics() []core.Topic {
	r.mu.Lock()
	defer r.mu.Unlock()
	var topics []core.Topic
	for name := range r.wanted {
		if t, ok := r.lane.topicOf(name); ok {
			topics = append(topics, t)
		}
	}
	return topics
}

// topicOf undoes pubOf.
func (l *redisLane) topicOf(name string) (core.Topic, bool) {
	text, ok := strings.CutPrefix(name, l.pubBase)
	if !ok {
		return core.Topic{}, false
	}
	app, channel, ok := unscoped(text)
	return core.Topic{App: app, Channel: channel}, ok
}

// take hands over one message that has arrived.
func (l *redisLane) take(name, text string) {
	t, ok := l.topicOf(name)
	switch {
	case ok:
	case !utf8.ValidString(text): // encoding/json would let it into a payload, and that into a text frame
		l.link.fault(fmt.Errorf("redis: %d bytes in the channel of this node are not UTF-8", len(text)))
		return
	default:
		l.link.commands.take(text)
		return
	}
	payload, except, err := decodePublication([]byte(text))
	if err != nil {
		l.link.fault(fmt.Errorf("redis: %d bytes in %q: %w", len(text), name, err))
		return
	}
	err = l.link.node.Deliver(ended, core.Publication{Topic: t, Payload: payload, Except: except})
	if err != nil && !errors.Is(err, core.ErrClosed) {
		l.link.node.Gap(t)
	}
}
