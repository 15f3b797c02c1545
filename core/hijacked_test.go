package core_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// fasthttpConn is what a hijack handler of fasthttp gets: it reads through the server's buffer, and its Close does nothing
// unless the connection is kept.
type fasthttpConn struct {
	net.Conn

	in   io.Reader
	kept bool
}

func (c *fasthttpConn) UnsafeConn() net.Conn { return c.Conn }

func (c *fasthttpConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *fasthttpConn) Close() error {
	if c.kept {
		return c.Conn.Close()
	}
	return nil
}

// pooled is a connection that its server reuses for somebody else once it is closed, as one with MaxConnsPerIP is.
type pooled struct {
	net.Conn

	t      *testing.T
	closed atomic.Bool
	reused atomic.Bool
	using  atomic.Int32
}

func (p *pooled) touch() {
	if p.reused.Load() {
		p.t.Error("a connection was used that belongs to somebody else by now")
	}
}

func (p *pooled) reuse() {
	p.reused.Store(true)
	if p.using.Load() != 0 {
		p.t.Error("a connection was given to somebody else in the middle of a read or write")
	}
}

func (p *pooled) Read(b []byte) (int, error) {
	p.using.Add(1)
	defer p.using.Add(-1)
	p.touch()
	return p.Conn.Read(b)
}

func (p *pooled) Write(b []byte) (int, error) {
	p.using.Add(1)
	defer p.using.Add(-1)
	p.touch()
	return p.Conn.Write(b)
}

func (p *pooled) SetDeadline(t time.Time) error { p.touch(); return p.Conn.SetDeadline(t) }

func (p *pooled) SetReadDeadline(t time.Time) error { p.touch(); return p.Conn.SetReadDeadline(t) }

func (p *pooled) SetWriteDeadline(t time.Time) error { p.touch(); return p.Conn.SetWriteDeadline(t) }

func (p *pooled) Close() error {
	if p.closed.Swap(true) {
		p.t.Error("a connection was closed twice")
	}
	return p.Conn.Close()
}

// host serves connections as fasthttp does.
type host struct {
	t        *testing.T
	service  *core.Service
	listener net.Listener
	wrap     func(net.Conn) net.Conn
	kept     bool

	returned chan struct{} // one for each handler that has returned
	serving  sync.WaitGroup
}

func hostOn(t *testing.T, network string, service *core.Service, kept bool, wrap func(net.Conn) net.Conn) *host {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = t.TempDir() + "/socket"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, service: service, listener: listener, wrap: wrap, kept: kept, returned: make(chan struct{}, 100)}
	h.serving.Go(func() {
		for {
			nc, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			h.serving.Go(func() { h.serve(nc) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		h.serving.Wait()
	})
	return h
}

func (h *host) serve(nc net.Conn) {
	if h.wrap != nil {
		nc = h.wrap(nc)
	}
	in := bufio.NewReader(nc)
	request, err := http.ReadRequest(in)
	if err != nil {
		h.t.Error(err)
		return
	}
	ticket, err := h.service.Admit(h.t.Context(), core.NewHandshake(request))
	if err != nil {
		h.t.Error(err)
		return
	}
	h.service.AttachHijacked(&fasthttpConn{nc, in, h.kept}, ticket)
	if !h.kept {
		_ = nc.Close()
	}
	if p, ok := nc.(*pooled); ok {
		p.reuse()
	}
	in.Reset(strings.NewReader("GET /next HTTP/1.1\r\nCookie: somebody else's\r\n\r\n"))
	h.returned <- struct{}{}
}

// enter connects with a message in the same packet as the request, and waits until it is answered.
func (h *host) enter() *peer {
	h.t.Helper()
	nc, err := net.Dial(h.listener.Addr().Network(), h.listener.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	if _, secure := h.wrap(nil).(*tls.Conn); secure {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	h.t.Cleanup(func() { _ = nc.Close() })
	p := newPeer(h.t, nc)
	p.say([]byte("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nToken: alice\r\n\r\n" + string(masked(frame.Text, `{"id":"0","type":"echo"}`))))
	p.enter()
	p.echoes("0")
	return p
}

func (p *peer) echoes(id string) {
	p.t.Helper()
	if got := string(p.hear().Payload); !strings.Contains(got, `"id":"`+id+`","type":"receive"`) {
		p.t.Fatal(got)
	}
}

func (p *peer) talks() {
	p.t.Helper()
	for _, id := range []string{"1", "2"} {
		p.say(masked(frame.Text, `{"id":"`+id+`","type":"echo"}`))
		p.echoes(id)
	}
}

func bare(nc net.Conn) net.Conn { return nc }

func TestAPlainConnectionOutlivesTheHijackHandlerOfFasthttp(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		for _, kept := range []bool{false, true} {
			t.Run(network+map[bool]string{true: ", kept"}[kept], func(t *testing.T) {
				t.Parallel()
				service := coretest.Run(t, echo())
				h := hostOn(t, network, service, kept, bare)
				p := h.enter()
				<-h.returned
				p.talks()
				if err := service.Disconnect(t.Context(), "alice", core.CloseKicked, "out"); err != nil {
					t.Fatal(err)
				}
				if code, reason := p.closed(); code != core.CloseKicked || reason != "out" {
					t.Error(code, reason)
				}
			})
		}
	}
}

func TestAConnectionThatFasthttpTakesBackIsHeldUntilNobodyUsesIt(t *testing.T) {
	t.Parallel()
	certified := mountTLS(t, nil).TLS
	for name, wrap := range map[string]func(t *testing.T, nc net.Conn) net.Conn{
		"TLS":                 func(_ *testing.T, nc net.Conn) net.Conn { return tls.Server(nc, certified) },
		"a limit per address": func(t *testing.T, nc net.Conn) net.Conn { t.Helper(); return &pooled{Conn: nc, t: t} },
	} {
		for _, kept := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", kept"}[kept], func(t *testing.T) {
				t.Parallel()
				service := coretest.Run(t, core.WithLogger(nil), echo(), core.WithWriteStall(50*time.Millisecond))
				h := hostOn(t, "tcp", service, kept, func(nc net.Conn) net.Conn { return wrap(t, nc) })
				for _, end := range []func(p *peer){
					func(p *peer) { _ = p.Close() },
					func(p *peer) { p.say(masked(frame.Close, "\x03\xe8")) },
					func(*peer) { _ = service.Disconnect(t.Context(), "alice", core.CloseKicked, "out") },
					func(*peer) { // while it is written to as fast as it goes
						for range 100 {
							_ = service.Broadcast(t.Context(), strings.Repeat("x", 100_000))
						}
						_ = service.Disconnect(t.Context(), "alice", core.CloseKicked, "out")
					},
					func(*peer) { // while it does not read
						for {
							select {
							case returned := <-h.returned:
								h.returned <- returned
								return
							default:
								_ = service.Broadcast(t.Context(), strings.Repeat("x", 1<<19))
							}
						}
					},
				} {
					p := h.enter()
					p.talks()
					select {
					case <-h.returned:
						t.Fatal("the handler has returned while the connection is open")
					default:
					}
					end(p)
					drained := make(chan struct{})
					go func() { // ends with the connection
						defer close(drained)
						_, _ = io.Copy(io.Discard, p.in)
						_ = p.Close()
					}()
					<-h.returned
					<-drained
				}
			})
		}
	}
}

func TestARefusedConnectionThatFasthttpTakesBackIsHeldToo(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), core.WithRefusal(core.RefuseClose))
	ticket, err := service.Admit(t.Context(), coretest.Handshake())
	if err != nil {
		t.Fatal(err)
	}
	server, client := net.Pipe()
	returned := make(chan struct{})
	go func() { // ends with the connection
		defer close(returned)
		service.AttachHijacked(&fasthttpConn{server, server, false}, ticket)
		_ = server.Close()
	}()
	p := newPeer(t, client)
	p.enter()
	if code, _ := p.closed(); code != core.CloseRefused {
		t.Error(code)
	}
	_ = client.Close()
	<-returned
}
