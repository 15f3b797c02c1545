package server

import (
	"net"
	"sync"

	"github.com/gofiber/contrib/socketio"
)

// serveSocketio names a connection by its id. Its queue of 100 messages for each makes the publisher wait for a client that
// does not read. Its pace of reading is left as it is, too: 10 ms between two messages of one connection.
func serveSocketio(l net.Listener, _ string) error {
	all := &rooms[string]{
		one: func(to string, text []byte) { _ = socketio.EmitTo(to, text) }, // fails where the connection has ended
		all: func(to []string, text []byte) { socketio.EmitToList(to, text) },

		blocks: true,
	}
	listenToSockets()
	return serveFiber(l, socketio.New(func(c *socketio.Websocket) {
		c.SetAttribute("rooms", all)
		all.enter(c.UUID, c.Query("token"))
	}))
}

// listenToSockets runs once: the listeners are those of the whole program.
var listenToSockets = sync.OnceFunc(func() {
	socketio.On(socketio.EventMessage, func(e *socketio.EventPayload) {
		if all, ok := e.Kws.GetAttribute("rooms").(*rooms[string]); ok {
			all.handle(e.SocketUUID, e.Data)
		}
	})
	socketio.On(socketio.EventDisconnect, func(e *socketio.EventPayload) {
		if all, ok := e.Kws.GetAttribute("rooms").(*rooms[string]); ok {
			all.leave(e.SocketUUID)
		}
	})
})
