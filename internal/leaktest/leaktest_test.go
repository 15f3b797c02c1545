package leaktest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	patience = time.Second
	Main(m)
}

// forget is what a leaked goroutine runs: the tests look for its name.
func forget(started chan<- struct{}, end <-chan struct{}) {
	close(started) // before it has run, a goroutine has no frames to be known by
	<-end
}

// leak starts a goroutine that stays until end is closed.
func leak(end <-chan struct{}) {
	started := make(chan struct{})
	go forget(started, end)
	<-started
}

func TestLeakedNamesAGoroutineUntilItEnds(t *testing.T) {
	end := make(chan struct{})
	leak(end)
	if found := strings.Join(Leaked(), "\n"); !strings.Contains(found, "leaktest.forget") {
		t.Errorf("the goroutine is not among the leaked:\n%s", found)
	}
	close(end)
	if found := wait(Leaked); len(found) > 0 {
		t.Errorf("still there after it ended:\n%s", strings.Join(found, "\n\n"))
	}
}

// recorder is a test that only notes what Check does to it.
type recorder struct {
	testing.TB
	cleanup func()
	failure string
}

func (r *recorder) Helper()                      {}
func (r *recorder) Cleanup(f func())             { r.cleanup = f }
func (r *recorder) Errorf(text string, a ...any) { r.failure = fmt.Sprintf(text, a...) }

func TestCheckSeesOnlyItsOwnTest(t *testing.T) {
	end := make(chan struct{})
	defer close(end)

	innocent, guilty := &recorder{}, &recorder{}
	Check(guilty)
	child := make(chan struct{})
	go func() { // the parent ends, its child does not
		leak(end)
		close(child)
	}()
	<-child
	Check(innocent)

	innocent.cleanup()
	if innocent.failure != "" {
		t.Errorf("another test's goroutine was held against this one: %s", innocent.failure)
	}
	guilty.cleanup()
	if !strings.Contains(guilty.failure, "leaktest.forget") {
		t.Errorf("the leak was not reported: %q", guilty.failure)
	}
}

func TestMainExitsWith1(t *testing.T) {
	const second = "GOWS_LEAKTEST_SECOND"
	if os.Getenv(second) != "" { // the second process, started below
		leak(make(chan struct{}))
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestMainExitsWith1$")
	cmd.Env = append(os.Environ(), second+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "leaktest.forget") {
		t.Errorf("want exit code 1 and the stack, got %v:\n%s", err, out)
	}
}
