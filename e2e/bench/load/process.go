package load

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf returns the CPU time that processes have used, user and system, in nanoseconds.
func cpuOf(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		var t unix.Timespec
		// The clock of another process, as clock_getcpuclockid(3) makes its number: exact where /proc counts in 10 ms.
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
		}
		sum += t.Nano()
	}
	return sum, nil
}

func ownCPU() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// CPU returns the CPU time that a process has used, user and system.
func CPU(pid int) (time.Duration, error) {
	spent, err := cpuOf([]int{pid})
	return time.Duration(spent), err
}

// Memory returns the resident memory of a process in bytes.
func Memory(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	fields := bytes.Fields(b)
	pages, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	return pages * os.Getpagesize(), nil
}
