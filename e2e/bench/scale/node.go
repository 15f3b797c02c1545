package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

// serveNode is a node of the cluster, until SIGTERM: a service with the default options on net/http.
func serveNode(addr, redis string) error {
	driver, err := drivers.NewRedisDriver(&drivers.RedisOptions{Addr: redis, Prefix: "scale"})
	if err != nil {
		return err
	}
	service := core.New(driver, &core.Provider{
		Auth:      func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	})
	if err := service.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", service)
	mux.HandleFunc("/gc", func(http.ResponseWriter, *http.Request) {
		runtime.GC()
		runtime.GC() // what a pool held in the first one goes in the second
		debug.FreeOSMemory()
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(service.Stats()) // the command notices when this is cut short
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, err := service.Count(r.Context(), r.URL.Query().Get("channel"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, n)
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }() // ends with Close
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return errors.Join(service.Shutdown(context.Background()), server.Close())
}
