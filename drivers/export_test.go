package drivers

import (
	"context"

	"github.com/duxweb/go-ws/core"
)

// Kept returns how many things a memory driver remembers.
func Kept(driver core.Driver) int {
	d := driver.(*memory) //nolint:errcheck // a panic is what a test with another driver deserves
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.links) + len(d.topics) + len(d.joined)
}

var (
	EncodePublication = encodePublication
	DecodePublication = decodePublication
	Scoped            = scoped
	Unscoped          = unscoped
)

// Waiting is what a link remembers of its subscriptions.
type Waiting struct {
	Wanted, Unheard, Queued, Leaving int
	Connected                        bool
}

// WaitingIn returns what a Redis link remembers of the subscriptions in all lanes.
func WaitingIn(link core.Link) (w Waiting) {
	for _, lane := range link.(*redisLink).lanes { //nolint:errcheck // a panic is what a test with another driver deserves
		r := lane.receiver
		r.mu.Lock()
		w.Wanted += len(r.wanted)
		for _, all := range r.unheard {
			w.Unheard += len(all)
		}
		w.Queued += len(r.queue)
		w.Leaving += len(r.leaving)
		w.Connected = w.Connected || r.conn != nil
		r.mu.Unlock()
	}
	return w
}

// Sweep has a Redis link sweep a registration, whatever it knows of it.
func Sweep(ctx context.Context, link core.Link, reg string) {
	for _, lane := range link.(*redisLink).lanes { //nolint:errcheck // a panic is what a test with another driver deserves
		lane.presence.sweep(ctx, reg, true)
	}
}
