package core

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// The outbox of a client: everything written to it passes here, under Client.mu. One attempt is made to give the bytes to
// the kernel without waiting; what it does not take goes to the backlog, which a drainer goroutine writes. While there is
// a backlog everybody appends to it and only the drainer touches the socket.

// backlog is what waits for a peer that reads more slowly than it is written to.
type backlog struct {
	chunks  []chunk
	bytes   int
	writing bool  // the drainer has the first chunk
	debt    *debt // of the node
}

// chunk is a part of the byte stream. A frame that its channel may drop is a chunk of its own.
type chunk struct {
	data   []byte
	ch     *channel   // may drop it; nil: nobody may
	pool   *sync.Pool // data goes back here; nil: garbage
	flight *flight    // whose bytes they are, if those are counted
}

// Chunks come in two sizes, so that a peer which is behind by a few frames does not cost 32 KiB. The drainer writes a
// chunk at a time: slow progress is progress.
const (
	smallChunk = 2 << 10
	largeChunk = 32 << 10
)

var smallChunks, largeChunks = chunkPool(smallChunk), chunkPool(largeChunk)

func chunkPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, size)
		return &b
	}}
}

// grow counts n bytes more, or fewer.
func (b *backlog) grow(n int, f *flight) {
	b.bytes += n
	b.debt.add(n)
	f.add(n)
}

// add copies p to the end.
func (b *backlog) add(p []byte, f *flight) {
	b.grow(len(p), f)
	for len(p) > 0 {
		if !b.hasRoom(f) {
			pool := smallChunks
			if len(p) > smallChunk {
				pool = largeChunks
			}
			data := pool.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
			b.chunks = append(b.chunks, chunk{data: (*data)[:0], pool: pool, flight: f})
		}
		tail := &b.chunks[len(b.chunks)-1].data
		n := min(cap(*tail)-len(*tail), len(p))
		*tail = append(*tail, p[:n]...)
		p = p[n:]
	}
}

// hasRoom reports whether the last chunk can take more bytes of f.
func (b *backlog) hasRoom(f *flight) bool {
	last := len(b.chunks) - 1
	return last >= 0 && b.chunks[last].pool != nil && len(b.chunks[last].data) < cap(b.chunks[last].data) &&
		b.chunks[last].flight == f && (last > 0 || !b.writing)
}

// addFrame copies a whole frame of ch to the end, to be dropped if need be.
func (b *backlog) addFrame(ch *channel, data []byte, f *flight) {
	b.grow(len(data), f)
	b.chunks = append(b.chunks, chunk{data: append([]byte(nil), data...), ch: ch, flight: f})
}

// holds reports whether something of f waits.
func (b *backlog) holds(f *flight) bool {
	return slices.ContainsFunc(b.chunks, func(k chunk) bool { return k.flight == f })
}

// shift frees the first chunk.
func (b *backlog) shift() {
	first := b.chunks[0]
	b.chunks[0] = chunk{}
	b.chunks = b.chunks[1:]
	b.writing = false
	b.free(first)
}

func (b *backlog) free(k chunk) {
	b.grow(-len(k.data), k.flight)
	if k.pool != nil {
		data := k.data[:0]
		k.pool.Put(&data)
	}
}

// abandon frees what nobody is going to write, but for the chunk that the drainer has.
func (b *backlog) abandon() {
	for i := len(b.chunks) - 1; i >= 0 && (i > 0 || !b.writing); i-- {
		b.free(b.chunks[i])
		b.chunks[i] = chunk{}
		b.chunks = b.chunks[:i]
	}
}

// dropOldest drops the oldest frame of ch, or with nil of any channel that may drop, that is not being written, and
// reports whether there was one.
func (b *backlog) dropOldest(ch *channel) bool {
	for i := range b.chunks {
		if of := b.chunks[i].ch; of != nil && (of == ch || ch == nil) && (i > 0 || !b.writing) {
			b.grow(-len(b.chunks[i].data), b.chunks[i].flight)
			copy(b.chunks[1:i+1], b.chunks[:i]) // few are before it, thousands may be behind it
			b.chunks[0] = chunk{}
			b.chunks = b.chunks[1:]
			return true
		}
	}
	return false
}

// deliver gives a channel's frames to the client, and returns how many were accepted and how many the channel's rule for
// slow clients has dropped. s is nil for a broadcast.
func (c *Client) deliver(w *writer, s *subscription, b *batch) (sent, dropped int) {
	if len(b.data) == 0 {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil || s != nil && s.gone {
		return 0, 0
	}
	sent = len(b.ends)
	switch {
	case s == nil || s.ch.rules.Slow == CloseSlow:
		c.writeLocked(w, b.data)
	case s.ch.rules.Slow == Latest && s.caught == b.number: // it has caught up with this very batch
		dropped, sent = sent, 0
	case s.ch.rules.Slow == Latest && c.backlog != nil:
		s.stale = true
		dropped, sent = sent, 0
	case s.ch.rules.Slow == Latest:
		c.writeLocked(w, b.data)
	default:
		dropped = c.writeOrDropLocked(w, s.ch, b)
		sent -= dropped
	}
	if c.ended != nil {
		sent, dropped = 0, len(b.ends)
	}
	c.sent += int64(sent)
	c.dropped += uint32(dropped)
	return sent, dropped
}

// sendText writes one message.
func (c *Client) sendText(text []byte) error {
	w := getWriter()
	defer w.free()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return ErrClosed
	}
	c.sent++
	c.writeLocked(w, frame.AppendText(make([]byte, 0, len(text)+frame.HeaderLen(len(text))), text))
	return nil
}

// answer writes one message, together with others when the reader is about to answer more.
func (c *Client) answer(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return
	}
	c.sent++
	r := c.reading
	if r == nil {
		w := getWriter()
		c.writeLocked(w, frame.AppendText(nil, text))
		w.free()
		return
	}
	if len(r.answers) == 0 {
		c.answered = c.app.s.millis()
	}
	r.answers = frame.AppendText(r.answers, text)
	if len(r.answers) > largeChunk {
		c.flushLocked()
	}
}

// writeLocked hands p to the peer, behind everything accepted before: to the kernel, or else to the backlog. A client for
// whom too much waits already is closed; one batch by itself never closes a client that keeps up.
func (c *Client) writeLocked(w *writer, p []byte) {
	open := c.ended == nil
	c.flushLocked()
	if open && c.ended != nil { // the answers were too much
		return
	}
	if p = c.tryLocked(w, p); len(p) == 0 {
		return
	}
	if open && c.fullLocked() {
		c.slow = true
		_ = c.shutLocked(CloseTooSlow, "too slow")
		return
	}
	c.backlogLocked().add(p, w.leaves())
}

// fullLocked reports whether too much waits for the client, of what may not be dropped.
func (c *Client) fullLocked() bool {
	if c.backlog == nil {
		return false
	}
	limit := c.app.s.opts.outboxBytes
	for c.backlog.bytes >= limit && c.backlog.dropOldest(nil) {
		c.sent--
		c.dropped++
		c.app.s.stats.delivered.Add(-1)
		c.app.s.stats.dropped.Add(1)
	}
	return c.backlog.bytes >= limit
}

// writeOrDropLocked is writeLocked for a DropOldest channel. It returns how many frames were dropped.
func (c *Client) writeOrDropLocked(w *writer, ch *channel, b *batch) (dropped int) {
	if c.flushLocked(); c.ended != nil { // the answers were too much
		return 0
	}
	rest := c.tryLocked(w, b.data)
	taken := len(b.data) - len(rest)
	from := 0
	for _, end := range b.ends {
		switch {
		case end <= taken:
		case from < taken: // the frame that is partly written
			c.backlogLocked().add(b.data[taken:end], w.leaves())
		default:
			backlog := c.backlogLocked()
			for backlog.bytes >= c.app.s.opts.outboxBytes && backlog.dropOldest(ch) {
				dropped++
			}
			if backlog.bytes >= c.app.s.opts.outboxBytes {
				dropped++
			} else {
				backlog.addFrame(ch, b.data[from:end], w.leaves())
			}
		}
		from = end
	}
	return dropped
}

// tryLocked returns what the kernel did not take of p.
func (c *Client) tryLocked(w *writer, p []byte) []byte {
	if c.backlog != nil || len(p) == 0 {
		return p
	}
	n, err := c.socket.try(w, p)
	if err != nil {
		c.loseLocked(err)
		return nil
	}
	return p[n:]
}

// flushLocked writes the answers gathered so far.
func (c *Client) flushLocked() {
	r := c.reading
	if r == nil || len(r.answers) == 0 {
		return
	}
	p := r.answers
	r.answers = p[:0]
	w := getWriter()
	c.writeLocked(w, p)
	w.free()
}

// backlogLocked returns the backlog; making it starts the drainer.
func (c *Client) backlogLocked() *backlog {
	if c.backlog == nil {
		c.backlog = &backlog{debt: &c.app.s.debt}
		if !c.finished {
			c.app.s.drainers.Add(1)
			go c.drain() // ends when the backlog is empty or a write fails, as it does when the socket is closed
		}
	}
	return c.backlog
}

// drain writes the backlog, each 32 KiB within the write stall.
func (c *Client) drain() {
	defer c.app.s.drainers.Done()
	for p := c.nextChunk(false); p != nil; p = c.nextChunk(true) {
		for len(p) > 0 { // slow progress is progress: a frame that may be dropped is a chunk of whatever size
			n := min(len(p), largeChunk)
			if err := c.socket.write(p[:n], c.app.s.opts.stall); err != nil {
				c.mu.Lock()
				c.backlog.writing = false
				c.loseLocked(err)
				c.mu.Unlock()
				return
			}
			p = p[n:]
		}
	}
}

// nextChunk returns what the drainer writes next, or nil when nothing waits any more.
func (c *Client) nextChunk(written bool) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if written {
		c.backlog.shift()
	}
	if len(c.backlog.chunks) == 0 {
		c.catchUpLocked()
	}
	if len(c.backlog.chunks) == 0 {
		c.socket.settle()
		c.backlog = nil
		c.wakeLocked()
		return nil
	}
	c.backlog.writing = true
	return c.backlog.chunks[0].data
}

// catchUpLocked sends the last frame of the Latest channels that skipped this client while it had a backlog.
func (c *Client) catchUpLocked() {
	if c.ended != nil {
		return
	}
	for _, s := range c.subs {
		if !s.stale {
			continue
		}
		s.stale = false
		if last := s.ch.last.Load(); last != nil && !slices.Contains(last.except, c.ConnID) {
			c.backlog.add(last.data, nil)
			s.caught = last.number
			c.sent++
			c.dropped--
		}
	}
}

// closeWait is how long a peer has to answer a close frame, once it has got it.
const closeWait = time.Second

// shut closes the connection from this side. It never waits and runs no hook: the close frame is put behind everything
// accepted before, and the reader does the rest when the peer has answered or closeWait is over.
func (c *Client) shut(code int, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shutLocked(code, reason)
}

func (c *Client) shutLocked(code int, reason string) error {
	if c.ended != nil {
		return ErrClosed
	}
	c.endLocked(&CloseError{Code: code, Reason: reason})
	c.sayCloseLocked(code, reason)
	c.socket.readUntil(time.Now().Add(closeWait))
	c.app.s.leavers.Go(c.leave) // ends with its driver call, which is bounded
	return nil
}

// endLocked marks the client: from now on nothing but the close frame is written to it.
func (c *Client) endLocked(why *CloseError) {
	c.ended = why
	if c.extras == nil {
		return
	}
	if c.extras.cancel != nil {
		c.extras.cancel(why)
	}
	wake(&c.extras.opened)
}

func (c *Client) sayCloseLocked(code int, reason string) {
	var buf [127]byte
	w := getWriter()
	c.writeLocked(w, frame.AppendClose(buf[:0], code, reason))
	w.free()
}

// loseLocked ends a connection that cannot be written to.
func (c *Client) loseLocked(err error) {
	switch {
	case c.ended != nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.tooSlowLocked("took nothing for " + c.app.s.opts.stall.String())
	default:
		c.endLocked(&CloseError{Code: closeAbnormal, Reason: err.Error()})
	}
	c.breakLocked()
}

// breakLocked gives up the socket of an ended client, and what waits for it.
func (c *Client) breakLocked() {
	c.broken = true
	if c.backlog != nil {
		c.backlog.abandon()
	}
	c.wakeLocked()
	c.socket.abort()
}

// wakeLocked tells a reader that waits for the backlog to leave.
func (c *Client) wakeLocked() {
	if c.extras != nil {
		wake(&c.extras.flushed)
	}
}

// tooSlowLocked ends a client that cannot be told so.
func (c *Client) tooSlowLocked(reason string) {
	c.slow = true
	c.endLocked(&CloseError{Code: CloseTooSlow, Reason: reason})
}
