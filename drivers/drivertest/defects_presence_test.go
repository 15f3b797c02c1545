package drivertest_test

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// tally counts what a defect wants counted, in place of the driver's first and last.
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
			var topics shared[core.Topic, bool]
			return onLinks(func(l *alteredLink, _ core.Node) {
				l.join = func(ctx context.Context, m core.Member, joined ...core.Topic) ([]core.Topic, error) {
					for _, t := range joined {
						topics.put(t, true)
					}
					return l.Link.Join(ctx, m, joined...)
				}
				l.count = func(ctx context.Context, t core.Topic) (int, error) {
					sum, err := l.Link.Count(ctx, t)
					for _, other := range topics.keys() {
						if other != t && other.Channel == t.Channel {
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
