package core_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/core/coretest"
)

// play connects, sends and returns all that was heard, and how it ended.
func (r row) play(server *httptest.Server, sent [][]byte, early bool) (heard []string) {
	p, err := dialRow(server)
	if err != nil {
		return []string{err.Error()}
	}
	defer p.nc.Close()
	patience := coretest.Patience
	if r.large != nil {
		patience *= 3
	}
	_ = p.nc.SetDeadline(time.Now().Add(patience))
	request := openingRequest(server, "/")
	if r.offer != "" {
		request = openingRequest(server, "/", "Sec-WebSocket-Extensions: "+r.offer)
	}
	if early {
		request += string(sent[0])
		sent = sent[1:]
	}
	_, _ = io.WriteString(p.nc, request)
	response, err := http.ReadResponse(p.in, nil) //nolint:bodyclose // a 101 has none
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		return []string{fmt.Sprint(response, err)}
	}
	if accepted := response.Header.Values("Sec-Websocket-Extensions"); accepted != nil {
		heard = append(heard, fmt.Sprintf("extensions %q", accepted))
	}
	written := make(chan struct{})
	go func() { // ends with the connection at the latest
		defer close(written)
		p.write(sent)
	}()
	for {
		f, err := p.frame()
		if err != nil {
			p.over()
			return append(heard, r.ending(err))
		}
		heard = append(heard, f)
		if !strings.HasPrefix(f, "close") {
			p.heard <- struct{}{}
			continue
		}
		p.over()
		if r.failed {
			<-written
			_, _ = p.nc.Write(bye)
			_ = p.nc.CloseWrite()
		}
	}
}

// ending names the way in which a connection ended.
func (r row) ending(err error) string {
	reset := errors.Is(err, syscall.ECONNRESET)
	switch {
	case errors.Is(err, io.EOF), reset && r.late:
		return "end"
	case reset:
		return "reset"
	}
	return err.Error()
}

// rower is the peer of a row.
type rower struct {
	nc interface {
		net.Conn
		CloseWrite() error
	}
	in    *bufio.Reader
	heard chan struct{} // a token for each frame
	over  func()        // no more are to come
}

var tickets = tls.NewLRUClientSessionCache(0) // most of what a handshake costs otherwise is a signature

func dialRow(server *httptest.Server) (*rower, error) {
	nc, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	p := &rower{heard: make(chan struct{}, 4096)}
	p.over = sync.OnceFunc(func() { close(p.heard) })
	if server.TLS == nil {
		p.nc = nc.(*net.TCPConn) //nolint:errcheck // it has just been dialed
	} else {
		p.nc = tls.Client(nc, &tls.Config{RootCAs: dialer(server).TLSClientConfig.RootCAs, ServerName: "example.com", ClientSessionCache: tickets})
	}
	p.in = bufio.NewReaderSize(p.nc, 32<<10)
	return p, nil
}

// write writes, and stops when the server is not there any more.
func (p *rower) write(sent [][]byte) {
	for _, b := range sent {
		if b == nil {
			<-p.heard
		} else if _, err := p.nc.Write(b); err != nil {
			return
		}
	}
}

// frame describes the next frame of the server: whole, unmasked, without reserved bits, its length in the shortest form.
func (p *rower) frame() (string, error) {
	var head [10]byte
	if _, err := io.ReadFull(p.in, head[:2]); err != nil {
		return "", err
	}
	size := int(head[1])
	var extended int
	switch size {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	if _, err := io.ReadFull(p.in, head[2:2+extended]); err != nil {
		return "", fmt.Errorf("within a header: %w", err)
	}
	switch extended {
	case 2:
		size = int(binary.BigEndian.Uint16(head[2:]))
	case 8:
		size = int(binary.BigEndian.Uint64(head[2:])) //nolint:gosec // checked below
	}
	if head[1] > 127 || head[0]&^0xf != fin || size < 0 || size > 3*maxMessage ||
		extended == 2 && size < 126 || extended == 8 && size < 1<<16 {
		return "", fmt.Errorf("a frame that begins with % x", head)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(p.in, payload); err != nil {
		return "", fmt.Errorf("within a frame: %w", err)
	}
	return inWords(head[0], string(payload)), nil
}

func inWords(b0 byte, payload string) string {
	switch {
	case b0 == pong:
		return ponged(payload)
	case b0 == closeFrame && payload == "":
		return closedWithoutCode
	case b0 == closeFrame && len(payload) > 1:
		return closed(int(payload[0])<<8|int(payload[1]), payload[2:])
	case b0 == whole && len(payload) > 1<<10 && strings.HasPrefix(payload, envelopeHead) && !strings.Contains(payload, `\`):
		return echoed(strings.TrimSuffix(payload[len(envelopeHead):], envelopeTail)) // as below, only faster
	case b0 == whole:
		var m struct {
			Type, Message string
			Code          int
		}
		err := json.Unmarshal([]byte(payload), &m)
		switch {
		case err == nil && m.Type == "echo":
			return echoed(m.Message)
		case err == nil && m.Type == "error":
			return fmt.Sprint("error ", m.Code, " ", m.Message)
		}
	}
	return fmt.Sprintf("frame %#x %s", b0, brief(payload))
}
