package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/duxweb/go-ws/examples/chat/chattest"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	leaktest.Main(m)
}

func TestGin(t *testing.T) {
	chattest.Run(t, chattest.Program{Start: start, Sign: sign, Sockets: []string{"/ws", "/gorilla"}})
}

func start(t testing.TB, l net.Listener) {
	t.Helper()
	service, handler := application()
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(context.Background()), service.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
