package server

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// serveRaw is the floor: what a delivery costs that does nothing but decode the message once and write one frame with a
// system call to each descriptor. A client that does not read holds up everybody, which no library could afford.
func serveRaw(l net.Listener, _ string) error {
	all := &rooms[*rawConn]{
		one: func(to *rawConn, text []byte) { to.write(frame(text)) },
		all: func(to []*rawConn, text []byte) {
			encoded := frame(text)
			for _, c := range to {
				c.write(encoded)
			}
		},
	}
	return serveHTTP(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, sent, err := upgrade(w, r)
		if err != nil {
			return
		}
		token := r.URL.Query().Get("token")
		go func() { // ends with the connection
			defer nc.Close()
			if c, err := newRawConn(nc); err == nil {
				all.enter(c, token)
				// Before the descriptor is closed, whose number may be another connection's right after.
				defer all.leave(c)
				c.read(sent, all)
			}
		}()
	}))
}

// upgrade answers the handshake. sent is what the client has sent behind it.
func upgrade(w http.ResponseWriter, r *http.Request) (nc net.Conn, sent []byte, err error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	hijacker, ok := w.(http.Hijacker)
	if key == "" || !ok {
		http.Error(w, "this is a WebSocket endpoint", http.StatusUpgradeRequired)
		return nil, nil, http.ErrNotSupported
	}
	nc, buffered, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	sent, _ = buffered.Peek(buffered.Reader.Buffered())
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		_ = nc.Close()
	}
	return nc, bytes.Clone(sent), err
}

type rawConn struct {
	nc net.Conn
	fd int

	mu sync.Mutex // keeps the frames of two publishers apart
}

func newRawConn(nc net.Conn) (*rawConn, error) {
	socket, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T has no descriptor", nc)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &rawConn{nc: nc}
	return c, raw.Control(func(fd uintptr) { c.fd = int(fd) })
}

// write writes a frame while nobody can close the descriptor. That the connection is broken is for its reader to see.
func (c *rawConn) write(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(frame) > 0 {
		n, err := syscall.Write(c.fd, frame)
		switch {
		case err == nil:
			frame = frame[n:]
		case errors.Is(err, syscall.EAGAIN):
			time.Sleep(100 * time.Microsecond) //nolint:forbidigo // the floor has no poller of its own to wait with
		case !errors.Is(err, syscall.EINTR):
			return
		}
	}
}

// read handles messages until the connection ends; sent comes first.
func (c *rawConn) read(sent []byte, all *rooms[*rawConn]) {
	var from io.Reader = c.nc
	if len(sent) > 0 {
		from = io.MultiReader(bytes.NewReader(sent), c.nc)
	}
	r := bufio.NewReaderSize(from, 512)
	for {
		opcode, payload, err := readFrame(r)
		if err != nil || opcode == opClose {
			return
		}
		if opcode == opText {
			all.handle(c, payload)
		}
	}
}

const (
	opText  = 1
	opClose = 8
)

// frame returns a server's frame of text.
func frame(text []byte) []byte {
	head := append(make([]byte, 0, 10+len(text)), 0x80|opText)
	switch n := len(text); {
	case n < 126:
		head = append(head, byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(n))
	}
	return append(head, text...)
}

// readFrame reads a client's frame. It knows no fragments.
func readFrame(r *bufio.Reader) (opcode byte, payload []byte, err error) {
	head, err := r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	first, second := head[0], head[1]
	if first&0xf0 != 0x80 || second&0x80 == 0 {
		return 0, nil, errors.New("a frame with reserved bits, without a mask or that is a fragment")
	}
	size, length := 0, uint64(second&0x7f) // size of the length field behind the first two bytes
	switch length {
	case 126:
		size = 2
	case 127:
		size = 8
	}
	if head, err = r.Peek(2 + size + 4); err != nil {
		return 0, nil, err
	}
	switch size {
	case 2:
		length = uint64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		length = binary.BigEndian.Uint64(head[2:])
	}
	if length > messageBytes {
		return 0, nil, fmt.Errorf("a frame of %d bytes, %d are allowed", length, messageBytes)
	}
	mask := [4]byte(head[2+size:])
	_, _ = r.Discard(2 + size + 4) // it is in the buffer
	payload = make([]byte, length)
	if _, err = io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return first & 0x0f, payload, nil
}
