package core

import (
	"hash/maphash"
	"log/slog"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// hookWarning is after how long a running hook is logged.
const hookWarning = 10 * time.Second

var pingFrame = frame.AppendControl(nil, frame.Ping, nil)

// sweep looks after the liveness of all clients until stop is closed. It counts its own ticks and compares no clocks, so
// that a process which was paused (a laptop's lid, a virtual machine's move) does not close everybody for a silence that was its own.
func (s *Service) sweep(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	defer s.shared.Store(nil)
	var clients []*Client
	for {
		if s.tick.Add(1)%s.ticksPerSecond == 0 {
			s.renewSoon()
		}
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		for i := range shards {
			clients = s.hub.clients(i, clients[:0])
			for _, c := range clients {
				c.check(every)
			}
			clear(clients)
		}
	}
}

// tickOf is how often the sweeper looks: every second, more often when the intervals are short.
func (o *options) tickOf() time.Duration {
	return max(10*time.Millisecond, min(time.Second, o.pingInterval/10, o.pingTimeout/5))
}

// check is the sweeper's look at one client.
func (c *Client) check(every time.Duration) {
	if hung := c.look(every); hung > 0 {
		c.log(slog.LevelWarn, "gows: a hook has been running for 10 s", "duration", hung)
	}
}

// look returns for how long a hook has been running, if that is to be logged.
func (c *Client) look(every time.Duration) (hung time.Duration) {
	s := c.app.s
	now := s.tick.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	pinged := c.pingTick.Load() // read once: the reader sets it to 0 at any time
	switch {
	case c.ended != nil:
	case c.expires != 0 && time.Now().Unix() >= c.expires:
		_ = c.shutLocked(CloseExpired, "the token has expired")
	case c.hookTick != 0 || c.reading != nil: // its reader waits for the hook, or for the driver: the silence is ours
		c.heardTick.Store(now)
		c.flushLocked()
		if ran := time.Duration(now-c.hookTick) * every; c.hookTick != 0 && ran >= hookWarning && !c.hookLogged {
			c.hookLogged = true
			hung = ran
		}
	case pinged != 0:
		if c.backlog != nil { // the ping may be behind it; the drainer judges the peer
			c.pingTick.CompareAndSwap(pinged, now)
		} else if time.Duration(now-pinged)*every >= s.opts.pingTimeout {
			c.vanishedLocked()
		}
	case c.backlog == nil && time.Duration(now-c.heardTick.Load())*every >= s.opts.pingInterval-c.jitter():
		c.pingTick.Store(now) // first: the pong may be here before the write has returned
		w := getWriter()
		c.writeLocked(w, pingFrame)
		w.free()
	}
	return hung
}

// jitter spreads the pings of clients that came at the same moment over a tenth of the interval.
func (c *Client) jitter() time.Duration {
	spread := c.app.s.opts.pingInterval / 10
	if spread <= 0 {
		return 0
	}
	return time.Duration(maphash.String(c.app.s.hub.seed, c.ConnID) % uint64(spread))
}

// vanishedLocked closes a connection whose peer does not answer. The close frame reaches it only if it reads again.
func (c *Client) vanishedLocked() {
	_ = c.shutLocked(CloseNoPong, "no pong")
	c.socket.readUntil(time.Now())
}
