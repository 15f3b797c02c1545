package drivertest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

var commandDefects = []defect{
	{
		name:  "a command for one node is for all",
		fails: []string{commandsOne},
		also:  []string{publisherWorks, argumentsAgain},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.command = func(ctx context.Context, node string, c core.Command) error {
				err := l.Link.Command(ctx, node, c)
				if err == nil && node != "" {
					return l.Link.Command(ctx, "", c)
				}
				return err
			}
		}),
	},
	{
		name:  "Except of a command is lost",
		fails: []string{commandsOne},
		also:  []string{commandsAll, argumentsAgain, publisherWorks},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.command = func(ctx context.Context, node string, c core.Command) error {
				c.Except = nil
				return l.Link.Command(ctx, node, c)
			}
		}),
	},
	{
		name:  "a command for all leaves out its own node",
		fails: []string{commandsAll},
		also:  []string{silentAfterClose, answersBack},
		apply: func(d core.Driver, _ <-chan struct{}) core.Driver {
			return &altered{
				Driver: d,
				node: func(n core.Node) core.Node {
					return &alteredNode{Node: n, command: func(ctx context.Context, c core.Command) error {
						if ctx.Value(origin{}) == n.ID() {
							return core.ErrOffline
						}
						return n.Command(ctx, c)
					}}
				},
				link: func(inner core.Link, n core.Node) core.Link {
					return &alteredLink{Link: inner, command: func(ctx context.Context, node string, c core.Command) error {
						if n != nil && node == "" {
							ctx = context.WithValue(ctx, origin{}, n.ID())
						}
						return inner.Command(ctx, node, c)
					}}
				},
			}
		},
	},
	{
		name:  "a command for nobody is carried out",
		fails: []string{commandsNobody},
		also:  []string{publisherNoNode, answersBack},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.command = func(ctx context.Context, node string, c core.Command) error {
				err := l.Link.Command(ctx, node, c)
				if errors.Is(err, core.ErrOffline) {
					return nil
				}
				return err
			}
		}),
	},
	{
		name:  "answers of nodes are lost",
		fails: []string{answersBack},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.command = func(ctx context.Context, node string, c core.Command) error {
				err := l.Link.Command(ctx, node, c)
				if errors.Is(err, core.ErrOffline) || errors.Is(err, core.ErrClosed) {
					return err
				}
				return nil
			}
		}),
	},
	{
		name:  "what was subscribed to last is subscribed to again, from the caller's slice",
		fails: []string{argumentsAgain},
		also:  []string{subscribedTwice, unsubscribed},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			var mu sync.Mutex
			var last []core.Topic
			l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
				mu.Lock()
				defer mu.Unlock()
				_ = l.Link.Subscribe(ctx, last...)
				last = topics
				return l.Link.Subscribe(ctx, topics...)
			}
		}),
	},
	{
		name:  "a publisher cannot read",
		fails: []string{publisherWorks},
		apply: onLinks(func(l *alteredLink, node core.Node) {
			if node == nil {
				l.find = func(context.Context, string, string) ([]core.Member, error) { return nil, errors.ErrUnsupported }
			}
		}),
	},
	{
		name:  "a publisher is a node that takes commands",
		fails: []string{publisherNoNode},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var publishers atomic.Int32
			return onLinks(func(l *alteredLink, node core.Node) {
				if node == nil {
					publishers.Add(1)
				}
				l.command = func(ctx context.Context, node string, c core.Command) error {
					err := l.Link.Command(ctx, node, c)
					if node == "" && publishers.Load() > 0 && errors.Is(err, core.ErrOffline) {
						return nil
					}
					return err
				}
			})
		}),
	},
	{
		name:  "a publisher's Subscribe puts nobody in the way of all",
		fails: []string{publisherNoNode},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var broken shared[core.Topic, bool]
			return onLinks(func(l *alteredLink, node core.Node) {
				l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
					if _, ok := broken.get(p.Topic); ok {
						panic("invalid memory address or nil pointer dereference")
					}
					return l.Link.Publish(ctx, p, done)
				}
				if node == nil {
					l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
						for _, t := range topics {
							broken.put(t, true)
						}
						return l.Link.Unsubscribe(ctx) // an error when closed
					}
				}
			})
		}),
	},
}
