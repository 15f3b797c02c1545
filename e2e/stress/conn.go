package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core"
)

// patience is for what must happen, on a machine that is busy with this load.
const patience = 40 * time.Second

// conn is one attempt of an actor to connect: what its client and the hooks of the server know of it.
type conn struct {
	actor   *actor
	node    *node
	born    *life // of the node, when it was dialed
	token   string
	id      string // client id
	number  int    // of the attempts of its client id
	dialed  time.Time
	expires time.Time

	wire   *wire
	writes sync.Mutex // guards wire, for who is not its actor, and writing
	over   chan struct{}
	busy   atomic.Bool  // a hook runs
	left   atomic.Int64 // when it ended, 0: not yet

	mu      sync.Mutex // guards the rest
	ready   bool       // it has been answered
	subs    map[string]*reception
	asked   map[string]*question
	lastID  int
	gapped  bool // it was told of a gap in this epoch: its node had lost the driver
	badSent int  // bad messages without an id
	bad     int  // errors without an id
	got     map[int]bool
	owed    map[int]bool // what Send has accepted for it
	told    map[string]int
	doomed  string // why it must end
	verdict verdict
	stalled *time.Timer
	ended   bool // the client's end
	seen    int  // close code

	// Of the hooks.
	life            *life
	connID          string
	online, offline int
	cause           int
	judged          bool
}

// question is a message that must be answered.
type question struct {
	kind, channel string
	then          func() // with conn.mu, when the answer is read and it is what was wanted
	want          int    // the code of the answer, 0 for receive and pong
	done          chan struct{}
	code          int
}

// heard is what a server sends.
type heard struct {
	ID, Type, Channel, Client, Message string
	Code                               int
	Data                               json.RawMessage
}

// said is what a client sends.
type said struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type,omitempty"`
	Channel string `json:"channel,omitempty"`
	Message string `json:"message,omitempty"`
	Data    any    `json:"data,omitempty"`
}

func (c *conn) fail(format string, args ...any) {
	c.actor.stage.failures.add(fmt.Sprintf("actor %d, connection %s to %s", c.actor.number, c.token, c.node.name),
		fmt.Errorf(format, args...), &c.actor.trace)
}

func (c *conn) failIn(ch *channel, err error) {
	c.actor.stage.failures.add(fmt.Sprintf("actor %d, connection %s to %s", c.actor.number, c.token, c.node.name),
		err, &c.actor.trace, &ch.trace)
}

// write sends frames. What goes wrong with it the reader sees, too.
func (c *conn) write(frames []byte) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	_ = c.wire.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.wire.Write(frames)
	return err
}

// ask sends a message with an id and waits for its answer, or for the end. It reports whether the answer was the one that
// is wanted.
func (c *conn) ask(m said, want int, then func()) bool {
	q, frame := c.question(nil, m, want, then)
	_ = c.write(frame)
	return c.await(q)
}

// question appends the frame of a message with an id, whose answer is then expected.
func (c *conn) question(dst []byte, m said, want int, then func()) (*question, []byte) {
	q := &question{kind: m.Type, channel: m.Channel, then: then, want: want, done: make(chan struct{})}
	c.mu.Lock()
	c.lastID++
	m.ID = strconv.Itoa(c.lastID)
	if c.asked != nil {
		c.asked[m.ID] = q
	}
	c.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		c.fail("%w", err)
	}
	c.actor.trace.note("asks "+m.Type, m.Channel+" "+m.Message[:min(len(m.Message), 60)], c.lastID)
	return q, appendFrame(dst, 0x80|opText, text)
}

// await waits for an answer, or for the end. It reports whether it was the one that is wanted.
func (c *conn) await(q *question) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.done:
		if q.code == 503 && q.kind != "message" { // nobody knows what it is subscribed to
			c.tear()
			c.awaitEnd()
		}
		return q.code == q.want
	case <-c.over:
	case <-timer.C:
		c.fail("%s %s: no answer in %v", q.kind, q.channel, patience)
		c.tear()
	}
	return false
}

// isAllowed notes that the server may end the connection with a code.
func (c *conn) isAllowed(code int, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdict.allow(code, why)
}

// tear ends the connection without a word.
func (c *conn) tear() {
	c.mu.Lock()
	c.verdict.allow(lostCode, "torn by the client")
	c.verdict.mute = true
	c.mu.Unlock()
	c.actor.trace.note("tears", c.token, 0)
	if tcp, ok := c.wire.Conn.(*net.TCPConn); ok && len(c.token)%2 == 0 {
		_ = tcp.SetLinger(0) // a reset
	}
	_ = c.wire.Close()
}

// open reports whether the client's end is.
func (c *conn) open() bool {
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// stall stops reading for a while, or until the next quiet point.
func (c *conn) stall(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdict.allow(core.CloseTooSlow, "it stalled")
	c.verdict.allow(core.CloseNoPong, "it stalled")
	c.verdict.mute = true
	if c.stalled == nil {
		c.stalled = time.NewTimer(d)
		c.actor.stage.count.stalls.Add(1)
	}
}

// pause is where the reader stalls.
func (c *conn) pause() {
	resting := c.actor.stage.resting()
	c.mu.Lock()
	timer := c.stalled
	c.mu.Unlock()
	if timer == nil {
		return
	}
	select {
	case <-timer.C:
	case <-resting:
	}
	c.resume()
	c.actor.trace.note("reads again", c.token, 0)
}

// resume ends a stall.
func (c *conn) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stalled != nil {
		c.stalled.Stop()
		c.stalled = nil
	}
}

// read hears everything until the end.
func (c *conn) read() {
	defer c.finish()
	var (
		opcode byte
		buf    []byte
		err    error
	)
	for {
		c.pause()
		opcode, buf, err = c.wire.next(buf)
		if err != nil {
			c.mu.Lock()
			c.seen = lostCode
			torn := c.verdict.mute
			c.mu.Unlock()
			c.actor.trace.note("lost", err.Error(), 0)
			if !torn && errors.Is(err, errors.ErrUnsupported) {
				c.fail("%w", err)
			}
			return
		}
		switch opcode {
		case opText:
			c.hears(buf)
		case opPing:
			_ = c.write(appendFrame(nil, 0x80|opPong, buf))
		case opPong:
		case opClose:
			c.hearsClose(buf)
			return
		default:
			c.fail("a frame with opcode %d: %.100q", opcode, buf)
		}
	}
}

func (c *conn) hearsClose(payload []byte) {
	code, reason := 1005, ""
	if len(payload) >= 2 {
		code, reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
	}
	c.actor.trace.note("hears close", reason, code)
	_ = c.write(appendFrame(nil, 0x80|opClose, payload[:min(2, len(payload))]))
	c.mu.Lock()
	c.seen = code
	c.mu.Unlock()
	switch code {
	case core.CloseKicked:
		if why := c.actor.stage.kickOf(reason); why != c.id {
			c.fail("kicked with %q, which was for %q", reason, why)
			return
		}
		c.isAllowed(code, "kicked")
	case core.CloseReplaced:
		if why := c.actor.identity.replaces(c); why != nil {
			c.fail("%w", why)
			return
		}
		c.isAllowed(code, "replaced")
	}
}

// finish is the end of the client's side.
func (c *conn) finish() {
	_ = c.wire.Close()
	c.mu.Lock()
	c.ended = true
	c.left.Store(time.Now().UnixNano())
	c.subs, c.asked = nil, nil
	c.judgeLocked()
	c.mu.Unlock()
	close(c.over)
}

// judgeLocked compares what both ends say, once both have said it.
func (c *conn) judgeLocked() {
	if c.judged || !c.ended || c.online > c.offline {
		return
	}
	cause := c.cause
	if c.online == 0 { // it never was; only a quiet point can tell
		return
	}
	c.judged = true
	c.actor.stage.count.closed(cause)
	c.allowEndOfNodeLocked()
	c.allowFatesLocked(cause)
	if err := c.verdict.judge(c.seen, cause); err != nil {
		c.fail("%w", err)
	}
}

// allowFatesLocked allows what only the server can say, where the client did not see the close.
func (c *conn) allowFatesLocked(cause int) {
	if c.seen != lostCode || !c.verdict.mute {
		return
	}
	switch {
	case cause == core.CloseReplaced && c.actor.identity.replaces(c) == nil:
		c.verdict.allow(cause, "replaced")
	case cause == core.CloseKicked && c.actor.stage.wasKicked(c.id):
		c.verdict.allow(cause, "kicked")
	}
}

func (c *conn) allowEndOfNodeLocked() {
	if c.actor.stage.pulse.starved() {
		for _, code := range []int{core.CloseTooSlow, core.CloseNoPong, core.CloseInternal} {
			c.verdict.allow(code, "the machine is busy")
		}
		c.verdict.mute = true
	}
	if c.born.closing.Load() || c.life != nil && c.life.closing.Load() {
		c.verdict.allow(core.CloseRestart, "the node ends")
	}
	if !c.expires.IsZero() && time.Now().Unix() >= c.expires.Unix() {
		c.verdict.allow(core.CloseExpired, "it expired")
	}
}

// hears takes a message.
func (c *conn) hears(text []byte) {
	var m heard
	if err := json.Unmarshal(text, &m); err != nil || !utf8.Valid(text) {
		c.fail("not JSON: %.200q: %w", text, err)
		return
	}
	c.actor.stage.count.heard.Add(1)
	switch m.Type {
	case "load", "message":
		c.receives(&m)
	case "sent":
		c.isSent(&m)
	case "receive", "error", "pong":
		c.isAnswered(&m)
	case "join", "leave":
		c.isTold(&m)
	case "unsubscribed":
		c.isTakenOut(&m)
	case "gap":
		c.hasGap(&m)
	default:
		c.fail("a message of type %q: %.200q", m.Type, text)
	}
}

func (c *conn) receives(m *heard) {
	s, err := parseStamp(m.Message)
	if err != nil {
		c.fail("%w", err)
		return
	}
	stage := c.actor.stage
	if s.place != c.actor.place.name || s.channel != m.Channel {
		c.fail("a message of %s %q came to %s in %q", s.place, s.channel, c.actor.place.name, m.Channel)
		return
	}
	ch := c.actor.place.channels[m.Channel]
	now := int(stage.epoch.Load())
	if s.epoch == now-1 && ch != nil && !ch.kind.strict { // quiet points do not wait for what may be dropped
		return
	}
	if s.epoch != now {
		c.fail("a message of epoch %d came in epoch %d: %+v", s.epoch, now, s)
		return
	}
	stage.count.delivered.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.subs[m.Channel]
	if r == nil {
		c.failIn(ch, fmt.Errorf("%d of %s came, but it is not subscribed to %q", s.n, s.publisher, m.Channel))
		return
	}
	if err := r.take(s.publisher, s.n); err != nil {
		c.failIn(r.ch, err)
	}
	if r.ch.kind.strict {
		stage.count.checked.Add(1)
	}
}

// isSent takes what Send sends.
func (c *conn) isSent(m *heard) {
	s, err := parseStamp(m.Message)
	if err != nil {
		c.fail("%w", err)
		return
	}
	c.mu.Lock()
	twice := c.got[s.n]
	c.got[s.n] = true
	c.mu.Unlock()
	switch {
	case twice:
		c.fail("sent twice: %+v", s)
	case s.channel != c.id || s.place != c.actor.place.name:
		c.fail("it is %q in %s and was sent %+v", c.id, c.actor.place.name, s)
	}
}

func (c *conn) isAnswered(m *heard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ID == "" && m.Type == "error" {
		if c.bad++; c.bad > c.badSent {
			c.fail("an error without an id: %+v", m)
		}
		return
	}
	q := c.asked[m.ID]
	if q == nil {
		c.fail("an answer to nothing, or a second one: %+v", m)
		return
	}
	delete(c.asked, m.ID)
	c.actor.stage.count.answers.Add(1)
	q.code = m.Code
	switch {
	case q.code == q.want:
		if q.then != nil {
			q.then()
		}
	case q.code == 503 && (c.born.closing.Load() || c.life != nil && c.life.closing.Load()):
	case q.code == 503:
		c.actor.stage.count.unavailable.Add(1)
	default:
		c.fail("%s %q was answered %d %q, want %d", q.kind, q.channel, m.Code, m.Message, q.want)
	}
	close(q.done)
}

// isTold counts joins and leaves.
func (c *conn) isTold(m *heard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.subs[m.Channel]
	if r == nil || r.ch.kind.rules.Presence != core.PresenceEvents {
		c.fail("%s of %s in %q, which it is not in", m.Type, m.Client, m.Channel)
		return
	}
	if c.told == nil {
		return
	}
	if m.Type == "join" {
		c.told[m.Client]++
	} else {
		c.told[m.Client]--
	}
	r.ch.trace.note("observed "+m.Type, m.Client, c.told[m.Client])
	c.actor.stage.count.told.Add(1)
}

func (c *conn) isTakenOut(m *heard) {
	c.actor.trace.note("unsubscribed", m.Channel, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.subs[m.Channel]; r == nil || !r.leaving {
		c.fail("unsubscribed from %q by nobody", m.Channel)
		return
	}
	delete(c.subs, m.Channel)
}

func (c *conn) hasGap(m *heard) {
	c.actor.trace.note("gap", m.Channel, 0)
	c.actor.stage.count.gaps.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gapped = true
	if r := c.subs[m.Channel]; r != nil {
		r.excuse()
	}
	if c.told != nil {
		c.told = nil // joins may be missed: it observes no more
	}
}

// The hooks.

func (s *stage) hook(l *life, client *core.Client, name string, do func(c *conn)) {
	c := s.find(client.Token)
	if c == nil {
		s.fail("the server", fmt.Errorf("%s of an unknown connection %q", name, client.Token))
		return
	}
	c.inHook(l, name, func() { do(c) })
}

// inHook runs what a hook does: between online and offline, and one at a time.
func (c *conn) inHook(l *life, name string, do func()) {
	if !c.busy.CompareAndSwap(false, true) {
		c.fail("%s while another hook runs", name)
	}
	defer c.busy.Store(false)
	c.mu.Lock()
	in := c.online == 1 && c.offline == 0 && c.life == l
	online, offline := c.online, c.offline
	c.mu.Unlock()
	if !in {
		c.fail("%s of %s behind %d online and %d offline", name, l.name, online, offline)
	}
	do()
}

func (c *conn) goesOnline(l *life, client *core.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online++
	if c.online > 1 || c.life != nil || client.ClientID != c.id || client.App != c.actor.place.app {
		c.fail("online %d times, as %q of %q", c.online, client.ClientID, client.App)
	}
	c.life, c.connID = l, client.ConnID
	c.actor.stage.count.online.Add(1)
}

func (c *conn) goesOffline(l *life, client *core.Client) {
	cause := 0
	var why *core.CloseError
	if errors.As(context.Cause(client.Context()), &why) {
		cause = why.Code
	}
	c.actor.trace.note("offline", c.token, cause)
	if c.busy.Load() {
		c.fail("offline while another hook runs")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offline++
	if c.online != 1 || c.offline != 1 || c.life != l || c.connID != client.ConnID {
		c.fail("offline %d times behind %d online", c.offline, c.online)
	}
	c.actor.stage.count.offline.Add(1)
	c.cause = cause
	c.judgeLocked()
}

// wasOpenAt reports whether the connection had not ended then.
func (c *conn) wasOpenAt(t time.Time) bool {
	left := c.left.Load()
	return left == 0 || left > t.UnixNano()
}

// leftBehind says what Shutdown has left of the connection.
func (c *conn) leftBehind(l *life) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == l && c.offline != c.online {
		return fmt.Errorf("connection %s: Shutdown of %s has returned before offline", c.token, l.name)
	}
	return nil
}
