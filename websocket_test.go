package websocket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	websocket "github.com/duxweb/go-ws"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// original is the program of the original README with the memory driver, line by line; events hears what it prints.
func original(events chan<- string) (*websocket.Service, *http.ServeMux) {
	provider := &websocket.Provider{
		Auth: func(token string) (map[string]any, error) {
			if token == "" {
				return nil, fmt.Errorf("请输入用户名") //nolint:perfsprint // as it stands there
			}
			return map[string]any{
				"client_id": token,
				"user_name": token,
			}, nil
		},
		Event: func(name string, client *websocket.Client) error {
			events <- fmt.Sprintf("%s %s", client.ClientID, name)

			if name == "online" {
				userName := client.ClientID

				client.Send(&websocket.Message{ //nolint:errcheck,gosec // as it stands there
					Type:    "system",
					Message: fmt.Sprintf("欢迎 %s，连接成功!", userName),
					ID:      fmt.Sprintf("%d", time.Now().UnixMilli()), //nolint:perfsprint // as it stands there
				})
			}
			return nil
		},
		Message: func(message *websocket.Message, client *websocket.Client) error {
			if message.Type == "message" {
				payload := &websocket.Message{
					Type:    "message",
					Message: message.Message,
					ID:      message.ID,
					Meta:    message.Meta,
				}
				client.Push([]string{message.Channel}, payload) //nolint:errcheck,gosec // as it stands there
			}

			if message.Type == "subscribe" {
				client.Sub(message.Channel) //nolint:errcheck,gosec // as it stands there
			}

			if message.Type == "unsubscribe" {
				client.Unsub(message.Channel) //nolint:errcheck,gosec // as it stands there
			}

			return nil
		},
	}

	service := websocket.New(drivers.NewMemoryDriver(), provider)
	service.Run() //nolint:errcheck,gosec // as it stands there

	mux := http.NewServeMux() // the original's is http's own, which a test must leave alone
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		token := r.URL.Query().Get("token")

		if token != "" {
			r.Header.Set("Token", token)
		}

		service.Websocket.HandleRequest(w, r)
	})
	return service, mux
}

// page is what the original's JavaScript does.
type page struct {
	t    *testing.T
	conn *gorilla.Conn
	ids  int
}

type message struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Client  string `json:"client,omitempty"`
	Channel string `json:"channel,omitempty"`
	Message string `json:"message,omitempty"`
	Data    any    `json:"data,omitempty"`
	Meta    any    `json:"meta,omitempty"`
}

func open(t *testing.T, server *httptest.Server, username string) *page {
	t.Helper()
	conn, response, err := gorilla.DefaultDialer.Dial(
		"ws"+strings.TrimPrefix(server.URL, "http")+"/ws?token="+url.QueryEscape(username), http.Header{"Origin": {server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(coretest.Patience))
	return &page{t: t, conn: conn}
}

// send sends a message and returns its id.
func (p *page) send(m message) string {
	p.t.Helper()
	p.ids++
	m.ID = fmt.Sprintf("%d-%d", time.Now().UnixMilli(), p.ids)
	if err := p.conn.WriteJSON(m); err != nil {
		p.t.Fatal(err)
	}
	return m.ID
}

// hear returns the next message, which must be of that type.
func (p *page) hear(kind string) message {
	p.t.Helper()
	var m message
	if err := p.conn.ReadJSON(&m); err != nil {
		p.t.Fatal(err)
	}
	if m.Type != kind {
		p.t.Fatalf("%+v, want a %s", m, kind)
	}
	return m
}

// do sends a message and waits for its answer.
func (p *page) do(m message) {
	p.t.Helper()
	id := p.send(m)
	if answer := p.hear("receive"); answer.ID != id {
		p.t.Fatalf("%+v answers %s", answer, id)
	}
}

func TestTheProgramOfTheOriginalREADME(t *testing.T) { //nolint:paralleltest // websocket.Push is about the process
	if err := websocket.Push([]string{"channel1"}, "x"); err == nil {
		t.Error("Push works although no service runs")
	}
	events := make(chan string, 100)
	service, mux := original(events)
	server := httptest.NewServer(mux)
	defer server.Close()

	zhang, li := open(t, server, "张三"), open(t, server, "李四")
	for username, p := range map[string]*page{"张三": zhang, "李四": li} {
		welcome := p.hear("system")
		if welcome.Message != "欢迎 "+username+"，连接成功!" || welcome.ID == "" {
			t.Errorf("%+v", welcome)
		}
	}
	zhang.do(message{Type: "subscribe", Channel: "频道"})
	li.do(message{Type: "subscribe", Channel: "频道"})

	// The sender hears itself, since it subscribed, and then the answer to its own id.
	id := zhang.send(message{Type: "message", Channel: "频道", Message: "大家好", Meta: map[string]any{"username": "张三"}})
	answers := 0
	for range 2 {
		var m message
		if err := zhang.conn.ReadJSON(&m); err != nil || m.ID != id {
			t.Fatalf("%+v, %v", m, err)
		}
		if m.Type == "receive" {
			answers++
		}
	}
	if answers != 1 {
		t.Errorf("%d answers", answers)
	}
	got := li.hear("message")
	if meta, _ := json.Marshal(got.Meta); got.ID != id || got.Client != "张三" || got.Channel != "频道" || got.Message != "大家好" || string(meta) != `{"username":"张三"}` {
		t.Errorf("%+v", got)
	}

	if err := websocket.Push([]string{"频道"}, map[string]any{"type": "notification", "message": "频道消息"}); err != nil {
		t.Error(err)
	}
	for _, p := range []*page{zhang, li} {
		if got := p.hear("notification"); got.Message != "频道消息" || got.Channel != "频道" {
			t.Errorf("%+v", got)
		}
	}

	li.do(message{Type: "unsubscribe", Channel: "频道"})
	if err := websocket.Push([]string{"频道"}, map[string]any{"type": "notification"}); err != nil {
		t.Error(err)
	}
	zhang.hear("notification")
	li.do(message{Type: "subscribe", Channel: "频道"}) // its answer is the next it hears

	_ = zhang.conn.Close()
	for want := map[string]bool{"张三 online": true, "李四 online": true, "张三 offline": true}; len(want) > 0; {
		select {
		case event := <-events:
			if !want[event] {
				t.Error(event)
			}
			delete(want, event)
		case <-time.After(coretest.Patience):
			t.Fatal("not yet:", want)
		}
	}

	down := make(chan error, 1)
	go func() { down <- service.Shutdown(context.Background()) }()
	var closed *gorilla.CloseError
	if _, _, err := li.conn.ReadMessage(); !errors.As(err, &closed) || closed.Code != 3001 {
		t.Error("after Shutdown:", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if err := websocket.Push([]string{"频道"}, "x"); err == nil {
		t.Error("Push works although no service runs any more")
	}
}

func TestAPageWithoutANameIsToldSo(t *testing.T) { //nolint:paralleltest // websocket.Push is about the process
	service, mux := original(make(chan string, 100))
	defer service.Shutdown(context.Background()) //nolint:errcheck // its own test looks
	server := httptest.NewServer(mux)
	defer server.Close()

	nobody := open(t, server, "")
	var closed *gorilla.CloseError
	if _, _, err := nobody.conn.ReadMessage(); !errors.As(err, &closed) || closed.Code != 3500 || closed.Text != "请输入用户名" {
		t.Error("a page is told:", err)
	}
	_ = nobody.conn.Close()
	_, response, err := gorilla.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/ws", nil)
	if err == nil || response == nil {
		t.Fatal("it got in")
	}
	defer response.Body.Close()
	var body struct{ Reason string }
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || response.StatusCode != 401 || body.Reason != "请输入用户名" {
		t.Error("a program is told:", response.Status, body, err)
	}
}
