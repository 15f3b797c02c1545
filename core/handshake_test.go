package core_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

const toldToUpgrade = "this is a WebSocket endpoint: connect with new WebSocket(url); a proxy in between must speak HTTP/1.1 and pass on Upgrade and Connection"

func TestRequestsThatAreNoHandshakeAreToldWhatIsWrong(t *testing.T) {
	t.Parallel()
	mustUpgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	for _, c := range []struct {
		name   string
		change func(r *http.Request)
		status int
		header http.Header
		reason string
	}{
		{
			"a plain GET is told to upgrade", func(r *http.Request) { r.Header = http.Header{} },
			http.StatusUpgradeRequired, mustUpgrade, toldToUpgrade,
		},
		{
			"a GET that upgrades to something else is told to upgrade", func(r *http.Request) { r.Header.Set("Upgrade", "h2c") },
			http.StatusUpgradeRequired, mustUpgrade, toldToUpgrade,
		},
		{
			"an Upgrade that the Connection header does not name is told to upgrade", func(r *http.Request) { r.Header.Set("Connection", "keep-alive") },
			http.StatusUpgradeRequired, mustUpgrade, toldToUpgrade,
		},
		{
			"a draft version is told the version", func(r *http.Request) { r.Header.Set("Sec-Websocket-Version", "8") },
			http.StatusUpgradeRequired, mustUpgrade, "Sec-WebSocket-Version must be 13",
		},
		{
			"no version is told the version", func(r *http.Request) { r.Header.Del("Sec-Websocket-Version") },
			http.StatusUpgradeRequired, mustUpgrade, "Sec-WebSocket-Version must be 13",
		},
		{
			"no key", func(r *http.Request) { r.Header.Del("Sec-Websocket-Key") },
			http.StatusBadRequest, nil, "Sec-WebSocket-Key must be 16 bytes in base64",
		},
		{
			"a key that is too short", func(r *http.Request) { r.Header.Set("Sec-Websocket-Key", "c2hvcnQ=") },
			http.StatusBadRequest, nil, "Sec-WebSocket-Key must be 16 bytes in base64",
		},
		{
			"a key that is not base64", func(r *http.Request) { r.Header.Set("Sec-Websocket-Key", "!!!!!!!!!!!!!!!!!!!!!!==") },
			http.StatusBadRequest, nil, "Sec-WebSocket-Key must be 16 bytes in base64",
		},
		{
			"a POST is told to GET", func(r *http.Request) { r.Method = http.MethodPost },
			http.StatusMethodNotAllowed,
			http.Header{"Allow": {"GET"}},
			"a WebSocket handshake is a GET request",
		},
		{
			"a POST without an upgrade is told to GET", func(r *http.Request) { r.Method, r.Header = http.MethodPost, http.Header{} },
			http.StatusMethodNotAllowed,
			http.Header{"Allow": {"GET"}},
			"a WebSocket handshake is a GET request",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			server := mount(t, coretest.Run(t, logged, &core.Provider{Auth: core.Anonymous}))
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/?token="+secret, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = coretest.Handshake().Header
			c.change(request)
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var body struct {
				Status, Code int
				Reason       string
			}
			if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || body.Status != c.status || body.Code != 1002 || body.Reason != c.reason {
				t.Errorf("%s %+v", response.Status, body)
			}
			for name := range c.header {
				if got := response.Header.Get(name); got != c.header.Get(name) {
					t.Errorf("%s: %q, want %q", name, got, c.header.Get(name))
				}
			}
			log.has("level=INFO", "gows: refused", "code=1002")
		})
	}
}

func TestHandshakesAsOtherClientsSendThem(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{Auth: core.Anonymous})
	for _, change := range []func(http.Header){
		func(h http.Header) { h.Set("Connection", "keep-alive, Upgrade") }, // Firefox
		func(h http.Header) { h["Connection"] = []string{"keep-alive", "upgrade"} },
		func(h http.Header) { h.Set("Upgrade", "WebSocket") },
		func(h http.Header) { h.Set("Sec-Websocket-Extensions", "permessage-deflate; client_max_window_bits") },
	} {
		h := coretest.Handshake()
		change(h.Header)
		coretest.Dial(t, service, h).Nothing()
	}
}

func TestTheTokenIsTheFirstFound(t *testing.T) {
	t.Parallel()
	coded := func(token string) string { return "gows.bearer." + base64.RawURLEncoding.EncodeToString([]byte(token)) }
	places := []struct {
		token string
		put   func(h *core.Handshake)
	}{
		{"the adapter's", func(h *core.Handshake) { h.Token = "the adapter's" }},
		{"the header's", func(h *core.Handshake) { h.Header.Set("Token", "the header's") }},
		{"the bearer's", func(h *core.Handshake) { h.Header.Set("Authorization", "Bearer the bearer's") }},
		{"the subprotocol's", func(h *core.Handshake) { h.Header.Set("Sec-Websocket-Protocol", "gows, "+coded("the subprotocol's")) }},
		{"the query's", func(h *core.Handshake) { h.Query.Set("token", "the query's") }},
		{"", func(*core.Handshake) {}},
	}
	asked := make(chan string, 1)
	came := make(chan *core.Client, 1)
	service := coretest.Run(t, &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			asked <- token
			return core.Anonymous(token)
		},
		Event: func(name string, client *core.Client) error {
			if name == core.EventOnline {
				came <- client
			}
			return nil
		},
	})
	for i, first := range places {
		h := coretest.Handshake()
		for _, place := range places[i:] {
			place.put(h)
		}
		coretest.Dial(t, service, h)
		if token := <-asked; token != first.token {
			t.Errorf("Auth was asked about %q, want %q", token, first.token)
		}
		if client := <-came; client.Token != first.token {
			t.Errorf("Client.Token %q, want %q", client.Token, first.token)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header, value string
		token         string
	}{
		{"Authorization", "bearer abc", "abc"},
		{"Authorization", "BEARER  abc ", "abc"},
		{"Authorization", "Bearer", "query"},
		{"Authorization", "Bearer  ", "query"},
		{"Authorization", "Basic abc", "query"},
		{"Authorization", "Bearerabc", "query"},
		{"Token", "", "query"},
		{"Sec-Websocket-Protocol", "gows,gows.bearer.YWJj", "abc"},
		{"Sec-Websocket-Protocol", "chat, gows.bearer.YWI", "ab"},
		{"Sec-Websocket-Protocol", "gows.bearer.YWI=, gows", "ab"},
		{"Sec-Websocket-Protocol", "gows.bearer.-_-_, gows", "\xfb\xff\xbf"},
		{"Sec-Websocket-Protocol", "gows.bearer.***, gows", "query"},
		{"Sec-Websocket-Protocol", "gows.bearer., gows", "query"},
		{"Sec-Websocket-Protocol", "gows.bearer, gows", "query"},
		{"Sec-Websocket-Protocol", "gows", "query"},
	} {
		h := http.Header{}
		h.Set(c.header, c.value)
		if got := core.Token(h, url.Values{"token": {"query"}}); got != c.token {
			t.Errorf("%s: %s: %q, want %q", c.header, c.value, got, c.token)
		}
	}
	lines := http.Header{"Sec-Websocket-Protocol": {"gows", "gows.bearer.YWJj"}}
	if got := core.Token(lines, nil); got != "abc" {
		t.Errorf("on the second line: %q", got)
	}
}

func TestTheSubprotocolWithTheTokenIsNeverEchoed(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{Auth: func(token string) (map[string]any, error) {
		if token != secret {
			return nil, errors.New("wrong token")
		}
		return core.Anonymous(token)
	}})
	server := mount(t, service)
	coded := "gows.bearer." + base64.RawURLEncoding.EncodeToString([]byte(secret))
	for _, c := range []struct {
		offered []string
		echoed  string
	}{
		{[]string{"gows", coded}, "gows"},
		{[]string{coded, "gows"}, "gows"},
		{[]string{coded, "gows.v1", "gows"}, "gows"},
		{[]string{coded}, ""},
		{[]string{coded, "gows.v1"}, ""},
		{[]string{coded, "GOWS"}, ""},
	} {
		d := websocket.Dialer{Subprotocols: c.offered}
		conn, response, err := d.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got := response.Header["Sec-Websocket-Protocol"]; strings.Join(got, ",") != c.echoed {
			t.Errorf("offered %q, echoed %q, want %q", c.offered, got, c.echoed)
		}
		if conn.Subprotocol() != c.echoed {
			t.Error(conn.Subprotocol())
		}
		_ = conn.Close()
	}
}

func TestARefusedPageGetsItsSubprotocolToo(t *testing.T) {
	t.Parallel()
	server := mount(t, coretest.Run(t, core.WithLogger(nil)))
	p := call(t, server, openingRequest(server, "/", "Origin: "+server.URL, "Sec-WebSocket-Protocol: gows"))
	if got := p.enter().Get("Sec-Websocket-Protocol"); got != "gows" {
		t.Errorf("subprotocol %q: a browser fails without the one it offered", got)
	}
	if code, _ := p.closed(); code != core.CloseRefused {
		t.Error(code)
	}
}

func TestNewHandshakeTakesWhatTheCoreNeeds(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "http://example.com/ws?token=a&app=b", nil)
	r.Header.Set("Cookie", "c=d")
	identity := map[string]any{"client_id": "alice"}
	h := core.NewHandshake(r.WithContext(core.ContextWithIdentity(r.Context(), identity)))
	if h.Method != http.MethodGet || h.Host != "example.com" || h.RemoteAddr != r.RemoteAddr || h.Header.Get("Cookie") != "c=d" ||
		h.Query.Get("token") != "a" || h.Query.Get("app") != "b" || h.Identity["client_id"] != "alice" ||
		h.App != "" || h.Token != "" || h.Data != nil {
		t.Errorf("%+v", h)
	}
	if h := core.NewHandshake(r); h.Identity != nil {
		t.Error("an identity out of nowhere")
	}
}

func TestACloneOfAHandshakeOutlivesTheMemoryOfTheRequest(t *testing.T) {
	t.Parallel()
	memory := []byte("alice")
	s := unsafe.String(&memory[0], len(memory)) // a string as Fiber makes them
	type claims map[string]any                  // as those of JWT libraries
	type user struct {
		Name  string
		Roles [1]string
		id    int
	}
	since := time.Now()
	h := &core.Handshake{
		Method: s, Host: s, RemoteAddr: s, App: s, Token: s,
		Header:   http.Header{s: {s, s}},
		Query:    url.Values{s: {s}},
		Identity: map[string]any{"client_id": s, s: []any{s, 1, nil}, "claims": claims{s: []string{s}}, "since": since, "nil": nil},
		Data:     map[string]any{"pairs": map[string]string{s: s}, "bytes": []byte(s), "none": []string(nil), "user": user{Name: s, Roles: [1]string{s}, id: 7}},
	}
	clone, want := h.Clone(), fmt.Sprintf("%#v", h)
	copy(memory, "MALLO")
	if got := fmt.Sprintf("%#v", clone); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := fmt.Sprintf("%#v", h); strings.Contains(got, "alice") {
		t.Error("the request's memory has not changed:", got)
	}
	if empty := (&core.Handshake{}).Clone(); !reflect.DeepEqual(empty, &core.Handshake{}) {
		t.Errorf("%#v", empty)
	}
}
