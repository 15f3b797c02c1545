package core

import (
	"context"
	"strconv"
	"sync"
)

// Join and leave are told by client id: the first connection in, the last one out. In a crowd every one of them would be
// told to thousands, so there the channel is told the count instead, once a second.

// crowdSize is the number of client ids above which a channel is told counts.
const crowdSize = 1000

// crowds knows how many are in the channels that had a join or leave lately.
type crowds struct {
	mu    sync.Mutex // guards known
	known map[Topic]*crowd
}

type crowd struct {
	count int  // of client ids, counted once a second, corrected in between by what this node saw
	due   bool // a change has not been told
}

// change notes joins or leaves, and reports whether the channel is to be told of each one.
func (cs *crowds) change(t Topic, by int, count func() int) bool {
	cs.mu.Lock()
	known := cs.known[t]
	cs.mu.Unlock()
	if known == nil { // counted without the lock, perhaps by several
		known = &crowd{count: count()}
		by = 0
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.known == nil {
		cs.known = map[Topic]*crowd{}
	}
	if there := cs.known[t]; there != nil {
		known = there
	} else {
		cs.known[t] = known
	}
	known.count += by
	if known.count <= crowdSize {
		return true
	}
	known.due = true
	return false
}

// due forgets all crowds, to be counted anew, and returns those that are to be told their count.
func (cs *crowds) due() []Topic {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var due []Topic
	for t, c := range cs.known {
		if c.due {
			due = append(due, t)
		}
	}
	cs.known = nil
	return due
}

// tell publishes that a client joined or left, to the others in those of the topics whose rule says so. The client's own
// connection is not told: it has asked for it.
func (s *Service) tell(ctx context.Context, link Link, what string, m Member, topics []Topic) {
	by := 1
	if what == "leave" {
		by = -1
	}
	for _, t := range topics {
		if t.Channel == "" || s.opts.rulesOf(t.Channel).Presence != PresenceEvents {
			continue
		}
		count := func() int {
			n, err := link.Count(ctx, t)
			if err != nil {
				s.sparing.warn(s.opts.log, "gows: count failed", "app", t.App, "channel", t.Channel, "err", err)
			}
			return n
		}
		if !s.crowds.change(t, by, count) {
			continue
		}
		text := appendString([]byte(`{"type":`), what)
		text = appendString(append(text, `,"channel":`...), t.Channel)
		text = appendString(append(text, `,"client":`...), m.ClientID)
		if m.Data != nil {
			text = append(append(text, `,"data":`...), m.Data...)
		}
		s.announce(ctx, link, t, append(text, '}'), m.ConnID)
	}
}

// tellCounts publishes the counts of crowds that have changed.
func (s *Service) tellCounts(ctx context.Context, link Link) {
	for _, t := range s.crowds.due() {
		n, err := link.Count(ctx, t)
		if err != nil {
			s.sparing.warn(s.opts.log, "gows: count failed", "app", t.App, "channel", t.Channel, "err", err)
			continue
		}
		text := appendString([]byte(`{"type":"count","channel":`), t.Channel)
		text = strconv.AppendInt(append(text, `,"data":`...), int64(n), 10)
		s.announce(ctx, link, t, append(text, '}'))
	}
}

// announce publishes what nobody waits for. When it is lost the subscribers here are told that something is missing, unless
// the driver is away: they are told of that when it is back.
func (s *Service) announce(ctx context.Context, link Link, t Topic, text []byte, except ...string) {
	noted := func(err error) {
		if err == nil {
			return
		}
		s.sparing.warn(s.opts.log, "gows: presence not told", "app", t.App, "channel", t.Channel, "err", err)
		if _, away := s.away.state(); away == nil {
			node{s}.Gap(t)
		}
	}
	if err := link.Publish(ctx, Publication{Topic: t, Payload: text, Except: except}, noted); err != nil {
		noted(err)
	}
}
