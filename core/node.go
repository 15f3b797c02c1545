package core

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
)

// node is the service as its driver sees it.
type node struct{ s *Service }

var _ Node = node{}

func (n node) ID() string { return n.s.id }

func (n node) Deliver(ctx context.Context, p Publication) error {
	if ch := n.s.hub.channel(p.Topic); ch != nil {
		return ch.publish(ctx, p)
	}
	return nil
}

func (n node) Gap(topics ...Topic) {
	for _, t := range topics {
		if ch := n.s.hub.channel(t); ch != nil {
			n.s.stats.gaps.Add(1)
			ch.miss()
		}
	}
}

// Command carries out a command on every connection of the client id here. The first error is returned; the others are
// the same in all likelihood.
func (n node) Command(ctx context.Context, cmd Command) error {
	var failed error
	meant := 0
	for _, c := range n.s.hub.find(cmd.App, cmd.ClientID) {
		if c.Closed() {
			continue
		}
		meant++
		if err := n.carryOut(ctx, cmd, c); err != nil && !errors.Is(err, ErrClosed) && failed == nil {
			failed = err
		}
	}
	if meant == 0 {
		return ErrOffline
	}
	return failed
}

func (n node) carryOut(ctx context.Context, cmd Command, c *Client) error {
	switch cmd.Action {
	case ActionSend:
		return c.sendText(cmd.Payload)
	case ActionClose:
		if slices.Contains(cmd.Except, c.ConnID) {
			return nil
		}
		return c.shut(cmd.Code, cmd.Reason)
	case ActionSubscribe:
		return c.subscribe(ctx, cmd.Channels)
	case ActionUnsubscribe:
		return c.takeOut(ctx, cmd)
	case ActionReplace:
		if c.replaceBelow(cmd.Number) && n.s.replaced.often(c) {
			c.log(slog.LevelWarn, "gows: one client id was replaced 5 times in 10 s: do two tabs share it? core.WithSessions(core.AllowMany) lets them live side by side")
		}
	}
	return nil
}

// takeOut unsubscribes the client for the server, and tells it so.
func (c *Client) takeOut(ctx context.Context, cmd Command) error {
	return c.unsubscribe(ctx, cmd.Channels, func(left []*channel) {
		out := map[string]bool{}
		for _, ch := range left {
			out[ch.topic.Channel] = true
		}
		for _, name := range cmd.Channels {
			if !out[name] {
				continue
			}
			delete(out, name)
			text := appendString([]byte(`{"type":"unsubscribed","channel":`), name)
			text = append(text, `,"code":403,"message":"unsubscribed by the server"}`...)
			_ = c.sendText(text) // it may have ended meanwhile
		}
	})
}

func (n node) Down(err error, part func(Topic) bool) {
	n.s.away.begin(err)
	n.s.hub.lose(part)
}

// Up also has the sessions looked at: the command that replaces a connection may have been lost meanwhile.
func (n node) Up(part func(Topic) bool) {
	n.s.away.end()
	n.s.hub.regain(part)
	signal(n.s.recheck)
}

func (n node) Changed(topic Topic, m Member, joined bool) {
	link := n.s.link.Load()
	if link == nil {
		return
	}
	what := "leave"
	if joined {
		what = "join"
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	n.s.tell(ctx, *link, what, m, []Topic{topic})
}

func (n node) Fault(err error) {
	n.s.stats.faults.Add(1)
	n.s.sparing.warn(n.s.opts.log, "gows: driver", "err", err)
}

func (n node) Topics() iter.Seq[Topic] {
	return func(yield func(Topic) bool) {
		for _, t := range n.s.hub.topics() {
			if !yield(t) {
				return
			}
		}
	}
}

func (n node) Registered() iter.Seq2[string, Member] {
	return func(yield func(string, Member) bool) {
		var clients []*Client
		for i := range shards {
			clients = n.s.hub.clients(i, clients[:0])
			for _, c := range clients {
				if m, ok := c.registered(); ok && !yield(c.App, m) {
					return
				}
			}
		}
	}
}

func (n node) Joined(topic Topic) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		ch := n.s.hub.channel(topic)
		if ch == nil || ch.rules.Presence == PresenceOff {
			return
		}
		for _, s := range ch.members() {
			if !s.client.Closed() && !yield(s.client.member(s.since)) {
				return
			}
		}
	}
}

func (n node) Find(app, clientID string) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		for _, c := range n.s.hub.find(app, clientID) {
			if m, ok := c.registered(); ok && !yield(m) {
				return
			}
		}
	}
}

// registered returns the connection as Find shows it; ok is false before it has a number and after its end.
func (c *Client) registered() (m Member, ok bool) {
	c.mu.Lock()
	number, ended := c.number, c.ended != nil
	c.mu.Unlock()
	if ended || number == 0 {
		return Member{}, false
	}
	m = c.member(c.since)
	m.Number = number
	return m, true
}
