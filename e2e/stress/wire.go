package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// The client's side of RFC 6455, by hand: what breaks the rules has to be sent, too.

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10

	lostCode = 1006 // a connection that ended without a close frame

	writeTimeout = 30 * time.Second
)

// refusedError is a handshake that was answered with another status than 101.
type refusedError struct{ status int }

func (e refusedError) Error() string { return fmt.Sprintf("refused with HTTP %d", e.status) }

// wire is a connection on which frames are written and read.
type wire struct {
	net.Conn

	in *bufio.Reader
}

// dial connects. small is for those who are going to be slow: little waits in the kernel then.
func dial(address string, config *tls.Config, small bool) (*wire, error) {
	nc, err := net.DialTimeout("tcp", address, writeTimeout)
	if err != nil {
		return nil, err
	}
	if tcp, ok := nc.(*net.TCPConn); ok && small {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	_ = nc.SetDeadline(time.Now().Add(writeTimeout))
	if config != nil {
		nc = tls.Client(nc, config)
	}
	return &wire{nc, bufio.NewReaderSize(nc, 2<<10)}, nil
}

// upgrade makes the handshake, and closes the connection when that fails.
func (w *wire) upgrade(app, token string) error {
	query := url.Values{"token": {token}, "app": {app}}.Encode()
	_, err := io.WriteString(w, "GET /ws?"+query+" HTTP/1.1\r\nHost: stress\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err == nil {
		err = w.accepted()
	}
	if err != nil {
		_ = w.Close()
		return err
	}
	_ = w.SetReadDeadline(time.Time{})
	return nil
}

func (w *wire) accepted() error {
	response, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		return refusedError{response.StatusCode}
	}
	return nil
}

// appendFrame appends a masked frame. The mask is zero: it hides nothing, and costs nothing.
func appendFrame(dst []byte, first byte, payload []byte) []byte {
	dst = append(dst, first)
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

func closeFrame(code int, reason string) []byte {
	return appendFrame(nil, 0x80|opClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

// next reads a frame. payload is good until the next call, if buf is given back to it.
func (w *wire) next(buf []byte) (opcode byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(w.in, head[:2]); err != nil {
		return 0, buf, err
	}
	opcode, size := head[0]&0xf, uint64(head[1])
	if head[0]&0xf0 != 0x80 || size >= 0x80 {
		return 0, buf, fmt.Errorf("a bad frame: % x", head[:2])
	}
	switch size {
	case 126:
		_, err = io.ReadFull(w.in, head[:2])
		size = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		_, err = io.ReadFull(w.in, head[:])
		size = binary.BigEndian.Uint64(head[:])
	}
	if err != nil {
		return 0, buf, err
	}
	if size > 2<<20 {
		return 0, buf, errors.New("a bad frame: larger than anything that was sent")
	}
	if uint64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	_, err = io.ReadFull(w.in, buf)
	return opcode, buf, err
}
