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
		joined: map[presence][]string{},
		counts: map[core.Topic]int{},
	}
}

// memory asks the nodes themselves for everything but what must be decided in one place: who is interested, who is the
// first or last of a client id in a topic, and the numbers.
type memory struct {
	mu     sync.RWMutex // guards the rest; not held while a node is called, but for the number it is given
	links  map[string]*memoryLink
	topics map[core.Topic][]*memoryLink // replaced, never changed: Publish reads them without the lock
	joined map[presence][]string        // ConnIDs
	counts map[core.Topic]int           // client ids
	number uint64
}

type presence struct {
	topic    core.Topic
	clientID string
}

// memoryLink is one node's end, or that of a publisher, whose node is nil.
type memoryLink struct {
	driver *memory
	node   core.Node
	closed bool           // guarded by driver.mu
	calls  sync.WaitGroup // running calls of node; none begins once closed
}

var errClosed = errors.New("the driver's link is closed")

func (d *memory) Open(_ context.Context, node core.Node) (core.Link, error) {
	l := &memoryLink{driver: d, node: node}
	if node != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.links[node.ID()] = l
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
		return errClosed
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
		return errClosed
	}
	var failed error
	var missed []*memoryLink
	for _, to := range interested {
		if !to.begin() {
			continue
		}
		if err := to.node.Deliver(ctx, p); err != nil {
			failed = err
			missed = append(missed, to)
		}
		to.calls.Done()
	}
	if len(missed) > 0 && len(missed) == len(interested) {
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
	if l.closed {
		return errClosed
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
		return errClosed
	}
	for _, t := range topics {
		d.forget(t, l)
	}
	return nil
}

// forget is called with mu held.
func (d *memory) forget(t core.Topic, l *memoryLink) {
	rest := slices.DeleteFunc(slices.Clone(d.topics[t]), func(other *memoryLink) bool { return other == l })
	if len(rest) == 0 {
		delete(d.topics, t)
		return
	}
	d.topics[t] = rest
}

func (l *memoryLink) Register(_ context.Context, _ string, _ core.Member, numbered func(uint64)) error {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.closed {
		return errClosed
	}
	d.number++
	numbered(d.number)
	return nil
}

func (l *memoryLink) Join(_ context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	d := l.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	for _, t := range topics {
		key := presence{t, m.ClientID}
		conns := d.joined[key]
		if slices.Contains(conns, m.ConnID) {
			continue
		}
		d.joined[key] = append(conns, m.ConnID)
		if len(conns) == 0 {
			d.counts[t]++
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
		return nil, errClosed
	}
	for _, t := range topics {
		key := presence{t, m.ClientID}
		conns := d.joined[key]
		at := slices.Index(conns, m.ConnID)
		switch {
		case at < 0:
		case len(conns) > 1:
			d.joined[key] = slices.Delete(conns, at, at+1)
		default:
			delete(d.joined, key)
			if d.counts[t]--; d.counts[t] == 0 {
				delete(d.counts, t)
			}
			last = append(last, t)
		}
	}
	return last, nil
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
		return 0, errClosed
	}
	return d.counts[topic], nil
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
		if node != "" && to.node.ID() != node || !to.begin() {
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

func (l *memoryLink) Close(ctx context.Context) error {
	d := l.driver
	d.mu.Lock()
	if !l.closed && l.node != nil {
		delete(d.links, l.node.ID())
		for t, interested := range d.topics {
			if slices.Contains(interested, l) {
				d.forget(t, l)
			}
		}
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
