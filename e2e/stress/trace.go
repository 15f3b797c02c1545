package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	traceSize   = 50
	mostFailure = 10 // that are kept; the run ends at the first
)

// trace keeps the last events of an actor or a channel. They are made into text only when something fails.
type trace struct {
	mu     sync.Mutex // guards the rest
	events []event
	next   int
}

type event struct {
	at   time.Time
	what string
	arg  string
	n    int
}

func (t *trace) note(what, arg string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := event{time.Now(), what, arg, n}
	if len(t.events) < traceSize {
		t.events = append(t.events, e)
		return
	}
	t.events[t.next] = e
	t.next = (t.next + 1) % traceSize
}

func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var text strings.Builder
	for i := range t.events {
		e := t.events[(t.next+i)%len(t.events)]
		fmt.Fprintf(&text, "    %s %s %.120s %d\n", e.at.Format("15:04:05.000000"), e.what, e.arg, e.n)
	}
	return text.String()
}

// failures are what the checks have found.
type failures struct {
	replay string // the command that runs it again
	stop   func() // ends the run

	mu    sync.Mutex // guards the rest
	texts []string
	count int
	over  bool // what comes from now on is the end's own doing
}

// add notes a failure, with the traces of those it is about.
func (f *failures) add(who string, err error, traces ...*trace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	if f.count++; f.count == 1 {
		f.stop()
	}
	if len(f.texts) >= mostFailure {
		return
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s: %v\n", time.Now().Format("15:04:05.000000"), who, err)
	for i, t := range traces {
		fmt.Fprintf(&text, "  the last events of %s:\n%s", []string{"the actor", "the channel"}[min(i, 1)], t)
	}
	f.texts = append(f.texts, text.String())
}

// err returns all failures as one error, or nil.
func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return nil
	}
	return fmt.Errorf("%d failures, the first of them:\n\n%s\nAgain: %s", f.count, strings.Join(f.texts, "\n"), f.replay)
}

// close ends the taking.
func (f *failures) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
}

// failed reports whether there are any.
func (f *failures) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count > 0
}
