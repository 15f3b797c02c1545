package drivertest_test

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// newLater returns a sound driver that does everything later than the memory driver within, as one over a network does:
// publications and commands are accepted first and delivered afterwards, by a goroutine for each node that waits for
// nobody, and no answer comes back. The suite must not ask more of a driver than the contract does.
func newLater(inner core.Driver) core.Driver {
	return laterDriver{inner}
}

type laterDriver struct{ core.Driver }

func (d laterDriver) Open(ctx context.Context, node core.Node) (core.Link, error) {
	out, in := newQueue(), newQueue()
	within := node
	if node != nil {
		within = &alteredNode{
			Node: node,
			deliver: func(_ context.Context, p core.Publication) error {
				p.Payload, p.Except = bytes.Clone(p.Payload), slices.Clone(p.Except)
				in.add(func() { //nolint:contextcheck // it waits for nobody, whoever publishes
					if err := node.Deliver(ended(), p); err != nil {
						node.Gap(p.Topic)
					}
				})
				return nil
			},
			command: func(ctx context.Context, c core.Command) error {
				ctx = context.WithoutCancel(ctx)
				c.Payload, c.Channels, c.Except = bytes.Clone(c.Payload), slices.Clone(c.Channels), slices.Clone(c.Except)
				in.add(func() { _ = node.Command(ctx, c) })
				return nil
			},
		}
	}
	link, err := d.Driver.Open(ctx, within)
	return &alteredLink{
		Link: link,
		publish: func(ctx context.Context, p core.Publication, done func(error)) error {
			ctx = context.WithoutCancel(ctx)
			p.Payload, p.Except = bytes.Clone(p.Payload), slices.Clone(p.Except)
			if !out.add(func() {
				if err := link.Publish(ctx, p, done); err != nil {
					done(err)
				}
			}) {
				return core.ErrClosed
			}
			return nil
		},
		end: func(ctx context.Context) error {
			closed := make(chan error, 1)
			go func() { // ends with what is under way: first what comes from here, then what goes to here
				out.close()
				err := link.Close(context.WithoutCancel(ctx))
				in.close()
				closed <- err
			}()
			select {
			case err := <-closed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}, err
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// queue runs calls one after the other, in a goroutine of its own.
type queue struct {
	mu     sync.Mutex // guards the rest
	calls  []func()
	closed bool
	more   chan struct{} // holds a token when something has changed
	ended  chan struct{}
}

func newQueue() *queue {
	q := &queue{more: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run() // ends when q is closed
	return q
}

func (q *queue) run() {
	defer close(q.ended)
	for range q.more {
		for {
			q.mu.Lock()
			var next func()
			if len(q.calls) > 0 {
				next, q.calls = q.calls[0], q.calls[1:]
			}
			closed := q.closed
			q.mu.Unlock()
			if next == nil {
				if closed {
					return
				}
				break
			}
			next()
		}
	}
}

func (q *queue) add(call func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.calls = append(q.calls, call)
	q.poke()
	return true
}

func (q *queue) poke() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// close lets what has been added run, and waits for it.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.poke()
	q.mu.Unlock()
	<-q.ended
}
