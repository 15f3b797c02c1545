package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine asks the system what it is.
func machine() Machine {
	m := Machine{CPU: "unknown", Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: field("/proc/sys/kernel/osrelease", "")}
	if name := field("/proc/cpuinfo", "model name"); name != "" {
		m.CPU = name
	}
	var kib int
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err == nil {
		m.Memory = fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
	}
	return m
}

// field returns what a file says behind a name and a colon, or its first line for no name.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		before, after, found := strings.Cut(line, ":")
		switch {
		case name == "":
			return strings.TrimSpace(line)
		case found && strings.TrimSpace(before) == name:
			return strings.TrimSpace(after)
		}
	}
	return ""
}
