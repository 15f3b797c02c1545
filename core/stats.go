package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are a node's figures. The counters count since New.
type Stats struct {
	Node        string        `json:"node"`
	Connections int           `json:"connections"` // open, and closed ones whose hooks still run
	Channels    int           `json:"channels"`    // with a subscriber here, or without for less than a second or two
	Hooks       int64         `json:"hooks"`       // running now
	Published   int64         `json:"published"`   // messages pushed from here
	Delivered   int64         `json:"delivered"`   // frames of channels accepted for clients here
	Dropped     int64         `json:"dropped"`     // frames not delivered to slow clients by their channel's rule
	Gaps        int64         `json:"gaps"`        // publications from the driver that a full channel did not take
	Slow        int64         `json:"slow"`        // clients closed as too slow
	Refused     int64         `json:"refused"`     // connections
	Faults      int64         `json:"faults"`      // what the driver could return to nobody, say garbage in a channel of its own
	DriverAway  time.Duration `json:"driver_away"` // for how long; 0 when it is there
}

type counters struct {
	published, delivered, dropped, gaps, slow, refused, faults, hooks atomic.Int64
}

// Stats returns the figures of this node.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	clients := s.clients
	s.mu.Unlock()
	away, _ := s.away.state()
	return Stats{
		Node: s.id, Connections: clients, Channels: s.hub.count(), Hooks: s.stats.hooks.Load(),
		Published: s.stats.published.Load(), Delivered: s.stats.delivered.Load(), Dropped: s.stats.dropped.Load(),
		Gaps: s.stats.gaps.Load(), Slow: s.stats.slow.Load(), Refused: s.stats.refused.Load(), Faults: s.stats.faults.Load(),
		DriverAway: away,
	}
}

// Health returns nil while the service runs and its driver is there, else what is wrong. It is meant for a readiness
// probe and asks the driver nothing.
func (s *Service) Health(context.Context) error {
	s.mu.Lock()
	state, failure := s.state, s.failure
	s.mu.Unlock()
	switch {
	case state == stateEnding || state == stateEnded:
		return ErrClosed
	case failure != nil:
		return failure
	case state != stateRunning:
		return errNotRunning
	}
	if away, err := s.away.state(); err != nil {
		return fmt.Errorf("gows: the driver has been away for %v: %w", away.Round(time.Second), err)
	}
	return nil
}

// away knows whether the driver is there, and logs it when it goes, every minute, and when it is back.
type away struct {
	mu     sync.Mutex // guards the rest
	parts  int        // that are away
	err    error
	since  time.Time
	logged time.Time // when last; zero while it is there
	back   bool      // to be logged as back
}

func (a *away) begin(err error) {
	if err == nil {
		err = errors.New("gows: the driver is away")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.parts == 0 {
		a.since = time.Now()
	}
	a.parts++
	a.err = err
}

func (a *away) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.parts = max(0, a.parts-1); a.parts > 0 {
		return
	}
	a.back = a.err != nil && !a.logged.IsZero()
	a.err = nil
}

func (a *away) state() (since time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		return 0, nil
	}
	return time.Since(a.since), a.err
}

// remind logs what there is to log; it is called every second. The log may take its time, so it is not called with the lock.
func (a *away) remind(log *slog.Logger) {
	a.mu.Lock()
	now, err, since, back := time.Now(), a.err, a.since, a.back
	due := err != nil && (a.logged.IsZero() || now.Sub(a.logged) >= time.Minute)
	switch {
	case due:
		a.logged = now
	case back:
		a.back, a.logged = false, time.Time{}
	}
	a.mu.Unlock()
	switch {
	case due:
		log.Error("gows: driver away", "err", err, "since", since)
	case back:
		log.Error("gows: driver back", "after", now.Sub(since))
	}
}

// sparing logs what may come in thousands: a driver that goes away fails a call for every client.
type sparing struct {
	mu     sync.Mutex // guards logged
	logged map[string]time.Time
}

// warn logs a message, one of a kind in a minute.
func (s *sparing) warn(log *slog.Logger, message string, args ...any) {
	s.mu.Lock()
	now := time.Now()
	last, there := s.logged[message]
	due := !there || now.Sub(last) >= time.Minute
	if due {
		if s.logged == nil {
			s.logged = map[string]time.Time{}
		}
		s.logged[message] = now
	}
	s.mu.Unlock()
	if due {
		log.Warn(message, args...)
	}
}
