package core

import (
	"context"
	"sync"
	"time"
)

// register makes the client known here and to the other nodes, and applies the session policy. The driver gives out
// numbers: of two connections of one client id, on whatever nodes, the higher number is the newer one.
func (c *Client) register(ctx context.Context) error {
	s := c.app.s
	link, err := s.linked(ctx)
	if err != nil {
		return err
	}
	held, err := s.hub.hold(ctx, link, []Topic{{App: c.App}})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.everyone = held[0]
	c.mu.Unlock()
	s.hub.register(c)
	if err := c.enroll(ctx, link); err != nil {
		return err
	}
	switch limit := s.opts.limits.perClient; {
	case s.opts.sessions == RejectNew:
		err = c.yieldToOlder(ctx, link, 1, "already connected")
	case s.opts.sessions == ReplaceOld:
		err = c.replaceOlder(ctx, link)
	case limit > 0:
		err = c.yieldToOlder(ctx, link, limit, "too many connections")
	}
	if err != nil {
		return err
	}
	c.awaitOlder(ctx)
	return nil
}

// enroll makes the connection known to the driver. A leave that comes meanwhile waits for it, as for a Sub: the driver must
// hear of the two in that order.
func (c *Client) enroll(ctx context.Context, link Link) error {
	if err := c.beginChange(ctx); err != nil {
		return err
	}
	defer c.endChange()
	if err := link.Register(ctx, c.App, c.member(c.since), c.numbered); err != nil {
		return unavailable("register", err)
	}
	return nil
}

// numbered stores the connection's number, and ends it when a newer one has replaced it already.
func (c *Client) numbered(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number = number
	if x := c.extras; x != nil && number < x.superseded {
		_ = c.shutLocked(CloseReplaced, "replaced by a newer connection")
	}
}

// yieldToOlder refuses this connection when the client id has limit older ones, on whatever nodes.
func (c *Client) yieldToOlder(ctx context.Context, link Link, limit int, reason string) error {
	others, err := link.Find(ctx, c.App, c.ClientID)
	if err != nil {
		return unavailable("find", err)
	}
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	older := 0
	for _, other := range others {
		if other.ConnID != c.ConnID && other.Number < number {
			older++
		}
	}
	if older >= limit {
		return refuse(CloseTooMany, reason)
	}
	return nil
}

// replaceOlder ends all older connections of the client id. A node that it does not reach is dead, or one of the two looks
// again once the driver is back: see keepSessions.
func (c *Client) replaceOlder(ctx context.Context, link Link) error {
	c.mu.Lock()
	number, ended := c.number, c.ended != nil
	c.mu.Unlock()
	if ended { // its client may have connected anew before this one had its number
		return nil
	}
	found, err := link.Find(ctx, c.App, c.ClientID)
	if err != nil {
		return unavailable("find", err)
	}
	if err := c.replaceAmong(ctx, link, number, found); err != nil {
		s := c.app.s
		s.sparing.warn(s.opts.log, "gows: an older connection may live on: its node cannot be told, which is tried again",
			append(c.names(), "err", err)...)
		signal(s.recheck)
	}
	return nil
}

// replaceAmong ends those of the connections that are older.
func (c *Client) replaceAmong(ctx context.Context, link Link, number uint64, found []Member) error {
	told := map[string]bool{}
	var failed error
	for _, other := range found {
		if other.Number >= number || told[other.Node] {
			continue
		}
		told[other.Node] = true
		err := link.Command(ctx, other.Node, Command{Action: ActionReplace, App: c.App, ClientID: c.ClientID, Number: number})
		if err != nil && !isOffline(err) {
			failed = err
		}
	}
	return failed
}

// signal wakes the goroutine that waits for c, which holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is going to look anyway
	}
}

// keepSessions looks at the sessions again each time the driver has come back, or a command to replace a connection has
// failed: ours may have been replaced, and theirs by ours, without anybody knowing.
func (s *Service) keepSessions(ctx context.Context, link Link) {
	for {
		select {
		case <-s.recheck:
		case <-ctx.Done():
			return
		}
		for s.opts.sessions == ReplaceOld && s.recheckSessions(ctx, link) != nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
}

// recheckSessions returns an error when it could not look at all of them. One that fails holds up no other.
func (s *Service) recheckSessions(ctx context.Context, link Link) error {
	var failed error
	for i := range shards {
		for _, c := range s.hub.clients(i, nil) {
			if c.Closed() {
				continue
			}
			begun := time.Now()
			if err := c.recheck(ctx, link); err != nil {
				failed = err
			}
			if ctx.Err() != nil || failed != nil && time.Since(begun) >= opTimeout { // the driver is away again
				return failed
			}
		}
	}
	return failed
}

func (c *Client) recheck(ctx context.Context, link Link) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	found, err := link.Find(ctx, c.App, c.ClientID)
	if err != nil {
		return err
	}
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	for _, other := range found {
		c.replaceBelow(other.Number)
	}
	return c.replaceAmong(ctx, link, number, found)
}

// replaceBelow ends the connection when its number is lower, at the latest when it gets one.
func (c *Client) replaceBelow(number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.number >= number {
		return false
	}
	if c.number == 0 {
		x := c.extrasLocked()
		x.superseded = max(x.superseded, number)
		return false
	}
	return c.shutLocked(CloseReplaced, "replaced by a newer connection") == nil
}

// awaitOlder waits until the offline hooks of this node's older connections with the same client id have returned, if
// they have ended, or until ctx or this connection ends: a program that keeps a table by client id must not remove the
// new connection in the offline of the old one.
func (c *Client) awaitOlder(ctx context.Context) {
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	for _, older := range c.app.s.hub.find(c.App, c.ClientID) {
		over := older.ending(number)
		if over == nil {
			continue
		}
		select {
		case <-over:
		case <-c.Context().Done():
		case <-ctx.Done():
		}
	}
}

// ending returns what is closed when the last hook has returned, or nil if there is nothing to wait for: the connection
// is not older than number, has not ended, or its last hook has returned.
func (c *Client) ending(number uint64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.number >= number || c.ended == nil || c.over {
		return nil
	}
	x := c.extrasLocked()
	if x.waiters == nil {
		x.waiters = make(chan struct{})
	}
	return x.waiters
}

// replacements counts how often client ids are replaced: two tabs that replace each other for ever are a mistake in the
// choice of the policy, which this makes visible.
type replacements struct {
	mu    sync.Mutex // guards the rest
	since time.Time
	count map[clientKey]int
}

const (
	replaceLimit  = 5
	replaceWindow = 10 * time.Second
)

// often reports whether this replacement makes replaceLimit within the window.
func (r *replacements) often(c *Client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.count == nil || now.Sub(r.since) > replaceWindow {
		r.since, r.count = now, map[clientKey]int{}
	}
	key := clientKey{c.App, c.ClientID}
	r.count[key]++
	return r.count[key] == replaceLimit
}
