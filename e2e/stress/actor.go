package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core"
)

// temper is what an actor is like: how often it does what.
type temper struct {
	name    string
	share   int // of the actors, in percent
	actions []weighted
	fat     bool // it prefers channels with large messages
	mortal  bool // its token expires
}

type weighted struct {
	weight int
	do     func(a *actor, c *conn, d dice)
}

var tempers = []*temper{
	{name: "steady", share: 46, actions: []weighted{
		{20, (*actor).subscribe},
		{8, (*actor).unsubscribe},
		{36, (*actor).publish},
		{6, (*actor).burst},
		{10, (*actor).ping},
		{4, (*actor).presence},
		{6, (*actor).echo},
		{1, (*actor).hangUp},
		{1, (*actor).tear},
	}},
	{name: "restless", share: 22, actions: []weighted{
		{30, (*actor).subscribe},
		{24, (*actor).unsubscribe},
		{10, (*actor).publish},
		{4, (*actor).resubscribe},
		{16, (*actor).hangUp},
		{10, (*actor).tear},
		{4, (*actor).leave},
	}},
	{name: "staller", share: 8, fat: true, actions: []weighted{
		{30, (*actor).subscribe}, {5, (*actor).unsubscribe}, {40, (*actor).stall}, {10, (*actor).publish}, {5, (*actor).ping},
	}},
	{name: "vandal", share: 8, actions: []weighted{
		{10, (*actor).subscribe},
		{30, (*actor).violate},
		{20, (*actor).babble},
		{5, (*actor).flood},
		{10, (*actor).knock},
		{5, (*actor).forbidden},
		{5, (*actor).panics},
		{10, (*actor).publish},
	}},
	{name: "mortal", share: 6, mortal: true, actions: []weighted{
		{30, (*actor).subscribe}, {10, (*actor).unsubscribe}, {30, (*actor).publish}, {5, (*actor).hangUp},
	}},
	{name: "single", share: 10, actions: []weighted{
		{30, (*actor).subscribe},
		{10, (*actor).unsubscribe},
		{30, (*actor).publish},
		{10, (*actor).hangUp},
		{10, (*actor).tear},
		{5, (*actor).stall},
	}},
	{name: "observer", actions: []weighted{{9, (*actor).ping}, {1, (*actor).publish}}},
}

// dice decide one step. All are thrown each time, so that what an actor does hangs on nothing but the seed and the number
// of its steps.
type dice struct{ action, channel, amount, detail uint64 }

// actor is somebody with a client id, who connects again and again.
type actor struct {
	stage    *stage
	number   int
	identity *identity
	place    *place
	temper   *temper
	room     *channel // of an observer
	rng      *rand.Rand
	trace    trace

	mu       sync.Mutex // held for a step, and by an operator who changes its subscriptions
	conn     *conn      // the last one, or nil
	attempts int
}

// run is the life of the actor.
func (a *actor) run(ctx context.Context) {
	timer := time.NewTimer(time.Duration(a.rng.Int64N(int64(a.stage.settle))))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		d := dice{a.rng.Uint64(), a.rng.Uint64(), a.rng.Uint64(), a.rng.Uint64()}
		think := time.Duration(a.rng.Int64N(int64(2 * a.stage.think)))
		a.stage.gate.RLock()
		if ctx.Err() == nil {
			a.mu.Lock()
			a.step(d)
			a.mu.Unlock()
		}
		a.stage.gate.RUnlock()
		timer.Reset(think)
	}
}

func (a *actor) step(d dice) {
	a.stage.count.steps.Add(1)
	c := a.conn
	if c == nil || !c.open() {
		a.connect(d)
		return
	}
	if !c.isReady() {
		return
	}
	total := 0
	for _, w := range a.temper.actions {
		total += w.weight
	}
	at := int(d.action % uint64(total))
	for _, w := range a.temper.actions {
		if at -= w.weight; at < 0 {
			w.do(a, c, d)
			return
		}
	}
}

// connect dials a node and subscribes to some channels.
func (a *actor) connect(d dice) {
	nodes := a.place.group.nodes
	n := nodes[d.channel%uint64(len(nodes))]
	a.attempts++
	c := &conn{
		actor: a, node: n, born: n.life.Load(), id: a.identity.id, token: fmt.Sprintf("%d.%d", a.number, a.attempts),
		dialed: time.Now(), over: make(chan struct{}), asked: map[string]*question{}, got: map[int]bool{}, owed: map[int]bool{},
	}
	c.subs = map[string]*reception{"": newReception(a.place.broadcasts)}
	if a.temper.fat { // little waits in its kernel, and a burst is more than its outbox
		c.verdict.allow(core.CloseTooSlow, "it is slow")
		c.verdict.mute = true
	}
	if a.temper.mortal {
		c.expires = time.Now().Add(time.Duration(2+d.amount%5) * time.Second)
	}
	a.trace.note("dials", n.name, a.attempts)
	a.identity.attempt(c)
	a.stage.add(c)
	if err := c.dial(d.detail%5 == 0, a.temper.fat); err != nil {
		c.refused(err)
		return
	}
	a.stage.count.connects.Add(1)
	a.conn = c
	a.stage.readers.Go(c.read)
	if !c.ask(said{Type: "ping"}, 0, c.becomesReady) {
		return
	}
	if a.room != nil {
		a.join(c, a.room)
		return
	}
	for i := range 1 + d.amount%4 {
		a.join(c, a.place.pick(a.temper, d.channel>>(8*i)+d.detail))
	}
	if a.temper.name == "steady" && d.amount%8 < 2 {
		a.join(c, a.place.hall)
	}
}

func (c *conn) dial(secure, small bool) error {
	address := c.node.plain
	var config *tls.Config
	if secure {
		address, config = c.node.secure, &tls.Config{InsecureSkipVerify: true}
	}
	w, err := dial(address, config, small)
	if err != nil {
		return err
	}
	c.writes.Lock()
	c.wire = w
	c.writes.Unlock()
	return w.upgrade(c.actor.place.app, c.token)
}

// refused notes a handshake that failed. It may when the node ends.
func (c *conn) refused(err error) {
	c.actor.trace.note("refused", err.Error(), 0)
	c.mu.Lock()
	c.ended, c.seen = true, lostCode
	c.left.Store(time.Now().UnixNano())
	c.verdict.mute = true
	c.subs, c.asked = nil, nil
	expired := !c.expires.IsZero() && time.Now().Unix() >= c.expires.Unix()
	c.mu.Unlock()
	close(c.over)
	var http refusedError
	if (c.born.closing.Load() || c.node.life.Load() != c.born || expired) && errors.As(err, &http) {
		c.actor.stage.count.refused.Add(1)
		return
	}
	if c.actor.stage.pulse.starved() && (!errors.As(err, &http) || http.status == 503) {
		return
	}
	c.fail("the handshake: %w", err)
}

// becomesReady is called with c.mu.
func (c *conn) becomesReady() {
	c.ready = true
	c.subs[""].settle()
}

// isReady reports whether the connection is open, answers, and reads.
func (c *conn) isReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready && !c.ended && c.stalled == nil
}

// join subscribes to a channel. Once more does no harm.
func (a *actor) join(c *conn, ch *channel) {
	if ch == nil {
		return
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	r := c.subs[ch.name]
	if r == nil {
		r = newReception(ch)
		c.subs[ch.name] = r
	}
	c.mu.Unlock()
	c.ask(said{Type: "subscribe", Channel: ch.name}, 0, func() {
		if !r.settled {
			r.settle()
		}
	})
	a.stage.count.subscribes.Add(1)
}

// quit unsubscribes from a channel.
func (a *actor) quit(c *conn, ch *channel) {
	c.mu.Lock()
	if r := c.subs[ch.name]; r != nil {
		r.leaving = true
	}
	c.mu.Unlock()
	c.ask(said{Type: "unsubscribe", Channel: ch.name}, 0, func() { delete(c.subs, ch.name) })
	a.stage.count.unsubscribes.Add(1)
}

func (a *actor) subscribe(c *conn, d dice) { a.join(c, a.place.pick(a.temper, d.channel)) }

func (a *actor) unsubscribe(c *conn, d dice) {
	if ch := c.one(d.channel); ch != nil {
		a.quit(c, ch)
		return
	}
	a.quit(c, a.place.pick(a.temper, d.channel)) // it is not in that one, or perhaps it is
}

// resubscribe leaves and comes back at once.
func (a *actor) resubscribe(c *conn, d dice) {
	ch := c.one(d.channel)
	if ch == nil {
		return
	}
	for range 1 + d.amount%3 {
		a.quit(c, ch)
		a.join(c, ch)
	}
}

// one returns one of the channels that the connection is in, or nil.
func (c *conn) one(throw uint64) *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	var in []*channel
	for _, ch := range c.actor.place.list { // in this order: a map has none
		if r := c.subs[ch.name]; r != nil && r.settled {
			in = append(in, ch)
		}
	}
	if len(in) == 0 {
		return nil
	}
	return in[throw%uint64(len(in))]
}

// some returns a channel to publish in, most often one that the connection is in.
func (a *actor) some(c *conn, d dice) *channel {
	ch := c.one(d.channel)
	if ch == nil || d.detail%4 == 0 {
		ch = a.place.pick(a.temper, d.channel)
	}
	if ch.kind.latest || ch == a.place.hall { // these have publishers of their own
		return nil
	}
	return ch
}

func (a *actor) publish(c *conn, d dice) { a.publishes(c, a.some(c, d), 1, d) }

// burst publishes several messages in one write.
func (a *actor) burst(c *conn, d dice) {
	ch, count := a.some(c, d), int(2+d.amount%30)
	d.amount %= 50
	a.publishes(c, ch, count, d)
}

var errNoAnswer = errors.New("no answer")

func (a *actor) publishes(c *conn, ch *channel, count int, d dice) {
	if ch == nil {
		return
	}
	var (
		frames    []byte
		questions []*question
		numbers   []int
		q         *question
	)
	for range count {
		n := ch.begin(c.token)
		q, frames = c.question(frames, said{
			Type: "message", Channel: ch.name, Message: a.stamp(ch, c.token, n).text(a.stage.padding(ch, d.amount)),
		}, 0, nil)
		questions, numbers = append(questions, q), append(numbers, n)
	}
	_ = c.write(frames)
	for i, q := range questions {
		var err error
		if !c.await(q) {
			err = errNoAnswer
		}
		ch.end(c.token, numbers[i], err)
	}
	a.stage.count.pushed.Add(int64(count))
}

func (a *actor) stamp(ch *channel, publisher string, n int) stamp {
	return stamp{int(a.stage.epoch.Load()), ch.place, ch.name, publisher, n}
}

func (a *actor) ping(c *conn, d dice) {
	if d.detail%2 == 0 {
		_ = c.write(appendFrame(nil, 0x80|opPing, []byte("?")))
	}
	c.ask(said{Type: "ping"}, 0, nil)
}

func (a *actor) echo(c *conn, d dice) {
	c.ask(said{Type: "echo", Data: make([]int, d.amount%2000)}, 0, nil)
}

func (a *actor) presence(c *conn, d dice) {
	if ch := c.one(d.channel); ch != nil {
		c.ask(said{Type: "presence", Channel: ch.name}, 0, nil)
	}
}

func (a *actor) forbidden(c *conn, _ dice) {
	c.ask(said{Type: "subscribe", Channel: "staff:1"}, 403, nil)
}

func (a *actor) panics(c *conn, _ dice) { c.ask(said{Type: "panic"}, 500, nil) }

// hangUp closes, says nothing more, and sees the close come back.
func (a *actor) hangUp(c *conn, d dice) {
	code := []int{1000, 1001, 4000 + int(d.amount%100), 1005}[d.detail%4]
	c.isAllowed(code, "its own close")
	a.trace.note("hangs up", "", code)
	frame := closeFrame(code, "bye")
	if code == 1005 {
		frame = appendFrame(nil, 0x80|opClose, nil)
	}
	_ = c.write(frame)
	c.awaitEnd()
}

// awaitEnd waits for an end that must come.
func (c *conn) awaitEnd() {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.over:
	case <-timer.C:
		c.fail("it does not end")
		c.tear()
	}
}

func (a *actor) tear(c *conn, _ dice) {
	c.tear()
	c.awaitEnd()
}

// leave asks the application for the close.
func (a *actor) leave(c *conn, _ dice) {
	c.isAllowed(leaveCode, "it asked for it")
	_ = c.write(appendFrame(nil, 0x80|opText, []byte(`{"type":"leave"}`)))
	c.awaitEnd()
}

func (a *actor) stall(c *conn, d dice) {
	if c.actor.identity.single && d.detail%2 == 0 {
		return
	}
	length := time.Duration(d.amount % uint64(12*time.Second))
	a.trace.note("stalls for", length.String(), 0)
	c.stall(length)
}

// knock connects to the port and leaves in the middle of a handshake, or is turned away.
func (a *actor) knock(c *conn, d dice) {
	w, err := dial(c.node.plain, nil, false)
	if err != nil {
		c.fail("%w", err)
		return
	}
	defer w.Close()
	a.stage.count.knocks.Add(1)
	switch d.detail % 4 {
	case 0:
		_, _ = w.Write([]byte("GET /ws?token=half HTTP/1.1\r\nHost: str"))
	case 1:
		_, _ = w.Write([]byte("\x16\x03\x01 this is not HTTP\r\n\r\n"))
	case 2:
		a.turnedAway(c, w, "GET /ws HTTP/1.1\r\nHost: stress\r\n\r\n", 426)
	case 3:
		a.turnedAway(c, w, "GET /ws?token="+strconv.FormatUint(d.amount, 36)+" HTTP/1.1\r\nHost: stress\r\nConnection: Upgrade\r\n"+
			"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 401)
	}
}

func (a *actor) turnedAway(c *conn, w *wire, request string, want int) {
	_, _ = w.Write([]byte(request))
	err := w.accepted()
	var refused refusedError
	switch {
	case errors.As(err, &refused) && refused.status == want:
	case a.stage.pulse.starved():
	case c.node.life.Load().closing.Load() || c.node.life.Load() != c.born: // 503, as everybody
	default:
		c.fail("knocked, and got %v, want %d", err, want)
	}
}
