package drivertest_test

import (
	"context"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

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
			var links shared[core.Link, bool]
			return onLinks(func(l *alteredLink, _ core.Node) {
				links.put(l.Link, true)
				l.unsubscribe = func(ctx context.Context, topics ...core.Topic) error {
					for _, link := range links.keys() {
						_ = link.Unsubscribe(ctx, topics...)
					}
					return l.Link.Unsubscribe(ctx)
				}
			})
		}),
	},
}
