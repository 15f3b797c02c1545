package drivertest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

// altered is a driver with nodes and links that are not quite those of the driver within.
type altered struct {
	core.Driver
	node func(core.Node) core.Node            // not called for publishers
	link func(core.Link, core.Node) core.Link // nil for publishers
}

func (d *altered) Open(ctx context.Context, node core.Node) (core.Link, error) {
	inner := node
	if node != nil && d.node != nil {
		inner = d.node(node)
	}
	link, err := d.Driver.Open(ctx, inner)
	if err != nil || d.link == nil {
		return link, err
	}
	return d.link(link, node), nil
}

// alteredNode is the node within, but for the functions that are set.
type alteredNode struct {
	core.Node
	deliver func(ctx context.Context, p core.Publication) error
	gap     func(topics ...core.Topic)
	command func(ctx context.Context, c core.Command) error
}

func (n *alteredNode) Deliver(ctx context.Context, p core.Publication) error {
	if n.deliver != nil {
		return n.deliver(ctx, p)
	}
	return n.Node.Deliver(ctx, p)
}

func (n *alteredNode) Gap(topics ...core.Topic) {
	if n.gap != nil {
		n.gap(topics...)
		return
	}
	n.Node.Gap(topics...)
}

func (n *alteredNode) Command(ctx context.Context, c core.Command) error {
	if n.command != nil {
		return n.command(ctx, c)
	}
	return n.Node.Command(ctx, c)
}

// alteredLink is the link within, but for the functions that are set.
type alteredLink struct {
	core.Link
	publish     func(ctx context.Context, p core.Publication, done func(error)) error
	subscribe   func(ctx context.Context, topics ...core.Topic) error
	unsubscribe func(ctx context.Context, topics ...core.Topic) error
	register    func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error
	join, leave func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error)
	members     func(ctx context.Context, t core.Topic, limit int) ([]core.Member, error)
	count       func(ctx context.Context, t core.Topic) (int, error)
	find        func(ctx context.Context, app, clientID string) ([]core.Member, error)
	command     func(ctx context.Context, node string, c core.Command) error
	end         func(ctx context.Context) error
}

func (l *alteredLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	if l.publish != nil {
		return l.publish(ctx, p, done)
	}
	return l.Link.Publish(ctx, p, done)
}

func (l *alteredLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	if l.subscribe != nil {
		return l.subscribe(ctx, topics...)
	}
	return l.Link.Subscribe(ctx, topics...)
}

func (l *alteredLink) Unsubscribe(ctx context.Context, topics ...core.Topic) error {
	if l.unsubscribe != nil {
		return l.unsubscribe(ctx, topics...)
	}
	return l.Link.Unsubscribe(ctx, topics...)
}

func (l *alteredLink) Register(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
	if l.register != nil {
		return l.register(ctx, app, m, numbered)
	}
	return l.Link.Register(ctx, app, m, numbered)
}

func (l *alteredLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
	if l.join != nil {
		return l.join(ctx, m, topics...)
	}
	return l.Link.Join(ctx, m, topics...)
}

func (l *alteredLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
	if l.leave != nil {
		return l.leave(ctx, m, topics...)
	}
	return l.Link.Leave(ctx, m, topics...)
}

func (l *alteredLink) Members(ctx context.Context, t core.Topic, limit int) ([]core.Member, error) {
	if l.members != nil {
		return l.members(ctx, t, limit)
	}
	return l.Link.Members(ctx, t, limit)
}

func (l *alteredLink) Count(ctx context.Context, t core.Topic) (int, error) {
	if l.count != nil {
		return l.count(ctx, t)
	}
	return l.Link.Count(ctx, t)
}

func (l *alteredLink) Find(ctx context.Context, app, clientID string) ([]core.Member, error) {
	if l.find != nil {
		return l.find(ctx, app, clientID)
	}
	return l.Link.Find(ctx, app, clientID)
}

func (l *alteredLink) Command(ctx context.Context, node string, c core.Command) error {
	if l.command != nil {
		return l.command(ctx, node, c)
	}
	return l.Link.Command(ctx, node, c)
}

func (l *alteredLink) Close(ctx context.Context) error {
	if l.end != nil {
		return l.end(ctx)
	}
	return l.Link.Close(ctx)
}

// restartable is a driver whose backend can go away: nothing is published then, and every subscription is lost.
type restartable struct {
	core.Driver
	forgetful bool // does not subscribe again
	silent    bool // tells no node

	away  atomic.Bool
	mu    sync.Mutex // guards nodes
	nodes map[core.Node]core.Link
}

var errAway = errors.New("the backend is away")

func newRestartable(inner core.Driver) *restartable {
	return &restartable{Driver: inner, nodes: map[core.Node]core.Link{}}
}

func (d *restartable) Open(ctx context.Context, node core.Node) (core.Link, error) {
	inner, err := d.Driver.Open(ctx, node)
	if err != nil {
		return nil, err
	}
	l := &alteredLink{Link: inner}
	l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
		if d.away.Load() {
			return errAway
		}
		return inner.Publish(ctx, p, done)
	}
	if node == nil {
		return l, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[node] = inner
	l.end = func(ctx context.Context) error {
		d.mu.Lock()
		delete(d.nodes, node)
		d.mu.Unlock()
		return inner.Close(ctx)
	}
	return l, nil
}

// Restart is a Harness's.
func (d *restartable) Restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away.Store(true)
	for node, link := range d.nodes {
		if !d.silent {
			node.Down(errAway, nil)
		}
		for t := range node.Topics() {
			_ = link.Unsubscribe(context.Background(), t)
		}
	}
	d.away.Store(false)
	for node, link := range d.nodes {
		if !d.forgetful {
			for t := range node.Topics() {
				_ = link.Subscribe(context.Background(), t)
			}
		}
		if !d.silent {
			node.Up(nil)
		}
	}
}
