package core

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"time"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// Conn is a WebSocket that another library has upgraded: the *Conn of gorilla/websocket and that of
// gofiber/contrib/websocket both are one.
type Conn interface {
	NextReader() (messageType int, r io.Reader, err error)
	SetReadLimit(limit int64)
	SetReadDeadline(t time.Time) error
	SetPingHandler(h func(appData string) error)
	SetPongHandler(h func(appData string) error)
	SetCloseHandler(h func(code int, text string) error)
	NetConn() net.Conn
	Close() error
}

// ServeConn serves a connection that another library has upgraded, and returns when it has ended and all its hooks have
// returned. h says who it is, by Token or Identity; the upgrade itself, the origin included, was the other library's to
// check. A connection that is refused is closed, with the reason, which is returned as *Refusal.
//
// It is for those who have such a route already: it costs the memory of the other library, which keeps its reader, its
// buffers and the handler's goroutine. Nobody else may write to conn or read from it.
func (s *Service) ServeConn(conn Conn, h *Handshake) error {
	if h == nil {
		h = &Handshake{}
	}
	nc := conn.NetConn()
	if addr := nc.RemoteAddr(); addr != nil {
		known := *h
		known.RemoteAddr, known.Peer = cmp.Or(h.RemoteAddr, addr.String()), cmp.Or(h.Peer, addr.String())
		h = &known
	}
	h = s.behindProxy(h)
	t := &Ticket{remote: brief(h.RemoteAddr), address: household(h.peer())}
	_ = nc.SetDeadline(time.Time{})
	if err := s.identify(context.Background(), h, t); err != nil {
		return s.refuseConn(conn, h, t, err)
	}
	if err := s.enter(t.address); err != nil {
		return s.refuseConn(conn, h, t, err)
	}
	c := newClient(t)
	u := &upgraded{socket: newSocket(nc, &c.own), conn: conn}
	c.socket = u
	conn.SetReadLimit(0) // its own error would not name the limit
	conn.SetPingHandler(func(data string) error {
		c.heard()
		c.peerPings([]byte(data))
		return nil
	})
	conn.SetPongHandler(func(string) error {
		c.heard()
		c.pinged()
		return nil
	})
	conn.SetCloseHandler(func(code int, text string) error {
		c.farewell(code, text)
		return nil
	})
	c.arrive()
	for c.readMessage(u) {
	}
	c.end()
	return nil
}

// readMessage handles one message and reports whether reading goes on.
func (c *Client) readMessage(u *upgraded) bool {
	kind, r, err := u.conn.NextReader()
	if err != nil {
		return c.failed(u, err)
	}
	limit := c.app.s.opts.messageBytes
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	c.heard()
	switch {
	case err != nil:
		return c.failed(u, err)
	case len(text) > limit:
		_ = c.shut(closeTooLarge, fmt.Sprintf("message larger than %d bytes", limit))
	case frame.Op(kind) == frame.Binary:
		_ = c.shut(closeUnsupported, noBinary)
	case !utf8.Valid(text):
		_ = c.shut(closeBadText, "text message is not UTF-8")
	default:
		c.receive(text)
	}
	return true
}

// failed notes that nothing more can be read.
func (c *Client) failed(u *upgraded, err error) bool {
	u.drains = !c.Closed()
	c.lost(err)
	return false
}

func (s *Service) refuseConn(conn Conn, h *Handshake, t *Ticket, err error) error {
	r, told := refusalFor(err)
	if told {
		err = nil
	}
	s.countRefusal(h.RemoteAddr, t.address, r, withoutToken(err, t.token))
	b := frame.AppendClose(nil, r.Code, r.Reason)
	if s.beginRefusal() {
		defer s.endRefusal()
		sendOff(conn.NetConn(), b)
	} else {
		_ = writeAll(conn.NetConn(), b, refuseHaste)
	}
	_ = conn.Close()
	return r
}

// upgraded is a socket whose reading is the other library's.
type upgraded struct {
	socket
	conn   Conn
	drains bool // the other library has closed after a violation, or the peer is gone
}

func (u *upgraded) read() ([]byte, error) { return nil, io.EOF }

func (u *upgraded) readUntil(t time.Time) {
	if u.conn.SetReadDeadline(t) != nil {
		u.abort()
	}
}

// close also wakes a reader whose connection does not really close: that of fasthttp ends with the handler.
func (u *upgraded) close() {
	if u.drains {
		u.drain()
	}
	_ = u.conn.SetReadDeadline(time.Unix(1, 0))
	_ = u.conn.Close()
}

// drain takes in what the peer still sends, until it has seen the end: closing a socket that has unread bytes destroys what
// is on its way to the peer.
func (u *upgraded) drain() {
	nc := u.conn.NetConn()
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = nc.SetReadDeadline(time.Now().Add(closeWait))
		_, _ = io.Copy(io.Discard, nc)
	}
}

func (u *upgraded) endWriting() bool { return false } // close drains

func (u *upgraded) abort() {
	_ = u.conn.SetReadDeadline(time.Unix(1, 0))
	u.socket.abort()
}
