package core

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// interest is whether this node receives a channel from the others. The first subscriber makes the driver call; everybody
// else waits for its outcome. No lock is held across it. Guarded by channel.mu.
type interest struct {
	state   interestState
	users   int           // subscribers, and those on the way to become one
	settled chan struct{} // while state is busy or lost: closed when that ends
	err     error         // why the last attempt failed
	since   time.Time     // when the last user left
	quiet   bool          // in hub.quiet
}

type interestState uint8

const (
	interestOff  interestState = iota
	interestBusy               // a driver call is under way
	interestOn                 // in force, with subscribers or lingering without
	interestLost               // the driver lost it and is going to say when it is in force again
)

// linger is how long a channel without subscribers stays subscribed, for those who come right back.
const linger = time.Second

// hold makes the node receive topics, and returns when that is in force: all or none. Each hold needs a release.
func (h *hub) hold(ctx context.Context, link Link, topics []Topic) ([]*channel, error) {
	held := make([]*channel, 0, len(topics))
	for _, t := range topics {
		ch, err := h.use(t)
		if err != nil {
			h.release(held)
			return nil, err
		}
		held = append(held, ch)
	}
	if err := h.subscribe(ctx, link, held); err != nil {
		h.release(held)
		return nil, err
	}
	return held, nil
}

// use returns the channel of a topic, made if need be, with one user more: it stays in the hub until that is released.
func (h *hub) use(t Topic) (*channel, error) {
	sh := h.shard(t.Channel)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return nil, ErrClosed
	}
	ch := sh.channels[t]
	if ch == nil {
		ch = &channel{topic: t, rules: h.s.opts.rulesOf(t.Channel), hub: h}
		sh.channels[t] = ch
	}
	ch.mu.Lock()
	ch.interest.users++
	ch.mu.Unlock()
	return ch, nil
}

// release gives up what hold returned. The janitor unsubscribes what stays without users.
func (h *hub) release(held []*channel) {
	for _, ch := range held {
		ch.mu.Lock()
		ch.interest.users--
		var turned bool
		if ch.interest.users == 0 {
			ch.interest.since = time.Now()
			turned = !ch.interest.quiet
			ch.interest.quiet = true
		}
		ch.mu.Unlock()
		if turned {
			h.quietMu.Lock()
			h.quiet = append(h.quiet, ch)
			h.quietMu.Unlock()
		}
	}
}

// subscribe brings channels from off to on. Those that others are busy with are waited for afterwards, so that two
// callers with the same channels in another order cannot wait for each other.
func (h *hub) subscribe(ctx context.Context, link Link, channels []*channel) error {
	var mine []*channel
	var busy []*channel
	for _, ch := range channels {
		ch.mu.Lock()
		switch ch.interest.state {
		case interestOff:
			ch.interest.state = interestBusy
			ch.interest.settled = make(chan struct{})
			mine = append(mine, ch)
		case interestBusy, interestLost:
			busy = append(busy, ch)
		case interestOn:
		}
		ch.mu.Unlock()
	}
	if len(mine) > 0 {
		err := link.Subscribe(ctx, topicsOf(mine)...)
		state := interestOn
		if err != nil {
			err = unavailable("subscribe", err)
			state = interestOff
		}
		h.settle(mine, state, err)
		if err != nil {
			return err
		}
	}
	for _, ch := range busy {
		if err := ch.wait(ctx); err != nil {
			return err
		}
	}
	if len(busy) > 0 { // one of them may have been unsubscribed: off again
		return h.subscribe(ctx, link, busy)
	}
	return nil
}

// settle ends the busy state of channels.
func (h *hub) settle(channels []*channel, state interestState, err error) {
	for _, ch := range channels {
		ch.mu.Lock()
		ch.interest.state = state
		ch.interest.err = err
		close(ch.interest.settled)
		ch.interest.settled = nil
		ch.mu.Unlock()
	}
}

// wait returns when nobody is busy with the channel's interest any more, with the error that ended it.
func (ch *channel) wait(ctx context.Context) error {
	ch.mu.Lock()
	settled := ch.interest.settled
	ch.mu.Unlock()
	if settled == nil {
		return nil
	}
	select {
	case <-settled:
		ch.mu.Lock()
		defer ch.mu.Unlock()
		return ch.interest.err
	case <-ctx.Done():
		return fmt.Errorf("%w: the driver is not subscribed to %q yet", ErrUnavailable, ch.topic.Channel)
	}
}

// sweepQuiet unsubscribes, in one driver call, what has been without users for long enough.
func (h *hub) sweepQuiet(ctx context.Context, link Link, now time.Time) error {
	h.quietMu.Lock()
	quiet := h.quiet
	h.quiet = nil
	h.quietMu.Unlock()
	var young, off, on []*channel
	for _, ch := range quiet {
		ch.mu.Lock()
		switch in := &ch.interest; {
		case in.users > 0: // used again: the release of its last user brings it back
			in.quiet = false
		case in.state == interestBusy || now.Sub(in.since) < linger:
			young = append(young, ch)
		case in.state == interestOff: // a hold that failed
			in.quiet = false
			off = append(off, ch)
		default:
			in.quiet = false
			if in.state == interestOn {
				in.settled = make(chan struct{})
			}
			in.state = interestBusy
			on = append(on, ch)
		}
		ch.mu.Unlock()
	}
	h.quietMu.Lock()
	h.quiet = append(h.quiet, young...)
	h.quietMu.Unlock()
	var err error
	if len(on) > 0 {
		if err = link.Unsubscribe(ctx, topicsOf(on)...); err != nil {
			err = fmt.Errorf("gows: unsubscribe: %w", err)
		}
		h.settle(on, interestOff, nil)
	}
	for _, ch := range append(off, on...) {
		h.drop(ch)
	}
	return err
}

// drop takes a channel out of the hub unless it is used again.
func (h *hub) drop(ch *channel) {
	sh := h.shard(ch.topic.Channel)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.interest.users == 0 && ch.interest.state == interestOff && sh.channels[ch.topic] == ch {
		delete(sh.channels, ch.topic)
	}
}

// lose marks the topics of a part as lost: who subscribes waits until regain.
func (h *hub) lose(part func(Topic) bool) {
	h.each(part, func(ch *channel) {
		if ch.interest.state == interestOn {
			ch.interest.state = interestLost
			ch.interest.settled = make(chan struct{})
		}
	})
}

// regain says that the topics of a part are in force again, and tells the subscribers what they may have missed.
func (h *hub) regain(part func(Topic) bool) {
	h.each(part, func(ch *channel) {
		if ch.interest.state == interestLost {
			ch.interest.state = interestOn
			ch.interest.err = nil
			close(ch.interest.settled)
			ch.interest.settled = nil
		}
	})
	for _, t := range h.topics() {
		if part != nil && !part(t) {
			continue
		}
		if ch := h.channel(t); ch != nil && t.Channel != "" {
			ch.miss()
		}
		if t.Channel == "" {
			h.missedBroadcasts(t.App, part)
		}
	}
}

// missedBroadcasts tells of it the clients that are not told of a gap in a channel of theirs.
func (h *hub) missedBroadcasts(app string, part func(Topic) bool) {
	for _, c := range h.everybody(app) {
		told := slices.ContainsFunc(c.Channels(), func(name string) bool { return part == nil || part(Topic{app, name}) })
		if !told {
			_ = c.sendText(gapText("")) // it may have ended meanwhile
		}
	}
}

// each calls f for every channel of a part, with its lock held.
func (h *hub) each(part func(Topic) bool, f func(ch *channel)) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		for t, ch := range sh.channels {
			if part == nil || part(t) {
				ch.mu.Lock()
				f(ch)
				ch.mu.Unlock()
			}
		}
		sh.mu.RUnlock()
	}
}

func topicsOf(channels []*channel) []Topic {
	topics := make([]Topic, len(channels))
	for i, ch := range channels {
		topics[i] = ch.topic
	}
	return topics
}
