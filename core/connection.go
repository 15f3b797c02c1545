package core

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// Attach takes over the connection of a ticket: it writes the 101, or the 101 and a close when the client is refused,
// starts the reader and returns at once. leftover is what the host has read behind the request; it is copied. nc belongs
// to the core from now on, deadlines are cleared. Use each ticket once.
func (s *Service) Attach(nc net.Conn, leftover []byte, t *Ticket) {
	_ = nc.SetDeadline(time.Time{})
	if t.refusal != nil {
		s.refuseByClose(nc, t)
		return
	}
	c := newClient(t)
	c.socket = newSocket(nc, &c.own)
	c.parser.MaxMessage = s.opts.messageBytes
	if err := s.enter(t.address); err != nil {
		t.refusal, _ = refusalFor(err)
		s.countRefusal(t.remote, t.address, t.refusal, nil)
		s.refuseByClose(nc, t)
		return
	}
	w := getWriter()
	c.mu.Lock()
	c.writeLocked(w, t.response)
	c.mu.Unlock()
	w.free()
	early := append([]byte(nil), leftover...)
	go func() { // ends with the connection; Shutdown waits for its leave
		c.arrive()
		open, owed := c.consume(early)
		owed.pay()
		if open {
			c.startReading()
		} else {
			c.end()
		}
	}()
}

func newClient(t *Ticket) *Client {
	c := &Client{
		ClientID: t.clientID, ConnID: strings.Clone(rand.Text()[:16]), App: t.app.name, Token: t.token, Data: t.data,
		app: t.app, provider: t.provider, remote: t.remote, expires: t.expires,
		since: time.Now().UnixMilli(),
	}
	if public := t.public; public != nil {
		c.public = &public
	}
	if t.address != household(addressOf(t.remote)) {
		c.extras = &extras{elsewhere: true, address: t.address}
	}
	return c
}

// arrive makes the client known and calls online. When that fails the connection is closed.
func (c *Client) arrive() {
	s := c.app.s
	c.heardTick.Store(s.tick.Load())
	if log := s.opts.log; log.Enabled(context.Background(), slog.LevelDebug) {
		c.log(slog.LevelDebug, "gows: connected", "remote", c.remote)
	}
	ctx, cancel := s.soon()
	defer cancel()
	err := c.register(ctx)
	if err == nil {
		err = s.accepts() // Shutdown closes those it finds in the hub, and this one has just come there
	}
	if err == nil {
		err = c.event(EventOnline)
		c.online = err == nil
	}
	if err != nil && !c.Closed() { // one that has ended meanwhile was not refused
		r, told := refusalFor(err)
		s.stats.refused.Add(1)
		args := []any{"code", r.Code, "reason", r.Reason, "remote", c.remote}
		if !told {
			args = append(args, "err", err)
		}
		c.log(slog.LevelInfo, "gows: refused", args...)
		_ = c.shut(r.Code, r.Reason)
	}
}

// startReading reads in a goroutine of its own, which ends with the connection.
func (c *Client) startReading() { go c.read() }

// renewals is how often in a tick a reader goes on in a fresh goroutine, see read.
const renewals = 8

// read takes what arrives, and waits for more holding no buffer.
func (c *Client) read() {
	for {
		data, err := c.socket.read()
		if err != nil {
			c.lost(err)
			break
		}
		c.talked = false
		open, owed := c.consume(data)
		c.socket.done()
		owed.pay()
		if !open {
			break
		}
		if c.talked && c.renews() {
			c.startReading()
			return
		}
	}
	c.end()
}

// renews reports whether reading goes on in a fresh goroutine. A hook has grown this stack, and Go never shrinks it below
// 4 KB again, however long the next silence is. A fresh one costs about a microsecond, which a client that talks
// without pause need not pay for each message.
func (c *Client) renews() bool {
	if now := c.app.s.tick.Load(); now != c.talkTick {
		c.talkTick, c.renewed = now, 0
	}
	c.renewed++
	return c.renewed <= renewals
}

// lost notes that the peer has gone without a word.
func (c *Client) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.endLocked(&CloseError{Code: closeAbnormal, Reason: err.Error()})
		c.goodbye = true // none is waited for: after an error that does not last the next read would wait for ever
	}
}

var readings = sync.Pool{New: func() any { return &reading{answers: make([]byte, 0, 1<<10)} }}

// consume handles the messages in data, and reports whether reading goes on and which turn is to be run before.
func (c *Client) consume(data []byte) (open bool, turn *owed) {
	if len(data) == 0 {
		return true, nil
	}
	c.heard()
	r := readings.Get().(*reading) //nolint:errcheck // the pool holds nothing else
	c.mu.Lock()
	c.reading = r
	c.mu.Unlock()
	open = c.handle(data, r)
	c.mu.Lock()
	c.flushLocked()
	c.reading = nil
	c.mu.Unlock()
	turn, r.owed = r.owed, nil
	if cap(r.answers) <= 2*largeChunk {
		readings.Put(r)
	}
	return open, turn
}

// heard notes a sign of life.
func (c *Client) heard() {
	c.heardTick.Store(c.app.s.tick.Load())
	c.pingTick.Store(0)
}

const noBinary = "binary messages are not supported: send JSON as text"

func (c *Client) handle(data []byte, r *reading) bool {
	for {
		m, rest, err := c.parser.Next(data)
		if err != nil {
			c.violated(err)
			return false
		}
		data = rest
		switch m.Op {
		case frame.Continuation:
			return true
		case frame.Close:
			c.peerCloses(m.Payload)
			return false
		case frame.Ping:
			c.peerPings(m.Payload)
		case frame.Pong:
			c.pinged()
		case frame.Binary:
			_ = c.shut(closeUnsupported, noBinary)
		case frame.Text:
			r.last = len(data) == 0
			c.receive(m.Payload)
		}
	}
}

// violated closes after a violation of RFC 6455: nothing behind it can be read.
func (c *Client) violated(err error) {
	code, reason := closeWrongFrame, err.Error()
	var broken *frame.Error
	if errors.As(err, &broken) {
		code, reason = int(broken.Code), broken.Reason
	}
	_ = c.shut(code, reason)
}

// peerCloses takes the peer's close frame.
func (c *Client) peerCloses(payload []byte) {
	code, reason, err := frame.ParseClose(payload)
	if err != nil {
		c.violated(err)
		return
	}
	c.farewell(int(code), reason)
}

// farewell answers the peer's close frame, unless it is itself the answer.
func (c *Client) farewell(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goodbye = true
	if c.ended != nil {
		return
	}
	if c.flushLocked(); c.ended != nil { // the answers were too much
		return
	}
	c.endLocked(&CloseError{Code: code, Reason: reason})
	c.sayCloseLocked(code, "")
}

// peerPings takes a ping of the protocol. One too many has no answer that could say so.
func (c *Client) peerPings(payload []byte) {
	if !c.allowed() {
		c.countBad(tooManyMessages)
		return
	}
	c.pong(payload)
	c.pinged()
}

func (c *Client) pong(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended != nil:
	case c.reading != nil:
		c.reading.answers = frame.AppendControl(c.reading.answers, frame.Pong, payload)
	default:
		w := getWriter()
		c.writeLocked(w, frame.AppendControl(nil, frame.Pong, payload))
		w.free()
	}
}

// lingers waits until the close frame has left, at most for the write stall, and until the peer has answered it and hung up
// or a deadline is over: closing a socket that has unread bytes destroys what is on its way to the peer, and a peer may
// still have been writing when it closed.
func (c *Client) lingers() {
	c.mu.Lock()
	var flushed chan struct{}
	if c.backlog != nil && !c.broken {
		flushed = make(chan struct{})
		c.extrasLocked().flushed = flushed
	}
	goodbye := c.goodbye
	c.mu.Unlock()
	if flushed != nil {
		select {
		case <-flushed:
			c.socket.readUntil(time.Now().Add(closeWait)) // it has only now got the close frame
		case <-time.After(c.app.s.opts.stall):
		}
	}
	if goodbye {
		if !c.socket.endWriting() {
			return
		}
		c.socket.readUntil(time.Now().Add(closeWait))
	}
	for {
		if _, err := c.socket.read(); err != nil {
			return
		}
		c.socket.done()
	}
}

// end runs once, when reading is over: the socket first, then what may take time.
func (c *Client) end() {
	c.lingers()
	c.socket.close()
	c.mu.Lock()
	c.finished = true
	if c.backlog != nil {
		c.backlog.abandon()
	}
	c.mu.Unlock()
	c.leave()
	if c.online {
		if err := c.event(EventOffline); err != nil {
			c.log(slog.LevelError, "gows: offline failed", "err", err)
		}
	}
	c.finish()
}

// orphaned goes on for a reader whose hook has ended its goroutine: with what was left of the connection's end.
func (c *Client) orphaned(hook string) {
	if hook == EventOffline {
		c.finish()
		return
	}
	c.mu.Lock()
	c.flushLocked()
	c.reading = nil
	c.mu.Unlock()
	_ = c.shut(CloseInternal, "internal error") // it may have ended meanwhile
	c.end()
}

// finish forgets a client whose last hook has returned.
func (c *Client) finish() {
	s := c.app.s
	s.hub.forget(c)
	c.mu.Lock()
	ended, sent, dropped := c.ended, c.sent, c.dropped
	c.over = true
	if c.extras != nil {
		wake(&c.extras.waiters)
	}
	c.mu.Unlock()
	if log := s.opts.log; log.Enabled(context.Background(), slog.LevelDebug) {
		c.log(slog.LevelDebug, "gows: disconnected", "remote", c.remote,
			"code", ended.Code, "reason", ended.Reason, "duration", time.Since(time.UnixMilli(c.since)),
			"sent", sent, "dropped", dropped)
	}
	s.exit(c.address())
}
