package redistest

import (
	"os/exec"
	"runtime"
)

// process is a child that has started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has ended and is waited for
}

// launch starts cmd, such that it dies with this process where the system can do that.
func launch(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd)
	p := &process{cmd, make(chan struct{})}
	started := make(chan error, 1)
	go func() { // ends with the child, which Kill ends
		defer close(p.done)
		// The kernel kills the child when the thread ends that started it: this one stays until there is no child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is no news: it was killed
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}
