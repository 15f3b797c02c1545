package core

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

const (
	badMessages   = 20 // 400s, and messages beyond WithMessageRate, within badSeconds close the connection
	badSeconds    = 10
	openPublishes = 64   // publish verbs of one client whose answer is to come
	listedMembers = 1000 // in the answer to a presence verb
)

// receive handles one message. Exactly one answer leaves for a message with an id; errors are answered without one too.
func (c *Client) receive(text []byte) {
	if c.Closed() {
		return // nobody is there to answer to
	}
	c.talked = true
	m, err := decode(text)
	m.ClientID = c.ClientID
	asked := question{m.ID, m.Type, m.Channel} // m is the hook's, who may change it
	if !c.allowed() {
		err = errTooMany
	}
	if err == nil {
		err = c.dispatch(m, asked)
	}
	switch {
	case err == errAnswered: //nolint:errorlint // a private sentinel, never wrapped
	case err != nil:
		c.answerError(asked, err)
	default:
		c.answerReceive(asked, m.reply)
	}
}

// question is what an answer is to.
type question struct{ id, kind, channel string }

const tooManyMessages = "too many messages"

// errTooMany is the answer to a message beyond WithMessageRate.
var errTooMany = Errorf(http.StatusTooManyRequests, tooManyMessages+", slow down")

// errAnswered is returned by verbs that answer themselves.
var errAnswered = errors.New("gows: answered")

// dispatch serves the verbs that are the core's and gives everything else to Message.
func (c *Client) dispatch(m *Message, asked question) error {
	p := c.provider
	switch {
	case m.Type == "ping":
		c.pinged()
		c.answer(appendPong(nil, m.ID))
		return errAnswered
	case m.Type == "subscribe" && p.Subscribe != nil:
		return c.verbSubscribe(m)
	case m.Type == "unsubscribe" && p.Subscribe != nil:
		return c.verbUnsubscribe(m)
	case m.Type == "presence" && p.Subscribe != nil:
		return c.verbPresence(m)
	case m.Type == "message" && p.Publish != nil:
		return c.verbPublish(m, asked)
	case p.Message == nil:
		return Errorf(http.StatusNotFound, "no handler for type %q", m.Type)
	}
	return c.call("Message", func() error { return p.Message(m, c) })
}

func (c *Client) verbSubscribe(m *Message) error {
	if err := c.app.s.checkChannel(m.Channel); err != nil {
		return err
	}
	if err := c.call("Subscribe", func() error { return c.provider.Subscribe(c, m.Channel) }); err != nil {
		return err
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	return c.subscribe(ctx, []string{m.Channel})
}

func (c *Client) verbUnsubscribe(m *Message) error {
	if err := c.app.s.checkChannel(m.Channel); err != nil {
		return err
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	return c.unsubscribe(ctx, []string{m.Channel}, nil)
}

func (c *Client) verbPresence(m *Message) error {
	if err := c.app.s.checkChannel(m.Channel); err != nil {
		return err
	}
	if !c.in(m.Channel) {
		return Errorf(http.StatusForbidden, "presence is answered for channels you are in")
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	members, err := c.app.Members(ctx, m.Channel, listedMembers)
	if err != nil {
		return err
	}
	if members == nil {
		members = []Member{}
	}
	return m.Reply(members)
}

// verbPublish pushes the message once the hook allows it. The driver's word may come later: the answer is sent then, in
// order, and the client may go on publishing meanwhile.
func (c *Client) verbPublish(m *Message, asked question) error {
	if err := c.app.s.checkChannel(m.Channel); err != nil {
		return err
	}
	var text encoded
	err := c.call("Publish", func() (err error) {
		if err = c.provider.Publish(c, m); err != nil {
			return err
		}
		if err = c.app.s.checkChannel(m.Channel); err != nil { // the hook changed it: no fault of the client
			return errors.New("gows: Publish left a message that cannot be pushed: " + plainText(err))
		}
		text, err = encodeWithin(m, c.ClientID, c.app.s.opts.pushBytes) // MarshalJSON of what the hook put in may panic
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	link, err := c.app.s.linked(ctx)
	if err != nil {
		return err
	}
	if !c.mayPublish() {
		return ErrClosed
	}
	p := Publication{Topic: Topic{c.App, m.Channel}, Payload: text.in(m.Channel)}
	if r := c.reading; r != nil && r.last { // only this goroutine sets it
		p.owed = &owed{hub: &c.app.s.hub}
		r.owed = p.owed
	}
	c.app.s.stats.published.Add(1)
	err = link.Publish(ctx, p, func(err error) {
		if err != nil {
			c.answerError(asked, unavailable("publish", err))
		} else {
			c.answerReceive(asked, m.reply)
		}
		c.published()
	})
	if err != nil {
		c.published()
		return unavailable("publish", err)
	}
	return errAnswered
}

// mayPublish waits until fewer than openPublishes answers are to come. Only the reader calls it.
func (c *Client) mayPublish() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.ended == nil && c.open >= openPublishes {
		opened := make(chan struct{})
		c.extrasLocked().opened = opened
		c.mu.Unlock()
		<-opened // closed by the answer to come, which the driver owes, or by the end
		c.mu.Lock()
	}
	c.open++
	return c.ended == nil
}

func (c *Client) published() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = max(1, c.open) - 1 // a driver that panics may have said so before
	if c.extras != nil {
		wake(&c.extras.opened)
	}
}

func (c *Client) answerReceive(asked question, data []byte) {
	if asked.id != "" {
		c.answer(appendReceive(nil, asked.id, data, time.Now().UnixMilli()))
	}
}

func (c *Client) answerError(asked question, err error) {
	if errors.Is(err, ErrClosed) && c.Closed() {
		return // it ended meanwhile, which is no failure
	}
	code, text, told := answerFor(err)
	var panicked *panicError // call has logged it, with its stack
	if !told && !errors.As(err, &panicked) {
		c.log(slog.LevelError, "gows: a message failed", "type", brief(asked.kind), "channel", brief(asked.channel), "err", err)
	}
	c.answer(appendError(nil, asked, code, text))
	switch {
	case err == errTooMany: //nolint:errorlint // that very one: a hook's own 429 is its own affair
		c.countBad(tooManyMessages)
	case code == http.StatusBadRequest:
		c.countBad("too many bad messages")
	}
}

// countBad closes a connection whose client does not know what it is saying, or when to stop.
func (c *Client) countBad(reason string) {
	s := c.app.s
	now := s.tick.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now-c.badTick >= badSeconds*s.ticksPerSecond {
		c.badTick, c.bad = now, 0
	}
	if c.bad++; c.bad >= badMessages {
		_ = c.shutLocked(CloseTooManyBad, reason)
	}
}

// pinged tells the provider of a sign of life.
func (c *Client) pinged() {
	c.talked = true
	if err := c.event(EventPing); err != nil && !errors.Is(err, ErrClosed) {
		c.log(slog.LevelError, "gows: ping failed", "err", err)
	}
}

func (c *Client) event(name string) error {
	if c.provider.Event == nil {
		return nil
	}
	return c.call(name, func() error { return c.provider.Event(name, c) })
}

// answerDelay is how long an answer waits at most for those to the messages behind it, unless one of their hooks takes
// longer: then the sweeper sends it.
const answerDelay = 1 // ms

// call runs one hook of this connection. Its panic becomes an error.
func (c *Client) call(name string, hook func() error) (err error) {
	s := c.app.s
	c.mu.Lock()
	if c.ended != nil && name != EventOffline {
		c.mu.Unlock()
		return ErrClosed
	}
	c.hookTick = s.tick.Load()
	c.hookLogged = false
	if c.reading != nil && len(c.reading.answers) > 0 && s.millis()-c.answered > answerDelay {
		c.flushLocked()
	}
	c.mu.Unlock()
	s.stats.hooks.Add(1)
	returned := false
	defer func() {
		v := recover()
		if v != nil {
			broke := &panicError{value: v, stack: debug.Stack()}
			c.log(slog.LevelError, "gows: "+name+" panicked", "err", broke, "stack", string(broke.stack))
			err = broke
		}
		s.stats.hooks.Add(-1)
		c.mu.Lock()
		c.hookTick = 0
		c.mu.Unlock()
		if v == nil && !returned { // runtime.Goexit, as t.Fatal in a test's hook: this goroutine cannot be kept
			c.log(slog.LevelError, "gows: "+name+" ended its goroutine, and with it the connection")
			go c.orphaned(name) // ends with the connection
		}
	}()
	if err = hook(); err != nil {
		ask(err)
	}
	returned = true
	return err
}

// ask asks an error all that is going to be asked. One that is a nil pointer panics then, which must happen inside call.
func ask(err error) {
	_, _, _ = answerFor(err)
	r, _ := refusalFor(err)
	_ = r.Code // r is nil where err is a nil *Refusal
}

func appendPong(dst []byte, id string) []byte {
	dst = append(dst, `{"type":"pong"`...)
	if id != "" {
		dst = appendString(append(dst, `,"id":`...), id)
	}
	return append(dst, '}')
}

// encodeWithin encodes a payload and checks its size.
func encodeWithin(payload any, stamp string, limit int) (encoded, error) {
	text, err := encode(payload, stamp)
	if err != nil {
		return encoded{}, err
	}
	if size := len(text.head) + len(text.tail); size > limit {
		return encoded{}, fmt.Errorf("%w: %d bytes, %d at most (core.WithPushBytes)", ErrTooLarge, size, limit)
	}
	return text, nil
}
