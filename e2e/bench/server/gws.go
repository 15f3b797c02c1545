package server

import (
	"net"
	"net/http"

	"github.com/lxzan/gws"
)

// serveGWS publishes with gws's Broadcaster. Its queues have no bound: what a slow client does not take stays in memory.
func serveGWS(l net.Listener, _ string) error {
	all := &rooms[*gws.Conn]{
		one: func(to *gws.Conn, text []byte) { to.WriteAsync(gws.OpcodeText, text, nil) },
		all: func(to []*gws.Conn, text []byte) {
			b := gws.NewBroadcaster(gws.OpcodeText, text)
			defer b.Close()
			for _, c := range to {
				_ = b.Broadcast(c) // it queues
			}
		},
	}
	upgrader := gws.NewUpgrader(&gwsEvents{all: all}, &gws.ServerOption{
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			session.Store("token", r.URL.Query().Get("token"))
			return true
		},
	})
	return serveHTTP(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go c.ReadLoop() // ends with the connection; the request's memory is free once the handler has returned
	}))
}

type gwsEvents struct {
	gws.BuiltinEventHandler

	all *rooms[*gws.Conn]
}

// OnOpen runs before the first message is read.
func (e *gwsEvents) OnOpen(c *gws.Conn) {
	token, _ := c.Session().Load("token")
	name, _ := token.(string)
	e.all.enter(c, name)
}

// OnClose runs after the last message was handled.
func (e *gwsEvents) OnClose(c *gws.Conn, _ error) { e.all.leave(c) }

// OnMessage gives the message's memory back when it is handled.
func (e *gwsEvents) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	e.all.handle(c, m.Bytes())
}
