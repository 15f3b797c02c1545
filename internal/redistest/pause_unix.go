//go:build unix

package redistest

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// pause returns when the process stands, where there is a /proc to see that.
func pause(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return poll(func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			return nil //nolint:nilerr // no /proc on this system: the signal has to do
		}
		// pid (name) state ...
		if _, state, _ := bytes.Cut(stat, []byte(") ")); len(state) > 0 && state[0] != 'T' {
			return fmt.Errorf("it is in state %c", state[0])
		}
		return nil
	})
}

func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
