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
	if err := link.Register(ctx, c.App, c.member(c.since), c.numbered); err != nil {
		return unavailable("register", err)
	}
	switch s.opts.sessions {
	case RejectNew:
		err = c.yieldToOlder(ctx, link)
	case ReplaceOld:
		err = c.replaceOlder(ctx, link)
	case AllowMany:
	}
	if err != nil {
		return err
	}
	c.awaitOlder(ctx)
	return nil
}

// numbered stores the connection's number, and ends it when a newer one has replaced it already.
func (c *Client) numbered(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number = number
	if number < c.superseded {
		_ = c.shutLocked(CloseReplaced, "replaced by a newer connection")
	}
}

// yieldToOlder refuses this connection when the client id has an older one anywhere.
func (c *Client) yieldToOlder(ctx context.Context, link Link) error {
	others, err := link.Find(ctx, c.App, c.ClientID)
	if err != nil {
		return unavailable("find", err)
	}
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	for _, other := range others {
		if other.ConnID != c.ConnID && other.Number < number {
			return refuse(CloseTooMany, "already connected")
		}
	}
	return nil
}

// replaceOlder ends all older connections of the client id.
func (c *Client) replaceOlder(ctx context.Context, link Link) error {
	c.mu.Lock()
	number := c.number
	c.mu.Unlock()
	err := link.Command(ctx, "", Command{Action: ActionReplace, App: c.App, ClientID: c.ClientID, Number: number})
	if err != nil && !isOffline(err) {
		return unavailable("replace", err)
	}
	return nil
}

// replaceBelow ends the connection when its number is lower, at the latest when it gets one.
func (c *Client) replaceBelow(number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.superseded = max(c.superseded, number)
	if c.number == 0 || c.number >= number {
		return false
	}
	return c.shutLocked(CloseReplaced, "replaced by a newer connection") == nil
}

// awaitOlder waits until the offline hooks of this node's ended connections with the same client id have returned, or ctx
// ends: a program that keeps a table by client id must not remove the new connection in the offline of the old one.
func (c *Client) awaitOlder(ctx context.Context) {
	for _, older := range c.app.s.hub.find(c.App, c.ClientID) {
		if older == c {
			continue
		}
		older.mu.Lock()
		if older.ended != nil && !older.over && older.waiters == nil {
			older.waiters = make(chan struct{})
		}
		waiters, wait := older.waiters, older.ended != nil && !older.over
		older.mu.Unlock()
		if wait {
			select {
			case <-waiters:
			case <-ctx.Done():
			}
		}
	}
}

// replacements counts how often client ids are replaced: two tabs that replace each other for ever are a mistake in the
// choice of the policy, which this makes visible.
type replacements struct {
	mu    sync.Mutex // guards the rest
	since time.Time
	count map[string]int
}

const (
	replaceLimit  = 5
	replaceWindow = 10 * time.Second
)

// often reports whether this replacement makes replaceLimit within the window.
func (r *replacements) often(clientID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.count == nil || now.Sub(r.since) > replaceWindow {
		r.since, r.count = now, map[string]int{}
	}
	r.count[clientID]++
	return r.count[clientID] == replaceLimit
}
