// Command main is what each user writes; serve is the part that differs. It runs until its standard input ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

func main() {
	service := core.New(drivers.NewMemoryDriver(), &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			if token == "" {
				return nil, errors.New("please enter a name")
			}
			return map[string]any{"client_id": token}, nil
		},
		Subscribe: func(*core.Client, string) error { return nil },
	})
	if err := service.Run(); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() { log.Fatal(serve(service, listener)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := service.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
