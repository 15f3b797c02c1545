package core

import "syscall"

const (
	tcpNotSentLowAt = 25 // TCP_NOTSENT_LOWAT of linux/tcp.h, which package syscall does not name
	notSentBytes    = 128 << 10
)

// boundKernelBuffer keeps the kernel from hiding 4 MB of unsent frames in front of the outbox, where they would not be
// counted and a ping would arrive 20 s late. A failure (a Unix socket) costs only that.
func boundKernelBuffer(raw interface{ Control(func(fd uintptr)) error }) {
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, notSentBytes)
	})
}
