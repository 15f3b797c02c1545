package main

import (
	"context"
	"sync/atomic"
	"time"
)

// Timeouts of the library are promises only on a machine that runs the process. The pulse notices when it did not: what
// ended by a timeout around then is nobody's fault.

const (
	pulseEvery = 50 * time.Millisecond
	starvedFor = 400 * time.Millisecond // for so long nothing ran that should have
	aftermath  = 20 * time.Second       // how long it takes until that has no consequences any more
)

type pulse struct {
	last  atomic.Int64 // when it was noticed last, in nanoseconds
	count atomic.Int64
	worst atomic.Int64 // nanoseconds
}

// run looks until ctx ends.
func (p *pulse) run(ctx context.Context) {
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	for before := time.Now(); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if late := now.Sub(before) - pulseEvery; late >= starvedFor {
			p.last.Store(now.UnixNano())
			p.count.Add(1)
			p.worst.Store(max(p.worst.Load(), int64(late)))
		}
		before = now
	}
}

// starved reports whether the process did not run lately as it should have.
func (p *pulse) starved() bool {
	last := p.last.Load()
	return last != 0 && time.Now().UnixNano()-last < int64(aftermath)
}
