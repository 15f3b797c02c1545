package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// counters are what has happened so far.
type counters struct {
	steps, connects, refused, knocks, online, offline                             atomic.Int64
	subscribes, unsubscribes, pushed, heard, delivered, checked, sent             atomic.Int64
	answers, told, gaps, kicks, stalls, violations, restarts, quiets, unavailable atomic.Int64
	logged                                                                        logged

	mu      sync.Mutex // guards the rest
	causes  map[int]int
	resting []usage
}

// closed counts a close code, as the server has it.
func (c *counters) closed(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.causes == nil {
		c.causes = map[int]int{}
	}
	c.causes[code]++
}

// keep keeps what was used at a quiet point.
func (c *counters) keep(u usage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = append(c.resting, u)
}

func (c *counters) line() string {
	return fmt.Sprintf("%d steps, %d connects, %d pushed, %d delivered, %d checked, %d answers, %d sent, %d kicks, %d stalls, %d restarts, %d gaps",
		c.steps.Load(), c.connects.Load(), c.pushed.Load(), c.delivered.Load(), c.checked.Load(), c.answers.Load(), c.sent.Load(),
		c.kicks.Load(), c.stalls.Load(), c.restarts.Load(), c.gaps.Load())
}

// window is over how many quiet points memory is looked at: less says nothing.
const window = 20

// grows says whether the process has grown since it was as full as now. The first quarter is the way there.
func (c *counters) grows() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.resting)
	if n < 2*window {
		return nil
	}
	before, now := least(c.resting[n/4:n/4+window/2]), least(c.resting[n-window/2:])
	if now.Heap > before.Heap+before.Heap/3+8<<20 || now.Goroutines > before.Goroutines+100 || now.Files > before.Files+100 {
		return fmt.Errorf("beside its connections it grows: from %v to %v", before, now)
	}
	return nil
}

// least is the least that was used beside the connections, whose number differs: each has two ends here, with a goroutine
// and a file.
func least(all []usage) usage {
	u := usage{Goroutines: math.MaxInt, Files: math.MaxInt, Heap: math.MaxInt64, RSS: math.MaxInt64}
	for _, v := range all {
		v.Goroutines -= 2 * v.Connections
		v.Files -= 2 * v.Connections
		u.Goroutines, u.Files = min(u.Goroutines, v.Goroutines), min(u.Files, v.Files)
		u.Heap, u.RSS = min(u.Heap, v.Heap), min(u.RSS, v.RSS)
	}
	return u
}

// usage is what the process uses.
type usage struct {
	Connections int   `json:"connections"`
	Goroutines  int   `json:"goroutines"`
	Files       int   `json:"files"`
	Heap        int64 `json:"heap_bytes"`
	RSS         int64 `json:"rss_bytes"`
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %.1f MB heap, %.1f MB RSS", u.Goroutines, u.Files, float64(u.Heap)/1e6, float64(u.RSS)/1e6)
}

func measure() usage {
	for range 3 { // the pools are empty after two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{Goroutines: runtime.NumGoroutine(), Heap: int64(m.HeapAlloc)}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.Files = len(files) - 1 // the directory itself
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			u.RSS = pages * int64(os.Getpagesize())
		}
	}
	return u
}

// heapSlack is what a process may keep after a long run that it did not have after a short one: tables of the runtime,
// of types and of TLS.
const heapSlack = 4 << 20

// left says what is left of a run, compared with what was there before. The hooks know the stage: who holds a service, or
// one of its connections, holds that.
func left(r *report, before usage) error {
	return eventually(20*time.Second, func() error {
		now := measure()
		if r.stage.Value() != nil {
			return errors.New("left behind: a service, or something of it, is still referred to")
		}
		if now.Goroutines > before.Goroutines || now.Files > before.Files || now.Heap > before.Heap+heapSlack {
			return fmt.Errorf("left behind: before %v, now %v\n%s", before, now, stacks(now.Goroutines > before.Goroutines))
		}
		return nil
	})
}

func stacks(wanted bool) string {
	if !wanted {
		return ""
	}
	buf := make([]byte, 64<<10)
	return string(buf[:runtime.Stack(buf, true)])
}

// report is the summary of a run.
type report struct {
	Driver  string           `json:"driver"`
	Seed    uint64           `json:"seed"`
	Seconds float64          `json:"seconds"`
	Nodes   int              `json:"nodes"` // of each of two groups
	Actors  int              `json:"actors"`
	Totals  map[string]int64 `json:"totals"`
	Closes  map[int]int      `json:"closes"`
	Logged  map[string]int   `json:"logged"`
	Resting []usage          `json:"resting"` // at the quiet points, the first, the last and some between

	stage weak.Pointer[stage]
}

func (s *stage) report(took time.Duration) *report {
	c := &s.count
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &report{
		stage: weak.Make(s), Driver: s.driver, Seed: s.seed, Seconds: took.Seconds(), Nodes: s.nodes, Actors: len(s.actors),
		Totals: map[string]int64{
			"steps": c.steps.Load(), "connects": c.connects.Load(), "refused": c.refused.Load(), "knocks": c.knocks.Load(),
			"online": c.online.Load(), "offline": c.offline.Load(), "subscribes": c.subscribes.Load(),
			"unsubscribes": c.unsubscribes.Load(), "pushed": c.pushed.Load(), "heard": c.heard.Load(),
			"delivered": c.delivered.Load(), "checked": c.checked.Load(), "sent": c.sent.Load(), "answers": c.answers.Load(),
			"joins_and_leaves": c.told.Load(), "gaps": c.gaps.Load(), "kicks": c.kicks.Load(), "stalls": c.stalls.Load(),
			"violations": c.violations.Load(), "restarts": c.restarts.Load(), "unavailable": c.unavailable.Load(), "quiet_points": c.quiets.Load(), "untold": c.logged.untold.Load(),
			"starved": s.pulse.count.Load(), "starved_worst_ms": s.pulse.worst.Load() / 1e6,
		},
		Closes: maps.Clone(c.causes), Logged: c.logged.all(),
	}
	every := max(1, len(c.resting)/20)
	for i, u := range c.resting {
		if i%every == 0 || i == len(c.resting)-1 {
			r.Resting = append(r.Resting, u)
		}
	}
	return r
}

func (r *report) String() string {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// served fails when more than one of a hundred things was answered with "unavailable", or one of ten where the process was
// starved: the machine is too slow for its own load then, or something hangs.
func (r *report) served() error {
	share := int64(100)
	if r.Totals["starved"] > 0 {
		share = 10
	}
	if all := r.Totals["answers"] + r.Totals["pushed"]; share*r.Totals["unavailable"] > all {
		return fmt.Errorf("%d of %d were unavailable", r.Totals["unavailable"], all)
	}
	return nil
}

// logged counts what the services log, by text.
type logged struct {
	untold atomic.Int64 // joins and leaves that a service has given up, which it logs and tells nobody

	mu    sync.Mutex // guards texts
	texts map[string]int
}

func (l *logged) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle counts one.
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.texts == nil {
		l.texts = map[string]int{}
	}
	if r.Message == "gows: presence not told" || r.Message == "gows: leave failed" {
		l.untold.Add(1)
	}
	text := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			text += ": " + a.Value.String()
		}
		return true
	})
	if len(l.texts) < 100 || l.texts[text] > 0 {
		l.texts[text]++
	}
	return nil
}

// WithAttrs leaves them out.
func (l *logged) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup does nothing.
func (l *logged) WithGroup(string) slog.Handler { return l }

func (l *logged) all() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.texts)
}
