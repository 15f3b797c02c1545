package core

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// Client is one connection. The service makes it; a Client made by hand answers everything with ErrClosed. All methods
// may be called concurrently, from hooks and from anywhere, at any time; after the end they return ErrClosed.
type Client struct {
	ClientID string         // who: a user or a device. There may be several connections with it
	ConnID   string         // this connection, unique across nodes
	App      string         // name of the app it belongs to, "" by default
	Token    string         // what it authenticated with, "" with an identity from a middleware
	Data     map[string]any // the identity that Auth returned; the core only reads it before the first hook runs

	app      *App
	provider *Provider
	remote   string
	older    *Client // next with the same client id, guarded by its hub shard
	since    int64   // Unix milliseconds
	expires  int64   // Unix seconds, 0: never

	// What a delivery touches is two cache lines, from here to the beginning of own: waiting for them is most of what it
	// costs beside the system call.
	socket   socket
	mu       sync.Mutex  // guards the rest, but for own and what is the reader's
	ended    *CloseError // why the connection has ended; nil while it is open
	backlog  *backlog    // what the kernel did not take; while it is there a drainer writes it
	reading  *reading    // while the reader handles what it read
	sent     int64       // frames accepted, for the log
	dropped  uint32      // frames, for the log
	answered uint32      // when the first of reading.answers came, see Service.millis
	own      rawSocket   // socket, if that is one

	everyone   *channel // of the app's broadcasts; nil before registration
	subs       []*subscription
	changing   chan struct{} // not nil while a Sub or Unsub is under way, closed when it is done
	number     uint64        // see sessions.go
	extras     *extras       // what few clients have
	hookTick   uint32        // when the running hook was called, 0: none runs
	open       uint8         // publishes whose answer is to come
	hookLogged bool
	goodbye    bool // the peer's close frame has been received
	broken     bool // a write failed: nothing leaves any more
	finished   bool // the socket is closed
	over       bool // the last hook has returned
	slow       bool // it has ended because it was too slow, which leave logs: a log may wait, and nobody may wait for this lock

	// Of the reader goroutine.
	online   bool   // online returned nil: there will be an offline
	talked   bool   // it has run a hook for what it read
	renewed  uint8  // how often since talkTick
	bad      uint8  // how many bad messages there were
	badTick  uint32 // since when they are counted
	talkTick uint32 // see renews
	parser   frame.Parser

	public *json.RawMessage // what others see of Data; nil: nothing

	heardTick atomic.Uint32 // when the peer was last heard of, see sweeper
	pingTick  atomic.Uint32 // when the ping was sent that is not answered yet, 0: none
}

// extras are made on first use: they would cost every idle connection some hundred bytes.
type extras struct {
	ctx    context.Context //nolint:containedctx // it is what Client.Context returns
	cancel context.CancelCauseFunc
	values map[string]any

	superseded uint64 // connections with a number below are to end

	elsewhere bool          // the connection comes from address, not from what remote shows
	address   netip.Addr    // see elsewhere
	due       time.Duration // with WithMessageRate, see allowed; since Service.made

	left    chan struct{} // made by who calls leave first, closed when that has returned
	opened  chan struct{} // not nil while the reader waits for open to fall, closed then
	flushed chan struct{} // not nil while the reader waits for the backlog to leave, closed then
	waiters chan struct{} // closed when over; made by who waits
}

// wake closes a channel that somebody may be waiting on.
func wake(waiting *chan struct{}) {
	if *waiting != nil {
		close(*waiting)
		*waiting = nil
	}
}

// reading is what a reader puts off until it has handled all that it read at once.
type reading struct {
	answers []byte // frames to leave in one write
	last    bool   // nothing is behind the message that is being handled; of the reader alone, as owed is
	owed    *owed  // a turn to run, or nil
}

// opTimeout bounds the driver calls of verbs that take no context.
const opTimeout = 5 * time.Second

// Send writes a payload to this connection alone; see Service.Push for what a payload is. It returns once the payload is
// accepted for writing: ErrTooLarge if it exceeds WithPushBytes, ErrClosed after the end.
func (c *Client) Send(payload any) error {
	if c.app == nil {
		return ErrClosed
	}
	text, err := encodeWithin(payload, "", c.app.s.opts.pushBytes)
	if err != nil {
		return err
	}
	return c.sendText(text.in(""))
}

// Push pushes a payload to channels of the client's app, with the client as its sender: "client" of the envelope is
// stamped with ClientID. Whether the client is subscribed to them makes no difference. See Service.Push.
func (c *Client) Push(channels []string, payload any, opts ...PushOption) error {
	if c.app == nil {
		return ErrClosed
	}
	if c.Closed() {
		return c.noted("push", ErrClosed)
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	return c.noted("push", c.app.push(ctx, channels, payload, c.ClientID, opts))
}

// Sub subscribes to channels, all or none; being subscribed already is fine. When it has returned nil, everything
// published from then on arrives. It takes at most 6 s and returns ErrChannelName, ErrTooManyChannels, ErrUnavailable,
// an error of the driver, or ErrClosed.
func (c *Client) Sub(channels ...string) error {
	if c.app == nil {
		return ErrClosed
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	return c.noted("sub", c.subscribe(ctx, channels))
}

// Unsub unsubscribes from channels, or from all of them when none is named. When it has returned, nothing that is
// published to them is written any more. Not being subscribed is fine. An error means that the driver has not taken note.
func (c *Client) Unsub(channels ...string) error {
	if c.app == nil {
		return ErrClosed
	}
	ctx, cancel := c.app.s.soon()
	defer cancel()
	if len(channels) == 0 {
		channels = c.Channels()
	}
	return c.noted("unsub", c.unsubscribe(ctx, channels, nil))
}

// Channels returns the channels the client is subscribed to, in the order of subscription; nil after the end.
func (c *Client) Channels() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil { // they are being left
		return nil
	}
	var names []string
	for _, s := range c.subs {
		names = append(names, s.ch.topic.Channel)
	}
	return names
}

// Close ends the connection with a close code (1000, 3000-4999) and a reason, which is cut to 123 bytes. It never waits:
// what was sent before still leaves first, for as long as WithWriteStall, and offline follows. 0 stands for 1000. It
// returns ErrClosed when the connection has ended already.
func (c *Client) Close(code int, reason string) error {
	if c.app == nil {
		return ErrClosed
	}
	if code == 0 {
		code = closeNormal
	}
	if err := checkCloseCode(code); err != nil {
		return err
	}
	return c.shut(code, reason)
}

// Closed reports whether the connection has ended.
func (c *Client) Closed() bool {
	if c.app == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended != nil
}

// Context returns a context that ends with the connection; context.Cause is then the *CloseError that says why.
func (c *Client) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extrasLocked()
	if x.ctx == nil {
		x.ctx, x.cancel = context.WithCancelCause(context.Background())
		switch {
		case c.ended != nil:
			x.cancel(c.ended)
		case c.app == nil:
			x.cancel(ErrClosed)
		}
	}
	return x.ctx
}

// RemoteAddr returns the peer's address as the host named it.
func (c *Client) RemoteAddr() string { return c.remote }

// Scope returns the app the client belongs to, whose verbs reach the same clients and channels. It is nil for a Client
// made by hand.
func (c *Client) Scope() *App { return c.app }

// Set keeps a value under key for the life of the connection, and Get returns it, or nil.
func (c *Client) Set(key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extrasLocked()
	if x.values == nil {
		x.values = map[string]any{}
	}
	x.values[key] = value
}

// Get returns what Set has kept under key, or nil.
func (c *Client) Get(key string) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.extras == nil {
		return nil
	}
	return c.extras.values[key]
}

func (c *Client) extrasLocked() *extras {
	if c.extras == nil {
		c.extras = new(extras)
	}
	return c.extras
}

// member is how others see the connection.
func (c *Client) member(since int64) Member {
	m := Member{ClientID: c.ClientID, ConnID: c.ConnID, Node: c.app.s.id, Since: time.UnixMilli(since).UTC()}
	if c.public != nil {
		m.Data = *c.public
	}
	return m
}

// noted logs an error that a hook of this client was given, because programs ignore it; the caller has it too.
func (c *Client) noted(verb string, err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	hooked := c.hookTick != 0
	c.mu.Unlock()
	if hooked {
		c.log(slog.LevelWarn, "gows: "+verb+" failed in a hook", "err", err)
	}
	return err
}
