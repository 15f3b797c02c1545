package adaptertest

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/duxweb/go-ws/core"
)

func (s *stage) letIn() {
	th := s.open(everybody())
	for _, h := range []http.Header{nil, th.page()} {
		c := th.connect("/ws?token=alice", h)
		if got := c.whoami(); got.ID != "by token: alice" || got.Token != "alice" || got.Remote != "127.0.0.1" && got.Remote != c.LocalAddr().String() {
			s.Errorf("%+v", got)
		}
	}
}

func (s *stage) tokens() {
	th := s.open(everybody())
	coded := "gows.bearer." + base64.RawURLEncoding.EncodeToString([]byte("小明+/="))
	for _, c := range []struct {
		token, query string
		header       http.Header
	}{
		{"alice", "", header("Token", "alice")},
		{"alice", "", header("Authorization", "Bearer alice")},
		{"alice", "", header("authorization", "bearer alice")},
		{"小明+/=", "", header("Sec-WebSocket-Protocol", "gows, "+coded)},
		{"小明+/=", "", header("Sec-WebSocket-Protocol", coded, "Sec-WebSocket-Protocol", "gows")},
		{"a b+c", "?token=a%20b%2Bc", nil},
		{"header", "?token=query", header("Token", "header", "Authorization", "Bearer bearer")},
		{"bearer", "?token=query", header("Authorization", "Bearer bearer", "Sec-WebSocket-Protocol", "gows, "+coded)},
		{"小明+/=", "?token=query", header("Sec-WebSocket-Protocol", "gows, "+coded)},
	} {
		conn := th.connect("/ws"+c.query, c.header)
		if got := conn.whoami(); got.Token != c.token {
			s.Errorf("%v: the token is %q, want %q", c.header, got.Token, c.token)
		}
		if offered := c.header.Get("Sec-WebSocket-Protocol") != ""; offered != (conn.protocol == "gows") {
			s.Errorf("%v: the subprotocol is %q", c.header, conn.protocol)
		}
		if got := th.get(http.MethodGet, "/token"+c.query, c.header).text; got != c.token {
			s.Errorf("%v: Token is %q, want %q", c.header, got, c.token)
		}
	}
}

func (s *stage) contextToken() {
	th := s.open(everybody())
	if got := th.connect("/context?token=query", header("X-Token", "context", "Token", "header")).whoami(); got.Token != "context" {
		s.Errorf("%+v", got)
	}
	if got := th.connect("/context?token=query", header("X-Token", "context", "X-Other", "option")).whoami(); got.Token != "option" {
		s.Errorf("%+v", got)
	}
	if got := th.connect("/context?token=query", nil).whoami(); got.Token != "query" {
		s.Errorf("%+v", got)
	}
}

func (s *stage) identities() {
	th := s.open(everybody())
	if got := th.connect("/identity?token=mallory", header("X-User", "alice")).whoami(); got.ID != "alice" || got.Token != "" {
		s.Errorf("%+v", got)
	}
	if got := th.connect("/identity?token=bob", nil).whoami(); got.ID != "by token: bob" {
		s.Errorf("%+v", got)
	}
	th.knock("/identity", nil).is(s.T, http.StatusUnauthorized, core.CloseRefused, "please enter a name")
	const unusable = "the identity cannot be used: see the server's log"
	th.knock("/nameless?token=bob", nil).is(s.T, http.StatusInternalServerError, core.CloseInternal, unusable)
	th.knock("/nameless?token=bob", th.page()).is(s.T, http.StatusSwitchingProtocols, core.CloseInternal, unusable)
}

func (s *stage) options() {
	th := s.open(everybody())
	if err := th.service.RegisterProvider("shop", everybody()); err != nil {
		s.Fatal(err)
	}
	got := th.connect("/apps/shop?token=query&app=other", header("X-Token", "alice", "X-Lang", "zh", "App", "other")).whoami()
	if got.App != "shop" || got.Token != "alice" || got.Data["lang"] != "zh" || got.ID != "by token: alice" {
		s.Errorf("%+v", got)
	}
	if got := th.connect("/apps/shop?token=query", nil).whoami(); got.Token != "query" {
		s.Errorf("without the header: %+v", got)
	}
	th.knock("/apps/none?token=alice", nil).is(s.T, http.StatusNotFound, core.CloseRefused, "there is no such app")
}

func (s *stage) refusals() {
	th := s.open(&core.Provider{Auth: func(token string) (map[string]any, error) {
		if token == "banned" {
			return nil, core.Errorf(4003, "you are banned")
		}
		return nil, core.Errorf(http.StatusTooManyRequests, "not so fast")
	}})
	th.knock("/ws", th.page()).is(s.T, http.StatusSwitchingProtocols, core.CloseInternal, "not so fast")
	th.knock("/ws", nil).is(s.T, http.StatusTooManyRequests, core.CloseInternal, "not so fast")
	th.knock("/ws?token=banned", th.page()).is(s.T, http.StatusSwitchingProtocols, 4003, "you are banned")
	th.knock("/ws?token=banned", nil).is(s.T, http.StatusForbidden, 4003, "you are banned")
}

func (s *stage) refusedByMiddleware() {
	th := s.open(everybody())
	const reason = "the token has expired"
	th.knock("/expired", th.page()).is(s.T, http.StatusSwitchingProtocols, core.CloseExpired, reason)
	th.knock("/expired", nil).is(s.T, http.StatusUnauthorized, core.CloseExpired, reason)
	th.refused(th.get(http.MethodGet, "/expired", nil)).is(s.T, http.StatusUnauthorized, core.CloseExpired, reason)
	th.knock("/expired", header("Origin", "https://evil.example")).is(s.T, http.StatusUnauthorized, core.CloseExpired, reason)
	if refused := th.service.Stats().Refused; refused != 4 {
		s.Errorf("%d refusals were counted", refused)
	}
}

func (s *stage) origins() {
	th := s.open(everybody(), core.WithOrigins("https://app.example.com"))
	th.connect("/ws?token=alice", header("Origin", "https://app.example.com")).whoami()
	const reason = "this origin is not allowed"
	for _, origin := range []string{"https://evil.example", "null", "https://app.example.com.evil.example"} {
		th.knock("/ws?token=alice", header("Origin", origin)).is(s.T, http.StatusForbidden, core.CloseRefused, reason)
	}
}

func (s *stage) noHandshake() {
	th := s.open(everybody())
	const wrongFrame = 1002
	got := th.refused(th.get(http.MethodGet, "/ws?token=alice", nil))
	if got.Status != http.StatusUpgradeRequired || got.Code != wrongFrame || !strings.Contains(got.Reason, "new WebSocket(url)") ||
		got.header.Get("Upgrade") != "websocket" || got.header.Get("Sec-WebSocket-Version") != "13" {
		s.Errorf("%+v", got)
	}
	got = th.refused(th.get(http.MethodPost, "/ws?token=alice", nil))
	got.is(s.T, http.StatusMethodNotAllowed, wrongFrame, "a WebSocket handshake is a GET request")
	if got.header.Get("Allow") != http.MethodGet {
		s.Error("Allow:", got.header.Get("Allow"))
	}
	old := header("Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	th.refused(th.get(http.MethodGet, "/ws", old)).is(s.T, http.StatusUpgradeRequired, wrongFrame, "Sec-WebSocket-Version must be 13")
}

func (s *stage) noService() {
	th := s.serve(idle(s))
	for path, want := range map[string]answer{
		"/ws?token=alice":  {Status: http.StatusServiceUnavailable, Code: core.CloseRestart, Reason: "gows: service.Run was not called"},
		"/nil?token=alice": {Status: http.StatusInternalServerError, Code: core.CloseInternal, Reason: "this route has no service: it was mounted with a nil *core.Service"},
	} {
		th.knock(path, nil).is(s.T, want.Status, want.Code, want.Reason)
	}
	th.knock("/ws?token=alice", th.page()).is(s.T, http.StatusSwitchingProtocols, core.CloseRestart, "gows: service.Run was not called")
	if status := th.get(http.MethodGet, "/from", nil).status; status != http.StatusNoContent {
		s.Error("a service that does not run pushes too; status", status)
	}
}

func (s *stage) oddHeaders() {
	th := s.open(everybody())
	long := strings.Repeat("x", 64<<10)
	if got := th.connect("/ws", header("Authorization", "Bearer "+long)).whoami(); got.Token != long {
		s.Errorf("the token of 64 KiB has %d bytes", len(got.Token))
	}
	if got := th.connect("/ws", header("Token", "\xff\xfe")).whoami(); got.ID != "by token: \ufffd\ufffd" {
		s.Errorf("a token that is not UTF-8: %+q", got)
	}
	th.knock("/ws", header("Token", "alice", "App", "\xff")).is(s.T, http.StatusNotFound, core.CloseRefused, "there is no such app")
	th.knock("/ws", header("Token", "alice", "Origin", "http://\xff")).is(s.T, http.StatusForbidden, core.CloseRefused, "this origin is not allowed")
	th.knock("/ws", header("Authorization", "Bearer \t ")).is(s.T, http.StatusUnauthorized, core.CloseRefused, "please enter a name")
	th.knock("/ws", header("Sec-WebSocket-Protocol", "gows.bearer.!!!, \xff")).is(s.T, http.StatusUnauthorized, core.CloseRefused, "please enter a name")
}

func (s *stage) addresses() {
	proxied := func(client string) http.Header {
		return header("X-Forwarded-For", client, "X-Real-Ip", client, "Forwarded", "for="+client)
	}
	th := s.open(everybody(), core.WithMaxConnectionsPerAddress(1))
	th.connect("/ws?token=alice", proxied("192.0.2.1")).whoami()
	const full = "too many connections from this address, try again"
	th.knock("/ws?token=bob", proxied("192.0.2.2")).is(s.T, http.StatusTooManyRequests, core.CloseInternal, full)

	th = s.open(everybody(), core.WithMaxConnectionsPerAddress(1), core.WithTrustedProxies("127.0.0.0/8"))
	for _, client := range []string{"192.0.2.1", "192.0.2.2"} {
		if got := th.connect("/ws?token=alice", proxied(client)).whoami(); got.Remote != client {
			s.Errorf("%s is known as %s", client, got.Remote)
		}
		th.knock("/ws?token=bob", proxied(client)).is(s.T, http.StatusTooManyRequests, core.CloseInternal, full)
	}
}
