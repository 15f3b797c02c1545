package core_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// requestWith is a request with further lines in its header, and what comes behind it.
func requestWith(behind string, lines ...string) []byte {
	lines = append([]string{
		"GET /ws?token=t HTTP/1.1", "Host: example.com", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + behind)
}

func seedRequests(f *testing.F) {
	f.Helper()
	f.Add(requestWith(""))
	f.Add(requestWith("\x81\x00", "Origin: https://example.com", "Sec-WebSocket-Protocol: gows, gows.bearer.YWJj"))
	f.Add(requestWith("", "Origin: null", "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: gows", "Authorization: Bearer abc"))
	f.Add(requestWith("", "Sec-WebSocket-Protocol: other, GOWS"))
	f.Add(requestWith("hello", "Content-Length: 5"))
	f.Add(requestWith("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	f.Add(requestWith("hello", "Content-Length: 5", "Content-Length: 6", "Transfer-Encoding: chunked"))
	f.Add(requestWith("", "Token: a\r\n b", "App: x\ty"))
	f.Add(requestWith("", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 8"))
	f.Add(requestWith("", "Token: no"))
	f.Add(requestWith("", "Origin: https://a.example.com:8443", "Sec-WebSocket-Protocol: gows.bearer.bm8, gows"))
	f.Add(requestWith("", "Origin: https://evil.example"))
	f.Add(requestWith("\x89\x80\x00\x00\x00\x00", "Authorization: \tBEARER  a b ", "Content-Length: 0"))
	f.Add(requestWith("", "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: gows", "Sec-WebSocket-Protocol: gows"))
	f.Add([]byte(strings.ReplaceAll(string(requestWith("", "App: y")), "keep-alive, ", "\xff,")))
	for _, change := range [][2]string{
		{"GET", "POST"},
		{"HTTP/1.1", "HTTP/1.0"},
		{"Host: example.com\r\n", ""},
		{"Upgrade: websocket", "Upgrade: web\u017focket"},
		{"Upgrade\r\n", "\u00a0upgrade\r\n"},
		{": 13", ": 13, 8"},
		{"==", "="},
		{"Connection: keep-alive, Upgrade", "Connection: x y, upgrade\r\nConnection: Upgrade"},
		{"Connection: keep-alive, Upgrade", "Connection: close\r\nConnection: ,,\tUPGRADE ,"},
		{"keep-alive, Upgrade", "a/b;c=\"d, upgrade\""},
		{"Upgrade: websocket", "Upgrade: h2c, WebSocket\t"},
		{"Upgrade: websocket", "Upgrade: websocket/13"},
		{": 13", ":\t13  "},
		{": 13", ": 013"},
		{"dGhl", "dG\thl"},
		{"/ws?token=t", "/ws?token=a+b%2Bc&token=d&app=#e"},
		{"/ws?token=t", "*"},
		{"/ws?token=t", "http://other.example/ws?token=%zz;&app=%00"},
		{"\r\n", "\n"},
		{"Upgrade: ", "Upgrade : "},
	} {
		f.Add([]byte(strings.ReplaceAll(string(requestWith("")), change[0], change[1])))
	}
}

// FuzzHandshake holds Admit against gorilla's Upgrader, with net/http's parser in front of both. Where gorilla differs it
// is because of this:
//
//   - a request with a body is no handshake here: gorilla takes what has not arrived yet of the body for frames;
//   - it is at least HTTP/1.1;
//   - the version is 13, and no list of versions with 13 among them;
//   - what is no token in a list does not hide the tokens behind it;
//   - subprotocols are looked for in all lines.
func FuzzHandshake(f *testing.F) {
	seedRequests(f)
	service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil), core.WithOrigins("https://*.example.com:*", "null"), &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			if strings.HasPrefix(token, "no") {
				return nil, errors.New("not you")
			}
			return map[string]any{"client_id": "c" + token}, nil
		},
	})
	if err := service.Run(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = service.Shutdown(context.Background()) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		ticket, err := service.Admit(t.Context(), core.NewHandshake(r))
		if err != nil {
			if ticket != nil {
				t.Fatal("a ticket and", err)
			}
			refusesIn(t, service, err)
		} else {
			acceptsIn(t, core.Response(ticket), r)
		}
		against(t, ticket, err, r)
	})
}

// acceptsIn: the response is one header block with these lines and no others.
func acceptsIn(t *testing.T, text []byte, r *http.Request) http.Header {
	t.Helper()
	in := bufio.NewReader(bytes.NewReader(text))
	response, err := http.ReadResponse(in, r)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%q: %v", text, err)
	}
	_ = response.Body.Close()
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Fatalf("behind the response: %q", rest)
	}
	protocol, has := response.Header["Sec-Websocket-Protocol"]
	want := map[bool]int{false: 3, true: 4}[has]
	if has && !slices.Equal(protocol, []string{"gows"}) || len(response.Header) != want || strings.Count(string(text), "\n") != want+2 {
		t.Fatalf("%q", text)
	}
	return response.Header
}

// refusesIn: a refusal says what is ours to say, and nothing that was asked.
func refusesIn(t *testing.T, service *core.Service, err error) {
	t.Helper()
	var refused *core.Refusal
	if !errors.As(err, &refused) || refused.Status < 400 || refused.Status > 599 {
		t.Fatal(err)
	}
	if !slices.Contains(reasons, refused.Reason) {
		t.Fatalf("refused with %q", refused.Reason)
	}
	w := httptest.NewRecorder()
	service.WriteRefusal(w, err)
	var body struct{ Reason string }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Reason != refused.Reason || w.Code != refused.Status {
		t.Fatalf("%d %q, %v", w.Code, w.Body, err)
	}
	for name := range w.Header() {
		if !slices.Contains([]string{"Allow", "Cache-Control", "Connection", "Content-Type", "Sec-Websocket-Version", "Upgrade"}, name) {
			t.Fatalf("%v", w.Header())
		}
	}
}

// reasons are all that there are for the service of FuzzHandshake.
var reasons = []string{
	toldToUpgrade, "a WebSocket handshake is a GET request", "Sec-WebSocket-Version must be 13", "Sec-WebSocket-Key must be 16 bytes in base64",
	"a WebSocket handshake has no body", "a WebSocket handshake is at least HTTP/1.1 (nginx: proxy_http_version 1.1)", "this origin is not allowed", "not you", "there is no such app",
}

// against compares with what gorilla makes of the request.
func against(t *testing.T, ticket *core.Ticket, refused error, r *http.Request) {
	t.Helper()
	said, err := gorillaSays(r)
	accepted := ticket != nil
	var refusal *core.Refusal
	if errors.As(refused, &refusal) && slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}, refusal.Status) {
		accepted = true // as a handshake
	}
	switch {
	case hasBody(r), !r.ProtoAtLeast(1, 1), r.Header.Get("Sec-Websocket-Version") != "13" && err == nil:
		if accepted {
			t.Fatalf("let in: %s %v, %d bytes of body", r.Proto, r.Header, r.ContentLength)
		}
		return
	case hasNoTokens(r.Header):
		if asked := lists(r.Header, "Connection", "upgrade") && lists(r.Header, "Upgrade", "websocket"); accepted && !asked {
			t.Fatalf("let in: %q", r.Header)
		}
		return
	}
	if accepted != (err == nil) {
		t.Fatalf("%v, %v; gorilla: %v", refused, r.Header, err)
	}
	if ticket == nil || len(r.Header["Sec-Websocket-Protocol"]) > 1 {
		return
	}
	if got := string(core.Response(ticket)); got != said {
		t.Fatalf("%q\ngorilla: %q", got, said)
	}
}

func hasBody(r *http.Request) bool { return r.ContentLength != 0 || len(r.TransferEncoding) > 0 }

// hasNoTokens reports whether a list holds something that is no token: gorilla sees nothing behind it.
func hasNoTokens(h http.Header) bool {
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Version"} {
		for _, line := range h[name] {
			if strings.Trim(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-, \t") != "" || noList(line) {
				return true
			}
		}
	}
	return false
}

// lists reports whether a header is a list with such an element.
func lists(h http.Header, name, want string) bool {
	lower := func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}
	return slices.ContainsFunc(h[name], func(line string) bool {
		return slices.ContainsFunc(strings.Split(strings.Map(lower, line), ","), func(part string) bool { return strings.Trim(part, " \t") == want })
	})
}

// noList reports whether an element of a list is empty or has spaces in it.
func noList(line string) bool {
	for part := range strings.SplitSeq(line, ",") {
		if part = strings.Trim(part, " \t"); part == "" || strings.ContainsAny(part, " \t") {
			return true
		}
	}
	return false
}

// gorillaSays returns gorilla's response, or why it refuses.
func gorillaSays(r *http.Request) (response string, err error) {
	var conn answeredConn
	upgrader := websocket.Upgrader{Subprotocols: []string{"gows"}, CheckOrigin: func(*http.Request) bool { return true }}
	_, err = upgrader.Upgrade(hijackable{httptest.NewRecorder(), &conn}, r, nil)
	return conn.written.String(), err
}

type hijackable struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// answeredConn keeps what is written to it.
type answeredConn struct {
	net.Conn
	written bytes.Buffer
}

func (c *answeredConn) Read([]byte) (int, error)       { return 0, io.EOF }
func (c *answeredConn) Write(b []byte) (int, error)    { return c.written.Write(b) }
func (*answeredConn) Close() error                     { return nil }
func (*answeredConn) SetDeadline(time.Time) error      { return nil }
func (*answeredConn) SetWriteDeadline(time.Time) error { return nil }

// A proxy in front passes a body on as a part of the request. Frames in it are not the browser's.
func TestTheBodyOfARequestIsNotTakenForFrames(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 1)
	server := mount(t, coretest.Run(t, core.WithLogger(nil), &core.Provider{
		Auth: core.Anonymous,
		Message: func(m *core.Message, _ *core.Client) error {
			heard <- m.Type
			return nil
		},
	}))
	smuggled := string(masked(1, `{"type":"smuggled"}`))
	for _, request := range []string{
		string(requestWith(smuggled, "Content-Length: 25")),
		string(requestWith("19\r\n"+smuggled+"\r\n0\r\n\r\n", "Transfer-Encoding: chunked")),
	} {
		p := call(t, server, request)
		response, err := http.ReadResponse(p.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", request, response.Status)
		}
	}
	if len(heard) > 0 {
		t.Error("a body was taken for frames:", <-heard)
	}
	p := call(t, server, string(requestWith(smuggled, "Content-Length: 0"))) // this one is eager, and may be
	p.enter()
	if got := <-heard; got != "smuggled" {
		t.Error(got)
	}
	_ = p.Close()
}

// Under Unicode's folding ſ is an s, and a no-break space is space to Go: to HTTP they are neither.
func TestTokensInAHeaderAreASCII(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: core.Anonymous})
	for _, change := range [][2]string{{"Upgrade", "web\u017focket"}, {"Upgrade", "websoc\u212aet"}, {"Connection", "\u00a0Upgrade"}, {"Upgrade", "websocket\u0085"}} {
		h := coretest.Handshake()
		h.Header.Set(change[0], change[1])
		if ticket, err := service.Admit(t.Context(), h); ticket != nil || err == nil {
			t.Errorf("%s: %q is let in", change[0], change[1])
		}
	}
}
