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
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
)

var provider = &core.Provider{
	// The token is the name: this chat believes everybody. Yours looks the token up and returns the user's id.
	Auth: func(token string) (map[string]any, error) {
		if name := strings.TrimSpace(token); isName.MatchString(name) {
			return map[string]any{"client_id": name}, nil
		}
		return nil, errors.New("a name has 1 to 24 letters or digits")
	},
	// Type "subscribe": may this client enter?
	Subscribe: func(_ *core.Client, channel string) error {
		if past[channel] == nil {
			return core.Errorf(http.StatusForbidden, "this room is for members only")
		}
		return nil
	},
	// Type "message": what is kept is what everybody in the room receives.
	Publish: func(client *core.Client, message *core.Message) error {
		message.ClientID = client.ClientID
		return keep(message)
	},
	// Any other type is yours to define. The page asks for "history" whenever it has entered a room.
	Message: func(message *core.Message, _ *core.Client) error {
		if message.Type != "history" {
			return core.Errorf(http.StatusNotFound, "there is no type %q", message.Type)
		}
		mu.Lock()
		defer mu.Unlock()
		return message.Reply(past[message.Channel])
	},
}

var (
	isName = regexp.MustCompile(`^[\pL\pN][\pL\pM\pN ._-]{0,23}$`)
	past   = map[string]*[]core.Message{"room:lobby": {}, "room:go": {}, "room:random": {}} // every open room
	latest int64                                                                            // time of the last message
	mu     sync.Mutex                                                                       // guards what they hold
)

// keep stamps a message with a time of its own and remembers it as one of the last 50 of its room.
func keep(message *core.Message) error {
	mu.Lock()
	defer mu.Unlock()
	kept := past[message.Channel]
	if text := strings.TrimSpace(message.Message); kept == nil || text == "" || len(text) > 8<<10 {
		return core.Errorf(http.StatusBadRequest, "a message needs an open room and a text of at most 8 KiB")
	}
	latest = max(latest+1, time.Now().UnixMilli())
	message.Data, message.Meta = nil, map[string]int64{"time": latest}
	*kept = append((*kept)[max(0, len(*kept)-49):], *message)
	return nil
}

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	flag.Parse()

	service := core.New(drivers.NewMemoryDriver(), provider,
		core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents})) // tell who joins and leaves
	if err := service.Run(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", service)
	http.Handle("/", http.FileServerFS(page.Files))
	http.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 9<<10))
		message := &core.Message{Type: "message", Channel: "room:" + r.URL.Query().Get("room"), Message: string(text)}
		err := keep(message)
		if err == nil {
			err = service.Push([]string{message.Channel}, message)
		}
		answer(w, err)
	})
	http.HandleFunc("POST /kick", func(w http.ResponseWriter, r *http.Request) { // yours asks who may
		answer(w, service.Disconnect(r.Context(), r.FormValue("name"), 3503, "kicked by "+r.FormValue("by")))
	})

	server := &http.Server{Addr: *addr, Handler: http.NewCrossOriginProtection().Handler(http.DefaultServeMux)}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	log.Print("chat on http://localhost" + *addr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-ctx.Done()
	stop() // a second signal ends at once
	if err := errors.Join(server.Shutdown(context.Background()), service.Shutdown(context.Background())); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}
