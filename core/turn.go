package core

import (
	"math"
	"sync"
)

// A turn takes what is pending in a channel and writes the same bytes to every subscriber; a new one begins only when none
// is running. So frames are gathered exactly when the server is behind.

// Waking another goroutine for a turn costs some 50 us, on a processor that others need.
const (
	fewClients  = 4    // up to so many, the publisher writes the first batch, whoever that is
	someClients = 1024 // up to so many, a reader writes it that has nothing else to do, unless it would wait for a slot
)

// A turn over more than smallClients takes one of the node's slots for every slotClients of them: one processor always
// stays free for reading, hooks and small channels, and large channels take turns. It takes the slot before the batch, so
// that a batch grows while others have theirs.
const (
	smallClients = 64
	slotClients  = 256
)

// beginLocked reports whether the caller has to begin a turn: none is running.
func (ch *channel) beginLocked() bool {
	if ch.turning {
		return false
	}
	ch.turning = true
	ch.hub.turns.Add(1)
	return true
}

// begin sees to the turn that beginLocked has asked for: o is who may run it, or nil.
func (ch *channel) begin(o *owed) {
	switch size := ch.size(); {
	case ch.hub.s.opts.limits.flightBytes > 0: // it may wait for subscribers
		ch.runApart()
	case size <= fewClients:
		ch.runHere()
	case size <= someClients && o.owe(ch):
	default:
		ch.runApart()
	}
}

// size is how many clients a turn writes to; those of a broadcast nobody counts.
func (ch *channel) size() int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.topic.Channel == "" {
		return math.MaxInt
	}
	return ch.live
}

// runHere writes the first batch, if no slot is to be waited for; the rest is not left to the caller.
func (ch *channel) runHere() {
	s := slots{free: ch.hub.slots}
	if ch.size() > smallClients && !s.tryTake() || !ch.turn(1, s) {
		ch.runApart()
		return
	}
	ch.hub.turns.Done()
}

func (ch *channel) runApart() {
	go func() { // ends when nothing is pending
		defer ch.hub.turns.Done()
		ch.turn(-1, slots{free: ch.hub.slots})
	}()
}

// owed is a turn that a reader of a node runs once it has handled what it read.
type owed struct {
	hub *hub

	mu   sync.Mutex // guards the rest: a driver may deliver a publication whenever it likes
	ch   *channel
	paid bool
}

// owe leaves the turn of ch to the reader, and reports whether that takes it.
func (o *owed) owe(ch *channel) bool {
	if o == nil || o.hub != ch.hub {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paid || o.ch != nil {
		return false
	}
	o.ch = ch
	return true
}

// pay runs the turn, if there is one.
func (o *owed) pay() {
	if o == nil {
		return
	}
	o.mu.Lock()
	ch := o.ch
	o.ch, o.paid = nil, true
	o.mu.Unlock()
	if ch != nil {
		ch.runHere()
	}
}

// turn writes what is pending, batch by batch, and reports whether nothing was left: then the turn is over. It stops after
// limit batches unless that is negative. slots may hold the one for the first batch.
func (ch *channel) turn(limit int, slots slots) (over bool) {
	w := getWriter()
	defer w.free()
	for ; limit != 0; limit-- {
		if !slots.held && ch.size() > smallClients {
			slots.take()
		}
		b, subs := ch.take()
		if b == nil {
			slots.give()
			return true
		}
		if ch.rules.Slow == Latest {
			ch.keepLast(b)
		}
		d := delivery{batch: b, writer: w, slots: slots}
		if ch.topic.Channel == "" {
			everybody := ch.hub.everybody(ch.topic.App)
			d.takeOff(ch.hub.s, len(everybody))
			inSlots(&d.slots, everybody, d.toClients)
		} else {
			d.takeOff(ch.hub.s, len(subs))
			inSlots(&d.slots, subs, d.toSubscribers)
		}
		d.land()
		slots = d.slots
		ch.hub.s.stats.delivered.Add(d.sent)
		ch.hub.s.stats.dropped.Add(d.dropped)
		b.free()
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.wroteLocked()
	return ch.overLocked()
}

// slots is the one slot of the node that a turn holds, or not.
type slots struct {
	free chan struct{}
	held bool
}

func (s *slots) take() {
	s.free <- struct{}{}
	s.held = true
}

func (s *slots) tryTake() bool {
	select {
	case s.free <- struct{}{}:
		s.held = true
	default:
	}
	return s.held
}

func (s *slots) give() {
	if s.held {
		<-s.free
		s.held = false
	}
}

// inSlots writes to all, a slot's clients at a time.
func inSlots[T any](s *slots, all []T, write func([]T)) {
	for len(all) > slotClients {
		if !s.held {
			s.take()
		}
		write(all[:slotClients])
		all = all[slotClients:]
		s.give()
	}
	if len(all) > smallClients && !s.held {
		s.take()
	}
	write(all)
	s.give()
}

func (ch *channel) keepLast(b *batch) {
	from := 0
	if n := len(b.ends); n > 1 {
		from = b.ends[n-2]
	}
	last := &lastFrame{data: append([]byte(nil), b.data[from:]...), number: 1}
	if before := ch.last.Load(); before != nil {
		last.number = max(1, before.number+1)
	}
	b.number = last.number
	for conn, skip := range b.except {
		if len(skip) == len(b.ends) {
			last.except = append(last.except, conn)
		}
	}
	ch.last.Store(last)
}

// delivery is one batch on its way to the subscribers.
type delivery struct {
	*batch

	writer        *writer
	slots         slots
	sent, dropped int64
	fetched       int
	some          batch // what is left for a client that some frames leave out
}

// ahead is how many clients are fetched at a time. A system call leaves nothing of the next client in the processor's
// caches, and its three or four lines, each found by way of the one before, would be waited for one by one. Of several
// clients they are fetched at the same time: 0.9 us a delivery beside the system call become 0.65.
const ahead = 16

// fetch reads what is on the lines that deliver is going to need.
func (d *delivery) fetch(c *Client) {
	if c.socket != nil && c.own.ready() {
		d.fetched++
	}
}

func (d *delivery) toSubscribers(subs []*subscription) {
	for len(subs) > 0 {
		some := subs[:min(len(subs), ahead)]
		subs = subs[len(some):]
		for _, s := range some {
			d.fetch(s.client)
		}
		for _, s := range some {
			d.to(s.client, s)
		}
		d.await()
	}
}

func (d *delivery) toClients(clients []*Client) {
	for len(clients) > 0 {
		some := clients[:min(len(clients), ahead)]
		clients = clients[len(some):]
		for _, c := range some {
			d.fetch(c)
		}
		for _, c := range some {
			d.to(c, nil)
		}
		d.await()
	}
}

func (d *delivery) to(c *Client, s *subscription) {
	sent, dropped := c.deliver(d.writer, s, d.framesFor(c))
	d.sent += int64(sent)
	d.dropped += int64(dropped)
	if f := d.writer.flight; f != nil && d.writer.left {
		f.debtors = append(f.debtors, c)
		d.writer.left = false
	}
}

// framesFor returns the frames that c gets: nearly always all of them, the shared slice.
func (d *delivery) framesFor(c *Client) *batch {
	if len(d.except) == 0 {
		return d.batch
	}
	skip, ok := d.except[c.ConnID]
	if !ok {
		return d.batch
	}
	d.some.data, d.some.ends, d.some.number = d.some.data[:0], d.some.ends[:0], d.number
	from := 0
	for i, end := range d.ends {
		if i >= len(skip) || !skip[i] {
			d.some.data = append(d.some.data, d.data[from:end]...)
			d.some.ends = append(d.some.ends, len(d.some.data))
		}
		from = end
	}
	return &d.some
}
