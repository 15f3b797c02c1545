package main

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/duxweb/go-ws/examples/chat/chattest"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) {
	leaktest.Main(m, "fasthttp.(*workerPool).Start", "fasthttp.updateServerDate", "middleware/logger.New")
}

func TestFiber(t *testing.T) {
	chattest.Run(t, chattest.Program{Start: start, Sign: sign, Sockets: []string{"/ws", "/contrib"}})
}

func start(t testing.TB, l net.Listener) {
	t.Helper()
	service, app := application()
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- app.Listener(l) }()
	t.Cleanup(func() {
		if err := errors.Join(app.ShutdownWithContext(context.Background()), service.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
