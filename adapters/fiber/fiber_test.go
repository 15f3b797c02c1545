package gows_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/duxweb/go-ws/adapters/adaptertest"
	gows "github.com/duxweb/go-ws/adapters/fiber"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) {
	leaktest.Main(m, "fasthttp.(*workerPool).Start", "fasthttp.updateServerDate")
}

func TestFiber(t *testing.T) {
	for name, change := range map[string]func(server *fasthttp.Server){
		"as it comes":              func(*fasthttp.Server) {},
		"with KeepHijackedConns":   func(server *fasthttp.Server) { server.KeepHijackedConns = true },
		"with a limit per address": func(server *fasthttp.Server) { server.MaxConnsPerIP = 1000 },
		"with ReduceMemoryUsage, not normalized": func(server *fasthttp.Server) {
			server.ReduceMemoryUsage, server.DisableHeaderNamesNormalizing = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			adaptertest.Run(t, adaptertest.Host{
				Serve: func(t testing.TB, service *core.Service, l net.Listener) {
					t.Helper()
					app := mounted(service)
					change(app.Server())
					run(t, app, l)
				},
				Holds: name == "with a limit per address",
			})
		})
	}
}

func mounted(service *core.Service) *fiber.App {
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReadBufferSize: 128 << 10})
	handler := gows.Fiber(service)
	app.Get("/ws", handler)
	app.Post("/ws", handler)
	app.Get("/context", func(c *fiber.Ctx) error {
		c.Locals("token", c.Get("X-Token"))
		return c.Next()
	}, gows.Fiber(service, gows.WithToken(func(c *fiber.Ctx) string { return c.Get("X-Other") })))
	app.Get("/identity", gows.Fiber(service, gows.WithIdentity(func(c *fiber.Ctx) map[string]any {
		if user := c.Get("X-User"); user != "" {
			return fiber.Map{"client_id": user}
		}
		return nil
	})))
	app.Get("/nameless", gows.Fiber(service, gows.WithIdentity(func(*fiber.Ctx) map[string]any { return fiber.Map{"role": "admin"} })))
	app.Get("/apps/:app", gows.Fiber(service,
		gows.WithApp(func(c *fiber.Ctx) string { return c.Params("app") }),
		gows.WithToken(func(c *fiber.Ctx) string { return c.Get("X-Token") }),
		gows.WithData(func(c *fiber.Ctx) map[string]any { return fiber.Map{"lang": c.Get("X-Lang")} })))
	app.Get("/expired", gows.Refuse(service, core.CloseExpired, "the token has expired"))
	app.Get("/token", func(c *fiber.Ctx) error { return c.SendString(gows.Token(c)) })
	pushed := func(c *fiber.Ctx) error { return c.SendStatus(adaptertest.Pushed(gows.From(c))) }
	app.Get("/from", gows.Middleware(service), pushed)
	app.Get("/nobody", pushed)
	app.Get("/nil", gows.Fiber(nil))
	return app
}

// run serves app on l until the test ends.
func run(t testing.TB, app *fiber.App, l net.Listener) {
	t.Helper()
	var conns atomic.Int64 // those that are the server's
	app.Server().ConnState = func(_ net.Conn, state fasthttp.ConnState) {
		switch state {
		case fasthttp.StateNew:
			conns.Add(1)
		case fasthttp.StateClosed, fasthttp.StateHijacked:
			conns.Add(-1)
		default:
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- app.Listener(l) }()
	t.Cleanup(func() {
		// Where there is a limit per address, fasthttp's Shutdown may close a connection twice that is just ending.
		deadline := time.Now().Add(coretest.Patience)
		for conns.Load() > 0 && time.Now().Before(deadline) {
			<-time.After(time.Millisecond)
		}
		_ = app.Shutdown()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
