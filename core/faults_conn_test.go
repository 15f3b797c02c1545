package core_test

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// faultyConn is a connection whose calls fail. hurt does the failing call.
type faultyConn struct {
	net.Conn
	*trigger

	hurt func(c *faultyConn, p []byte) (int, error)

	mu      sync.Mutex // guards the rest
	writeBy time.Time
	once    sync.Once
	closed  chan struct{}
}

func (c *faultyConn) Read(p []byte) (int, error) {
	if c.strikes("Read") {
		return c.hurt(c, p)
	}
	return c.Conn.Read(p)
}

func (c *faultyConn) Write(p []byte) (int, error) {
	if c.strikes("Write") {
		return c.hurt(c, p)
	}
	return c.Conn.Write(p)
}

func (c *faultyConn) SetDeadline(at time.Time) error {
	if c.strikes("SetDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	return c.Conn.SetDeadline(at)
}

func (c *faultyConn) SetReadDeadline(at time.Time) error {
	if c.strikes("SetReadDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	return c.Conn.SetReadDeadline(at)
}

func (c *faultyConn) SetWriteDeadline(at time.Time) error {
	if c.strikes("SetWriteDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	c.mu.Lock()
	c.writeBy = at
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(at)
}

func (c *faultyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	err := c.Conn.Close()
	if c.strikes("Close") {
		_, err = c.hurt(c, nil)
	}
	return err
}

// The ways in which a call fails.

func failsWith(err error) func(*faultyConn, []byte) (int, error) {
	return func(*faultyConn, []byte) (int, error) { return 0, err }
}

// breaksOff brings the half of what arrived, and what follows is lost with the connection.
func breaksOff(c *faultyConn, p []byte) (int, error) {
	n, _ := c.Conn.Read(p)
	_ = c.Conn.Close()
	return n / 2, syscall.ECONNRESET
}

// loses loses everything that arrives: a network that drops packets.
func loses(c *faultyConn, p []byte) (int, error) {
	for {
		if _, err := c.Conn.Read(p); err != nil {
			return 0, err
		}
	}
}

// takesHalf writes the half, and says so or not.
func takesHalf(err error) func(*faultyConn, []byte) (int, error) {
	return func(c *faultyConn, p []byte) (int, error) {
		n, failed := c.Conn.Write(p[:len(p)/2])
		if failed != nil {
			return n, failed
		}
		return n, err
	}
}

// takesNothing takes nothing until the deadline.
func takesNothing(c *faultyConn, _ []byte) (int, error) {
	c.mu.Lock()
	by := c.writeBy
	c.mu.Unlock()
	if by.IsZero() {
		return 0, errors.New("a write without a deadline would hang for ever")
	}
	select {
	case <-time.After(time.Until(by)):
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

// In a bubble, where what hangs costs nothing, over a connection that can only block.
func TestAConnectionWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		verb, name string
		atLeast    int // calls in a life
		hurt       func(c *faultyConn, p []byte) (int, error)
	}{
		{"Read", "reset", 6, failsWith(syscall.ECONNRESET)},
		{"Read", "end of file", 6, failsWith(io.EOF)},
		{"Read", "time-out", 6, failsWith(os.ErrDeadlineExceeded)},
		{"Read", "cut in a message", 6, breaksOff},
		{"Read", "nothing arrives any more", 6, loses},
		{"Write", "broken pipe", 8, failsWith(syscall.EPIPE)},
		{"Write", "no buffers", 8, failsWith(syscall.ENOBUFS)},
		{"Write", "half with an error", 8, takesHalf(io.ErrShortWrite)},
		{"Write", "half without an error", 8, takesHalf(nil)},
		{"Write", "takes nothing", 8, takesNothing},
		{"SetDeadline", "error", 1, failsWith(os.ErrNoDeadline)},
		{"SetReadDeadline", "error", 1, failsWith(os.ErrNoDeadline)},
		{"SetWriteDeadline", "error", 8, failsWith(os.ErrNoDeadline)},
		{"Close", "error", 1, failsWith(syscall.EIO)},
	} {
		t.Run(fault.verb+" "+fault.name, func(t *testing.T) {
			t.Parallel()
			everyCall(t, fault.verb, fault.atLeast, func(t *testing.T, f *trigger) {
				t.Helper()
				synctest.Test(t, func(t *testing.T) {
					d := &diary{}
					sc := &scene{t: t, s: coretest.Run(t, core.WithLogger(nil), asks(d)), d: d, kick: fault.verb == "SetReadDeadline"}
					sc.settle = func(func() bool) { synctest.Wait() }
					sc.pass = func() { <-time.After(time.Minute) }
					sc.attach = func(ticket *core.Ticket) net.Conn {
						server, client := net.Pipe()
						sc.s.Attach(&faultyConn{Conn: server, trigger: f, hurt: fault.hurt, closed: make(chan struct{})}, nil, ticket)
						return client
					}
					sc.setUp()
					f.arm()
					heard := sc.live()
					beginning(t, heard)
					if !f.struck() && !sc.kick && !slices.Equal(heard, wholeLife) {
						t.Errorf("without a fault ann heard %v", heard)
					}
					sc.unharmed()
					sc.shutDown()
				})
			})
		})
	}
}

// Over TCP, where the kernel takes a part of what is written, or nothing: that loses nothing.
func TestASocketWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		verb, name string
		atLeast    int
		share      float64
		err        error
		lossless   bool
	}{
		{"read", "reset", 6, 0, syscall.ECONNRESET, false},
		{"read", "end of file", 6, 0, io.EOF, false},
		{"try", "broken pipe", 8, 0, syscall.EPIPE, false},
		{"try", "half, then a broken pipe", 8, 0.5, syscall.EPIPE, false},
		{"try", "no buffers", 8, 0, syscall.ENOBUFS, false},
		{"try", "half", 8, 0.5, nil, true},
		{"try", "nothing", 8, 0, nil, true},
		{"write", "broken pipe", 8, 0, syscall.EPIPE, false},
		{"write", "half, then a time-out", 8, 0.5, os.ErrDeadlineExceeded, false},
	} {
		t.Run(fault.verb+" "+fault.name, func(t *testing.T) {
			t.Parallel()
			everyCall(t, fault.verb, fault.atLeast, func(t *testing.T, f *trigger) {
				t.Helper()
				strike := func(verb string) (float64, error) {
					switch {
					case f.strikes(verb):
						return fault.share, fault.err
					case verb == "try" && fault.verb == "write": // so that there is something to write
						return 0, nil
					}
					return 1, nil
				}
				d := &diary{}
				sc := &scene{t: t, s: coretest.Run(t, core.WithLogger(nil), asks(d)), d: d}
				sc.settle = func(there func() bool) { eventually(t, "what was asked for", there) }
				sc.pass = func() {
					select {
					case <-sc.ann.ended:
					case <-time.After(coretest.Patience):
					}
				}
				sc.attach = func(ticket *core.Ticket) net.Conn {
					server, client := tcpPair(t)
					core.AttachThrough(sc.s, server, ticket, strike)
					return client
				}
				sc.setUp()
				f.arm()
				heard := sc.live()
				beginning(t, heard)
				if (fault.lossless || !f.struck()) && !slices.Equal(heard, wholeLife) {
					t.Errorf("ann heard %v", heard)
				}
				sc.unharmed()
				sc.shutDown()
			})
		})
	}
}

// A peer that has gone between the request and the 101 was never there.
func TestAConnectionThatIsLostBeforeThe101IsNeverOnline(t *testing.T) {
	t.Parallel()
	for name, pair := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &diary{}
			s := coretest.Run(t, asks(d), core.WithLogger(nil))
			h := coretest.Handshake()
			h.Identity = user("ann")
			ticket, err := s.Admit(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			server, client := pair(t)
			if tcp, ok := client.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset
			}
			_ = client.Close()
			s.Attach(server, nil, ticket)
			eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
			d.balanced(t)
			if online, err := s.Online(t.Context(), "ann"); online || err != nil {
				t.Error(online, err)
			}
		})
	}
}

// exhausted is a listener whose process has no descriptor left for a while.
type exhausted struct {
	net.Listener

	mu   sync.Mutex // guards left
	left int        // calls that fail
}

func (l *exhausted) fail(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = n
}

func (l *exhausted) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = max(0, l.left-1)
	return l.left > 0
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failing() {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAProcessWithoutDescriptorsKeepsTheConnectionsItHas(t *testing.T) {
	t.Parallel()
	p := permissive()
	p.Auth = func(token string) (map[string]any, error) { return user(token), nil }
	s := coretest.Run(t, p, core.WithLogger(nil))
	server := httptest.NewUnstartedServer(s)
	listener := &exhausted{Listener: server.Listener}
	server.Listener = listener
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	enter := func(id string) *peer {
		p := call(t, server, openingRequest(server, "/?token="+id))
		p.enter()
		return p
	}
	asks := func(p *peer) {
		t.Helper()
		p.say(masked(frame.Text, `{"type":"ping","id":"1"}`))
		if m := p.hear(); string(m.Payload) != `{"type":"pong","id":"1"}` {
			t.Error(string(m.Payload))
		}
	}
	ann := enter("ann") // Accept waits again
	listener.fail(4)
	bob := enter("bob") // taken by the Accept that waited; the next ones fail
	asks(ann)
	asks(bob)
	asks(enter("carol")) // net/http tries again, after 5, 10 and 20 ms
	if left := listener.failing(); left {
		t.Error("Accept was not called as often as it was to fail")
	}
}

func TestHalfOfTheMemoryLimitMayWaitForAllClients(t *testing.T) { // not parallel: the limit is the process's
	before := debug.SetMemoryLimit(16 << 20)
	limited := core.New(drivers.NewMemoryDriver(), core.WithOutboxBytes(1<<30), core.WithLogger(nil))
	debug.SetMemoryLimit(before)
	if err := limited.Run(); err != nil {
		t.Fatal(err)
	}
	_, c := wirePipe(t, limited, "does not read")
	most := 0
	for range 100 {
		if c.Send(strings.Repeat("x", 300<<10)) != nil {
			break
		}
		most = max(most, core.DebtBytes(limited))
	}
	eventually(t, "what waits to be forgotten", func() bool { return core.DebtBytes(limited) == 0 })
	if why := cause(c); why == nil || !strings.Contains(why.Reason, "all clients together") || most < 7<<20 {
		t.Errorf("%v, when %d bytes waited", why, most)
	}
	if err := limited.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
