package core

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

const (
	pendingBytes = 256 << 10 // published to a channel and not yet taken by a turn
	batchFrames  = 64
)

// channel is who is subscribed and what is published to them. Publishing appends a frame to pending; see turn.go for how it
// leaves.
type channel struct {
	topic Topic
	rules *Rules
	hub   *hub

	last atomic.Pointer[lastFrame] // of a Latest channel

	mu        sync.Mutex      // guards the rest
	subs      []*subscription // append-only: a turn reads a prefix of it without the lock
	live      int             // subs that have not left
	turning   bool
	closed    bool
	gap       bool          // tell subscribers that publications were lost
	pending   *batch        // first of a list
	tail      *batch        // its last
	waiting   int           // bytes in pending
	room      chan struct{} // closed when a turn has taken something; nil when no publisher waits
	writing   bool          // a turn has taken a batch and not come back
	flushed   chan struct{} // closed when unwritten more batches have been written; nil when nobody waits for that
	unwritten int

	interest interest
}

// subscription is a client's place in a channel.
type subscription struct {
	client *Client
	ch     *channel
	since  int64  // Unix milliseconds
	left   bool   // guarded by ch.mu
	gone   bool   // guarded by client.mu, under which the turn writes: set, nothing more is accepted
	stale  bool   // guarded by client.mu: skipped on a Latest channel, to be caught up with its last frame
	caught uint32 // guarded by client.mu: the number of the batch that it has caught up with
}

// batch is what one turn writes: whole frames in one slice.
type batch struct {
	data   []byte
	ends   []int             // of each frame in data
	except map[string][]bool // by ConnID, which frames that client does not get
	number uint32            // on a Latest channel
	next   *batch
}

type lastFrame struct {
	data   []byte
	except []string
	number uint32 // of its batch, from 1
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// free gives b back, unless one large message made it worth more as garbage.
func (b *batch) free() {
	if cap(b.data) > 2*pendingBytes {
		return
	}
	b.data, b.ends, b.next = b.data[:0], b.ends[:0], nil
	clear(b.except)
	batches.Put(b)
}

func (b *batch) add(payload []byte, except []string) {
	b.data = frame.AppendText(b.data, payload)
	b.ends = append(b.ends, len(b.data))
	for _, conn := range except {
		if b.except == nil {
			b.except = map[string][]bool{}
		}
		skip := b.except[conn]
		for len(skip) < len(b.ends) {
			skip = append(skip, false)
		}
		skip[len(b.ends)-1] = true
		b.except[conn] = skip
	}
}

// publish takes a publication and sees to it that a turn runs. While the channel is full it waits for room until ctx ends.
func (ch *channel) publish(ctx context.Context, p Publication) error {
	begin, err := ch.admit(ctx, p)
	if begin {
		ch.begin(p.owed)
	}
	return err
}

// admit appends a publication. begin is true when the caller has to begin a turn.
func (ch *channel) admit(ctx context.Context, p Publication) (begin bool, err error) {
	size := frame.HeaderLen(len(p.Payload)) + len(p.Payload)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for ch.waiting > 0 && ch.waiting+size > pendingBytes && !ch.closed {
		if ch.room == nil {
			ch.room = make(chan struct{})
		}
		room := ch.room
		ch.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			err = ErrUnavailable
		}
		ch.mu.Lock()
		if err != nil {
			return false, err
		}
	}
	if ch.closed {
		return false, ErrClosed
	}
	if ch.live == 0 && ch.topic.Channel != "" {
		return false, nil
	}
	ch.appendLocked(p.Payload, p.Except)
	return ch.beginLocked(), nil
}

// appendLocked makes a frame pending.
func (ch *channel) appendLocked(payload []byte, except []string) {
	if ch.gap {
		ch.gap = false
		ch.appendLocked(gapText(ch.topic.Channel), nil)
	}
	size := frame.HeaderLen(len(payload)) + len(payload)
	if b := ch.tail; b == nil || len(b.ends) == batchFrames || len(b.data)+size > pendingBytes {
		b = batches.Get().(*batch) //nolint:errcheck // the pool holds nothing else
		if ch.tail == nil {
			ch.pending = b
		} else {
			ch.tail.next = b
		}
		ch.tail = b
	}
	ch.tail.add(payload, except)
	ch.waiting += size
}

// miss notes that subscribers have missed publications. They are told behind what is pending.
func (ch *channel) miss() {
	ch.mu.Lock()
	var begin bool
	if !ch.closed && (ch.live > 0 || ch.topic.Channel == "") {
		ch.gap = true
		begin = ch.beginLocked()
	}
	ch.mu.Unlock()
	if begin {
		ch.begin(nil)
	}
}

// wroteLocked notes that the batch taken last has been written.
func (ch *channel) wroteLocked() {
	if !ch.writing {
		return
	}
	ch.writing = false
	if ch.unwritten--; ch.unwritten == 0 && ch.flushed != nil {
		close(ch.flushed)
		ch.flushed = nil
	}
}

// flushing returns what is closed when everything published so far has been written, or nil if it has.
func (ch *channel) flushing() <-chan struct{} {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.unwritten = 0
	if ch.writing {
		ch.unwritten++
	}
	for b := ch.pending; b != nil; b = b.next {
		ch.unwritten++
	}
	if ch.unwritten > 0 && ch.flushed == nil {
		ch.flushed = make(chan struct{})
	}
	return ch.flushed
}

// overLocked ends the turn if nothing is pending.
func (ch *channel) overLocked() bool {
	if ch.pending == nil && ch.gap {
		ch.gap = false
		ch.appendLocked(gapText(ch.topic.Channel), nil)
	}
	ch.turning = ch.pending != nil
	return !ch.turning
}

// take returns the next batch and who was subscribed when it was taken, or nil when the turn is over.
func (ch *channel) take() (*batch, []*subscription) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.wroteLocked()
	if ch.overLocked() {
		return nil, nil
	}
	ch.writing = true
	b := ch.pending
	ch.pending = b.next
	if ch.pending == nil {
		ch.tail = nil
	}
	ch.waiting -= len(b.data)
	if ch.room != nil {
		close(ch.room)
		ch.room = nil
	}
	return b, ch.subs
}

// add subscribes c. It fails when c has ended, and is called once at a time per client.
func (ch *channel) add(c *Client) error {
	s := &subscription{client: c, ch: ch, since: time.Now().UnixMilli()}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return ErrClosed
	}
	c.subs = append(c.subs, s)
	ch.subs = append(ch.subs, s)
	ch.live++
	return nil
}

// remove takes s, which is gone for its client, out of the channel. When half of the entries have left, the others are
// copied: amortised, a client that leaves costs O(1), and a turn that reads the old slice is not disturbed.
func (ch *channel) remove(s *subscription) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	s.left = true
	ch.live--
	if ch.live > len(ch.subs)/2 {
		return
	}
	var subs []*subscription
	if ch.live > 0 {
		subs = make([]*subscription, 0, ch.live+ch.live/4)
		for _, s := range ch.subs {
			if !s.left {
				subs = append(subs, s)
			}
		}
	}
	ch.subs = subs
}

// members returns the subscriptions that have not left.
func (ch *channel) members() []*subscription {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	var members []*subscription
	for _, s := range ch.subs {
		if !s.left {
			members = append(members, s)
		}
	}
	return members
}

// gapText has no channel when it is broadcasts that were missed.
func gapText(channel string) []byte {
	if channel == "" {
		return []byte(`{"type":"gap"}`)
	}
	return append(appendString([]byte(`{"type":"gap","channel":`), channel), '}')
}
