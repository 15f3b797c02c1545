package drivertest_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

// atTwentieth is a defect of the twentieth publication of a link in a topic, and of the one that follows it.
func atTwentieth(publish func(l core.Link, ctx context.Context, p core.Publication, done func(error)) error,
	next func(l core.Link, ctx context.Context, p core.Publication, done func(error)) error,
) func(core.Driver, <-chan struct{}) core.Driver {
	return onLinks(func(l *alteredLink, _ core.Node) {
		var mu sync.Mutex
		count := map[core.Topic]int{}
		l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
			mu.Lock()
			count[p.Topic]++
			n := count[p.Topic]
			mu.Unlock()
			switch {
			case n == 20:
				return publish(l.Link, ctx, p, done)
			case n == 21 && next != nil:
				return next(l.Link, ctx, p, done)
			}
			return l.Link.Publish(ctx, p, done)
		}
	})
}

var publishingDefects = []defect{
	{
		name:  "the publisher's own node is left out",
		fails: []string{comesBack},
		also:  []string{everyNode, inOrder, bytesIntact, exceptHolds},
		apply: func(d core.Driver, _ <-chan struct{}) core.Driver {
			return &altered{
				Driver: d,
				node: func(n core.Node) core.Node {
					return &alteredNode{Node: n, deliver: func(ctx context.Context, p core.Publication) error {
						if ctx.Value(origin{}) == n.ID() {
							return nil
						}
						return n.Deliver(ctx, p)
					}}
				},
				link: func(inner core.Link, n core.Node) core.Link {
					if n == nil {
						return inner
					}
					return &alteredLink{Link: inner, publish: func(ctx context.Context, p core.Publication, done func(error)) error {
						return inner.Publish(context.WithValue(ctx, origin{}, n.ID()), p, done)
					}}
				},
			}
		},
	},
	{
		name:  "two nodes get a publication at most",
		fails: []string{everyNode},
		apply: func(d core.Driver, _ <-chan struct{}) core.Driver {
			return &altered{
				Driver: d,
				node: func(n core.Node) core.Node {
					return &alteredNode{Node: n, deliver: func(ctx context.Context, p core.Publication) error {
						if left, ok := ctx.Value(origin{}).(*atomic.Int32); ok && left.Add(-1) < 0 {
							return nil
						}
						return n.Deliver(ctx, p)
					}}
				},
				link: func(inner core.Link, _ core.Node) core.Link {
					return &alteredLink{Link: inner, publish: func(ctx context.Context, p core.Publication, done func(error)) error {
						left := new(atomic.Int32)
						left.Store(2)
						return inner.Publish(context.WithValue(ctx, origin{}, left), p, done)
					}}
				},
			}
		},
	},
	{
		name:  "the last publication is kept for who subscribes",
		fails: []string{fromBefore},
		also:  []string{unsubscribed, comeAndGo},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var last shared[core.Topic, string]
			return onLinks(func(l *alteredLink, node core.Node) {
				l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
					last.put(p.Topic, string(p.Payload))
					return l.Link.Publish(ctx, p, done)
				}
				l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
					err := l.Link.Subscribe(ctx, topics...)
					for _, t := range topics {
						if payload, ok := last.get(t); ok && node != nil {
							_ = node.Deliver(ctx, core.Publication{Topic: t, Payload: []byte(payload)})
						}
					}
					return err
				}
			})
		}),
	},
	{
		name:  "a publication is lost",
		fails: []string{inOrder},
		apply: atTwentieth(func(_ core.Link, _ context.Context, _ core.Publication, done func(error)) error {
			done(nil)
			return nil
		}, nil),
	},
	{
		name:  "a publication is sent twice",
		fails: []string{inOrder},
		apply: atTwentieth(func(l core.Link, ctx context.Context, p core.Publication, done func(error)) error {
			_ = l.Publish(ctx, p, func(error) {})
			return l.Publish(ctx, p, done)
		}, nil),
	},
	{
		name:  "a publication is overtaken by the next",
		fails: []string{inOrder},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			type key struct {
				link  core.Link
				topic core.Topic
			}
			var held shared[key, core.Publication]
			return atTwentieth(
				func(l core.Link, _ context.Context, p core.Publication, done func(error)) error {
					p.Payload = bytes.Clone(p.Payload)
					held.put(key{l, p.Topic}, p)
					done(nil)
					return nil
				},
				func(l core.Link, ctx context.Context, p core.Publication, done func(error)) error {
					err := l.Publish(ctx, p, done)
					if p, ok := held.get(key{l, p.Topic}); ok {
						_ = l.Publish(ctx, p, func(error) {})
					}
					return err
				},
			)
		}),
	},
	{
		name:  "one publication at a time",
		fails: []string{fullAlone},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var mu sync.Mutex
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
					mu.Lock()
					defer mu.Unlock()
					return l.Link.Publish(ctx, p, done)
				}
			})
		}),
	},
	{
		name:  "gaps are not told",
		fails: []string{gapForOne},
		apply: onNodes(func(n *alteredNode) { n.gap = func(...core.Topic) {} }),
	},
	{
		name:  "what nobody took counts as accepted",
		fails: []string{gapForAll},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				err := l.Link.Publish(ctx, p, done)
				if errors.Is(err, core.ErrUnavailable) {
					done(nil)
					return nil
				}
				return err
			}
		}),
	},
	{
		name:  "a full topic is waited for without end",
		fails: []string{intoFull},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				return l.Link.Publish(context.WithoutCancel(ctx), p, done)
			}
		}),
	},
}
