package drivers

import (
	"context"
	"errors"
	"strings"
	"time"
)

// A node that died is noticed by the others: its counters stand still. No key expires and no clock is compared, so neither
// a server that pauses nor a clock that is wrong kills anybody.

const (
	beatInterval = 4 * time.Second
	deadAfter    = 3 // reads in a row, about an interval apart, that found a counter unchanged
	sweepLength  = 256
)

// sighting is what was read of another registration.
type sighting struct {
	counter string
	same    int
	at      time.Time // of the last read that counted
}

// beat raises the counter and reads those of the others, in one round trip. The server also sends this node a sign through
// its subscription, unless beat reports false.
func (p *redisPresence) beat(ctx context.Context) bool {
	command := "PUBLISH"
	if p.lane.sharded() {
		command = "SPUBLISH"
	}
	p.quiet = p.lane.receiver.reads.Load()
	c := &scriptCall{script: beatScript, keys: []string{p.lane.nodes()}, args: []any{command, p.lane.nodeName(p.lane.link.id)}}
	p.carryOut(ctx, []*scriptCall{c})
	if c.err != nil {
		p.seen = map[string]*sighting{} // only reads in a row count
		switch fateOf(c.err) {
		case misplaced:
			p.leaves(c.err)
		case refused:
			p.lane.link.fault(p.lane.explain(ctx, c.err, c.keys))
		case carriedOut, outdated, unknown:
		}
		return false
	}
	fields, _ := c.reply.([]any)
	p.observe(ctx, fields)
	if owed := p.owed; len(owed) > 0 {
		p.owed = nil
		p.putBackOwed(owed)
	}
	return true
}

// putBackOwed has leaves repeated that the server has refused.
func (p *redisPresence) putBackOwed(owed []*presenceOp) {
	for _, op := range owed {
		op.waits = func() error { return nil }
	}
	p.putBack(owed)
	signal(p.wake)
}

// observe compares counters, as HGETALL returns them, with what was seen before.
func (p *redisPresence) observe(ctx context.Context, fields []any) {
	seen := make(map[string]*sighting, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		reg, _ := fields[i].(string)
		counter, _ := fields[i+1].(string)
		switch s := p.seen[reg]; {
		case reg == p.reg:
		case counter == "dead":
			p.sweepLater(reg)
		case s == nil || s.counter != counter:
			seen[reg] = &sighting{counter: counter, at: time.Now()}
		case time.Since(s.at) < beatInterval*3/4: // a beat out of turn: it has had no time to move
			seen[reg] = s
		default:
			if s.same++; s.same >= deadAfter {
				p.declare(ctx, []string{reg}, counter)
			}
			s.at = time.Now()
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

// declare declares registrations dead, and has them swept.
func (p *redisPresence) declare(ctx context.Context, regs []string, counter string) {
	for _, reg := range p.declared(ctx, regs, counter) {
		p.sweepLater(reg)
	}
}

// declared returns those of the registrations that are dead now. Another one's is not when its counter has moved.
func (p *redisPresence) declared(ctx context.Context, regs []string, counter string) (dead []string) {
	if len(regs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(ctx)
	if err != nil {
		return nil
	}
	c := &scriptCall{script: declareScript, keys: []string{p.lane.nodes()}, args: []any{counter}}
	for _, reg := range regs {
		c.args = append(c.args, reg)
	}
	runScripts(ctx, client, []*scriptCall{c})
	if c.err != nil {
		return nil // the others find out, too
	}
	names, _ := c.reply.([]any)
	for _, name := range names {
		reg, _ := name.(string)
		dead = append(dead, reg)
	}
	return dead
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
		p.sweep(ctx, reg, true)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sweeping, reg)
	})
}

// sweep takes everything of a dead registration away, and tells the node, if it is to, who was the last of its client id in
// a topic. What a server does not answer is left to the next beat of any node.
func (p *redisPresence) sweep(ctx context.Context, reg string, tell bool) {
	for p.sweepTopics(ctx, reg, tell) {
	}
	for p.sweepClients(ctx, reg) {
	}
}

// sweepTopics takes away some members, and reports whether there may be more.
func (p *redisPresence) sweepTopics(ctx context.Context, reg string, tell bool) bool {
	l := p.lane
	client, err := l.reader(ctx)
	if err != nil {
		return false
	}
	topics, err := client.SRandMemberN(ctx, l.topics(reg), sweepLength).Result()
	if err != nil {
		l.doubtReader(ctx, client, err)
	}
	if wrongType(err) {
		l.link.fault(l.explain(ctx, err, []string{l.topics(reg)}))
	}
	if err != nil || len(topics) == 0 {
		return false
	}
	calls := make([]*scriptCall, len(topics))
	for i, text := range topics {
		calls[i] = &scriptCall{
			script: sweepTopicScript,
			keys:   []string{l.members(reg, text), l.count(text), l.in(text), l.topics(reg), l.nodes()}, args: []any{reg, text, sweepLength},
		}
	}
	runScripts(ctx, client, calls)
	more := true
	for i, c := range calls {
		fields, _ := c.reply.([]any)
		if c.err != nil || len(fields) != 3 {
			more = false
			continue
		}
		if failed, _ := fields[2].(string); failed != "" {
			l.link.fault(l.explain(ctx, errors.New(failed), c.keys))
		}
		if gone, _ := fields[1].([]any); tell {
			p.tellGone(topics[i], gone)
		}
	}
	return more
}

// tellGone tells the node of connections and members, as sweepTopicScript returns them.
func (p *redisPresence) tellGone(text string, gone []any) {
	for i := 0; i+1 < len(gone); i += 2 {
		value, _ := gone[i+1].(string)
		if m, err := decodeTopicMember(value); err == nil {
			p.changed(&presenceOp{text: text, member: m}, false)
		}
	}
}

// sweepClients takes away some connections and, with the last one, the registration. It reports whether there may be more.
func (p *redisPresence) sweepClients(ctx context.Context, reg string) bool {
	l := p.lane
	client, err := l.reader(ctx)
	if err != nil {
		return false
	}
	c := &scriptCall{script: sweepClientsScript, keys: []string{l.conns(reg), l.nodes()}, args: []any{reg, l.client(""), sweepLength}}
	bury := &scriptCall{script: buryScript, keys: []string{l.nodes(), l.conns(reg), l.topics(reg)}, args: []any{reg}}
	runScripts(ctx, client, []*scriptCall{c, bury})
	if wrongType(c.err) {
		l.link.fault(l.explain(ctx, c.err, c.keys))
	}
	fields, _ := c.reply.([]any)
	if c.err != nil || len(fields) != 2 {
		return false
	}
	if key, _ := fields[1].(string); key != "" {
		l.link.fault(l.explain(ctx, errWrongType, []string{key}))
	}
	left, _ := fields[0].(int64)
	return left > 0
}

var errWrongType = errors.New("WRONGTYPE")

// alive reports whether a node has a registration that was not declared dead.
func (l *redisLane) alive(ctx context.Context, node string) (bool, error) {
	client, err := l.reader(ctx)
	if err != nil {
		return false, err
	}
	counters, err := client.HGetAll(ctx, l.nodes()).Result()
	if err != nil {
		l.doubtReader(ctx, client, err)
		return false, l.explain(ctx, err, []string{l.nodes()})
	}
	for reg, counter := range counters {
		if strings.HasPrefix(reg, node+".") && counter != "dead" {
			return true, nil
		}
	}
	return false, nil
}
