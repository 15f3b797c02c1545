// Command node is a service for a load generator: everybody is admitted, may subscribe to everything and publish
// everywhere. Several of them on one Redis are nodes of one cluster.
//
//	go run ./crowd/node -addr 127.0.0.1:8081 -redis 127.0.0.1:6379
package main

import (
	"context"
	"errors"
	"flag"
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

func main() {
	addr := flag.String("addr", "127.0.0.1:8081", "listen address")
	redis := flag.String("redis", "", "address of Redis; the memory driver without it")
	flag.Parse()
	if err := run(*addr, *redis); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(addr, redis string) error {
	driver := drivers.NewMemoryDriver()
	if redis != "" {
		var err error
		if driver, err = drivers.NewRedisDriver(&drivers.RedisOptions{Addr: redis, Prefix: "bench"}); err != nil {
			return err
		}
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
		debug.FreeOSMemory()
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
