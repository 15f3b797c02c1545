// Package chattest is what each of the examples behind a framework has to do:
//
//	func TestGin(t *testing.T) { chattest.Run(t, chattest.Program{Start: start, Sign: sign, Sockets: []string{"/ws"}}) }
//
// It drives the program with real sockets, in one process. What the page makes of it is tested in e2e.
package chattest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// Program is one of the examples.
type Program struct {
	// Start serves on l until the test ends.
	Start func(t testing.TB, l net.Listener)
	// Sign makes a token as POST /login does.
	Sign func(name string, end time.Time) (string, error)
	// Sockets are the paths of the routes to the socket.
	Sockets []string
}

// Run runs all cases against a program.
func Run(t *testing.T, program Program) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(s *stage)
	}{
		{"two who have signed in talk", (*stage).talk},
		{"without a good token nobody comes in", (*stage).badTokens},
		{"a connection ends with its token and comes back with a new one", (*stage).expiry},
	} {
		for _, path := range program.Sockets {
			t.Run(c.name+" on "+path, func(t *testing.T) {
				t.Parallel()
				c.run(open(t, program, path))
			})
		}
	}
	for _, c := range []struct {
		name string
		run  func(s *stage)
	}{
		{"a notice reaches all devices of one person and nobody else", (*stage).notify},
		{"a person with two devices is online once", (*stage).online},
		{"a push is heard in its room", (*stage).push},
		{"a kick names who did it", (*stage).kick},
		{"an impossible name gets no token", (*stage).impossibleName},
		{"pages of other sites post nothing", (*stage).otherSites},
		{"the page is served", (*stage).page},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(open(t, program, program.Sockets[0]))
		})
	}
}

// stage is a running program.
type stage struct {
	*testing.T

	program Program
	address string
	path    string // of the socket
	client  *http.Client
}

func open(t *testing.T, program Program, path string) *stage {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	program.Start(t, l)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &stage{t, program, l.Addr().String(), path, &http.Client{Transport: transport, Timeout: coretest.Patience}}
}

func (s *stage) talk() {
	alice, bob := s.enters("alice"), s.enters("李 雷")
	alice.say(core.Message{ID: "2", Type: "message", Channel: "room:lobby", Message: "hello"})
	if m := bob.hears("message"); m.Message != "hello" || m.ClientID != "alice" {
		s.Errorf("%+v", m)
	}
	bob.say(core.Message{ID: "2", Type: "message", Channel: "room:lobby", Message: "你好"})
	alice.hears("message")
	if m := alice.hears("message"); m.Message != "你好" || m.ClientID != "李 雷" {
		s.Errorf("%+v", m)
	}
}

func (s *stage) badTokens() {
	good := s.login("alice")
	head, rest, _ := strings.Cut(good, ".")
	claims, _, _ := strings.Cut(rest, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + claims + "."
	for what, token := range map[string]string{
		"no token":              "",
		"nonsense":              "alice",
		"another's signature":   head + "." + claims + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 32)),
		"no signature":          unsigned,
		"an expired one":        s.sign("alice", time.Now().Add(-time.Minute)),
		"one that just expired": s.sign("alice", time.Now()),
	} {
		page := s.connect(token)
		if closed := page.closes(); closed.Code != core.CloseExpired || closed.Text != "please sign in again" {
			s.Errorf("with %s a page gets %v", what, closed)
		}
		if status, text := s.knock(token); status != http.StatusUnauthorized || !strings.Contains(text, `"code":3005`) {
			s.Errorf("with %s a program gets %d %s", what, status, text)
		}
	}
	s.connect(good).enter()
}

func (s *stage) expiry() {
	alice := s.connect(s.sign("alice", time.Now().Add(2*time.Second)))
	alice.enter()
	if closed := alice.closes(); closed.Code != core.CloseExpired {
		s.Error(closed)
	}
	s.enters("alice")
}

func (s *stage) notify() {
	laptop, phone, bob := s.enters("李 雷"), s.enters("李 雷"), s.enters("bob")
	const path = "/users/%E6%9D%8E%20%E9%9B%B7/notify"
	s.wants(http.StatusOK, "done", http.MethodPost, path, "bob", "lunch?")
	for _, device := range []*conn{laptop, phone} {
		if m := device.hears("notice"); m.Message != "lunch?" || m.ClientID != "" {
			s.Errorf("%+v", m)
		}
	}
	s.wants(http.StatusNotFound, "nobody of this name is online", http.MethodPost, "/users/carol/notify", "bob", "lunch?")
	s.wants(http.StatusUnauthorized, "please sign in again", http.MethodPost, path, "", "lunch?")
	bob.hearsNothing()
	phone.hearsNothing()
}

func (s *stage) online() {
	online := func(want ...string) {
		s.Helper()
		status, text := s.call(http.MethodGet, "/online", s.login("visitor"), "")
		got := []string{"?"}
		if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK || got == nil || !slices.Equal(got, want) {
			s.Errorf("%d %s, %v, want %v", status, text, err, want)
		}
	}
	online()
	s.enters("bob")
	s.enters("alice")
	s.enters("bob")
	s.connect(s.login("carol")).hearsNothing() // online, but not in the lobby
	online("alice", "bob")
	s.wants(http.StatusUnauthorized, "please sign in again", http.MethodGet, "/online", "", "")
}

func (s *stage) push() {
	alice := s.enters("alice")
	s.wants(http.StatusOK, "done", http.MethodPost, "/push?room=lobby", "", "from REST")
	if m := alice.hears("message"); m.Message != "from REST" || m.ClientID != "" || m.Channel != "room:lobby" {
		s.Errorf("%+v", m)
	}
	for path, text := range map[string]string{"/push?room=private": "hello", "/push?room=lobby": " ", "/push": "hello"} {
		s.wants(http.StatusBadRequest, "a message needs an open room", http.MethodPost, path, "", text)
	}
	alice.hearsNothing()
}

func (s *stage) kick() {
	bob, again := s.enters("bob"), s.enters("bob")
	s.wants(http.StatusUnauthorized, "please sign in again", http.MethodPost, "/kick?name=bob", "", "")
	s.wants(http.StatusNotFound, "nobody of this name is online", http.MethodPost, "/kick?name=carol", "alice", "")
	s.wants(http.StatusOK, "done", http.MethodPost, "/kick?name=bob", "alice", "")
	for _, device := range []*conn{bob, again} {
		if closed := device.closes(); closed.Code != core.CloseKicked || closed.Text != "kicked by alice" {
			s.Error(closed)
		}
	}
}

func (s *stage) impossibleName() {
	for _, name := range []string{"", " ", "<script>", strings.Repeat("x", 25)} {
		status, text := s.call(http.MethodPost, "/login", "", url.Values{"name": {name}}.Encode())
		if status != http.StatusBadRequest || !strings.Contains(text, "1 to 24 letters") {
			s.Errorf("%q: %d %s", name, status, text)
		}
	}
}

func (s *stage) otherSites() {
	alice := s.enters("alice")
	token := s.login("alice")
	for _, path := range []string{"/login", "/push?room=lobby", "/kick?name=alice", "/users/alice/notify"} {
		for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
			request := s.request(http.MethodPost, path, token, "name=alice")
			request.Header.Set(name, value)
			if status, text := s.do(request); status != http.StatusForbidden || !strings.Contains(text, "cross-origin") {
				s.Errorf("%s with %s: %d %s", path, value, status, text)
			}
		}
	}
	alice.hearsNothing()
}

func (s *stage) page() {
	for path, want := range map[string]string{"/": "<title>go-ws chat</title>", "/gows.js": "export function connect", "/style.css": "color-scheme"} {
		s.wants(http.StatusOK, want, http.MethodGet, path, "", "")
	}
}

// login returns the token that the page gets.
func (s *stage) login(name string) string {
	s.Helper()
	status, text := s.call(http.MethodPost, "/login", "", url.Values{"name": {name}}.Encode())
	if status != http.StatusOK {
		s.Fatalf("login as %q: %d %s", name, status, text)
	}
	return text
}

func (s *stage) sign(name string, end time.Time) string {
	s.Helper()
	token, err := s.program.Sign(name, end)
	if err != nil {
		s.Fatal(err)
	}
	return token
}

// wants calls, as somebody unless as is "", and wants an answer.
func (s *stage) wants(status int, text, method, path, as, body string) {
	s.Helper()
	token := ""
	if as != "" {
		token = s.login(as)
	}
	if got, answer := s.call(method, path, token, body); got != status || !strings.Contains(answer, text) {
		s.Errorf("%s %s %q: %d %s, want %d %s", method, path, body, got, answer, status, text)
	}
}

func (s *stage) call(method, path, token, body string) (status int, text string) {
	s.Helper()
	return s.do(s.request(method, path, token, body))
}

func (s *stage) request(method, path, token, body string) *http.Request {
	s.Helper()
	request, err := http.NewRequestWithContext(s.Context(), method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return request
}

func (s *stage) do(request *http.Request) (status int, text string) {
	s.Helper()
	response, err := s.client.Do(request)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// dial asks for a socket as gows.js does, or as a program, which has no origin.
func (s *stage) dial(token string, header http.Header) (*websocket.Conn, *http.Response, error) {
	dialer := websocket.Dialer{HandshakeTimeout: coretest.Patience, Subprotocols: []string{"gows"}}
	if token != "" {
		dialer.Subprotocols = append(dialer.Subprotocols, "gows.bearer."+base64.RawURLEncoding.EncodeToString([]byte(token)))
	}
	return dialer.DialContext(s.Context(), "ws://"+s.address+s.path, header)
}

// knock asks for a socket that a program does not get.
func (s *stage) knock(token string) (status int, text string) {
	s.Helper()
	ws, response, err := s.dial(token, nil)
	if err == nil {
		_ = ws.Close()
		return response.StatusCode, ""
	}
	if response == nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// connect opens the socket of a page.
func (s *stage) connect(token string) *conn {
	s.Helper()
	ws, response, err := s.dial(token, http.Header{"Origin": {"http://" + s.address}})
	if err != nil {
		s.Fatal(err)
	}
	_ = response.Body.Close()
	s.Cleanup(func() { _ = ws.Close() })
	if ws.Subprotocol() != "gows" {
		s.Errorf("the subprotocol is %q: a browser would fail the connection", ws.Subprotocol())
	}
	_ = ws.SetReadDeadline(time.Now().Add(coretest.Patience))
	return &conn{ws, s}
}

// enters signs somebody in, who then enters the lobby.
func (s *stage) enters(name string) *conn {
	s.Helper()
	c := s.connect(s.login(name))
	c.enter()
	return c
}

// conn is a page's socket.
type conn struct {
	*websocket.Conn

	s *stage
}

func (c *conn) enter() {
	c.s.Helper()
	c.say(core.Message{ID: "1", Type: "subscribe", Channel: "room:lobby"})
	c.hears("receive")
}

func (c *conn) say(m core.Message) {
	c.s.Helper()
	if err := c.WriteJSON(m); err != nil {
		c.s.Fatal(err)
	}
}

// hears reads on to a message of a type. Beside it there may be answers, and who came and went.
func (c *conn) hears(kind string) core.Message {
	c.s.Helper()
	for {
		var m core.Message
		if err := c.ReadJSON(&m); err != nil {
			c.s.Fatalf("waiting for a %s: %v", kind, err)
		}
		if m.Type == kind {
			return m
		}
		if !slices.Contains([]string{"receive", "join", "leave"}, m.Type) {
			c.s.Fatalf("got %+v, want a %s", m, kind)
		}
	}
}

// hearsNothing wants that nothing has been said, and that the connection lives.
func (c *conn) hearsNothing() {
	c.s.Helper()
	c.say(core.Message{ID: "9", Type: "ping"})
	c.hears("pong")
}

func (c *conn) closes() *websocket.CloseError {
	c.s.Helper()
	for {
		_, _, err := c.ReadMessage()
		if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) {
			return closed
		}
		if err != nil {
			c.s.Fatalf("waiting for a close: %v", err)
		}
	}
}
