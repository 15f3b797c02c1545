// Package drivertest is the suite that every core.Driver passes:
//
//	func TestMyDriver(t *testing.T) {
//		drivertest.Run(t, func(t *testing.T) drivertest.Harness {
//			backend := startBackend(t)
//			return drivertest.Harness{Driver: func() core.Driver { return NewMyDriver(backend.Addr()) }}
//		})
//	}
//
// Its cases are what the comments of core.Driver, core.Link and core.Node promise, and nothing beyond: what is left open
// there, a driver may decide. No service takes part. A Node stands in its place, and may serve a driver's own tests too.
package drivertest

import (
	"slices"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
)

// Harness is a backend without any nodes, and how to reach it.
type Harness struct {
	// Driver returns a driver on the backend, for one more node or publisher. The values may be one and the same.
	Driver func() core.Driver
	// Answers says that Command returns the very error that the node returned. Without it Command may return nil as soon
	// as a node has received the command.
	Answers bool
	// Restart ends the backend and starts it again, empty or not, and returns when it takes connections. nil: there is
	// nothing to restart. It is called by cases that run alone: no other case of the suite runs meanwhile.
	Restart func()
}

// Run runs the suite. Each case is a subtest; it calls harness for a backend of its own, which may be a new part of a
// shared one, say under another prefix, and what harness cleans up is cleaned up after the case has closed its links.
// harness is called once more, to learn what it offers: cases that need what it does not have are left out.
func Run(t *testing.T, harness func(t *testing.T) Harness) {
	t.Helper()
	offer := harness(t)
	for _, c := range suite() {
		if !c.fits(offer) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			c.run(&stage{
				TB: t, harness: func() Harness { return harness(t) }, patience: 10 * time.Second, rounds: 40,
			})
		})
	}
}

// scene is a case of the suite.
type scene struct {
	name  string
	run   func(*stage)
	needs func(Harness) bool // nil: nothing
	alone bool               // no other case runs meanwhile
}

func (c scene) fits(h Harness) bool { return c.needs == nil || c.needs(h) }

func suite() []scene {
	return slices.Concat(publishing, subscribing, connecting, presence, commanding, closing, together, restarting)
}
