package core

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// checkChannel says what is wrong with a channel name.
func (s *Service) checkChannel(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrChannelName)
	case len(name) > s.opts.channelBytes:
		return fmt.Errorf("%w: %d bytes, %d at most (core.WithChannelBytes)", ErrChannelName, len(name), s.opts.channelBytes)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, isControl):
		return fmt.Errorf("%w: %q is not UTF-8 without control characters", ErrChannelName, name)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

func (s *Service) checkChannels(names []string) error {
	for _, name := range names {
		if err := s.checkChannel(name); err != nil {
			return err
		}
	}
	return nil
}

// subscribe takes the client into channels: interest first, then the subscriptions, then presence.
func (c *Client) subscribe(ctx context.Context, channels []string) error {
	s := c.app.s
	if err := s.checkChannels(channels); err != nil {
		return err
	}
	link, err := s.linked(ctx)
	if err != nil {
		return err
	}
	if err := c.beginChange(ctx); err != nil {
		return err
	}
	undoing := false
	defer func() {
		if !undoing {
			c.endChange()
		}
	}()
	topics, err := c.missing(channels)
	if err != nil || len(topics) == 0 {
		return err
	}
	held, err := s.hub.hold(ctx, link, topics)
	if err != nil {
		return err
	}
	for i, ch := range held {
		if err := ch.add(c); err != nil { // the client has ended: its leave takes care of those added
			s.hub.release(held[i:])
			return err
		}
	}
	if joined := joining(held); len(joined) > 0 {
		m := c.member(time.Now().UnixMilli())
		first, err := link.Join(ctx, m, topicsOf(joined)...)
		if err == nil && c.Closed() { // its leave does not wait for ever
			err = ErrClosed
		}
		if err != nil {
			s.tell(ctx, link, "join", m, first) // its leave is told, too
			undoing = true
			c.undo(link, topics, topicsOf(joined))
			return unavailable("join", err)
		}
		s.tell(ctx, link, "join", m, first)
	}
	return nil
}

// undo takes the client out of topics, some of which it could not join, and ends the change. The driver may take its time
// over that; the client is answered at once.
func (c *Client) undo(link Link, topics, joined []Topic) {
	channels := make([]string, len(topics))
	for i, t := range topics {
		channels[i] = t.Channel
	}
	c.detach(channels)
	s := c.app.s
	if !s.beginLeaver() { // the driver is closed: it has taken everything back
		c.endChange()
		return
	}
	go func() { // ends with its driver call, which is bounded; Shutdown waits for it
		defer s.leavers.Done()
		defer c.endChange()
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		// It may have joined all the same: the error of Join says that nobody knows.
		m := c.member(c.since)
		last, err := link.Leave(ctx, m, joined...)
		s.tell(ctx, link, "leave", m, last)
		if err != nil {
			s.sparing.warn(s.opts.log, "gows: leave failed", append(c.names(), "err", err)...)
		}
	}()
}

// unsubscribe takes the client out of channels, and calls out, if any, with those it was in before it can subscribe again.
func (c *Client) unsubscribe(ctx context.Context, channels []string, out func(left []*channel)) error {
	s := c.app.s
	link, err := s.linked(ctx)
	if err != nil {
		return err
	}
	if err := c.beginChange(ctx); err != nil {
		return err
	}
	defer c.endChange()
	left := c.detach(channels)
	if out != nil {
		out(left)
	}
	if topics := topicsOf(joining(left)); len(topics) > 0 {
		m := c.member(c.since)
		last, err := link.Leave(ctx, m, topics...)
		s.tell(ctx, link, "leave", m, last)
		if err != nil {
			return unavailable("leave", err)
		}
	}
	return nil
}

// leave takes an ended client out of everything, with one driver call. It is called by who ends the client and by the
// reader, and returns to both when it is done.
func (c *Client) leave() {
	c.mu.Lock()
	x := c.extrasLocked()
	done := x.left
	if done == nil {
		x.left = make(chan struct{})
	}
	why, slow, dropped := c.ended, c.slow, c.dropped
	c.mu.Unlock()
	if done != nil { // no sync.Once: in a synctest bubble no time passes while somebody waits for a lock
		<-done
		return
	}
	defer close(x.left)
	s := c.app.s
	if slow {
		s.stats.slow.Add(1)
		c.log(slog.LevelWarn, "gows: too slow", "code", why.Code, "reason", why.Reason, "dropped", dropped)
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	// A Sub that is under way sees that the client has ended, or is undone here: it is waited for, within opTimeout.
	if err := c.awaitChange(ctx); err != nil {
		c.log(slog.LevelWarn, "gows: leave did not wait for a subscription", "err", err)
	}
	left := c.detach(nil)
	everyone := c.everyone
	if everyone == nil {
		return
	}
	link, err := s.linked(ctx)
	if err == nil {
		topics := append(topicsOf(joining(left)), everyone.topic)
		var last []Topic
		m := c.member(c.since)
		last, err = link.Leave(ctx, m, topics...)
		s.tell(ctx, link, "leave", m, last)
	}
	if err != nil {
		s.sparing.warn(s.opts.log, "gows: leave failed", append(c.names(), "err", err)...)
	}
	s.hub.release([]*channel{everyone})
}

// missing returns the topics of channels that the client is not in yet.
func (c *Client) missing(channels []string) ([]Topic, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return nil, ErrClosed
	}
	var topics []Topic
	for _, name := range channels {
		if t := (Topic{c.App, name}); !c.inLocked(name) && !slices.Contains(topics, t) {
			topics = append(topics, t)
		}
	}
	if limit := c.app.s.opts.channels; len(c.subs)+len(topics) > limit {
		return nil, fmt.Errorf("%w: %d channels at most (core.WithMaxChannels)", ErrTooManyChannels, limit)
	}
	return topics, nil
}

// in reports whether the client is subscribed to a channel.
func (c *Client) in(channel string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inLocked(channel)
}

func (c *Client) inLocked(channel string) bool {
	return slices.ContainsFunc(c.subs, func(s *subscription) bool { return s.ch.topic.Channel == channel })
}

// detach ends the subscriptions to channels, or all of an ended client when channels is nil: when it has returned nothing
// of them is accepted for the client any more. It returns the channels that were left.
func (c *Client) detach(channels []string) []*channel {
	c.mu.Lock()
	var gone []*subscription
	keep := c.subs[:0]
	for _, s := range c.subs {
		if channels == nil || slices.Contains(channels, s.ch.topic.Channel) {
			s.gone = true
			gone = append(gone, s)
		} else {
			keep = append(keep, s)
		}
	}
	clear(c.subs[len(keep):])
	c.subs = keep
	c.mu.Unlock()
	left := make([]*channel, len(gone))
	for i, s := range gone {
		s.ch.remove(s)
		left[i] = s.ch
	}
	c.app.s.hub.release(left)
	return left
}

// beginChange waits until no other Sub or Unsub of this client is under way: a join and a leave of one channel must reach
// the driver in the order in which they happened here.
func (c *Client) beginChange(ctx context.Context) error {
	for {
		c.mu.Lock()
		changing, ended := c.changing, c.ended
		if ended == nil && changing == nil {
			c.changing = make(chan struct{})
		}
		c.mu.Unlock()
		switch {
		case ended != nil:
			return ErrClosed
		case changing == nil:
			return nil
		}
		select {
		case <-changing:
		case <-ctx.Done():
			return fmt.Errorf("%w: another subscription of this client is under way", ErrUnavailable)
		}
	}
}

func (c *Client) endChange() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changing)
	c.changing = nil
}

// awaitChange waits for the Sub or Unsub under way of an ended client; no other can begin.
func (c *Client) awaitChange(ctx context.Context) error {
	c.mu.Lock()
	changing := c.changing
	c.mu.Unlock()
	if changing == nil {
		return nil
	}
	select {
	case <-changing:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// joining returns the channels that keep presence.
func joining(channels []*channel) []*channel {
	var joining []*channel
	for _, ch := range channels {
		if ch.rules.Presence != PresenceOff {
			joining = append(joining, ch)
		}
	}
	return joining
}
