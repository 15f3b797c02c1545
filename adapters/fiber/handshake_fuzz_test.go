package gows_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	gows "github.com/duxweb/go-ws/adapters/fiber"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

// FuzzHandshakeAgainstNetHTTP gives the same bytes to fasthttp with the adapter behind it, and to net/http with the core
// behind it. Whoever stands in front of a server must not be able to tell them apart: who gets in, as whom, and where the
// frames begin. They differ in this, and it does no harm:
//
//   - Fiber's host is in lower case, and that of a URI like http:///ws is empty, whatever the header says. No client sends one;
//   - it makes one line of several cookies, without the quotes around a value and without those that are empty;
//   - to Fiber a fragment is no part of a query. No client sends one;
//   - a chunked body that is empty is none to Fiber: fasthttp has read it away, "Transfer-Encoding" and all, and what is left
//     are frames;
//   - some versions of fasthttp keep tabs around a value, which no client sends, and then find no query behind such a host;
//   - what they make of folded lines, which nobody has sent for long (RFC 9112 section 5.2), and of a body before HTTP/1.1.
func FuzzHandshakeAgainstNetHTTP(f *testing.F) {
	seedRequests(f)
	service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil), core.WithOrigins("https://*.example.com:*"), &core.Provider{
		Auth: func(token string) (map[string]any, error) { return map[string]any{"client_id": "c" + token}, nil },
	})
	if err := service.Run(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = service.Shutdown(context.Background()) })
	var seen *core.Handshake
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Use(gows.Fiber(service, func(_ *fiber.Ctx, h *core.Handshake) { seen = h.Clone() }))
	serve := app.Handler()
	f.Fuzz(func(t *testing.T, raw []byte) {
		theirs, ours := bufio.NewReader(bytes.NewReader(raw)), bufio.NewReader(bytes.NewReader(raw))
		r, err := http.ReadRequest(theirs)
		var request fasthttp.Request
		if err != nil || request.Read(ours) != nil || strings.Contains(r.RequestURI, "#") {
			return
		}
		want := core.NewHandshake(r)
		_, refused := service.Admit(t.Context(), want)
		var c fasthttp.RequestCtx
		c.Init(&request, nil, nil)
		serve(&c)
		if r.URL.IsAbs() && r.URL.Host == "" {
			return
		}
		if !r.ProtoAtLeast(1, 1) || !plainHost.MatchString(r.Host) || bytes.Contains(raw, []byte("\n ")) || bytes.Contains(raw, []byte("\t")) {
			return
		}
		if hasBody(r) && c.Hijacked() && len(request.Body()) == 0 { // an empty one, in chunks
			_, _ = io.Copy(io.Discard, r.Body)
			sameRest(t, ours, theirs)
			return
		}
		if (refused == nil) != c.Hijacked() {
			t.Fatalf("net/http: %v; Fiber: %d %s", refused, c.Response.StatusCode(), c.Response.Body())
		}
		if refused == nil {
			compare(t, seen, want)
			sameRest(t, ours, theirs)
		}
		var refusal *core.Refusal
		if errors.As(refused, &refusal) && bytes.ContainsAny(c.Response.Header.Header(), "\x00") {
			t.Fatalf("%q", c.Response.Header.Header())
		}
	})
}

// plainHost leaves out what net/http's server refuses before it asks anybody, and what is no port.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)

func hasBody(r *http.Request) bool { return r.ContentLength != 0 || len(r.TransferEncoding) > 0 }

// compare holds what decides about a client in two readings of one request against each other.
func compare(t *testing.T, got, want *core.Handshake) {
	t.Helper()
	if !strings.EqualFold(got.Host, want.Host) || core.Token(got.Header, got.Query) != core.Token(want.Header, want.Query) || got.Query.Encode() != want.Query.Encode() {
		t.Fatalf("Fiber: %q %v %v\nnet/http: %q %v %v", got.Host, got.Query, got.Header, want.Host, want.Query, want.Header)
	}
	for _, name := range []string{"Origin", "App", "Sec-Websocket-Key", "Sec-Websocket-Protocol", "Cookie", "X-Forwarded-For"} {
		g, w := strings.Join(got.Header[name], "; "), strings.Join(want.Header[name], "; ")
		if name == "Cookie" {
			g, w = bare(g), bare(w)
		}
		if g != w {
			t.Fatalf("%s: Fiber: %q, net/http: %q", name, g, w)
		}
	}
}

// bare is what of cookies is neither quotes nor between them.
func bare(cookies string) string {
	return strings.NewReplacer(`"`, "", "=", "", ";", "", " ", "", "\t", "").Replace(cookies)
}

// sameRest: what is behind the request are frames, and begins at the same place.
func sameRest(t *testing.T, ours, theirs io.Reader) {
	t.Helper()
	got, _ := io.ReadAll(ours)
	want, _ := io.ReadAll(theirs)
	if !bytes.Equal(got, want) {
		t.Fatalf("frames begin at %q; with net/http at %q", got, want)
	}
}

func seedRequests(f *testing.F) {
	f.Helper()
	const request = "GET /ws?token=t HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, rest := range []string{
		"\r\n", "\r\n\x81\x00", "Origin: https://example.com\r\nSec-WebSocket-Protocol: gows, gows.bearer.YWJj\r\n\r\n",
		"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "Content-Length: 0\r\n\r\nhello",
		"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\x81\x00", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0;x=y\r\nApp: x\r\n\r\n\x81\x00",
		"Transfer-Encoding: identity\r\n\r\nhello", "Transfer-Encoding: chunked, identity\r\n\r\nhello",
		"Token: a\r\n b\r\n\r\n", "Token: a\r\nToken: b\r\n\r\n", "token: a\r\nTOKEN: b\r\n\r\n", "Token:\r\nToken: b\r\n\r\n",
		"Authorization: Bearer a\r\nCookie: token=b\r\nCookie: token=c\r\n\r\n",
		"Cookie: a=\"b c\"; token=\xff; =; x\r\nX-Forwarded-For: 10.0.0.1 , [::1]\r\n\r\n", "X-Forwarded-For: a\r\nX-Forwarded-For: b\r\n\r\n",
		"Authorization:  BEARER  a b \r\nToken: \xff\x80 \r\n\r\n\x89\x00", "App: x\r\nApp: y\r\n\r\n", "Sec-Websocket-Protocol: other\r\nsec-websocket-protocol: gows.bearer.YQ, gows\r\n\r\n",
		"Origin: http://EXAMPLE.com\r\nOrigin: https://a.example.com:1\r\n\r\n", "Origin: https://a.example.com:8443\r\n\r\n\x81\x80\x00\x00\x00\x00",
		"Origin: null\r\n\r\n", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n\r\n", "X_App: x\r\nX-App: y\r\nTrailer: Token\r\n\r\n",
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", "Host: other.example\r\n\r\n", "Connection: close\r\n\r\n", "Expect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(request + rest))
	}
	for _, change := range [][2]string{
		{"GET", "POST"},
		{"GET", "HEAD"},
		{"HTTP/1.1", "HTTP/1.0"},
		{"Host: example.com\r\n", ""},
		{"\r\n", "\n"},
		{"GET", "\r\nGET"},
		{"GET", "get"},
		{"/ws?token=t", "/ws?token=a+b%2Bc&token=d&TOKEN=e&=f&g"},
		{"/ws?token=t", "/a/../%2e%2e//b?token=%C3%28%ff&app="},
		{"/ws?token=t", "/ws?token=a?b/c:d@e"},
		{"/ws?token=t", "/?token"},
		{"/ws?token=t", "http:///ws?token=t"},
		{"websocket\r\n", "h2c, WebSocket \r\n"},
		{"keep-alive, Upgrade", "close, upgrade"},
		{"keep-alive, Upgrade", "\xff,, UPGRADE ,"},
		{": 13", ":13  "},
		{": example.com", ":  example.com.:443 "},
		{"/ws?token=t", "*"},
		{"/ws?token=t", "http://other.example/ws?token=t"},
		{"/ws?token=t", "/ws?token=%zz&token=a;b&token=c#d"},
		{"/ws?token=t", "//x?app=%00"},
		{"Upgrade: websocket", "Upgrade : websocket"},
		{"Upgrade: websocket", "Upgrade: web\u017focket"},
		{"example.com", "EXAMPLE.com:80"},
	} {
		f.Add([]byte(strings.ReplaceAll(request+"\r\n", change[0], change[1])))
	}
}
