package drivertest_test

import (
	"bytes"
	"context"
	"errors"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
)

// defect makes a sound driver a broken one.
type defect struct {
	name  string
	fails []string // cases that the broken driver must fail
	also  []string // cases that it may fail: they need what it breaks
	// apply breaks a driver. What waits or runs for ever in it ends with end.
	apply   func(d core.Driver, end <-chan struct{}) core.Driver
	restart func(d *restartable) // for a defect that shows at a restart
}

// onLinks is a defect of links: alter changes one of a node, or of a publisher, whose node is nil.
func onLinks(alter func(l *alteredLink, node core.Node)) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, _ <-chan struct{}) core.Driver {
		return &altered{Driver: d, link: func(inner core.Link, node core.Node) core.Link {
			l := &alteredLink{Link: inner}
			alter(l, node)
			return l
		}}
	}
}

// onNodes is a defect in how nodes are called.
func onNodes(alter func(n *alteredNode)) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, _ <-chan struct{}) core.Driver {
		return &altered{Driver: d, node: func(inner core.Node) core.Node {
			n := &alteredNode{Node: inner}
			alter(n)
			return n
		}}
	}
}

// fresh lets each driver have a defect with state of its own.
func fresh(make func() func(core.Driver, <-chan struct{}) core.Driver) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, end <-chan struct{}) core.Driver { return make()(d, end) }
}

// onPayloads is a defect of bytes.
func onPayloads(alter func([]byte) []byte) func(core.Driver, <-chan struct{}) core.Driver {
	return onLinks(func(l *alteredLink, _ core.Node) {
		l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
			p.Payload = alter(p.Payload)
			return l.Link.Publish(ctx, p, done)
		}
	})
}

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

// interest is what the nodes of a driver are subscribed to, for defects that deliver what they should not.
type interest struct {
	mu   sync.Mutex
	subs map[core.Node][]core.Topic
}

func newInterest() *interest { return &interest{subs: map[core.Node][]core.Topic{}} }

func (i *interest) watch(l *alteredLink, node core.Node) {
	l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
		i.mu.Lock()
		i.subs[node] = append(i.subs[node], topics...)
		i.mu.Unlock()
		return l.Link.Subscribe(ctx, topics...)
	}
	l.unsubscribe = func(ctx context.Context, topics ...core.Topic) error {
		i.mu.Lock()
		i.subs[node] = slices.DeleteFunc(i.subs[node], func(t core.Topic) bool { return slices.Contains(topics, t) })
		i.mu.Unlock()
		return l.Link.Unsubscribe(ctx, topics...)
	}
	l.end = func(ctx context.Context) error {
		i.mu.Lock()
		delete(i.subs, node)
		i.mu.Unlock()
		return l.Link.Close(ctx)
	}
}

// deliver gives p to the nodes under those of their topics that fit.
func (i *interest) deliver(ctx context.Context, p core.Publication, fits func(t core.Topic) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for node, topics := range i.subs {
		for _, t := range topics {
			if node != nil && t != p.Topic && fits(t) {
				_ = node.Deliver(ctx, core.Publication{Topic: t, Payload: p.Payload})
			}
		}
	}
}

// delivering is a defect that delivers a publication under other topics, too.
func delivering(fits func(p core.Publication, t core.Topic) bool) func(core.Driver, <-chan struct{}) core.Driver {
	return fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
		interest := newInterest()
		return onLinks(func(l *alteredLink, node core.Node) {
			interest.watch(l, node)
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				interest.deliver(ctx, p, func(t core.Topic) bool { return fits(p, t) })
				return l.Link.Publish(ctx, p, done)
			}
		})
	})
}

// origin is the key under which a context says which node a call came from.
type origin struct{}

const (
	comesBack    = "a publication comes back to the node that published it"
	everyNode    = "a publication reaches every subscribed node"
	fromBefore   = "a node gets nothing from before it subscribed"
	inOrder      = "publications of one publisher arrive in order, each once"
	fullAlone    = "a full topic holds up no other"
	gapForOne    = "a node that cannot take a publication has a gap, the others get it"
	gapForAll    = "a publication that nobody can take is not lost in silence"
	bytesIntact  = "bytes arrive as they were"
	oddNames     = "odd names are names like others"
	appsApart    = "two apps never meet in one channel name"
	broadcast    = "a topic without a channel is one like others"
	payloadAgain = "a payload is the caller's again when Publish has returned"
	exceptHolds  = "Except travels with the publication"
	doneOnce     = "done is called exactly once"
	publishEnded = "a Publish whose context has ended is refused or goes through"
	intoFull     = "a Publish into a full topic ends with its context"

	subscribedTwice = "a topic subscribed to twice arrives once, and ends with one Unsubscribe"
	inForce         = "a subscription is in force when Subscribe has returned"
	unsubscribed    = "nothing published after an Unsubscribe arrives"
	ownTopics       = "an Unsubscribe ends its own topics on its own node"

	numbersGrow   = "a later connection has a higher number, and is told it once"
	numberedFirst = "a connection is told its number before Find shows it"
	findsAll      = "Find shows the connections of a client id on every node"
	laterFinds    = "of two connections that come at once the later one finds the other"
	takenBack     = "Leave of the app's topic takes a connection out of Find"

	firstAndLast   = "the first connection of a client id joins and the last one leaves"
	joinedTwice    = "joining twice and leaving twice change nothing"
	severalTopics  = "Join and Leave report each of several topics"
	joinsAtOnce    = "of joins at once one is the first, of leaves at once one is the last"
	membersAll     = "Members lists the connections on every node"
	membersLimited = "Members lists no more than its limit"
	countsOnce     = "Count counts a client id once, wherever its connections are"
	oddPresence    = "presence keeps topics and client ids with odd names apart"

	commandsOne      = "a command reaches the node it is for, and no other"
	commandsAll      = "a command for everybody reaches every node"
	commandsNobody   = "a command that no node received is ErrOffline"
	answersBack      = "what a node answers to a command comes back"
	argumentsAgain   = "arguments are the caller's again when a call has returned"
	publisherWorks   = "a publisher without a node publishes, commands and reads"
	publisherNoNode  = "a publisher without a node is no node to others"
	closedTwice      = "closing twice does no harm"
	errorsAfterClose = "after Close everything returns an error"
	silentAfterClose = "a node is not called after Close has returned"
	closeWaits       = "Close waits for the calls that are running"
	closeEnds        = "Close returns when its context ends"
	closedGone       = "a closed node is in no answer"
	comeAndGo        = "nodes come and go without harm to others"
	noGoroutine      = "no goroutine is left when every link is closed"
	allAtOnce        = "everything may be called at the same time"
	contextsEnd      = "no call outlasts its context"
	restarts         = "after a restart of the backend everything is in force again, and every node knows of the gap"
)

var defects = slices.Concat(
	publishingDefects, contentDefects, doneDefects, subscribingDefects, connectingDefects,
	joiningDefects, countingDefects, commandDefects, closingDefects, otherDefects,
)

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
			var last sync.Map
			return onLinks(func(l *alteredLink, node core.Node) {
				l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
					last.Store(p.Topic, string(p.Payload))
					return l.Link.Publish(ctx, p, done)
				}
				l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
					err := l.Link.Subscribe(ctx, topics...)
					for _, t := range topics {
						if payload, ok := last.Load(t); ok && node != nil {
							_ = node.Deliver(ctx, core.Publication{Topic: t, Payload: []byte(payload.(string))})
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
			var held sync.Map // of core.Publication, by link and topic
			type key struct {
				link  core.Link
				topic core.Topic
			}
			return atTwentieth(
				func(l core.Link, _ context.Context, p core.Publication, done func(error)) error {
					p.Payload = bytes.Clone(p.Payload)
					held.Store(key{l, p.Topic}, p)
					done(nil)
					return nil
				},
				func(l core.Link, ctx context.Context, p core.Publication, done func(error)) error {
					err := l.Publish(ctx, p, done)
					if p, ok := held.Load(key{l, p.Topic}); ok {
						_ = l.Publish(ctx, p.(core.Publication), func(error) {})
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

var contentDefects = []defect{
	{
		name:  "bytes are made UTF-8",
		fails: []string{bytesIntact},
		apply: onPayloads(func(b []byte) []byte { return bytes.ToValidUTF8(b, []byte("?")) }),
	},
	{
		name:  "bytes end at a NUL",
		fails: []string{bytesIntact},
		apply: onPayloads(func(b []byte) []byte {
			before, _, _ := bytes.Cut(b, []byte{0})
			return before
		}),
	},
	{
		name:  "bytes end after 512 KiB",
		fails: []string{bytesIntact},
		apply: onPayloads(func(b []byte) []byte { return b[:min(len(b), 512<<10)] }),
	},
	{
		name:  "channels are patterns",
		fails: []string{oddNames},
		apply: delivering(func(p core.Publication, t core.Topic) bool {
			matched, err := path.Match(t.Channel, p.Topic.Channel)
			return err == nil && matched && t.App == p.Topic.App
		}),
	},
	{
		name:  "app and channel are joined with a colon",
		fails: []string{oddNames},
		apply: delivering(func(p core.Publication, t core.Topic) bool {
			return t.App+":"+t.Channel == p.Topic.App+":"+p.Topic.Channel
		}),
	},
	{
		name:  "apps are not told apart",
		fails: []string{appsApart},
		also:  []string{oddNames, broadcast},
		apply: delivering(func(p core.Publication, t core.Topic) bool { return t.Channel == p.Topic.Channel }),
	},
	{
		name:  "a broadcast goes to every channel",
		fails: []string{broadcast},
		also:  []string{oddNames, inOrder},
		apply: delivering(func(p core.Publication, t core.Topic) bool { return p.Topic.Channel == "" && t.App == p.Topic.App }),
	},
	{
		name:  "payloads with room to spare are kept, and sent before the next one",
		fails: []string{payloadAgain},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			var mu sync.Mutex
			var held *core.Publication
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				mu.Lock()
				before := held
				held = nil
				if cap(p.Payload) == 64 && len(p.Payload) < 32 {
					held = &p
				}
				now := held == nil
				mu.Unlock()
				if before != nil {
					_ = l.Link.Publish(ctx, *before, func(error) {})
				}
				if now {
					return l.Link.Publish(ctx, p, done)
				}
				done(nil)
				return nil
			}
		}),
	},
	{
		name:  "Except is lost",
		fails: []string{exceptHolds},
		also:  []string{payloadAgain},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				p.Except = nil
				return l.Link.Publish(ctx, p, done)
			}
		}),
	},
}

var doneDefects = []defect{
	{
		name:  "done is called twice",
		fails: []string{doneOnce},
		also:  []string{publishEnded, allAtOnce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				return l.Link.Publish(ctx, p, func(err error) {
					done(err)
					done(err)
				})
			}
		}),
	},
	{
		name:  "done is never called",
		fails: []string{doneOnce},
		also:  []string{publishEnded, allAtOnce, restarts},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, _ func(error)) error {
				return l.Link.Publish(ctx, p, func(error) {})
			}
		}),
	},
	{
		name:  "what is refused is done as well",
		fails: []string{publishEnded},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				if err := l.Link.Publish(ctx, p, done); err != nil {
					return err
				}
				return ctx.Err()
			}
		}),
	},
	{
		name:  "what comes too late is accepted and lost",
		fails: []string{publishEnded},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
				if ctx.Err() != nil {
					done(nil)
					return nil
				}
				return l.Link.Publish(ctx, p, done)
			}
		}),
	},
}

var subscribingDefects = []defect{
	{
		name:  "subscriptions are counted",
		fails: []string{subscribedTwice},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			var mu sync.Mutex
			count := map[core.Topic]int{}
			l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
				mu.Lock()
				defer mu.Unlock()
				for _, t := range topics {
					count[t]++
				}
				return l.Link.Subscribe(ctx, topics...)
			}
			l.unsubscribe = func(ctx context.Context, topics ...core.Topic) error {
				mu.Lock()
				defer mu.Unlock()
				for _, t := range topics {
					if count[t]--; count[t] <= 0 {
						_ = l.Link.Unsubscribe(ctx, t)
					}
				}
				return l.Link.Unsubscribe(ctx)
			}
		}),
	},
	{
		name:  "every tenth subscription comes into force with the next",
		fails: []string{inForce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			var mu sync.Mutex
			calls := 0
			var late []core.Topic
			l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
				mu.Lock()
				defer mu.Unlock()
				topics = append(slices.Clone(topics), late...)
				late = nil
				if calls++; calls%10 == 0 {
					late = topics
					return nil
				}
				return l.Link.Subscribe(ctx, topics...)
			}
		}),
	},
	{
		name:  "Unsubscribe does nothing",
		fails: []string{unsubscribed},
		also:  []string{subscribedTwice},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.unsubscribe = func(ctx context.Context, _ ...core.Topic) error { return l.Link.Unsubscribe(ctx) }
		}),
	},
	{
		name:  "Unsubscribe ends all topics",
		fails: []string{ownTopics},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			interest := newInterest()
			return onLinks(func(l *alteredLink, node core.Node) {
				interest.watch(l, node)
				l.unsubscribe = func(ctx context.Context, _ ...core.Topic) error {
					interest.mu.Lock()
					topics := interest.subs[node]
					delete(interest.subs, node)
					interest.mu.Unlock()
					return l.Link.Unsubscribe(ctx, topics...)
				}
			})
		}),
	},
	{
		name:  "Unsubscribe ends a topic on every node",
		fails: []string{ownTopics},
		also:  []string{broadcast, subscribedTwice, unsubscribed},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var links sync.Map
			return onLinks(func(l *alteredLink, _ core.Node) {
				links.Store(l.Link, nil)
				l.unsubscribe = func(ctx context.Context, topics ...core.Topic) error {
					for link := range links.Range {
						_ = link.(core.Link).Unsubscribe(ctx, topics...)
					}
					return l.Link.Unsubscribe(ctx)
				}
			})
		}),
	},
}

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
		name:  "a connection is found before it is told its number",
		fails: []string{numberedFirst},
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
			var apps sync.Map
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.register = func(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
					apps.Store(app, nil)
					return l.Link.Register(ctx, app, m, numbered)
				}
				l.find = func(ctx context.Context, _, clientID string) (found []core.Member, err error) {
					for app := range apps.Range {
						more, err := l.Link.Find(ctx, app.(string), clientID)
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

// presence counts what a defect wants counted, in place of the driver's first and last.
type tally struct {
	mu    sync.Mutex
	count map[tallied]int
}

type tallied struct {
	topic    core.Topic
	clientID string
}

func newTally() *tally { return &tally{count: map[tallied]int{}} }

func (c *tally) of(t core.Topic, m core.Member) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[tallied{t, m.ClientID}]
}

// add returns those of topics in which nothing was counted before, or nothing is any more.
func (c *tally) add(m core.Member, by int, topics ...core.Topic) (changed []core.Topic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range topics {
		key := tallied{t, m.ClientID}
		before := c.count[key]
		c.count[key] = max(0, before+by)
		if (before == 0) != (c.count[key] == 0) {
			changed = append(changed, t)
		}
	}
	return changed
}

var joiningDefects = []defect{
	{
		name:  "every join is the first",
		fails: []string{firstAndLast},
		also:  []string{joinedTwice, severalTopics, joinsAtOnce, argumentsAgain},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				_, err := l.Link.Join(ctx, m, topics...)
				return topics, err
			}
		}),
	},
	{
		name:  "every leave is the last",
		fails: []string{firstAndLast},
		also:  []string{joinedTwice, severalTopics, joinsAtOnce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				_, err := l.Link.Leave(ctx, m, topics...)
				return topics, err
			}
		}),
	},
	{
		name:  "first and last are those of the node",
		fails: []string{firstAndLast},
		also:  []string{joinedTwice, severalTopics, joinsAtOnce, argumentsAgain},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			conns, ids := newTally(), newTally()
			l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				_, err := l.Link.Join(ctx, m, topics...)
				return ids.add(m, 1, conns.add(core.Member{ClientID: m.ConnID}, 1, topics...)...), err
			}
			l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				_, err := l.Link.Leave(ctx, m, topics...)
				return ids.add(m, -1, conns.add(core.Member{ClientID: m.ConnID}, -1, topics...)...), err
			}
		}),
	},
	{
		name:  "joins are counted, not connections",
		fails: []string{joinedTwice},
		also:  []string{severalTopics, closedGone},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			joins := newTally()
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
					_, err := l.Link.Join(ctx, m, topics...)
					return joins.add(m, 1, topics...), err
				}
				l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
					_, err := l.Link.Leave(ctx, m, topics...)
					return joins.add(m, -1, topics...), err
				}
			})
		}),
	},
	{
		name:  "Join reports one topic",
		fails: []string{severalTopics},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				first, err := l.Link.Join(ctx, m, topics...)
				return first[:min(len(first), 1)], err
			}
		}),
	},
	{
		name:  "Leave reports one topic",
		fails: []string{severalTopics},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
				last, err := l.Link.Leave(ctx, m, topics...)
				return last[:min(len(last), 1)], err
			}
		}),
	},
	{
		name:  "Join looks first and joins then",
		fails: []string{joinsAtOnce},
		also:  []string{closedGone},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			conns, ids := newTally(), newTally()
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.join = func(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
					for _, t := range topics {
						if ids.of(t, m) == 0 {
							first = append(first, t)
						}
					}
					runtime.Gosched()
					ids.add(m, 1, conns.add(core.Member{ClientID: m.ConnID}, 1, topics...)...)
					_, err = l.Link.Join(ctx, m, topics...)
					return first, err
				}
				l.leave = func(ctx context.Context, m core.Member, topics ...core.Topic) ([]core.Topic, error) {
					ids.add(m, -1, conns.add(core.Member{ClientID: m.ConnID}, -1, topics...)...)
					return l.Link.Leave(ctx, m, topics...)
				}
			})
		}),
	},
}

var countingDefects = []defect{
	{
		name:  "Members looks at its own node only",
		fails: []string{membersAll},
		also:  []string{membersLimited, publisherWorks, oddPresence, comeAndGo, restarts},
		apply: onLinks(func(l *alteredLink, node core.Node) {
			l.members = func(ctx context.Context, t core.Topic, limit int) ([]core.Member, error) {
				members, err := l.Link.Members(ctx, t, limit)
				return slices.DeleteFunc(members, func(m core.Member) bool { return node == nil || m.Node != node.ID() }), err
			}
		}),
	},
	{
		name:  "Members loses Data",
		fails: []string{membersAll},
		also:  []string{publisherWorks, oddPresence, comeAndGo, closedGone, restarts},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.members = func(ctx context.Context, t core.Topic, limit int) ([]core.Member, error) {
				members, err := l.Link.Members(ctx, t, limit)
				for i := range members {
					members[i].Data = nil
				}
				return members, err
			}
		}),
	},
	{
		name:  "Members ignores its limit",
		fails: []string{membersLimited},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.members = func(ctx context.Context, t core.Topic, _ int) ([]core.Member, error) {
				return l.Link.Members(ctx, t, 0)
			}
		}),
	},
	{
		name:  "the limit of Members is each node's",
		fails: []string{membersLimited},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.members = func(ctx context.Context, t core.Topic, limit int) ([]core.Member, error) {
				members, err := l.Link.Members(ctx, t, 0)
				seen := map[string]int{}
				return slices.DeleteFunc(members, func(m core.Member) bool {
					seen[m.Node]++
					return limit > 0 && seen[m.Node] > limit
				}), err
			}
		}),
	},
	{
		name:  "Count counts connections",
		fails: []string{countsOnce},
		apply: onLinks(func(l *alteredLink, _ core.Node) {
			l.count = func(ctx context.Context, t core.Topic) (int, error) {
				members, err := l.Link.Members(ctx, t, 0)
				return len(members), err
			}
		}),
	},
	{
		name:  "Count does not tell apps apart",
		fails: []string{oddPresence},
		apply: fresh(func() func(core.Driver, <-chan struct{}) core.Driver {
			var topics sync.Map
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.join = func(ctx context.Context, m core.Member, joined ...core.Topic) ([]core.Topic, error) {
					for _, t := range joined {
						topics.Store(t, nil)
					}
					return l.Link.Join(ctx, m, joined...)
				}
				l.count = func(ctx context.Context, t core.Topic) (int, error) {
					sum, err := l.Link.Count(ctx, t)
					for other := range topics.Range {
						if other := other.(core.Topic); other != t && other.Channel == t.Channel {
							n, _ := l.Link.Count(ctx, other)
							sum += n
						}
					}
					return sum, err
				}
			})
		}),
	},
}

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
			var broken sync.Map // by topic
			return onLinks(func(l *alteredLink, node core.Node) {
				l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
					if _, ok := broken.Load(p.Topic); ok {
						panic("invalid memory address or nil pointer dereference")
					}
					return l.Link.Publish(ctx, p, done)
				}
				if node == nil {
					l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
						for _, t := range topics {
							broken.Store(t, nil)
						}
						return l.Link.Unsubscribe(ctx) // an error when closed
					}
				}
			})
		}),
	},
}

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
			var links sync.Map
			return onLinks(func(l *alteredLink, node core.Node) {
				links.Store(l.Link, nil)
				interest.watch(l, node)
				l.end = func(ctx context.Context) error {
					interest.mu.Lock()
					topics := interest.subs[node]
					delete(interest.subs, node)
					interest.mu.Unlock()
					for link := range links.Range {
						_ = link.(core.Link).Unsubscribe(ctx, topics...)
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
