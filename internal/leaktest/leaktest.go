// Package leaktest fails tests that leave goroutines behind: nothing may outlive Shutdown or Close.
package leaktest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long goroutines that are about to end may take. A leak costs this once; a clean run costs nothing.
// A variable for this package's own tests, which leak on purpose.
var patience = 5 * time.Second

// label marks the goroutines that a test started: children inherit their parent's profiler labels.
const label = "leaktest"

// checks numbers the calls of Check, so that no two tests share a label, not even the same test run twice.
var checks atomic.Int64

// known are functions whose goroutines stay although nothing leaked: the one that asks, the testing package's own
// (the main goroutine and parents of the asking test), and the one that os/signal starts once for good.
var known = []string{
	"internal/leaktest.stacks",
	"testing.(*M).Run",
	"testing.(*T).Run",
	"os/signal.loop",
}

// Main runs a package's tests and exits. Where they passed but goroutines stay, it prints the stacks and exits with 1.
// others are functions of other libraries whose goroutines stay, and are none of ours.
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
func Main(m *testing.M, others ...string) {
	known = append(known, others...)
	code := m.Run()
	if code == 0 { // a failed test may have had no chance to clean up
		if leaked := wait(Leaked); len(leaked) > 0 {
			fmt.Fprintf(os.Stderr, "leaktest: goroutines left after the tests:\n\n%s\n", strings.Join(leaked, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// Check fails t if a goroutine that it started, or one started by such, is still there when it ends. Cleanups that it
// registers later run before that. It holds for parallel tests too. Goroutines of time.AfterFunc belong to no test: only
// Main sees those. Not for synctest bubbles, which wait for their goroutines themselves.
func Check(t testing.TB) {
	t.Helper()
	id := strconv.FormatInt(checks.Add(1), 10)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(label, id)))
	t.Cleanup(func() {
		mark := fmt.Sprintf("%q:%q", label, id)
		leaked := wait(func() []string { return stacks(mark) })
		if len(leaked) > 0 {
			t.Errorf("leaktest: goroutines left after the test:\n\n%s", strings.Join(leaked, "\n\n"))
		}
	})
}

// Leaked returns the stacks of the goroutines that neither the runtime, nor the testing package, nor the caller needs.
// Equal stacks come once, with their count in front.
func Leaked() []string { return stacks("") }

// stacks returns what Leaked does, of the goroutines whose profile entry contains mark.
func stacks(mark string) []string {
	var profile bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1) // a Buffer does not fail
	_, entries, _ := strings.Cut(profile.String(), "\n")
	var found []string
	for entry := range strings.SplitSeq(strings.TrimSpace(entries), "\n\n") {
		if strings.Contains(entry, mark) && !isKnown(entry) {
			found = append(found, entry)
		}
	}
	return found
}

func isKnown(entry string) bool {
	for _, name := range known {
		if strings.Contains(entry, name) {
			return true
		}
	}
	return false
}

// wait asks until the answer is empty or patience ends, ever more slowly: each asking stops the world for a moment.
func wait(leaked func() []string) []string {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		found := leaked()
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		<-time.After(pause)
	}
}
