package drivertest_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
)

// Broken drivers fail by waiting for what never happens. A case that should pass and does not gets a second chance, alone
// and with more patience: this machine may have been busy.
const (
	patience     = time.Second
	morePatience = 10 * time.Second
	rounds       = 10
	atATime      = 24
)

// harness returns a fresh driver with a defect; end ends what it left behind.
func (d defect) harness() (h drivertest.Harness, end func()) {
	ended := make(chan struct{})
	base := newRestartable(drivers.NewMemoryDriver())
	if d.restart != nil {
		d.restart(base)
	}
	var driver core.Driver = base
	if d.apply != nil {
		driver = d.apply(base, ended)
	}
	return drivertest.Harness{Driver: func() core.Driver { return driver }, Answers: true, Restart: base.Restart},
		func() { close(ended) }
}

// play returns how a case fails on a driver with this defect.
func (d defect) play(t *testing.T, c drivertest.Scene, patience time.Duration) []string {
	t.Helper()
	h, end := d.harness()
	defer end()
	return record(t.Context(), func(tb testing.TB) {
		tb.Helper()
		c.Play(tb, h, patience, rounds)
	})
}

// TestEveryBrokenDriverFailsItsOwnCases plays the whole suite on drivers with one defect each: those of its cases that are
// about the defect must fail, and those that need not must pass.
func TestEveryBrokenDriverFailsItsOwnCases(t *testing.T) {
	t.Parallel()
	sound, end := defect{}.harness()
	defer end()
	scenes := drivertest.Scenes(sound)

	type played struct{ defect, scene string }
	var mu sync.Mutex // guards failures
	failures := map[played][]string{}
	var playing sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for _, d := range defects {
		for _, c := range scenes {
			playing.Go(func() { // ends with the case
				slots <- struct{}{}
				defer func() { <-slots }()
				failed := d.play(t, c, patience)
				mu.Lock()
				defer mu.Unlock()
				failures[played{d.name, c.Name}] = failed
			})
		}
	}
	playing.Wait()

	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			for _, c := range scenes {
				failed := failures[played{d.name, c.Name}]
				must, may := slices.Contains(d.fails, c.Name), slices.Contains(d.also, c.Name)
				for again := 0; must && failed == nil && again < 5; again++ { // some depend on who is faster
					failed = d.play(t, c, patience)
				}
				if !must && !may && failed != nil {
					failed = d.play(t, c, morePatience)
				}
				switch {
				case must && failed == nil:
					t.Errorf("passed: %s", c.Name)
				case !must && !may && failed != nil:
					t.Errorf("failed: %s: %s", c.Name, failed[0])
				}
			}
		})
	}
}

// TestEveryCaseCanFail holds the cases against the defects: one that no broken driver fails proves nothing.
func TestEveryCaseCanFail(t *testing.T) {
	t.Parallel()
	sound, end := defect{}.harness()
	defer end()
	known, covered := map[string]bool{}, map[string]bool{}
	for _, c := range drivertest.Scenes(sound) {
		if known[c.Name] {
			t.Errorf("two cases are called %q", c.Name)
		}
		known[c.Name] = true
	}
	for _, d := range defects {
		if len(d.fails) == 0 {
			t.Errorf("no case is about the defect %q", d.name)
		}
		for _, name := range d.fails {
			covered[name] = true
		}
		for _, name := range slices.Concat(d.fails, d.also) {
			if !known[name] {
				t.Errorf("defect %q: there is no case %q", d.name, name)
			}
		}
	}
	for name := range known {
		if !covered[name] {
			t.Errorf("no broken driver fails %q", name)
		}
	}
}

// TestACaseThatIsNotOfferedIsLeftOut is about the harness's optional fields.
func TestACaseThatIsNotOfferedIsLeftOut(t *testing.T) {
	t.Parallel()
	all, end := defect{}.harness()
	defer end()
	count := func(h drivertest.Harness) int { return len(drivertest.Scenes(h)) }
	without := all
	without.Restart = nil
	if got, want := count(without), count(all)-1; got != want {
		t.Errorf("without Restart: %d cases, want %d", got, want)
	}
	without.Answers = false
	if got, want := count(without), count(all)-2; got != want {
		t.Errorf("without Restart and Answers: %d cases, want %d", got, want)
	}
}
