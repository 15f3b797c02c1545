package server

import (
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// What gorilla's chat example says.
const (
	gorillaQueue = 256 // messages
	gorillaWrite = 10 * time.Second
	gorillaPong  = 60 * time.Second
	gorillaPing  = gorillaPong * 9 / 10
)

// serveGorilla is the usual hub on gorilla, its chat example with channels: two goroutines and a queue for each
// connection, and who does not keep up is closed. Its hub is a lock instead of a goroutine, what is published is a
// PreparedMessage, and one message is one frame.
func serveGorilla(l net.Listener, _ string) error {
	all := &rooms[*gorillaConn]{
		one: func(to *gorillaConn, text []byte) { to.queue(&gorillaMessage{text: text}) },
		all: func(to []*gorillaConn, text []byte) {
			prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, text)
			if err != nil {
				return
			}
			m := &gorillaMessage{prepared: prepared}
			for _, c := range to {
				c.queue(m)
			}
		},
	}
	upgrader := websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024}
	return serveHTTP(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &gorillaConn{ws, make(chan *gorillaMessage, gorillaQueue)}
		all.enter(c, r.URL.Query().Get("token"))
		go c.write()   // ends when the queue is closed or writing fails
		go c.read(all) // ends with the connection; the request's memory is free once the handler has returned
	}))
}

type gorillaConn struct {
	ws  *websocket.Conn
	out chan *gorillaMessage // closed when nobody can reach the connection any more
}

// gorillaMessage is for many, prepared, or for one.
type gorillaMessage struct {
	prepared *websocket.PreparedMessage
	text     []byte
}

func (m *gorillaMessage) writeTo(ws *websocket.Conn) error {
	if m.prepared != nil {
		return ws.WritePreparedMessage(m.prepared)
	}
	return ws.WriteMessage(websocket.TextMessage, m.text)
}

func (c *gorillaConn) queue(m *gorillaMessage) {
	select {
	case c.out <- m:
	default: // too slow; the reader takes leave
		_ = c.ws.Close()
	}
}

func (c *gorillaConn) write() {
	ticker := time.NewTicker(gorillaPing)
	defer ticker.Stop()
	defer c.ws.Close()
	for {
		select {
		case m, open := <-c.out:
			_ = c.ws.SetWriteDeadline(time.Now().Add(gorillaWrite))
			if !open {
				_ = c.ws.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			if m.writeTo(c.ws) != nil {
				return
			}
		case <-ticker.C:
			_ = c.ws.SetWriteDeadline(time.Now().Add(gorillaWrite))
			if c.ws.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}

func (c *gorillaConn) read(all *rooms[*gorillaConn]) {
	defer c.ws.Close()
	defer close(c.out)
	defer all.leave(c)
	_ = c.ws.SetReadDeadline(time.Now().Add(gorillaPong))
	c.ws.SetPongHandler(func(string) error { return c.ws.SetReadDeadline(time.Now().Add(gorillaPong)) })
	for {
		_, text, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		all.handle(c, text)
	}
}
