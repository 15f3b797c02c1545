package drivers

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// NewMemoryDriver returns a driver that keeps everything in this process: there is nothing to set up, and a message goes
// straight from the publisher to the channel. Services that share one memory driver act as nodes of one cluster. The
// driver has nothing to close and may be used again after its services have ended.
func NewMemoryDriver() core.Driver {
	return &memory{
		links:  map[string]*memoryLink{},
		topics: map[core.Topic][]*memoryLink{},
		joined: map[core.Topic]map[string]*presenceConn{},
	}
}

// memory asks the nodes themselves for everything but what must be decided in one place: who is interested, who is the
// first or last of a client id in a topic, and the numbers.
type memory struct {
	mu     sync.RWMutex                            // guards the next three; not held while a node is called
	links  map[string]*memoryLink                  // by the id of the node
	topics map[core.Topic][]*memoryLink            // replaced, never changed: Publish reads them without the lock
	joined map[core.Topic]map[string]*presenceConn // by the client id

	numbers sync.Mutex // guards number, and is held until its connection has it: the next one's Find shows this one
	number  uint64
}

// presenceConn is a connection of a client id in a topic. Most have one: a list of pointers is smaller than a slice.
type presenceConn struct {
	id   string
	link *memoryLink
	next *presenceConn
}

// memoryLink is one node's end, or that of a publisher, whose node is nil.
type memoryLink struct {
	driver *memory
	node   core.Node
	id     string         // of node
	closed bool           // guarded by driver.mu
	calls  sync.WaitGroup // running calls of node; none begins once closed
}

var errPublisher = errors.New("a publisher has no connections that could subscribe, register or join")

func (d *memory) Open(_ context.Context, node core.Node) (core.Link, error) {
	l := &memoryLink{driver: d, node: node}
	if node != nil {
		l.id = node.ID()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.links[l.id] = l
	}
	return l, nil
}

// begin counts in a call of the node, unless the link is closed. Each needs a calls.Done.
func (l *memoryLink) begin() bool {
	l.driver.mu.RLock()
	defer l.driver.mu.RUnlock()
	if !l.closed {
		l.calls.Add(1)
	}
	return !l.closed
}

func (l *memoryLink) open() error {
	l.driver.mu.RLock()
	defer l.driver.mu.RUnlock()
	if l.closed {
		return core.ErrClosed
	}
	return nil
}

// openNodeLocked is open for what only a node can do.
func (l *memoryLink) openNodeLocked() error {
	switch {
	case l.closed:
		return core.ErrClosed
	case l.node == nil:
		return errPublisher
	}
	return nil
}

// Publish delivers in the caller's goroutine: a publisher waits for room in a full channel, which is what slows a flood
// down. A node that does not get a publication that others got has a gap.
func (l *memoryLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	d := l.driver
	d.mu.RLock()
	closed, interested := l.closed, d.topics[p.Topic]
	d.mu.RUnlock()
	if closed {
		return core.ErrClosed
	}
	delivered := false
	var failed error
	var missed []*memoryLink
	for _, to := range interested {
		if !to.begin() {
			continue
		}
		err := to.node.Deliver(ctx, p)
		to.calls.Done()
		switch {
		case err == nil:
			delivered = true
		case to != l && errors.Is(err, core.ErrClosed): // it is about to close its link, and has nobody left to tell
		default:
			failed = err
			missed = append(missed, to)
		}
	}
	if failed != nil && !delivered {
		return failed
	}
	for _, to := range missed {
		if to.begin() {
			to.node.Gap(p.Topic)
			to.calls.Done()
		}
	}
	done(nil)
	return nil
}

func (l *memoryLink) Subscribe(_ context.Context, topics ...core.Topic) error {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := l.openNodeLocked(); err != nil {
		return err
	}
	for _, t := range topics {
		if old := d.topics[t]; !slices.Contains(old, l) {
			d.topics[t] = append(slices.Clip(old), l)
		}
	}
	return nil
}

func (l *memoryLink) Unsubscribe(_ context.Context, topics ...core.Topic) error {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.closed {
		return core.ErrClosed
	}
	for _, t := range topics {
		d.forgetLocked(t, l)
	}
	return nil
}

// forgetLocked takes a link out of those that are interested in a topic.
func (d *memory) forgetLocked(t core.Topic, l *memoryLink) {
	rest := slices.DeleteFunc(slices.Clone(d.topics[t]), func(other *memoryLink) bool { return other == l })
	if len(rest) == 0 {
		delete(d.topics, t)
		return
	}
	d.topics[t] = rest
}

func (l *memoryLink) Register(_ context.Context, _ string, _ core.Member, numbered func(uint64)) error {
	if !l.begin() {
		return core.ErrClosed
	}
	defer l.calls.Done()
	if l.node == nil {
		return errPublisher
	}
	d := l.driver
	d.numbers.Lock()
	defer d.numbers.Unlock()
	d.number++
	numbered(d.number)
	return nil
}

func (l *memoryLink) Join(_ context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := l.openNodeLocked(); err != nil {
		return nil, err
	}
	for _, t := range topics {
		ids := d.joined[t]
		if ids == nil {
			ids = map[string]*presenceConn{}
			d.joined[t] = ids
		}
		others := ids[m.ClientID]
		if others.has(m.ConnID) {
			continue
		}
		ids[m.ClientID] = &presenceConn{m.ConnID, l, others}
		if others == nil {
			first = append(first, t)
		}
	}
	return first, nil
}

func (l *memoryLink) Leave(_ context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.closed {
		return nil, core.ErrClosed
	}
	for _, t := range topics {
		if d.partLocked(t, m.ClientID, func(c *presenceConn) bool { return c.id == m.ConnID }) {
			last = append(last, t)
		}
	}
	return last, nil
}

// partLocked takes those connections of a client id that are meant out of a topic, and reports whether none is left that was
// there.
func (d *memory) partLocked(t core.Topic, clientID string, meant func(*presenceConn) bool) (last bool) {
	ids := d.joined[t]
	conns, there := ids[clientID]
	if !there {
		return false
	}
	if rest := conns.without(meant); rest != nil {
		ids[clientID] = rest
		return false
	}
	delete(ids, clientID)
	if len(ids) == 0 {
		delete(d.joined, t)
	}
	return true
}

func (c *presenceConn) has(id string) bool {
	for ; c != nil; c = c.next {
		if c.id == id {
			return true
		}
	}
	return false
}

func (c *presenceConn) without(meant func(*presenceConn) bool) *presenceConn {
	for at := &c; *at != nil; {
		if meant(*at) {
			*at = (*at).next
		} else {
			at = &(*at).next
		}
	}
	return c
}

func (l *memoryLink) Members(_ context.Context, topic core.Topic, limit int) ([]core.Member, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	var members []core.Member
	for _, to := range l.driver.all() {
		if !to.begin() {
			continue
		}
		for m := range to.node.Joined(topic) {
			if limit > 0 && len(members) == limit {
				break
			}
			members = append(members, m)
		}
		to.calls.Done()
	}
	return members, nil
}

func (l *memoryLink) Count(_ context.Context, topic core.Topic) (int, error) {
	d := l.driver
	d.mu.RLock()
	defer d.mu.RUnlock()
	if l.closed {
		return 0, core.ErrClosed
	}
	return len(d.joined[topic]), nil
}

func (l *memoryLink) Find(_ context.Context, app, clientID string) ([]core.Member, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	var found []core.Member
	for _, to := range l.driver.all() {
		if to.begin() {
			found = slices.AppendSeq(found, to.node.Find(app, clientID))
			to.calls.Done()
		}
	}
	return found, nil
}

func (l *memoryLink) Command(ctx context.Context, node string, c core.Command) error {
	if err := l.open(); err != nil {
		return err
	}
	reached := false
	var failed []error
	for _, to := range l.driver.all() {
		if node != "" && to.id != node || !to.begin() {
			continue
		}
		switch err := to.node.Command(ctx, c); {
		case err == nil:
			reached = true
		case !errors.Is(err, core.ErrOffline):
			failed = append(failed, err)
		}
		to.calls.Done()
	}
	if !reached && len(failed) == 0 {
		return core.ErrOffline
	}
	return errors.Join(failed...)
}

// all returns the links that have a node.
func (d *memory) all() []*memoryLink {
	d.mu.RLock()
	defer d.mu.RUnlock()
	links := make([]*memoryLink, 0, len(d.links))
	for _, l := range d.links {
		links = append(links, l)
	}
	return links
}

// leaveLocked takes a link out of everything. Mostly there is nothing left of it; what is left belongs to connections whose
// hooks outlived a Shutdown.
func (d *memory) leaveLocked(l *memoryLink) {
	if d.links[l.id] == l {
		delete(d.links, l.id)
	}
	for t, interested := range d.topics {
		if slices.Contains(interested, l) {
			d.forgetLocked(t, l)
		}
	}
	for t, ids := range d.joined {
		for clientID := range ids {
			d.partLocked(t, clientID, func(c *presenceConn) bool { return c.link == l })
		}
	}
}

func (l *memoryLink) Close(ctx context.Context) error {
	d := l.driver
	d.mu.Lock()
	if !l.closed && l.node != nil {
		d.leaveLocked(l)
	}
	l.closed = true
	d.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends when the node has answered
		defer close(ended)
		l.calls.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
