package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/duxweb/go-ws/core"
)

// A quiet point: nobody does anything, until all that was pushed has arrived, all that was asked is answered and all that
// must end has ended. Then presence must be the truth.

// quiet is called with the gate held.
func (s *stage) quiet(final bool) {
	begun := time.Now()
	s.wake()
	waited := ""
	err := eventually(patience, func() error {
		err := s.settled()
		if err != nil {
			waited, _, _ = strings.Cut(err.Error(), "\n")
		}
		return err
	})
	if err == nil {
		s.mark()
		err = s.drained()
	}
	if err != nil {
		s.fail("a quiet point", err)
		return
	}
	if err := eventually(patience, s.presence); err != nil {
		s.fail("a quiet point", err)
		return
	}
	s.renew()
	s.count.quiets.Add(1)
	m := measure()
	m.Connections = len(s.all())
	s.count.keep(m)
	s.say("quiet in %v, last of all: %q. %v, %d connections. %s", time.Since(begun).Round(time.Millisecond), waited, m,
		m.Connections, s.count.line())
	if !final {
		if err := s.count.grows(); err != nil {
			s.fail("a quiet point", err)
		}
	}
}

// mark pushes to the channels that are observed, from each node: behind the joins and leaves that are on their way.
func (s *stage) mark() {
	for _, p := range s.places {
		for _, n := range p.group.nodes {
			o := &operator{stage: s, node: n, life: n.life.Load(), place: p}
			for _, ch := range p.list {
				if ch.kind.rules.Presence == core.PresenceEvents {
					o.push(dice{amount: 1}, ch)
				}
			}
		}
	}
}

// drained asks each connection something more: the answer comes behind all that waited for it.
func (s *stage) drained() error {
	var open []*conn
	for _, c := range s.all() {
		if c.isReady() {
			open = append(open, c)
			_, frame := c.question(nil, said{Type: "ping"}, 0, nil)
			_ = c.write(frame)
		}
	}
	s.traces.note("asked", "", len(open))
	return eventually(patience, s.settled)
}

// settled says what is not quiet yet.
func (s *stage) settled() error {
	open := map[*node]int{}
	single := map[*identity]int{}
	for _, c := range s.all() {
		isOpen, err := c.settled()
		if err != nil {
			return fmt.Errorf("connection %s of %s to %s: %w\n  the last events of it:\n%s", c.token, c.id, c.node.name, err, &c.actor.trace)
		}
		if !isOpen {
			continue
		}
		open[c.node]++
		if single[c.actor.identity]++; c.actor.identity.single && single[c.actor.identity] > 1 {
			return fmt.Errorf("%s has two connections, but the newer replaces the older", c.id)
		}
	}
	for _, g := range s.groups {
		for _, n := range g.nodes {
			if l := n.life.Load(); !l.closed.Load() {
				if stats := l.service.Stats(); stats.Connections != open[n] || stats.Hooks != 0 {
					return fmt.Errorf("%s has %d connections and %d hooks, its clients have %d", l.name, stats.Connections, stats.Hooks, open[n])
				}
			}
		}
	}
	return nil
}

// settled reports whether the connection is open, and what it lacks.
func (c *conn) settled() (open bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		if c.online != c.offline {
			return false, errors.New("it has ended, but there was no offline")
		}
		return false, nil
	}
	switch {
	case c.stalled != nil:
		return true, errors.New("it stalls")
	case c.online != 1 || c.offline != 0:
		return true, fmt.Errorf("it is open, with %d online and %d offline", c.online, c.offline)
	case c.doomed != "":
		return true, fmt.Errorf("it is open, in spite of %s", c.doomed)
	case c.life.closed.Load():
		return true, errors.New("it is open, but its node was shut down")
	case !c.expires.IsZero() && time.Since(c.expires) > 4*time.Second:
		return true, errors.New("it is open, but it has expired")
	case c.bad != c.badSent:
		return true, fmt.Errorf("%d errors without an id for %d bad messages", c.bad, c.badSent)
	}
	for id, q := range c.asked {
		return true, fmt.Errorf("%s %s of %q is not answered", q.kind, id, q.channel)
	}
	for n := range c.owed {
		if !c.got[n] && !c.gapped {
			return true, fmt.Errorf("what was sent to it has not come: %d", n)
		}
	}
	for _, r := range c.subs {
		if err := r.missing(); err != nil {
			return true, fmt.Errorf("%w\n  the last events of the channel:\n%s", err, &r.ch.trace)
		}
	}
	return true, nil
}

// renew ends the epoch.
func (s *stage) renew() {
	s.epoch.Add(1)
	s.untold = s.doubts()
	for _, p := range s.places {
		for _, ch := range p.channels {
			ch.forget()
		}
	}
	for _, c := range s.all() {
		if c.renew() {
			s.mu.Lock()
			delete(s.conns, c.token)
			s.mu.Unlock()
			c.actor.identity.forget(c)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old, s.kicks = s.kicks, map[string]string{}
}

// renew reports whether the connection is over and judged.
func (c *conn) renew() (over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		if c.online == 0 {
			c.judgeUnknownLocked()
		}
		return true
	}
	clear(c.got)
	clear(c.owed)
	c.gapped = false
	for _, r := range c.subs {
		r.renew()
	}
	return false
}

// judgeUnknownLocked judges a connection that ended before it was online.
func (c *conn) judgeUnknownLocked() {
	if c.born.closing.Load() {
		c.verdict.allow(core.CloseInternal, "the node ends")
	}
	c.allowEndOfNodeLocked()
	if c.verdict.mute && c.seen == lostCode {
		return
	}
	if err := c.verdict.judge(c.seen, c.seen); err != nil {
		c.fail("never online: %w", err)
	}
}

// members is who is in a channel: connection -> client id.
type members map[string]string

func (m members) ids() map[string]int {
	ids := map[string]int{}
	for _, id := range m {
		ids[id] = 1
	}
	return ids
}

// presence compares what each node says of each channel with what the clients know.
func (s *stage) presence() error {
	truth := map[*channel]members{}
	online := map[*place]map[string]bool{}
	for _, p := range s.places {
		online[p] = map[string]bool{}
		for _, ch := range p.list {
			truth[ch] = members{}
		}
	}
	all := s.all()
	for _, c := range all {
		c.in(truth, online)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, p := range s.places {
		for _, n := range p.group.nodes {
			app := n.life.Load().app(p.app)
			for _, ch := range p.list {
				if err := agree(ctx, app, ch, truth[ch]); err != nil {
					return fmt.Errorf("%s, app %q, %s: %w\n  the last events of the channel:\n%s", n.name, p.app, ch.name, err, &ch.trace)
				}
			}
		}
	}
	for i, a := range s.first {
		nodes := a.place.group.nodes
		n := nodes[i%len(nodes)]
		if i%16 != int(s.epoch.Load())%16 {
			continue
		}
		is, err := n.life.Load().app(a.place.app).Online(ctx, a.identity.id)
		if err != nil || is != online[a.place][a.identity.id] {
			return fmt.Errorf("%s: Online of %s: %v, %w, want %v", n.name, a.identity.id, is, err, !is)
		}
	}
	for _, c := range all {
		if err := c.observed(truth, s.doubts() != s.untold); err != nil {
			return err
		}
	}
	return nil
}

// in adds the connection to those that are where it is.
func (c *conn) in(truth map[*channel]members, online map[*place]map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	online[c.actor.place][c.id] = true
	for name, r := range c.subs {
		if name != "" && r.settled && !r.leaving {
			truth[r.ch][c.connID] = c.id
		}
	}
}

// agree says how a node's view of a channel differs from the truth.
func agree(ctx context.Context, app *core.App, ch *channel, want members) error {
	if ch.kind.rules.Presence == core.PresenceOff {
		want = members{}
	}
	listed, err := app.Members(ctx, ch.name, 0)
	if err != nil {
		return err
	}
	got := members{}
	for _, m := range listed {
		got[m.ConnID] = m.ClientID
	}
	if len(listed) != len(got) {
		return fmt.Errorf("a connection is listed twice among %d", len(listed))
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("listed by Members is too much: %v, too little: %v", without(got, want), without(want, got))
	}
	count, err := app.Count(ctx, ch.name)
	if err != nil {
		return err
	}
	if ids := len(want.ids()); count != ids {
		return fmt.Errorf("what Count says is %d, want %d", count, ids)
	}
	return nil
}

func without(a, b members) members {
	rest := members{}
	for conn, id := range a {
		if b[conn] != id {
			rest[conn] = id
		}
	}
	return rest
}

// doubts counts what leaves it open who has been told of what: joins and leaves that were given up, and verbs of which
// nobody knows whether they took effect.
func (s *stage) doubts() int64 { return s.count.logged.untold.Load() + s.count.unavailable.Load() }

// overlooks reports whether an observer does not know of a client id: itself, and those who expire at any time, also
// between the two looks that are compared.
func (c *conn) overlooks(id string) bool { return id == c.id || strings.HasPrefix(id, "mortal-") }

// observed compares what an observer has been told since the last quiet point, and begins anew.
func (c *conn) observed(truth map[*channel]members, untold bool) error {
	if c.actor.room == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.subs[c.actor.room.name]
	if c.ended || r == nil || !r.settled {
		return nil
	}
	ids := truth[r.ch].ids()
	if untold { // the machine could not keep up: it knows nothing
		c.told = nil
	}
	for id, n := range c.told {
		if !c.overlooks(id) && n != ids[id] {
			return fmt.Errorf("observer %s of %s has been told of %d of %s, want %d\n  the last events of the channel:\n%s",
				c.token, r.ch.name, n, id, ids[id], &r.ch.trace)
		}
	}
	for id := range ids {
		if c.told != nil && !c.overlooks(id) && c.told[id] != 1 {
			return fmt.Errorf("observer %s of %s has not been told of %s\n  the last events of the channel:\n%s",
				c.token, r.ch.name, id, &r.ch.trace)
		}
	}
	c.told = ids
	return nil
}
