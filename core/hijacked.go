package core

import (
	"net"
	"sync"
	"time"
)

// AttachHijacked is Attach for a connection out of a hijack handler of fasthttp, on which Fiber stands. hc is what the
// handler was given. The server writes no response of its own (HijackSetNoResponse); whether it has KeepHijackedConns set
// makes no difference.
//
// Plain TCP and Unix sockets are taken out of the server's hands where the system can duplicate a descriptor (not on
// Windows), and AttachHijacked returns at once. Any other connection (TLS, or MaxConnsPerIP set) belongs to the server
// until the handler returns: AttachHijacked then returns when it has ended and nothing uses it any more.
func (s *Service) AttachHijacked(hc net.Conn, t *Ticket) {
	raw := hc
	if wrapper, ok := hc.(interface{ UnsafeConn() net.Conn }); ok {
		raw = wrapper.UnsafeConn()
	}
	if nc := duplicate(raw); nc != nil {
		leftover := buffered(hc, raw)
		_ = raw.Close()
		s.Attach(nc, leftover, t)
		return
	}
	h := &held{Conn: hc, ended: make(chan struct{})}
	s.Attach(h, nil, t)
	<-h.ended
	h.uses.Wait()
	_ = hc.Close() // does something only where the server leaves that to the handler
}

// buffered returns what the server has read behind the request. Nothing may be read through hc later: its buffer goes
// back to the server's pool when the handler returns, and another client's request comes out of it.
func buffered(hc, raw net.Conn) []byte {
	_ = raw.SetReadDeadline(time.Unix(1, 0)) // beyond the buffer, reading fails at once
	var b [512]byte
	var all []byte
	for {
		n, err := hc.Read(b[:])
		all = append(all, b[:n]...)
		if err != nil {
			return all
		}
	}
}

// held is a connection that its server closes and reuses as soon as the handler returns: once it is closed here nobody
// touches it any more.
type held struct {
	net.Conn

	ended chan struct{}  // closed by Close
	uses  sync.WaitGroup // reads and writes under way

	mu     sync.Mutex // guards closed, and that no deadline is set after it
	closed bool
}

func (h *held) Read(p []byte) (int, error) { return h.transfer(h.Conn.Read, p) }

func (h *held) Write(p []byte) (int, error) { return h.transfer(h.Conn.Write, p) }

func (h *held) transfer(move func([]byte) (int, error), p []byte) (int, error) {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.uses.Add(1)
	}
	h.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	defer h.uses.Done()
	return move(p)
}

func (h *held) SetDeadline(t time.Time) error { return h.limit(h.Conn.SetDeadline, t) }

func (h *held) SetReadDeadline(t time.Time) error { return h.limit(h.Conn.SetReadDeadline, t) }

func (h *held) SetWriteDeadline(t time.Time) error { return h.limit(h.Conn.SetWriteDeadline, t) }

func (h *held) limit(set func(time.Time) error, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return net.ErrClosed
	}
	return set(t)
}

// Close wakes who reads or writes; the server does the closing.
func (h *held) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return net.ErrClosed
	}
	h.closed = true
	err := h.Conn.SetDeadline(time.Unix(1, 0))
	close(h.ended)
	return err
}
