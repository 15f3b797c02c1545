// Package wstest is a WebSocket client in a few lines, for the tests of modules that require no library for it.
package wstest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// Speaking lets in everybody, under their token, tells them who they are, and shows out who says leave.
func Speaking() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Message: func(m *core.Message, client *core.Client) error {
			if m.Type == "leave" {
				return client.Close(4001, "bye")
			}
			return m.Reply(fmt.Sprintf("%s %q %s %v", client.ClientID, client.Token, client.RemoteAddr(), client.Data))
		},
	}
}

// Site is a server under test.
type Site struct {
	*testing.T

	Address string
}

// Dial connects, and says nothing yet.
func (s *Site) Dial() *Peer {
	s.Helper()
	nc, err := net.Dial("tcp", s.Address)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(coretest.Patience))
	return &Peer{nc, s.T, bufio.NewReader(nc)}
}

// Knock asks for a WebSocket, with pairs of names and values in the header, and gets one.
func (s *Site) Knock(path string, pairs ...string) *Peer {
	s.Helper()
	p := s.Dial()
	if status, err := p.Asks(path, coretest.Handshake().Header, pairs...); status != http.StatusSwitchingProtocols {
		s.Fatalf("%s: %d, %v", path, status, err)
	}
	return p
}

// Others ask for WebSockets at path and for the page /plain, with a header that is not that of the client under test, on
// connections that stay for a while.
func (s *Site) Others(path string, pairs ...string) {
	s.Helper()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				mallory, p := s.Knock(path, pairs...), s.Dial()
				for range 8 {
					if _, err := p.Asks("/plain", http.Header{}, pairs...); err != nil {
						s.Error(err)
					}
				}
				_, _ = mallory.Close(), p.Close()
			}
		})
	}
	all.Wait()
}

// Peer is a client.
type Peer struct {
	net.Conn

	t  *testing.T
	In *bufio.Reader
}

// Asks sends a GET, with pairs of names and values added to its header, and returns the status of the answer.
func (p *Peer) Asks(path string, h http.Header, pairs ...string) (int, error) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.RemoteAddr().String()+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for request.Header = h; len(pairs) > 0; pairs = pairs[2:] {
		h.Set(pairs[0], pairs[1])
	}
	var all bytes.Buffer // in one write: a server that has read enough closes, and no more could be written then
	if err := request.Write(&all); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Write(all.Bytes()); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(p.In, request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		_, err = io.Copy(io.Discard, response.Body)
	}
	return response.StatusCode, err
}

// Says sends a frame of at most 125 bytes.
func (p *Peer) Says(opcode byte, text string) {
	p.t.Helper()
	if _, err := p.Write(append([]byte{0x80 | opcode, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
		p.t.Fatal(err)
	}
}

// Whoami asks the provider of Speaking.
func (p *Peer) Whoami() string {
	p.t.Helper()
	p.Says(1, `{"id":"1","type":"whoami"}`)
	var m core.Message
	if opcode, payload := p.Hears(); opcode != 1 || json.Unmarshal(payload, &m) != nil || m.Type != "receive" {
		p.t.Fatalf("frame %d: %q", opcode, payload)
	}
	return fmt.Sprint(m.Data)
}

// Closes waits for the server's close, and leaves.
func (p *Peer) Closes(code uint16) {
	p.t.Helper()
	defer p.Close()
	if opcode, payload := p.Hears(); opcode != 8 || len(payload) < 2 || binary.BigEndian.Uint16(payload) != code {
		p.t.Errorf("frame %d: %q, want close %d", opcode, payload, code)
	}
}

// Hears returns the next frame.
func (p *Peer) Hears() (opcode byte, payload []byte) {
	p.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(p.In, head[:2]); err != nil {
		p.t.Fatal(err)
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(p.In, head[2:]); err != nil {
			p.t.Fatal(err)
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(p.In, payload); err != nil {
		p.t.Fatal(err)
	}
	return head[0] & 0xf, payload
}

// Journal keeps what is logged.
type Journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write takes in what a log.Logger prints.
func (j *Journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// String returns all that was printed.
func (j *Journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
