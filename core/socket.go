package core

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// socket is a connection as the reader and the outbox use it. read is called by the reader alone; try, write and settle by
// whoever the outbox lets, one at a time; the others by anybody.
type socket interface {
	// read waits for bytes. What it returns is the caller's until done is called.
	read() ([]byte, error)
	done()
	// try writes without waiting and returns how many bytes were taken, which may be none.
	try(w *writer, p []byte) (int, error)
	// write waits until all of p is taken, at most for stall. settle clears the deadline that write leaves behind, with
	// which try would fail.
	write(p []byte, stall time.Duration) error
	settle()
	// readUntil bounds the reading from now on. Where that cannot be had it ends the connection: nobody would wake the reader.
	readUntil(t time.Time)
	// endWriting tells the peer that nothing more comes, and reports whether it could.
	endWriting() bool
	// close ends the connection and may wait for a moment; abort never waits.
	close()
	abort()
}

// newSocket takes over nc: plain TCP and Unix sockets where the system can, in raw, else any connection.
func newSocket(nc net.Conn, raw *rawSocket) socket {
	if raw.take(nc) {
		return raw
	}
	return &stream{nc: nc}
}

// plain reports whether nc is a connection as the system has it. It asks for exact types: a wrapper that embeds a
// *net.TCPConn has its methods too, but may change what is read and written.
func plain(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// stream is a socket that can only block: TLS, pipes, and everything on systems without readiness. It takes nothing in
// try, so all writing is the drainer's.
type stream struct {
	nc  net.Conn
	buf []byte
}

const streamBuffer = 1 << 10

func (s *stream) read() ([]byte, error) {
	if s.buf == nil {
		s.buf = make([]byte, streamBuffer)
	}
	n, err := s.nc.Read(s.buf)
	if n > 0 {
		err = nil
	}
	return s.buf[:n], err
}

func (s *stream) done() {}

func (s *stream) try(*writer, []byte) (int, error) { return 0, nil }

func (s *stream) write(p []byte, stall time.Duration) error { return writeAll(s.nc, p, stall) }

func (s *stream) settle() { _ = s.nc.SetWriteDeadline(time.Time{}) }

func (s *stream) readUntil(t time.Time) {
	if s.nc.SetReadDeadline(t) != nil {
		s.abort()
	}
}

func (s *stream) endWriting() bool {
	half, ok := s.nc.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

func (s *stream) close() { _ = s.nc.Close() }

// abort goes below TLS, whose Close waits up to 5 s to say goodbye.
func (s *stream) abort() {
	if secure, ok := s.nc.(*tls.Conn); ok {
		_ = secure.NetConn().Close()
		return
	}
	_ = s.nc.Close()
}

func writeAll(nc net.Conn, p []byte, stall time.Duration) error {
	if err := nc.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return err
	}
	n, err := nc.Write(p)
	if err == nil && n < len(p) { // a wrapper's mistake, behind which the stream would go on in the middle of a frame
		err = io.ErrShortWrite
	}
	return err
}

// writer holds the arguments of a non-blocking write, so that the function handed to RawConn.Write is made once and not
// per write. A turn has one for all its subscribers.
type writer struct {
	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool

	flight *flight // of the batch, if it is counted
	left   bool    // some of it was left in an outbox
}

// leaves notes that something is left in an outbox, and returns under which flight.
func (w *writer) leaves() *flight {
	w.left = true
	return w.flight
}

var writers = sync.Pool{New: func() any {
	w := new(writer)
	w.once = w.writeOnce
	return w
}}

func getWriter() *writer { return writers.Get().(*writer) } //nolint:errcheck // the pool holds nothing else

func (w *writer) free() {
	w.p, w.err, w.flight, w.left = nil, nil, nil, false
	writers.Put(w)
}
