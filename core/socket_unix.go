//go:build unix

package core

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// rawSocket reads without a buffer of its own and writes without waiting, on the descriptor of a plain connection.
type rawSocket struct {
	raw syscall.RawConn
	nc  net.Conn

	// Of the reader: the pooled buffer it holds while it has bytes, and what the last read brought.
	readOnce func(fd uintptr) bool // tryRead, bound once
	buf      *[]byte
	n        int // 0: the peer has ended, unless there is an errno
	errno    syscall.Errno
}

// readBytes is the size of the pooled buffers. A larger message is gathered by the parser.
const readBytes = 16 << 10

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, readBytes)
	return &b
}}

// take makes s the socket on nc, unless nc is a connection it cannot serve.
func (s *rawSocket) take(nc net.Conn) bool {
	_, duplicated := nc.(*duplicated)
	if !duplicated && !plain(nc) {
		return false
	}
	raw, err := nc.(syscall.Conn).SyscallConn() //nolint:errcheck // all of these are a syscall.Conn
	if err != nil {
		return false
	}
	boundKernelBuffer(raw)
	s.raw, s.nc, s.readOnce = raw, nc, s.tryRead
	return true
}

// ready reports whether s serves a connection.
func (s *rawSocket) ready() bool { return s.raw != nil }

// duplicated is a connection on a duplicate of another one's descriptor: less than net.FileConn would make of it, which
// duplicates once more and keeps both addresses.
type duplicated struct{ *os.File }

// duplicate returns a plain connection to nc's peer that outlives nc, or nil: for other connections, or when no descriptor
// is left.
func duplicate(nc net.Conn) net.Conn {
	if !plain(nc) {
		return nil
	}
	raw, err := nc.(syscall.Conn).SyscallConn() //nolint:errcheck // plain connections are one
	if err != nil {
		return nil
	}
	var copied int
	var failed error
	err = raw.Control(func(fd uintptr) {
		syscall.ForkLock.RLock() // no child may inherit it
		defer syscall.ForkLock.RUnlock()
		if copied, failed = syscall.Dup(int(fd)); failed == nil {
			syscall.CloseOnExec(copied)
		}
	})
	if err != nil || failed != nil {
		return nil
	}
	if copied <= 2 { // os.File takes a broken pipe there for one of the process, and ends it
		_ = syscall.Close(copied)
		return nil
	}
	file := os.NewFile(uintptr(copied), "socket")
	if err := file.SetDeadline(time.Time{}); err != nil { // it would block
		_ = file.Close()
		return nil
	}
	return &duplicated{file}
}

func (d *duplicated) LocalAddr() net.Addr { return nil }

func (d *duplicated) RemoteAddr() net.Addr { return nil }

// CloseWrite is that of net.TCPConn.
func (d *duplicated) CloseWrite() error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	return errors.Join(err, failed)
}

func (s *rawSocket) read() ([]byte, error) {
	if err := s.raw.Read(s.readOnce); err != nil {
		return nil, err
	}
	switch {
	case s.errno != 0:
		return nil, s.errno
	case s.n == 0:
		return nil, io.EOF
	}
	return (*s.buf)[:s.n], nil
}

// tryRead must read and not only look: the poller is edge-triggered and forgets the readiness it has reported.
func (s *rawSocket) tryRead(fd uintptr) bool {
	buf := readBuffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	for {
		n, err := syscall.Read(int(fd), *buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			readBuffers.Put(buf)
			return false
		case n > 0:
			s.buf, s.n, s.errno = buf, n, 0
			return true
		}
		readBuffers.Put(buf)
		s.n = 0
		s.errno, _ = err.(syscall.Errno) //nolint:errorlint // that is what read(2) returns; nil is 0
		return true
	}
}

func (s *rawSocket) done() {
	readBuffers.Put(s.buf)
	s.buf = nil
}

func (s *rawSocket) try(w *writer, p []byte) (int, error) {
	w.p, w.n, w.err = p, 0, nil
	if err := s.raw.Write(w.once); err != nil {
		return 0, err
	}
	return w.n, w.err
}

// writeOnce always returns true: with false, RawConn.Write would wait for room.
func (w *writer) writeOnce(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), w.p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
		case err != nil:
			w.err = os.NewSyscallError("write", err)
		default:
			w.n = n
		}
		return true
	}
}

func (s *rawSocket) write(p []byte, stall time.Duration) error { return writeAll(s.nc, p, stall) }

func (s *rawSocket) settle() { _ = s.nc.SetWriteDeadline(time.Time{}) }

func (s *rawSocket) readUntil(t time.Time) {
	if s.nc.SetReadDeadline(t) != nil {
		s.abort()
	}
}

func (s *rawSocket) endWriting() bool {
	ended := false
	_ = s.raw.Control(func(fd uintptr) { ended = syscall.Shutdown(int(fd), syscall.SHUT_WR) == nil })
	return ended
}

func (s *rawSocket) close() { _ = s.nc.Close() }

func (s *rawSocket) abort() { _ = s.nc.Close() }
