//go:build !race

package crowd

import (
	"encoding/json"
	"net"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
	fiberws "github.com/gofiber/contrib/websocket"
	fiber2 "github.com/gofiber/fiber/v2"
	"github.com/gorilla/websocket"
)

// peers do the same job as people do it who have no library for it: gorilla's hub with two goroutines for each connection.
var peers = []struct {
	name string
	run  func(l net.Listener) error
}{
	{"gorilla on gin", func(l net.Listener) error {
		var rooms rooms
		upgrader := websocket.Upgrader{}
		router := newGin()
		router.GET("/ws", func(c *gin.Context) {
			conn, err := upgrader.Upgrade(c.Writer, c.Request, nil)
			if err != nil {
				return
			}
			rooms.serve(conn, c.Query("token"))
		})
		return http.Serve(l, beside(nil, router))
	}},
	{"contrib/websocket on fiber", func(l net.Listener) error {
		var rooms rooms
		app := fiber2.New(fiber2.Config{DisableStartupMessage: true})
		app.Get("/ws", fiberws.New(func(conn *fiberws.Conn) { rooms.serve(conn, conn.Query("token")) }))
		app.Get("/gc", func(*fiber2.Ctx) error { return collect() })
		return app.Listener(l)
	}},
}

// socket is what the connections of gorilla and of contrib/websocket have in common.
type socket interface {
	ReadMessage() (kind int, text []byte, err error)
	WriteMessage(kind int, text []byte) error
	Close() error
}

type member struct {
	name string
	out  chan []byte
}

// rooms is the usual hub: who is in which channel.
type rooms struct {
	mu      sync.RWMutex
	members map[string]map[*member]struct{}
}

type envelope struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Client  string `json:"client,omitempty"`
	Channel string `json:"channel,omitempty"`
	Message string `json:"message,omitempty"`
}

// serve reads until the connection ends.
func (r *rooms) serve(conn socket, name string) {
	m := &member{name: name, out: make(chan []byte, 256)}
	var writing sync.WaitGroup
	writing.Go(func() {
		defer conn.Close()
		for text := range m.out {
			if conn.WriteMessage(websocket.TextMessage, text) != nil {
				return
			}
		}
	})
	defer writing.Wait()
	defer close(m.out)
	defer r.leave(m)
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		var e envelope
		if json.Unmarshal(text, &e) != nil {
			return
		}
		switch e.Type {
		case "subscribe":
			r.enter(m, e.Channel)
		case "message":
			r.tell(envelope{Type: e.Type, Client: name, Channel: e.Channel, Message: e.Message})
		}
		if e.ID != "" {
			answer, _ := json.Marshal(envelope{ID: e.ID, Type: "receive"})
			m.out <- answer
		}
	}
}

func (r *rooms) enter(m *member, channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members == nil {
		r.members = map[string]map[*member]struct{}{}
	}
	if r.members[channel] == nil {
		r.members[channel] = map[*member]struct{}{}
	}
	r.members[channel][m] = struct{}{}
}

func (r *rooms) leave(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.members {
		delete(in, m)
	}
}

func (r *rooms) tell(e envelope) {
	text, _ := json.Marshal(e)
	r.mu.RLock()
	defer r.mu.RUnlock()
	for m := range r.members[e.Channel] {
		select {
		case m.out <- text:
		default: // too slow: it misses this one
		}
	}
}
