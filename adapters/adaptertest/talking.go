package adaptertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

func (s *stage) messages() {
	th := s.open(everybody())
	alice, bob := th.connect("/ws?token=alice", nil), th.connect("/ws?token=bob", nil)
	bob.say(`{"id":"1","type":"subscribe","channel":"room"}`)
	bob.hears("receive")
	const limit = 64 << 10
	head, tail := `{"type":"message","channel":"room","message":"`, `"}`
	for _, size := range []int{0, 1, 125, 126, 4095, 4096, 4097, limit - len(head) - len(tail)} {
		text := strings.Repeat("x", size)
		alice.say(head + text + tail)
		if got := bob.hears("message"); got.Message != text || got.Client != "by token: alice" {
			s.Errorf("a text of %d bytes arrived as %d bytes of %s", size, len(got.Message), got.Client)
		}
	}
	alice.say(head + strings.Repeat("x", limit) + tail)
	if closed := alice.closes(); closed.Code != websocket.CloseMessageTooBig {
		s.Error(closed)
	}
}

func (s *stage) earlyMessage() {
	th := s.open(everybody())
	text := `{"id":"early","type":"whoami"}`
	frame := append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
	nc := th.dial()
	_, err := fmt.Fprintf(nc, "GET /ws?token=alice HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%s%s", th.address, frame, frame[:3])
	if err != nil {
		s.Fatal(err)
	}
	in := bufio.NewReader(nc)
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		s.Fatal(response, err)
	}
	_ = response.Body.Close()
	hears := func() {
		s.Helper()
		var head [4]byte
		if _, err := io.ReadFull(in, head[:2]); err != nil {
			s.Fatal(err)
		}
		size := int(head[1])
		if size == 126 {
			if _, err := io.ReadFull(in, head[2:]); err != nil {
				s.Fatal(err)
			}
			size = int(head[2])<<8 | int(head[3])
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(in, payload); err != nil || !strings.Contains(string(payload), `"id":"early","type":"receive"`) {
			s.Fatal(string(payload), err)
		}
	}
	hears()
	if _, err := nc.Write(frame[3:]); err != nil { // its beginning came with the request
		s.Fatal(err)
	}
	hears()
}

// dial opens a connection that says nothing yet.
func (th *theater) dial() net.Conn {
	th.Helper()
	nc, err := net.Dial("tcp", th.address)
	if err != nil {
		th.Fatal(err)
	}
	if th.scheme != "" {
		config := th.dialer.TLSClientConfig.Clone()
		config.ServerName = "127.0.0.1"
		nc = tls.Client(nc, config)
	}
	th.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(coretest.Patience))
	return nc
}

func (s *stage) pings() {
	th := s.open(everybody())
	alice := th.connect("/ws?token=alice", nil)
	pong := make(chan string, 1)
	alice.SetPongHandler(func(data string) error {
		pong <- data
		return nil
	})
	if err := alice.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(time.Second)); err != nil {
		s.Fatal(err)
	}
	alice.say(`{"type":"ping","id":"7"}`)
	if got := alice.hears("pong"); got.ID != "7" {
		s.Errorf("%+v", got)
	}
	if got := <-pong; got != "there?" {
		s.Error(got)
	}
}

func (s *stage) sharedService() {
	th := s.open(everybody())
	alice := th.connect("/ws?token=alice", nil)
	alice.say(`{"id":"1","type":"subscribe","channel":"room"}`)
	alice.hears("receive")
	if status := th.get(http.MethodGet, "/from", nil).status; status != http.StatusNoContent {
		s.Fatal(status)
	}
	alice.hears("news")
	if status := th.get(http.MethodGet, "/nobody", nil).status; status != http.StatusNotFound {
		s.Error("without Middleware From is not nil; status", status)
	}
}

// keptMemory keeps all that a hook and a client know, and looks again when the server has handled other requests in the
// memory of the first.
func (s *stage) keptMemory() {
	var mu sync.Mutex // guards kept
	kept := map[string]*core.Handshake{}
	seen := func(h *core.Handshake) string {
		return fmt.Sprint(h.Method, h.Host, h.RemoteAddr, h.Header, h.Query, h.App, h.Token, h.Identity, h.Data)
	}
	before := map[string]string{}
	provider := everybody()
	provider.Authenticate = func(_ context.Context, h *core.Handshake) (map[string]any, error) {
		mu.Lock()
		defer mu.Unlock()
		kept[h.Token] = h
		before[h.Token] = seen(h)
		return map[string]any{"client_id": h.Token, "header": h.Header.Get("X-Secret"), "query": h.Query.Get("secret")}, nil
	}
	th := s.open(provider)
	if err := th.service.RegisterProvider("shop", provider); err != nil {
		s.Fatal(err)
	}
	values := func(name string) http.Header {
		return header("X-Token", name, "X-Secret", name, "X-User", name, "X-Lang", name)
	}
	clients := map[string]*conn{}
	for _, path := range []string{"/context", "/identity", "/apps/shop"} {
		name := "alice of " + path + strings.Repeat(".", 20)
		h := values(name)
		if path == "/identity" {
			h.Set("Token", name)
		}
		clients[name] = th.connect(path+"?secret="+strings.ReplaceAll(name, " ", "+"), h)
	}
	asked := func() (all []string) {
		for name, c := range clients {
			all = append(all, fmt.Sprint(name, c.whoami()))
		}
		return all
	}
	first := map[string]bool{}
	for _, text := range asked() {
		first[text] = true
	}
	// Requests of the same length, of all kinds, on the same and on new connections.
	for i := range 50 {
		mallory := fmt.Sprintf("MALLORY %d", i) + strings.Repeat("!", 20)
		h := values(mallory)
		h.Set("Token", mallory)
		_ = th.get(http.MethodGet, "/token?secret="+strings.ReplaceAll(mallory, " ", "+"), h)
		_ = th.knock("/expired", h)
	}
	for _, text := range asked() {
		if !first[text] {
			s.Errorf("after other requests: %s", text)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(kept) != 2 {
		s.Errorf("%d handshakes were kept", len(kept))
	}
	for token, h := range kept {
		if got := seen(h); got != before[token] {
			s.Errorf("a handshake has changed from\n%s to\n%s", before[token], got)
		}
	}
}

func (s *stage) panics() {
	provider := everybody()
	auth := provider.Auth
	provider.Auth = func(token string) (map[string]any, error) {
		if token == "auth" {
			panic("in Auth")
		}
		return auth(token)
	}
	provider.Event = func(name string, client *core.Client) error {
		if client.Token == name {
			panic("in " + name)
		}
		return nil
	}
	whoami := provider.Message
	provider.Message = func(m *core.Message, client *core.Client) error {
		if m.Type == "panic" {
			panic("in Message")
		}
		return whoami(m, client)
	}
	th := s.open(provider)
	alice := th.connect("/ws?token=alice", nil)
	alice.say(`{"id":"1","type":"panic"}`)
	if got := alice.hears("error"); got.Code != http.StatusInternalServerError || got.ID != "1" {
		s.Errorf("%+v", got)
	}
	th.knock("/ws?token=auth", nil).is(s.T, http.StatusServiceUnavailable, core.CloseInternal, "try again")
	if closed := th.connect("/ws?token=online", nil).closes(); closed.Code != core.CloseInternal {
		s.Error(closed)
	}
	_ = th.connect("/ws?token=offline", nil).Close()
	eventually(s, coretest.Patience, "the others to leave", func() bool { return th.service.Stats().Connections == 1 })
	alice.whoami()
}
