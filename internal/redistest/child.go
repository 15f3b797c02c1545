package redistest

import (
	"os/exec"
	"testing"
)

// Child is any other process of a test, to be paused and killed like a server.
type Child struct {
	t       testing.TB
	process *process
}

// StartChild starts cmd. It is killed when the test ends, at the latest.
func StartChild(t testing.TB, cmd *exec.Cmd) *Child {
	t.Helper()
	p, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c := &Child{t, p}
	t.Cleanup(c.Kill)
	return c
}

// Pause stops the process with SIGSTOP and returns when it stands.
func (c *Child) Pause() {
	c.t.Helper()
	if err := pause(c.process.cmd.Process); err != nil {
		c.t.Fatal(err)
	}
}

// Resume undoes Pause.
func (c *Child) Resume() {
	c.t.Helper()
	if err := resume(c.process.cmd.Process); err != nil {
		c.t.Fatal(err)
	}
}

// Kill ends the process with SIGKILL, paused or not, and returns when it is gone. Once more does nothing.
func (c *Child) Kill() {
	_ = c.process.cmd.Process.Kill() // fails where it has ended by itself
	<-c.process.done
}
