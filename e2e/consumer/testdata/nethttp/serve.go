package main

import (
	"net"
	"net/http"

	"github.com/duxweb/go-ws/core"
)

func serve(service *core.Service, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("/ws", service)
	mux.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		news := map[string]any{"type": "news", "message": r.FormValue("text")}
		if err := service.Push([]string{"room:1"}, news); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return http.Serve(listener, mux)
}
