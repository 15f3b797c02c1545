package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"golang.org/x/sys/unix"
)

// conn is one client: its socket, and its place in the stream of bytes that comes from the server.
type conn struct {
	number int32 // with epoll
	fd     int
	name   string
	out    []byte // what the kernel has not taken yet

	header [10]byte // of the frame that begins
	have   int      // bytes of it
	left   uint64   // bytes of the frame's payload to come
	opcode byte
	text   [1 + stampLen]byte // a mark and what is behind it, when a read ended within
	cut    int                // bytes of it
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// server is where a crowd connects.
type server struct {
	addr unix.SockaddrInet4
	host string
	path string
}

func parseServer(address string) (server, error) {
	u, err := url.Parse(address)
	if err != nil {
		return server{}, err
	}
	ip := net.ParseIP(u.Hostname()).To4()
	port, err := strconv.Atoi(u.Port())
	if ip == nil || !ip.IsLoopback() || err != nil {
		return server{}, fmt.Errorf("a loopback address with a port is needed, such as ws://127.0.0.1:8080/ws, not %q", address)
	}
	return server{addr: unix.SockaddrInet4{Port: port, Addr: [4]byte(ip)}, host: u.Host, path: u.Path}, nil
}

// smallBuffer is what a slow client's kernel takes for it.
const smallBuffer = 4 << 10

// dial opens connection number i, and blocks until the 101 has come.
func (s server) dial(i int, name string, slow bool) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &conn{fd: fd, name: name}
	if err := c.handshake(s, i, slow); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *conn) handshake(s server, i int, slow bool) error {
	// From several addresses, because one has not ports enough.
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i%16)}}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Bind(c.fd, from); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	if slow {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, smallBuffer); err != nil {
			return fmt.Errorf("SO_RCVBUF: %w", err)
		}
	}
	if err := unix.Connect(c.fd, &s.addr); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	request := "GET " + s.path + "?token=" + url.QueryEscape(c.name) + " HTTP/1.1\r\nHost: " + s.host +
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if err := writeAll(c.fd, []byte(request)); err != nil {
		return err
	}
	var head [2048]byte
	for n := 0; ; {
		m, err := readSome(c.fd, head[n:])
		if err != nil {
			return fmt.Errorf("handshake: %w (%q)", err, head[:n])
		}
		n += m
		if end := bytes.Index(head[:n], []byte("\r\n\r\n")); end >= 0 {
			if !bytes.HasPrefix(head[:n], []byte("HTTP/1.1 101")) {
				return fmt.Errorf("no upgrade: %q", head[:n])
			}
			c.feed(head[end+4:n], ignore{})
			return nil
		}
	}
}

// ask says something and blocks until it is answered.
func (c *conn) ask(text string) error {
	if err := writeAll(c.fd, appendFrame(nil, opText, []byte(text))); err != nil {
		return err
	}
	var buf [4096]byte
	answer := &found{text: []byte(answered)}
	for !answer.there {
		n, err := readSome(c.fd, buf[:])
		if err != nil {
			return fmt.Errorf("no answer to %s: %w", text, err)
		}
		c.feed(buf[:n], answer)
	}
	return nil
}

// say sends what the kernel takes now; flush does the rest when there is room again.
func (c *conn) say(frame []byte) (all bool, err error) {
	c.out = append(c.out, frame...)
	return c.flush()
}

func (c *conn) flush() (all bool, err error) {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("write: %w", err)
		default:
			c.out = append(c.out[:0], c.out[n:]...)
		}
	}
	return true, nil
}

// listener is told what a connection hears: pieces of the payloads of data frames.
type listener interface {
	heard(c *conn, piece []byte)
}

// feed walks the frames in what was read, and answers pings.
func (c *conn) feed(b []byte, to listener) {
	for len(b) > 0 {
		if c.left > 0 {
			n := min(c.left, uint64(len(b)))
			if c.opcode < opClose { // the control frames begin there
				to.heard(c, b[:n])
			}
			c.left -= n
			b = b[n:]
			continue
		}
		c.header[c.have] = b[0]
		c.have++
		b = b[1:]
		if c.have < 2 {
			continue
		}
		switch length := c.header[1] & 127; {
		case length < 126:
			c.left = uint64(length)
		case length == 126 && c.have == 4:
			c.left = uint64(binary.BigEndian.Uint16(c.header[2:]))
		case length == 127 && c.have == 10:
			c.left = binary.BigEndian.Uint64(c.header[2:])
		default:
			continue
		}
		c.have, c.opcode = 0, c.header[0]&15
		if c.opcode == opPing {
			_, _ = c.say(appendFrame(nil, opPong, nil)) // a connection that is broken shows when it is read
		}
	}
}

// ignore is a listener that is not interested.
type ignore struct{}

func (ignore) heard(*conn, []byte) {}

// found is a listener that waits for a text.
type found struct {
	text  []byte
	seen  []byte
	there bool
}

func (f *found) heard(_ *conn, piece []byte) {
	f.seen = append(f.seen, piece...)
	f.there = f.there || bytes.Contains(f.seen, f.text)
}

// appendFrame appends a client's frame. Its mask is zero, which the protocol allows (RFC 6455, section 5.3).
func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	return append(append(dst, 0, 0, 0, 0), payload...)
}

func readSome(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0:
			return 0, errors.New("the server has closed")
		default:
			return n, nil
		}
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("write: %w", err)
		default:
			b = b[n:]
		}
	}
	return nil
}
