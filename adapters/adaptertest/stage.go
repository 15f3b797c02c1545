package adaptertest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// stage is one case on one kind of connection.
type stage struct {
	*testing.T

	host   Host
	secure bool
}

// theater is a service behind the adapter.
type theater struct {
	*testing.T

	service *core.Service
	address string
	scheme  string // "" or "s"
	client  *http.Client
	dialer  *websocket.Dialer
}

// open serves a service that runs.
func (s *stage) open(opts ...core.Option) *theater {
	s.Helper()
	return s.serve(coretest.Run(s, append([]core.Option{core.WithLogger(nil)}, opts...)...))
}

// serve serves any service.
func (s *stage) serve(service *core.Service) *theater {
	s.Helper()
	l, config := listen(s, s.secure)
	s.host.Serve(s, service, l)
	transport := &http.Transport{TLSClientConfig: config}
	s.Cleanup(transport.CloseIdleConnections)
	th := &theater{
		T: s.T, service: service, address: l.Addr().String(),
		client: &http.Client{Transport: transport, Timeout: coretest.Patience},
		dialer: &websocket.Dialer{TLSClientConfig: config, HandshakeTimeout: coretest.Patience},
	}
	if s.secure {
		th.scheme = "s"
	}
	return th
}

// page is the header of a page of the server's own origin.
func (th *theater) page() http.Header { return header("Origin", "http"+th.scheme+"://"+th.address) }

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// connect connects a client that is let in.
func (th *theater) connect(path string, h http.Header) *conn {
	th.Helper()
	ws, response, err := th.dialer.Dial("ws"+th.scheme+"://"+th.address+path, h)
	if err != nil {
		if response != nil {
			text, _ := io.ReadAll(response.Body)
			th.Fatalf("%s: %v: %s %s", path, err, response.Status, text)
		}
		th.Fatalf("%s: %v", path, err)
	}
	_ = response.Body.Close()
	th.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(coretest.Patience))
	return &conn{Conn: ws, t: th.T, protocol: response.Header.Get("Sec-WebSocket-Protocol")}
}

// answer is how a client is refused: by status and JSON, or by a close.
type answer struct {
	Status int
	Code   int
	Reason string

	header http.Header
}

// knock asks for a connection that is going to be refused.
func (th *theater) knock(path string, h http.Header) answer {
	th.Helper()
	ws, response, err := th.dialer.Dial("ws"+th.scheme+"://"+th.address+path, h)
	if response == nil {
		th.Fatalf("%s: no response: %v", path, err)
	}
	defer response.Body.Close()
	if err != nil {
		return th.refused(th.read(response))
	}
	defer ws.Close()
	_ = ws.SetReadDeadline(time.Now().Add(coretest.Patience))
	closed := (&conn{Conn: ws, t: th.T}).closes()
	return answer{Status: response.StatusCode, Code: closed.Code, Reason: closed.Text}
}

// reply is what a plain request gets.
type reply struct {
	status int
	header http.Header
	text   string
}

func (th *theater) read(response *http.Response) reply {
	th.Helper()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		th.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

// get makes a plain request.
func (th *theater) get(method, path string, h http.Header) reply {
	th.Helper()
	request, err := http.NewRequestWithContext(th.Context(), method, "http"+th.scheme+"://"+th.address+path, nil)
	if err != nil {
		th.Fatal(err)
	}
	maps.Copy(request.Header, h)
	response, err := th.client.Do(request)
	if err != nil {
		th.Fatal(err)
	}
	defer response.Body.Close()
	return th.read(response)
}

// refused reads a refusal, whose body must agree with the status.
func (th *theater) refused(r reply) answer {
	th.Helper()
	a := answer{header: r.header}
	if err := json.Unmarshal([]byte(r.text), &a); err != nil || a.Status != r.status {
		th.Fatalf("%d with the body %q: %v", r.status, r.text, err)
	}
	if kind := r.header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		th.Errorf("%d with the Content-Type %q", r.status, kind)
	}
	return a
}

// is compares how a client was refused.
func (a answer) is(t *testing.T, status, code int, reason string) {
	t.Helper()
	if a.Status != status || a.Code != code || a.Reason != reason {
		t.Errorf("refused with %d, %d %q, want %d, %d %q", a.Status, a.Code, a.Reason, status, code, reason)
	}
}

// conn is a client.
type conn struct {
	*websocket.Conn

	t        *testing.T
	protocol string
}

func (c *conn) say(text string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

type message struct {
	ID, Type, Client, Channel, Message string

	Code int
	Data json.RawMessage
}

func (c *conn) hears(kind string) message {
	c.t.Helper()
	var m message
	if err := c.ReadJSON(&m); err != nil {
		c.t.Fatalf("waiting for a %s: %v", kind, err)
	}
	if m.Type != kind {
		c.t.Fatalf("got %+v, want a %s", m, kind)
	}
	return m
}

// whoami asks the provider of everybody.
func (c *conn) whoami() who {
	c.t.Helper()
	c.say(`{"id":"1","type":"whoami"}`)
	var w who
	if err := json.Unmarshal(c.hears("receive").Data, &w); err != nil {
		c.t.Fatal(err)
	}
	return w
}

func (c *conn) closes() *websocket.CloseError {
	c.t.Helper()
	var closed *websocket.CloseError
	if _, text, err := c.ReadMessage(); !errors.As(err, &closed) {
		c.t.Fatalf("got %q, %v, want a close", text, err)
	}
	return closed
}

// who is what the provider of everybody knows about a client.
type who struct {
	ID     string
	App    string
	Token  string
	Data   map[string]any
	Remote string
}

// everybody lets in everybody with a token, and tells them who they are.
func everybody() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			if token == "" {
				return nil, errors.New("please enter a name")
			}
			return map[string]any{"client_id": "by token: " + token}, nil
		},
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
		Message: func(m *core.Message, client *core.Client) error {
			return m.Reply(who{client.ClientID, client.App, client.Token, client.Data, client.RemoteAddr()})
		},
	}
}

// idle returns a service that was not started.
func idle(t testing.TB) *core.Service {
	t.Helper()
	service := core.New(drivers.NewMemoryDriver(), everybody(), core.WithLogger(nil))
	t.Cleanup(func() {
		if err := service.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return service
}

// eventually waits until there holds.
func eventually(t testing.TB, patience time.Duration, what string, there func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !there(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		<-time.After(pause)
	}
}
