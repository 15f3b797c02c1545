package core_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// serveGorilla mounts a route as people have it who use gorilla already, and dials it.
func serveGorilla(t *testing.T, service *core.Service, h *core.Handshake) (*websocket.Conn, <-chan error) {
	t.Helper()
	upgrader := websocket.Upgrader{EnableCompression: true}
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ended <- service.ServeConn(conn, h)
	}))
	t.Cleanup(server.Close)
	conn, response, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(coretest.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn, ended
}

func say(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hears(t *testing.T, conn *websocket.Conn, part string) {
	t.Helper()
	if _, text, err := conn.ReadMessage(); err != nil || !strings.Contains(string(text), part) {
		t.Fatalf("got %q, %v, want %q", text, err, part)
	}
}

func closesWith(t *testing.T, conn *websocket.Conn, code int, reason string) {
	t.Helper()
	_, text, err := conn.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != code || !strings.Contains(closed.Text, reason) {
		t.Fatalf("got %q, %v, want close %d %q", text, err, code, reason)
	}
}

func open() *core.Provider {
	return &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	}
}

func TestAConnectionThatGorillaUpgradedIsAClientLikeOthers(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open())
	alice, ended := serveGorilla(t, service, &core.Handshake{Identity: map[string]any{"client_id": "alice"}})
	bob := coretest.Connect(t, service, map[string]any{"client_id": "bob"})
	bob.Do(core.Message{Type: "subscribe", Channel: "room"})
	say(t, alice, `{"id":"1","type":"subscribe","channel":"room"}`)
	hears(t, alice, `"id":"1","type":"receive"`)
	bob.Do(core.Message{Type: "message", Channel: "room", Message: "hi"})
	hears(t, alice, `"message":"hi"`)
	say(t, alice, `{"type":"message","channel":"room","message":"`+strings.Repeat("long ", 4000)+`"}`)
	hears(t, alice, "long long")
	bob.Expect("message")
	bob.Expect("message")
	if err := alice.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	closesWith(t, alice, 1000, "")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if online, err := service.Online(t.Context(), "alice"); online || err != nil {
		t.Fatal(online, err)
	}
}

func TestAConnectionThatGorillaUpgradedIsClosedFromTheServer(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open())
	alice, ended := serveGorilla(t, service, &core.Handshake{Identity: map[string]any{"client_id": "alice"}})
	say(t, alice, `{"type":"ping"}`)
	hears(t, alice, "pong")
	if err := service.Disconnect(t.Context(), "alice", 0, "out"); err != nil {
		t.Fatal(err)
	}
	closesWith(t, alice, 3503, "out")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestAConnectionThatGorillaUpgradedIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{Auth: func(string) (map[string]any, error) {
		return nil, core.Errorf(403, "not on the list")
	}})
	alice, ended := serveGorilla(t, service, nil)
	closesWith(t, alice, 3500, "not on the list")
	var refusal *core.Refusal
	if err := <-ended; !errors.As(err, &refusal) || refusal.Status != 403 {
		t.Fatal(err)
	}
}

// Closing a socket that has unread bytes is a reset, which can destroy the close frame on its way.
func TestWhatAPeerSaidBeforeItsRefusalDoesNotResetTheConnection(t *testing.T) {
	t.Parallel()
	said := make(chan struct{})
	service := coretest.Run(t, &core.Provider{Auth: func(string) (map[string]any, error) {
		<-said
		return nil, core.Errorf(403, "not on the list")
	}})
	server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var upgrader websocket.Upgrader
		if conn, err := upgrader.Upgrade(w, r, nil); err == nil {
			_ = service.ServeConn(conn, nil)
		}
	}))
	alice := call(t, server, openingRequest(server, "/"))
	alice.enter()
	alice.say(masked(frame.Text, `{"type":"subscribe","channel":"room"}`))
	close(said)
	if rest, err := io.ReadAll(alice.in); err != nil || !strings.HasSuffix(string(rest), "not on the list") {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestAConnectionThatGorillaUpgradedIsHeldToTheSameRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		kind   int
		text   string
		code   int
		reason string
	}{
		{"binary", websocket.BinaryMessage, "x", 1003, "binary"},
		{"text that is not UTF-8", websocket.TextMessage, "\xff", 1007, "UTF-8"},
		{"more than the limit", websocket.TextMessage, strings.Repeat("x", 101), 1009, "100 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, open(), core.WithMessageBytes(100))
			alice, ended := serveGorilla(t, service, &core.Handshake{Identity: map[string]any{"client_id": "alice"}})
			if err := alice.WriteMessage(c.kind, []byte(c.text)); err != nil {
				t.Fatal(err)
			}
			closesWith(t, alice, c.code, c.reason)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPingsOfAConnectionThatGorillaUpgradedAreAnsweredAndTold(t *testing.T) {
	t.Parallel()
	told := make(chan string, 10)
	service := coretest.Run(t, &core.Provider{Event: func(name string, _ *core.Client) error {
		told <- name
		return nil
	}})
	alice, _ := serveGorilla(t, service, &core.Handshake{Identity: map[string]any{"client_id": "alice"}})
	ponged := make(chan string, 1)
	alice.SetPongHandler(func(data string) error {
		ponged <- data
		return nil
	})
	if err := alice.WriteControl(websocket.PingMessage, []byte("are you there?"), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	say(t, alice, `{"type":"ping","id":"2"}`)
	hears(t, alice, `"id":"2"`)
	if data := <-ponged; data != "are you there?" {
		t.Fatal(data)
	}
	if first, second := <-told, <-told; first != core.EventOnline || second != core.EventPing {
		t.Fatal(first, second)
	}
}

func TestShutdownEndsAConnectionThatGorillaUpgraded(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open())
	alice, ended := serveGorilla(t, service, &core.Handshake{Identity: map[string]any{"client_id": "alice"}})
	say(t, alice, `{"type":"ping"}`)
	hears(t, alice, "pong")
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(t.Context()) }()
	closesWith(t, alice, 3001, "restarting")
	if err := <-down; err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
