package core_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// secret is in every token, query and payload of the tests with a journal, which fails them when a log line has it.
const secret = "hush-hush"

// journal is a log that a test can read.
type journal struct {
	t     testing.TB
	mu    sync.Mutex // guards lines
	lines []string
}

// keepJournal returns a journal and the option that makes a service write it.
func keepJournal(t testing.TB) (*journal, core.Option) {
	t.Helper()
	j := &journal{t: t}
	return j, core.WithLogger(slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

func (j *journal) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(secret)) {
		j.t.Errorf("a secret was logged: %s", line)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(line))
	return len(line), nil
}

// with returns the lines that contain all of parts.
func (j *journal) with(parts ...string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []string
	for _, line := range j.lines {
		missing := false
		for _, part := range parts {
			missing = missing || !strings.Contains(line, part)
		}
		if !missing {
			found = append(found, line)
		}
	}
	return found
}

// has fails the test unless exactly one line contains all of parts.
func (j *journal) has(parts ...string) {
	j.t.Helper()
	if found := j.with(parts...); len(found) != 1 {
		j.t.Errorf("%d log lines contain %q, want one:\n%s", len(found), parts, strings.Join(j.with(), ""))
	}
}

// eventually waits until there holds.
func eventually(t testing.TB, what string, there func() bool) {
	t.Helper()
	for deadline := time.Now().Add(coretest.Patience); !there(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", coretest.Patience, what)
		}
		<-time.After(time.Millisecond)
	}
}

// mount serves h on a loopback port for the length of the test.
func mount(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

// mountTLS is mount with a certificate that its Client trusts.
func mountTLS(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	return server
}

// answer is what somebody who asks for a connection sees: a response, and when that is a 101 how the connection ends.
type answer struct {
	Status int
	Header http.Header
	Body   struct {
		Status, Code int
		Reason       string
	}
	Code   int // of the close frame
	Reason string
}

// fromPage is the header that a browser's page of the server's own origin sends.
func fromPage(server *httptest.Server) http.Header { return http.Header{"Origin": {server.URL}} }

// knock asks for a connection that is going to be refused, as a real client does.
func knock(t testing.TB, server *httptest.Server, pathAndQuery string, header http.Header) answer {
	t.Helper()
	conn, response, err := dialer(server).Dial("ws"+strings.TrimPrefix(server.URL, "http")+pathAndQuery, header)
	if response == nil {
		t.Fatal("no response:", err)
	}
	defer response.Body.Close()
	a := answer{Status: response.StatusCode, Header: response.Header}
	if err != nil {
		if err := json.NewDecoder(response.Body).Decode(&a.Body); err != nil {
			t.Fatalf("the body of the %s is not JSON: %v", response.Status, err)
		}
		return a
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(coretest.Patience))
	_, _, err = conn.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		t.Fatalf("read %v, want a close", err)
	}
	a.Code, a.Reason = closed.Code, closed.Text
	return a
}

func dialer(server *httptest.Server) *websocket.Dialer {
	d := &websocket.Dialer{HandshakeTimeout: coretest.Patience}
	if transport, ok := server.Client().Transport.(*http.Transport); ok {
		d.TLSClientConfig = transport.TLSClientConfig
	}
	return d
}

// peer is a client that may send anything.
type peer struct {
	net.Conn

	t      testing.TB
	in     *bufio.Reader
	parser frame.Parser
	heard  []byte
}

// openingRequest is a handshake with further header lines.
func openingRequest(server *httptest.Server, pathAndQuery string, lines ...string) string {
	lines = append([]string{
		"GET " + pathAndQuery + " HTTP/1.1", "Host: " + server.Listener.Addr().String(), "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// call connects and writes; what comes is up to the test.
func call(t testing.TB, server *httptest.Server, request string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server.TLS != nil {
		nc = tls.Client(nc, &tls.Config{RootCAs: dialer(server).TLSClientConfig.RootCAs, ServerName: "example.com"})
	}
	t.Cleanup(func() { _ = nc.Close() })
	p := newPeer(t, nc)
	p.say([]byte(request))
	return p
}

// attach gives one end of a pipe to the service and returns the other, behind the 101.
func attach(t testing.TB, service *core.Service, ticket *core.Ticket) *peer {
	t.Helper()
	server, client := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	service.Attach(server, nil, ticket)
	p := newPeer(t, client)
	p.enter()
	return p
}

func newPeer(t testing.TB, nc net.Conn) *peer {
	t.Helper()
	_ = nc.SetDeadline(time.Now().Add(coretest.Patience))
	return &peer{Conn: nc, t: t, in: bufio.NewReader(nc), parser: frame.Parser{Unmasked: true}}
}

// awaitAnswer waits until the server has begun to answer the request.
func (p *peer) awaitAnswer() {
	p.t.Helper()
	if _, err := p.in.Peek(1); err != nil {
		p.t.Fatal(err)
	}
}

// enter reads the response and fails the test unless it is a 101.
func (p *peer) enter() http.Header {
	p.t.Helper()
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		p.t.Fatal(response.Status)
	}
	return response.Header
}

func (p *peer) say(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// hear returns the next message or control frame.
func (p *peer) hear() frame.Message {
	p.t.Helper()
	buf := make([]byte, 1<<10)
	for {
		m, rest, err := p.parser.Next(p.heard)
		if err != nil {
			p.t.Fatal(err)
		}
		if p.heard = rest; m.Op != frame.Continuation {
			return m
		}
		n, err := p.in.Read(buf)
		if err != nil {
			p.t.Fatal(err)
		}
		p.heard = append([]byte(nil), buf[:n]...)
	}
}

// closed reads up to the close frame and the end behind it.
func (p *peer) closed() (code int, reason string) {
	p.t.Helper()
	m := p.hear()
	for m.Op != frame.Close {
		m = p.hear()
	}
	status, reason, err := frame.ParseClose(m.Payload)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = p.Write(masked(frame.Close, string(m.Payload))) // the service may have hung up
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	if rest, err := io.ReadAll(p.in); err != nil || len(rest) > 0 {
		p.t.Fatalf("behind the close frame: %q, %v", rest, err)
	}
	return int(status), reason
}

// masked is a frame as a client sends it.
func masked(op frame.Op, payload string) []byte {
	return frame.AppendMasked(nil, op, true, [4]byte{1, 2, 3, 4}, []byte(payload))
}
