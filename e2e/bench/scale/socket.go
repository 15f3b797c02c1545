package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// socket is one client's connection: a plain descriptor, and what has been read of a frame that is not complete.
type socket struct {
	fd   int
	rest []byte
}

// server is where the clients of a process connect.
type server struct {
	at   unix.SockaddrInet4
	host string
}

func parseServer(addr string) (server, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() || !to.Addr().IsLoopback() {
		return server{}, fmt.Errorf("a loopback address with a port is needed, such as 127.0.0.1:8080, not %q", addr)
	}
	return server{unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, addr}, nil
}

// connect begins to connect client i. The descriptor can be written to when that has ended, well or badly.
func (s server) connect(i int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	// From several addresses, because ports in TIME_WAIT must not run short.
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i%16)}}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Bind(fd, from))
	if err == nil {
		if err = unix.Connect(fd, &s.at); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// upgrade asks for the WebSocket, once connected.
func (s server) upgrade(fd int, token string) error {
	failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if failed != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(failed))
	}
	return write(fd, []byte("GET /ws?token="+token+" HTTP/1.1\r\nHost: "+s.host+
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
}

// write sends b whole. These clients say little and at once: a kernel that does not take it has a peer that is stuck.
func write(fd int, b []byte) error {
	for {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("write: %w", err)
		case n < len(b):
			return errors.New("write: the peer reads nothing")
		}
		return nil
	}
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// appendFrame appends a client's frame. Its mask is zero, which the protocol allows (RFC 6455, section 5.3).
func appendFrame(dst []byte, opcode byte, payload string) []byte {
	dst = append(dst, 0x80|opcode)
	if len(payload) < 126 {
		dst = append(dst, 0x80|byte(len(payload)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(len(payload)))
	}
	return append(append(dst, 0, 0, 0, 0), payload...)
}

// cutFrame returns the first frame in b and what is behind it; ok is false when it is not whole yet.
func cutFrame(b []byte) (opcode byte, payload, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, b, false
	}
	head, length := 2, uint64(b[1]&127)
	switch {
	case length == 126 && len(b) >= 4:
		head, length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case length == 127 && len(b) >= 10:
		head, length = 10, binary.BigEndian.Uint64(b[2:])
	case length >= 126:
		return 0, nil, b, false
	}
	if uint64(len(b)-head) < length {
		return 0, nil, b, false
	}
	end := head + int(length)
	return b[0] & 15, b[head:end], b[end:], true
}

// cutHead is cutFrame for the answer to the handshake; open says whether it is the 101.
func cutHead(b []byte) (open bool, rest []byte, ok bool) {
	head, rest, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	return bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")), rest, ok
}
