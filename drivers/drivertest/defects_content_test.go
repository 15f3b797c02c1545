package drivertest_test

import (
	"bytes"
	"context"
	"path"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// onPayloads is a defect of bytes.
func onPayloads(alter func([]byte) []byte) func(core.Driver, <-chan struct{}) core.Driver {
	return onLinks(func(l *alteredLink, _ core.Node) {
		l.publish = func(ctx context.Context, p core.Publication, done func(error)) error {
			p.Payload = alter(p.Payload)
			return l.Link.Publish(ctx, p, done)
		}
	})
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
