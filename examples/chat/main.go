// Command chat is a whole chat on net/http: rooms, who is in them, what you missed, a push from REST, a kick.
// Run it with go run ./examples/chat and open http://localhost:8080 in two windows.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os/signal"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
	"github.com/duxweb/go-ws/examples/chat/rooms"
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	flag.Parse()

	chat := rooms.New()
	service := core.New(drivers.NewMemoryDriver(), &core.Provider{
		Auth: func(token string) (map[string]any, error) { // who is it?
			name, err := nameOf(token)
			return map[string]any{"client_id": name}, err
		},
		Subscribe: chat.Subscribe, // may they listen?
		Publish:   chat.Publish,   // may they speak?
		Message:   chat.Message,   // everything else
	}, core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents})) // tell who joins and leaves
	if err := service.Run(); err != nil {
		log.Fatal(err)
	}

	http.Handle("/ws", service)
	http.Handle("/", http.FileServerFS(page.Files))
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		name, err := rooms.Name(r.FormValue("name"))
		if err != nil {
			answer(w, err)
			return
		}
		_, _ = io.WriteString(w, tokenFor(name))
	})
	http.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) { // open to curl; yours asks who may
		text, _ := io.ReadAll(io.LimitReader(r.Body, 9<<10))
		answer(w, chat.Push(service, r.URL.Query().Get("room"), string(text)))
	})
	http.HandleFunc("POST /kick", func(w http.ResponseWriter, r *http.Request) { // yours asks who may
		by, err := nameOf(core.Token(r.Header, nil))
		if err == nil {
			err = service.Disconnect(r.Context(), r.FormValue("name"), core.CloseKicked, "kicked by "+by)
		}
		answer(w, err)
	})

	server := &http.Server{
		Addr: *addr, Handler: http.NewCrossOriginProtection().Handler(http.DefaultServeMux),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, // of requests; a socket has none
	}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	log.Print("the chat listens on ", *addr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-ctx.Done()
	stop() // a second signal ends at once
	// More than ReadTimeout: who is slow to send a request leaves time for the sockets.
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	err := errors.Join(server.Shutdown(deadline), service.Shutdown(deadline))
	cancel()
	if err != nil {
		log.Fatal(err)
	}
}

// tokenFor returns the name itself, escaped to fit into a header: this chat believes everybody. Yours signs a token;
// examples/gin, echo and fiber do.
func tokenFor(name string) string { return url.QueryEscape(name) }

func nameOf(token string) (string, error) {
	name, _ := url.QueryUnescape(token) // "" when it is none
	return rooms.Name(name)
}

func answer(w http.ResponseWriter, err error) {
	status, text := rooms.Outcome(err)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}
