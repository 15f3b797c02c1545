package drivertest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
)

var closingDefects = []defect{
	{
		name:  "a second Close hangs",
		fails: []string{closedTwice},
		apply: func(d core.Driver, end <-chan struct{}) core.Driver {
			return onLinks(func(l *alteredLink, _ core.Node) {
				var closed atomic.Bool
				l.end = func(ctx context.Context) error {
					if closed.Swap(true) {
						<-end
					}
					return l.Link.Close(ctx)
				}
			})(d, end)
		},
	},
	{
		name:  "Count goes on after Close",
		fails: []string{errorsAfterClose},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.count = func(ctx context.Context, t core.Topic) (int, error) {
				n, err := l.Link.Count(ctx, t)
				if errors.Is(err, core.ErrClosed) {
					return 0, nil
				}
				return n, err
			}
		}),
	},
	{
		name:  "what is published after Close is done",
		fails: []string{errorsAfterClose},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				err := l.Link.Publish(ctx, p, done)
				if errors.Is(err, core.ErrClosed) {
					done(err)
				}
				return err
			}
		}),
	},
	{
		name:  "a node is called after Close",
		fails: []string{silentAfterClose},
		also:  []string{commandsNobody, closedGone, closeWaits, errorsAfterClose, allAtOnce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.end = func(context.Context) error { return nil }
		}),
	},
	{
		name:  "Close does not wait",
		fails: []string{closeWaits},
		also:  []string{silentAfterClose, allAtOnce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.end = func(context.Context) error {
				_ = l.Link.Close(ended())
				return nil
			}
		}),
	},
	{
		name:  "Close waits without end",
		fails: []string{closeEnds},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.end = func(ctx context.Context) error { return l.Link.Close(context.WithoutCancel(ctx)) }
		}),
	},
	{
		name:  "what a closed node had joined stays",
		fails: []string{closedGone},
		also:  []string{allAtOnce},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			ghosts := newTally()
			var mu sync.Mutex
			return onLinks(func(l *alteredLink, _ core.Node) {
				type joined struct {
					core.Topic
					clientID string
				}
				here := map[joined]bool{}
				l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
					mu.Lock()
					defer mu.Unlock()
					for _, t := range topics {
						here[joined{t, m.ClientID}] = true
					}
					return l.Link.Join(ctx, m, topics...)
				}
				l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
					mu.Lock()
					defer mu.Unlock()
					for _, t := range topics {
						delete(here, joined{t, m.ClientID})
					}
					return l.Link.Leave(ctx, m, topics...)
				}
				l.end = func(ctx context.Context) error {
					mu.Lock()
					for j := range here {
						ghosts.add(core.Member{}, 1, j.Topic)
					}
					clear(here)
					mu.Unlock()
					return l.Link.Close(ctx)
				}
				l.count = func(ctx context.Context, t core.Topic) (int, error) {
					n, err := l.Link.Count(ctx, t)
					return n + ghosts.of(t, core.Member{}), err
				}
			})
		}),
	},
	{
		name:  "nobody is let in once everybody has left",
		fails: []string{comeAndGo},
		apply: func(d core.Driver, _ <-chan struct{}) core.Driver {
			var open, closed atomic.Int32
			return &opening{Driver: d, open: func(ctx context.Context, node core.Node) (core.Link, error) {
				if n := open.Load(); n > 0 && n == closed.Load() {
					return nil, core.ErrClosed
				}
				open.Add(1)
				link, err := d.Open(ctx, node)
				return &alteredLink{Link: link, end: func(ctx context.Context) error {
					closed.Add(1)
					return link.Close(ctx)
				}}, err
			}}
		},
	},
	{
		name:  "a node that closes takes the subscriptions of others along",
		fails: []string{comeAndGo},
		also:  []string{silentAfterClose},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			interest := newInterest()
			var links shared[core.Link, bool]
			return onLinks(func(l *alteredLink, node core.Node) {
				links.put(l.Link, true)
				interest.watch(l, node)
				l.end = func(ctx context.Context) error {
					interest.mu.Lock()
					topics := interest.subs[node]
					delete(interest.subs, node)
					interest.mu.Unlock()
					for _, link := range links.keys() {
						_ = link.Unsubscribe(ctx, topics...)
					}
					return l.Link.Close(ctx)
				}
			})
		}),
	},
	{
		name:  "a goroutine stays behind",
		fails: []string{noGoroutine},
		apply: func(d core.Driver, end <-chan struct{}) core.Driver {
			return &opening{Driver: d, open: func(ctx context.Context, node core.Node) (core.Link, error) {
				go func() { <-end }()
				return d.Open(ctx, node)
			}}
		},
	},
}

// opening is a driver with an Open of its own.
type opening struct {
	core.Driver
	open func(ctx context.Context, node core.Node) (core.Link, error)
}

func (d *opening) Open(ctx context.Context, node core.Node) (core.Link, error) {
	return d.open(ctx, node)
}

var otherDefects = []defect{
	{
		name:  "two subscriptions at the same time fail",
		fails: []string{allAtOnce},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var mu sync.Mutex
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
					if !mu.TryLock() {
						return errors.New("busy")
					}
					defer mu.Unlock()
					<-time.After(time.Millisecond)
					return l.Link.Subscribe(ctx, topics...)
				}
			})
		}),
	},
	{
		name:  "Find waits although its context has ended",
		fails: []string{contextsEnd},
		apply: func(d core.Driver, end <-chan struct{}) core.Driver {
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.find = func(ctx context.Context, app, clientID string) ([]core.Member, error) {
					if ctx.Err() != nil {
						<-end
					}
					return l.Link.Find(ctx, app, clientID)
				}
			})(d, end)
		},
	},
	{
		name:    "after a restart nobody is subscribed",
		fails:   []string{restarts},
		restart: func(d *restartable) { d.forgetful = true },
	},
	{
		name:    "after a restart nobody knows of the gap",
		fails:   []string{restarts},
		restart: func(d *restartable) { d.silent = true },
	},
}
