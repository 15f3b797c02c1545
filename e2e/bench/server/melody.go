package server

import (
	"net"
	"net/http"

	"github.com/olahol/melody"
)

// serveMelody keeps the default of 256 messages that may wait for a session.
func serveMelody(l net.Listener, _ string) error {
	all := &rooms[*melody.Session]{
		one: func(to *melody.Session, text []byte) { _ = to.Write(text) }, // fails where the session has ended
		// It is what BroadcastMultiple does, but that gives up the rest of the list at the first session that has ended.
		all: func(to []*melody.Session, text []byte) {
			for _, s := range to {
				_ = s.Write(text)
			}
		},
	}
	m := melody.New()
	m.Config.MaxMessageSize = messageBytes
	m.HandleConnect(func(s *melody.Session) { all.enter(s, s.Request.URL.Query().Get("token")) })
	m.HandleMessage(all.handle)
	m.HandleDisconnect(all.leave)
	return serveHTTP(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = m.HandleRequest(w, r) }))
}
