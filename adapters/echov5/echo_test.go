package gows_test

import (
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"

	"github.com/duxweb/go-ws/adapters/adaptertest"
	gows "github.com/duxweb/go-ws/adapters/echov5"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestEcho(t *testing.T) { adaptertest.Run(t, adaptertest.Host{Serve: serve}) }

func serve(t testing.TB, service *core.Service, l net.Listener) {
	t.Helper()
	e := echo.New()
	handler := gows.Echo(service)
	e.GET("/ws", handler)
	e.POST("/ws", handler)
	e.GET("/context", gows.Echo(service, gows.WithToken(func(c *echo.Context) string {
		return c.Request().Header.Get("X-Other")
	})), func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.Set("token", c.Request().Header.Get("X-Token"))
			return next(c)
		}
	})
	e.GET("/identity", gows.Echo(service, gows.WithIdentity(func(c *echo.Context) map[string]any {
		if user := c.Request().Header.Get("X-User"); user != "" {
			return map[string]any{"client_id": user}
		}
		return nil
	})))
	e.GET("/nameless", gows.Echo(service, gows.WithIdentity(func(*echo.Context) map[string]any { return map[string]any{"role": "admin"} })))
	e.GET("/apps/:app", gows.Echo(service,
		gows.WithApp(func(c *echo.Context) string { return c.Param("app") }),
		gows.WithToken(func(c *echo.Context) string { return c.Request().Header.Get("X-Token") }),
		gows.WithData(func(c *echo.Context) map[string]any { return map[string]any{"lang": c.Request().Header.Get("X-Lang")} })))
	e.GET("/expired", gows.Refuse(service, core.CloseExpired, "the token has expired"))
	e.GET("/token", func(c *echo.Context) error { return c.String(http.StatusOK, gows.Token(c)) })
	pushed := func(c *echo.Context) error { return c.NoContent(adaptertest.Pushed(gows.From(c))) }
	e.GET("/from", pushed, gows.Middleware(service))
	e.GET("/nobody", pushed)
	e.GET("/nil", gows.Echo(nil))
	run(t, e, l)
}

// run serves e on l until the test ends.
func run(t testing.TB, e *echo.Echo, l net.Listener) {
	t.Helper()
	server := &http.Server{Handler: e}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
