package middleware

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fiberv2 "github.com/gofiber/fiber/v2"
	fiberv3 "github.com/gofiber/fiber/v3"
	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// site is a server with a service on its route /ws.
type site struct {
	*testing.T

	service  *core.Service
	address  string
	client   *http.Client
	dialer   websocket.Dialer
	handling sync.WaitGroup // the requests, of net/http
	log      journal        // what the server, the framework and its access logger print
}

// server is an *http.Server or an app of Fiber.
type server interface {
	Serve(l net.Listener) error
	Close() error
}

// open serves what mount mounts until the test ends.
func open(t *testing.T, mount func(s *site) server) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	s := &site{
		T: t, service: coretest.Run(t, provider(), core.WithLogger(nil)), address: l.Addr().String(),
		client: &http.Client{Transport: transport, Timeout: coretest.Patience},
		dialer: websocket.Dialer{HandshakeTimeout: coretest.Patience},
	}
	server, ended := mount(s), make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}

// serve serves h with net/http, and notes what the server logs.
func (s *site) serve(h http.Handler) *http.Server {
	return &http.Server{ErrorLog: s.log.logger(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handling.Add(1)
		defer s.handling.Done()
		h.ServeHTTP(w, r)
	})}
}

type appV2 struct{ *fiberv2.App }

func (s *site) fiberV2(config fiberv2.Config) appV2 {
	config.DisableStartupMessage = true
	app := fiberv2.New(config)
	app.Server().Logger = s.log.logger()
	return appV2{app}
}

func (a appV2) Serve(l net.Listener) error { return a.Listener(l) }

func (a appV2) Close() error { return a.Shutdown() }

type appV3 struct{ *fiberv3.App }

func (s *site) fiberV3(config fiberv3.Config) appV3 {
	app := fiberv3.New(config)
	app.Server().Logger = s.log.logger()
	return appV3{app}
}

func (a appV3) Serve(l net.Listener) error {
	return a.Listener(l, fiberv3.ListenConfig{DisableStartupMessage: true})
}

func (a appV3) Close() error { return a.Shutdown() }

// who is what a client learns about itself.
type who struct {
	ID   string
	Data map[string]any
}

// provider lets in who has a token, answers whoami and echo, and shows out who says leave.
func provider() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			if token == "" {
				return nil, errors.New("please enter a name")
			}
			return map[string]any{"client_id": "by token: " + token}, nil
		},
		Message: func(m *core.Message, client *core.Client) error {
			switch m.Type {
			case "whoami":
				return m.Reply(who{client.ClientID, client.Data})
			case "leave":
				return client.Close(4001, "bye")
			}
			return m.Reply(m.Message)
		},
	}
}

// journal is what was printed.
type journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) logger() *log.Logger { return log.New(j, "", 0) }

// lines returns the lines in order: those of two requests may come either way. It leaves out what net/http says about
// whose line of code made it print.
func (j *journal) lines() (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		line, _, _ = strings.Cut(line, " from ")
		all = append(all, strings.TrimSpace(line))
	}
	slices.Sort(all)
	return all
}

// prints waits until exactly these lines were printed.
func (s *site) prints(want ...string) {
	s.Helper()
	s.handling.Wait()
	slices.Sort(want)
	deadline := time.Now().Add(coretest.Patience)
	for got := s.log.lines(); !slices.Equal(got, want); got = s.log.lines() {
		if time.Now().After(deadline) || len(got) > len(want) {
			s.Fatalf("printed was %q, want %q", got, want)
		}
		<-time.After(time.Millisecond)
	}
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// page adds to h what a page of the server's own origin sends.
func (s *site) page(h http.Header) http.Header {
	page := header("Origin", "http://"+s.address)
	maps.Copy(page, h)
	return page
}

// conn is a client.
type conn struct {
	*websocket.Conn

	t        *testing.T
	protocol string
}

// reply is what the server answers.
type reply struct {
	proto  int // the major version of HTTP
	status int
	header http.Header
	body   []byte
}

// dial asks for a connection, which is nil when the server refuses it by a status.
func (s *site) dial(path string, h http.Header) (*websocket.Conn, reply) {
	s.Helper()
	ws, response, err := s.dialer.Dial("ws://"+s.address+path, h)
	if response == nil {
		s.Fatalf("%s: no response: %v", path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	if ws != nil {
		s.Cleanup(func() { _ = ws.Close() })
		_ = ws.SetReadDeadline(time.Now().Add(coretest.Patience))
	}
	return ws, reply{response.ProtoMajor, response.StatusCode, response.Header, body}
}

// connect connects a client that is let in.
func (s *site) connect(path string, h http.Header) *conn {
	s.Helper()
	ws, r := s.dial(path, h)
	if ws == nil {
		s.Fatalf("%s: %d %s", path, r.status, r.body)
	}
	return &conn{ws, s.T, r.header.Get("Sec-WebSocket-Protocol")}
}

func (c *conn) says(m core.Message) {
	c.t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.WriteMessage(websocket.TextMessage, text); err != nil {
		c.t.Fatal(err)
	}
}

// asks sends a message and returns the data of the answer.
func (c *conn) asks(kind, text string) json.RawMessage {
	c.t.Helper()
	c.says(core.Message{ID: "1", Type: kind, Message: text})
	var m struct {
		ID, Type string
		Data     json.RawMessage
	}
	if err := c.ReadJSON(&m); err != nil || m.ID != "1" || m.Type != "receive" {
		c.t.Fatalf("the answer to %s is %+v, %v", kind, m, err)
	}
	return m.Data
}

func (c *conn) whoami() who {
	c.t.Helper()
	var w who
	if err := json.Unmarshal(c.asks("whoami", ""), &w); err != nil {
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

// answer is how a client was refused: by a status and JSON, or by a close.
type answer struct {
	Status int
	Code   int
	Reason string
}

// knock asks for a connection that is going to be refused.
func (s *site) knock(path string, h http.Header) answer {
	s.Helper()
	ws, r := s.dial(path, h)
	if ws == nil {
		return r.decode(s.T)
	}
	closed := (&conn{Conn: ws, t: s.T}).closes()
	return answer{r.status, closed.Code, closed.Text}
}

// decode reads a refusal, whose body must agree with the status.
func (r reply) decode(t *testing.T) (a answer) {
	t.Helper()
	if r.header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(bytes.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		if r.body, err = io.ReadAll(unpacked); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(r.body, &a); err != nil || a.Status != r.status {
		t.Fatalf("%d with the body %q: %v", r.status, r.body, err)
	}
	return a
}

// refuses knocks as a page, which is to see a close, and as a program, which is to see status 401.
func (s *site) refuses(path string, h http.Header, code int, reason string) {
	s.Helper()
	if got, want := s.knock(path, s.page(h)), (answer{http.StatusSwitchingProtocols, code, reason}); got != want {
		s.Errorf("a page with %v got %+v, want %+v", h, got, want)
	}
	if got, want := s.knock(path, h), (answer{http.StatusUnauthorized, code, reason}); got != want {
		s.Errorf("a program with %v got %+v, want %+v", h, got, want)
	}
}

// get makes an ordinary request.
func (s *site) get(client *http.Client, url string, pairs ...string) reply {
	s.Helper()
	request, err := http.NewRequestWithContext(s.Context(), http.MethodGet, url, nil)
	if err != nil {
		s.Fatal(err)
	}
	request.Header = header(pairs...)
	response, err := client.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{response.ProtoMajor, response.StatusCode, response.Header, body}
}

// ordinary asks for the route /plain.
func (s *site) ordinary() {
	s.Helper()
	if r := s.get(s.client, "http://"+s.address+"/plain"); r.status != http.StatusOK || string(r.body) != plain {
		s.Errorf("/plain: %d, %d bytes", r.status, len(r.body))
	}
}
