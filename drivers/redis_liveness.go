package drivers

import (
	"context"
	"strings"
	"time"

	"github.com/duxweb/go-ws/core"
)

// A node that died is noticed by the others: its counters stand still. No key expires and no clock is compared, so neither
// a server that pauses nor a clock that is wrong kills anybody.

const (
	beatInterval = 4 * time.Second
	deadAfter    = 3 // reads in a row that found a counter unchanged
	sweepLength  = 256
)

// sighting is what was read of another registration.
type sighting struct {
	counter string
	same    int
}

// beat raises the counter and reads those of the others, in one round trip. The server also sends this node a sign through
// its subscription.
func (p *redisPresence) beat(ctx context.Context) {
	command := "PUBLISH"
	if p.lane.sharded() {
		command = "SPUBLISH"
	}
	p.quiet = p.lane.receiver.reads.Load()
	c := &scriptCall{script: beatScript, keys: []string{p.lane.nodes()}, args: []any{command, p.lane.nodeName(p.lane.link.id)}}
	if err := p.carryOut(ctx, []*scriptCall{c}); err != nil {
		p.lane.lost(registered, err)
		return
	}
	if c.err != nil {
		p.lane.link.node.Fault(p.lane.explain(ctx, c.err, c.keys))
		p.seen = map[string]*sighting{} // reads in a row
		return
	}
	fields, _ := c.reply.([]any)
	seen := make(map[string]*sighting, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		reg, _ := fields[i].(string)
		counter, _ := fields[i+1].(string)
		switch s := p.seen[reg]; {
		case reg == p.reg:
		case counter == "dead":
			p.sweepLater(reg)
		case s == nil || s.counter != counter:
			seen[reg] = &sighting{counter: counter}
		default:
			if s.same++; s.same >= deadAfter {
				p.declare(ctx, reg, counter)
			}
			seen[reg] = s
		}
	}
	p.seen = seen
}

// probe ends a subscription over which nothing has arrived since a beat: it is open, and dead.
func (r *redisReceiver) probe(since uint64) {
	if r.reads.Load() == since {
		r.reopen()
	}
}

// declare declares a registration dead, and has it swept.
func (p *redisPresence) declare(ctx context.Context, reg, counter string) {
	if p.declared(ctx, reg, counter) {
		p.sweepLater(reg)
	}
}

// declared reports whether a registration is dead now. Another one's is not when its counter has moved.
func (p *redisPresence) declared(ctx context.Context, reg, counter string) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(ctx)
	if err != nil {
		return false
	}
	c := &scriptCall{script: declareScript, keys: []string{p.lane.nodes()}, args: []any{reg, counter}}
	runScripts(ctx, client, []*scriptCall{c})
	return c.err == nil && c.reply == int64(1)
}

// sweepLater sweeps a dead registration, unless that is under way. Several nodes may do it at once: each member is taken
// out by one of them, which tells of it.
func (p *redisPresence) sweepLater(reg string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sweeping[reg] {
		return
	}
	p.sweeping[reg] = true
	p.lane.link.spawn(func(ctx context.Context) { // ends when nothing is left, or with the link; the next beat begins again
		_ = p.sweep(ctx, reg, p.lane.link.node)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sweeping, reg)
	})
}

// sweep takes everything of a dead registration away, and tells the node who was the last of its client id in a topic.
func (p *redisPresence) sweep(ctx context.Context, reg string, node core.Node) error {
	l := p.lane
	for {
		client, err := l.server(ctx)
		if err != nil {
			return err
		}
		topics, err := client.SRandMemberN(ctx, l.topics(reg), sweepLength).Result()
		if err != nil {
			return err
		}
		if len(topics) == 0 {
			break
		}
		calls := make([]*scriptCall, len(topics))
		for i, text := range topics {
			calls[i] = &scriptCall{
				script: sweepTopicScript,
				keys:   []string{l.members(reg, text), l.count(text), l.in(text), l.topics(reg)}, args: []any{reg, text, sweepLength},
			}
		}
		runScripts(ctx, client, calls)
		for i, c := range calls {
			if c.err != nil {
				return l.explain(ctx, c.err, c.keys)
			}
			tellGone(node, topics[i], c.reply)
		}
	}
	for left := int64(1); left > 0; {
		client, err := l.server(ctx)
		if err != nil {
			return err
		}
		c := &scriptCall{script: sweepClientsScript, keys: []string{l.conns(reg)}, args: []any{reg, l.client(""), sweepLength}}
		bury := &scriptCall{script: buryScript, keys: []string{l.nodes(), l.conns(reg), l.topics(reg)}, args: []any{reg}}
		runScripts(ctx, client, []*scriptCall{c, bury})
		if c.err != nil {
			return l.explain(ctx, c.err, c.keys)
		}
		left, _ = c.reply.(int64)
	}
	return nil
}

// tellGone tells the node of the members that sweepTopicScript has returned.
func tellGone(node core.Node, text string, reply any) {
	fields, _ := reply.([]any)
	if node == nil || len(fields) != 2 {
		return
	}
	app, channel, _ := unscoped(text)
	gone, _ := fields[1].([]any)
	for i := 0; i+1 < len(gone); i += 2 {
		value, _ := gone[i+1].(string)
		if m, err := decodeTopicMember(value); err == nil {
			node.Changed(core.Topic{App: app, Channel: channel}, m, false)
		}
	}
}

// alive reports whether a node has a registration that was not declared dead.
func (l *redisLane) alive(ctx context.Context, node string) (bool, error) {
	client, err := l.server(ctx)
	if err != nil {
		return false, err
	}
	counters, err := client.HGetAll(ctx, l.nodes()).Result()
	if err != nil {
		return false, l.explain(ctx, err, []string{l.nodes()})
	}
	for reg, counter := range counters {
		if strings.HasPrefix(reg, node+".") && counter != "dead" {
			return true, nil
		}
	}
	return false, nil
}
