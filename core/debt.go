package core

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// WithTotalOutboxBytes bounds what waits in the outboxes of all clients of this node together, in bytes. Default half of
// GOMEMLIMIT where that is set, else no bound. When more waits, those for whom the most waits are cut off, until a quarter
// is free: WithOutboxBytes is per client, and a crowd behind one slow network could need the memory of the whole node. They
// are counted and logged as too slow; a close frame would have to wait behind what they do not take, so they get none. It
// is soft: what is written until they are gone comes on top.
func WithTotalOutboxBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.outboxBytes = positive(&s.opts, "WithTotalOutboxBytes", n) })
}

// debt is what waits for all clients.
type debt struct {
	limit int64 // 0: none
	bytes atomic.Int64
	over  chan struct{} // holds one: there is too much
}

// add counts n bytes more, or fewer.
func (d *debt) add(n int) {
	if total := d.bytes.Add(int64(n)); n > 0 && d.limit > 0 && total > d.limit {
		signal(d.over)
	}
}

// keepDebt cuts off the largest debtors when too much waits. It ends when stop is closed.
func (s *Service) keepDebt() {
	for {
		select {
		case <-s.debt.over:
			s.shed()
		case <-s.stop:
			return
		}
	}
}

func (s *Service) shed() {
	type debtor struct {
		*Client
		bytes int
	}
	var debtors []debtor
	var clients []*Client
	for i := range shards {
		clients = s.hub.clients(i, clients[:0])
		for _, c := range clients {
			if n := c.owed(); n > 0 {
				debtors = append(debtors, debtor{c, n})
			}
		}
	}
	slices.SortFunc(debtors, func(a, b debtor) int { return cmp.Compare(b.bytes, a.bytes) })
	waits := s.debt.bytes.Load()
	for _, d := range debtors {
		if waits <= s.debt.limit*3/4 {
			return
		}
		waits -= int64(d.bytes)
		d.cutOff("too much waits for all clients together", nil)
	}
}

// owed returns how many bytes wait for the client.
func (c *Client) owed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return 0
	}
	return c.backlog.bytes
}

// cutOff ends a connection and forgets what waits for it, if something of f does; nil stands for anything.
func (c *Client) cutOff(reason string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil || f != nil && !c.backlog.holds(f) {
		return
	}
	if c.ended == nil {
		c.tooSlowLocked(reason)
	}
	c.breakLocked()
}

// WithFlightBytes bounds how much of one message, or of one batch of up to 256 KiB, may wait in the outboxes of all
// subscribers of this node together, in bytes. Default no bound. A message of 1 MiB to 10,000 subscribers may need 10 GB
// for a moment, most of whom WithTotalOutboxBytes would cut off. With it the message goes to the others when the first have
// taken it. So a channel becomes as slow as its slow subscribers are; those who have not taken their message within
// WithWriteStall are cut off.
func WithFlightBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.flightBytes = positive(&s.opts, "WithFlightBytes", n) })
}

// flight is how much of one batch waits in outboxes. A nil flight counts nothing.
type flight struct {
	limit   int
	debtors []*Client // for whom something had to wait; the turn's own

	mu     sync.Mutex // guards the rest
	bytes  int
	landed chan struct{} // closed when bytes falls to limit; nil when nobody waits
}

func (f *flight) add(n int) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes += n; f.bytes <= f.limit {
		wake(&f.landed)
	}
}

// full returns what is closed when there is room again, or nil when there is.
func (f *flight) full() <-chan struct{} {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes <= f.limit {
		return nil
	}
	f.landed = make(chan struct{})
	return f.landed
}

// takeOff has the batch counted, if it can be more than is allowed.
func (d *delivery) takeOff(s *Service, clients int) {
	if limit := s.opts.limits.flightBytes; limit > 0 && len(d.data)*clients > limit {
		d.writer.flight = &flight{limit: limit}
	}
}

// land lets go of the clients: what waits for one of them refers to the flight.
func (d *delivery) land() {
	if f := d.writer.flight; f != nil {
		f.debtors, d.writer.flight = nil, nil
	}
}

// await waits until less of the batch is in flight than is allowed, without keeping a slot meanwhile.
func (d *delivery) await() {
	landed := d.writer.flight.full()
	if landed == nil {
		return
	}
	s := d.writer.flight.debtors[0].app.s
	held := d.slots.held
	d.slots.give()
	stall := time.NewTimer(s.opts.stall)
	defer stall.Stop()
	select {
	case <-landed:
	case <-stall.C:
		for _, c := range d.writer.flight.debtors {
			c.cutOff("did not take a message in "+s.opts.stall.String(), d.writer.flight)
		}
	case <-s.stop:
	}
	if held {
		d.slots.take()
	}
}
