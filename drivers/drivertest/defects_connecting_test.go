package drivertest_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core"
)

var connectingDefects = []defect{
	{
		name:  "every connection has the number 7",
		fails: []string{numbersGrow},
		also:  []string{laterFinds},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
				return l.Link.Register(ctx, app, m, func(uint64) { numbered(7) })
			}
		}),
	},
	{
		name:  "a number is told twice",
		fails: []string{numbersGrow},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
				return l.Link.Register(ctx, app, m, func(n uint64) {
					numbered(n)
					numbered(n)
				})
			}
		}),
	},
	{
		name:  "a connection is found under a number that it is not told",
		fails: []string{numberedAlike},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			type early struct {
				app string
				core.Member
				found chan struct{}
			}
			var mu sync.Mutex
			var waiting []early
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
					m.Number = 1 << 40
					e := early{app, m, make(chan struct{})}
					mu.Lock()
					waiting = append(waiting, e)
					mu.Unlock()
					select {
					case <-e.found:
					case <-time.After(5 * time.Millisecond):
					}
					mu.Lock()
					waiting = slices.DeleteFunc(waiting, func(other early) bool { return other.ConnID == m.ConnID })
					mu.Unlock()
					return l.Link.Register(ctx, app, m, numbered)
				}
				l.find = func(ctx context.Context, app, clientID string) ([]core.Member, error) {
					mu.Lock()
					var found []core.Member
					for _, e := range waiting {
						if e.app == app && e.ClientID == clientID {
							found = append(found, e.Member)
							close(e.found)
						}
					}
					waiting = nil
					mu.Unlock()
					others, err := l.Link.Find(ctx, app, clientID)
					return append(found, others...), err
				}
			})
		}),
	},
	{
		name:  "Find looks at its own node only",
		fails: []string{findsAll},
		also:  []string{laterFinds, takenBack, publisherWorks, oddPresence, restarts},
		apply: onLinks(func(l *alteredLink, node core.Node) {
			l.find = func(ctx context.Context, app, clientID string) ([]core.Member, error) {
				found, err := l.Link.Find(ctx, app, clientID)
				return slices.DeleteFunc(found, func(m core.Member) bool { return node == nil || m.Node != node.ID() }), err
			}
		}),
	},
	{
		name:  "Find looks into every app",
		fails: []string{findsAll},
		also:  []string{oddPresence},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var apps shared[string, bool]
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
					apps.put(app, true)
					return l.Link.Register(ctx, app, m, numbered)
				}
				l.find = func(ctx context.Context, _, clientID string) (found []core.Member, err error) {
					for _, app := range apps.keys() {
						more, err := l.Link.Find(ctx, app, clientID)
						if err != nil {
							return nil, err
						}
						found = append(found, more...)
					}
					return found, nil
				}
			})
		}),
	},
	{
		name:  "a connection is found late, when the next one has its number",
		fails: []string{laterFinds},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			next := make(chan struct{})
			var mu sync.Mutex
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
					var number uint64
					err := l.Link.Register(ctx, app, m, func(n uint64) { number = n })
					mu.Lock()
					if number%2 == 0 {
						numbered(number)
						close(next)
						next = make(chan struct{})
						mu.Unlock()
						return err
					}
					wait := next
					mu.Unlock()
					select {
					case <-wait:
						<-time.After(time.Millisecond) // the next one looks around
					case <-time.After(5 * time.Millisecond):
					}
					numbered(number)
					return err
				}
			})
		}),
	},
	{
		name:  "Find remembers who has left",
		fails: []string{takenBack},
		also:  []string{closedGone, oddPresence, allAtOnce},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var mu sync.Mutex
			known := map[string][]core.Member{} // by app and client id
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
					return l.Link.Register(ctx, app, m, func(n uint64) {
						numbered(n)
						m.Number = n
						mu.Lock()
						defer mu.Unlock()
						known[app+"\x00"+m.ClientID] = append(known[app+"\x00"+m.ClientID], m)
					})
				}
				l.find = func(ctx context.Context, app, clientID string) ([]core.Member, error) {
					if _, err := l.Link.Find(ctx, app, clientID); err != nil {
						return nil, err
					}
					mu.Lock()
					defer mu.Unlock()
					return slices.Clone(known[app+"\x00"+clientID]), nil
				}
			})
		}),
	},
}
