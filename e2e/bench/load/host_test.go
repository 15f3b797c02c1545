package load

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/internal/leaktest"
)

// The test binary plays two parts: the test, and a crowd in another process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "load" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	leaktest.Main(m)
}

// host is a server that does what a test wants with a message.
type host struct {
	url     string
	publish func(m message, deliver func()) // called by the publisher's reader
	left    chan struct{}                   // one for each connection that has ended

	mu      sync.Mutex // guards the rest, and writing to anybody
	clients map[string]*websocket.Conn
	rooms   map[string][]*websocket.Conn
	pongs   int
}

type message struct {
	ID, Type, Channel string
	from              string
}

func newHost(t *testing.T, publish func(h *host, m message, deliver func())) *host {
	t.Helper()
	h := &host{left: make(chan struct{}, 100), clients: map[string]*websocket.Conn{}, rooms: map[string][]*websocket.Conn{}}
	h.publish = func(_ message, deliver func()) { deliver() }
	if publish != nil {
		h.publish = func(m message, deliver func()) { publish(h, m, deliver) }
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { h.left <- struct{}{} }()
		name := r.URL.Query().Get("token")
		h.mu.Lock() // until it has a name, by which it may be called at once
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		h.clients[name] = c
		h.mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		h.serve(c, name)
	}))
	t.Cleanup(s.Close)
	h.url = "ws" + strings.TrimPrefix(s.URL, "http") + "/ws"
	return h
}

func (h *host) serve(c *websocket.Conn, name string) {
	c.SetPongHandler(func(string) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pongs++
		return nil
	})
	for {
		_, text, err := c.ReadMessage()
		var m message
		if err != nil || json.Unmarshal(text, &m) != nil {
			return
		}
		m.from = name
		if m.Type == "subscribe" {
			h.mu.Lock()
			h.rooms[m.Channel] = append(h.rooms[m.Channel], c)
			_ = c.WriteMessage(websocket.TextMessage, []byte(`{"id":"1"}`))
			h.mu.Unlock()
			continue
		}
		h.publish(m, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			to := h.rooms[m.Channel]
			if m.Type == "direct" {
				to = []*websocket.Conn{h.clients[m.Channel]}
			}
			for _, c := range to {
				_ = c.WriteMessage(websocket.TextMessage, text) // fails where the crowd has gone
			}
		})
	}
}

// ping pings everybody.
func (h *host) ping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.clients {
		_ = c.WriteMessage(websocket.PingMessage, []byte("~")) // no mark of a message
	}
}

func (h *host) ponged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pongs
}

// open opens a crowd on the host.
func (h *host) open(t *testing.T, p Plan) *Crowd {
	t.Helper()
	p.URL, p.Dialect, p.Name = h.url, "gows", "c"
	c, opened, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if opened.PerSecond <= 0 {
		t.Errorf("opened %+v", opened)
	}
	return c
}

// leave closes the crowd. After that what publish has noted may be read.
func (h *host) leave(c *Crowd) {
	c.Close()
	for range c.conns {
		<-h.left
	}
}

func measure(t *testing.T, c *Crowd, task Task) Result {
	t.Helper()
	task.Size = max(task.Size, 128)
	r, err := c.Measure(task)
	if err != nil {
		t.Fatal(err)
	}
	if r.Messages == 0 || r.Seconds <= 0 {
		t.Errorf("nothing was measured: %+v", r)
	}
	return r
}
