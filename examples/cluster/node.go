package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
	"github.com/duxweb/go-ws/examples/chat/rooms"
	"github.com/duxweb/go-ws/examples/cluster/past"
)

// serve is a node: the server of examples/chat with another driver and another past. It prints its address when it is
// ready.
func serve(name, redisAddress string) error {
	client := redis.NewClient(&redis.Options{ // for the past; the driver makes connections of its own, to the same server
		Addr: redisAddress, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, // who waits is a person
	})
	defer client.Close()
	driver, err := drivers.NewRedisDriver(&drivers.RedisOptions{Client: client, Prefix: past.Prefix})
	if err != nil {
		return err
	}
	chat := rooms.Over(past.In(client))
	service := core.New(driver, &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			name, err := nameOf(token)
			return map[string]any{"client_id": name}, err
		},
		Event: func(event string, client *core.Client) error {
			if event != core.EventOnline {
				return nil
			}
			return client.Send(&core.Message{Type: "node", Message: name}) // the page shows it
		},
		Subscribe: chat.Subscribe, Publish: chat.Publish, Message: chat.Message,
	}, core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents}))
	if err := service.Run(); err != nil {
		return err
	}

	http.Handle("/ws", service)
	http.Handle("/", http.FileServerFS(page.Files))
	http.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { // for a load balancer: send me somebody?
		answer(w, service.Health(r.Context()))
	})
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		name, err := rooms.Name(r.FormValue("name"))
		if err != nil {
			answer(w, err)
			return
		}
		_, _ = io.WriteString(w, url.QueryEscape(name)) // believes everybody, as examples/chat does
	})
	http.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 9<<10))
		answer(w, chat.Push(service, r.URL.Query().Get("room"), string(text)))
	})
	http.HandleFunc("POST /kick", func(w http.ResponseWriter, r *http.Request) {
		by, err := nameOf(core.Token(r.Header, nil))
		if err == nil {
			err = service.Disconnect(r.Context(), r.FormValue("name"), core.CloseKicked, "kicked by "+by)
		}
		answer(w, err)
	})

	listener, err := net.Listen("tcp", "127.0.0.1:0") // behind the proxy
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(http.DefaultServeMux),
		ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, // of requests; a socket has none
	}
	go func() { // ends with Shutdown
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	fmt.Println(listener.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-ctx.Done()
	stop()                                                                    // a second signal ends at once
	deadline, cancel := context.WithTimeout(context.Background(), patience/2) // in time for what follows
	defer cancel()
	return errors.Join(server.Shutdown(deadline), service.Shutdown(deadline))
}

func nameOf(token string) (string, error) {
	name, _ := url.QueryUnescape(token) // "" when it is none
	return rooms.Name(name)
}

func answer(w http.ResponseWriter, err error) {
	status, text := rooms.Outcome(err)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}
