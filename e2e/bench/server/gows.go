package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v4"

	gowsecho "github.com/duxweb/go-ws/adapters/echo"
	gowsfiber "github.com/duxweb/go-ws/adapters/fiber"
	gowsgin "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

func onNetHTTP(l net.Listener, redis string) error {
	return withService(redis, func(service *core.Service) error { return serveHTTP(l, service) })
}

func onGin(l net.Listener, redis string) error {
	return withService(redis, func(service *core.Service) error {
		gin.SetMode(gin.ReleaseMode)
		router := gin.New()
		router.GET("/ws", gowsgin.Gin(service))
		return serveHTTP(l, router)
	})
}

func onEcho(l net.Listener, redis string) error {
	return withService(redis, func(service *core.Service) error {
		e := echo.New()
		e.GET("/ws", gowsecho.Echo(service))
		return serveHTTP(l, e)
	})
}

func onFiber(l net.Listener, redis string) error {
	return withService(redis, func(service *core.Service) error { return serveFiber(l, gowsfiber.Fiber(service)) })
}

// withService runs serve with a service, which ends with it. It has the default options, and no log.
func withService(redis string, serve func(*core.Service) error) error {
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
		Message:   direct,
	}, core.WithLogger(slog.New(slog.DiscardHandler)))
	if err := service.Run(); err != nil {
		return err
	}
	return errors.Join(serve(service), service.Shutdown(context.Background()))
}

// direct sends a message to the one client that its channel names.
func direct(m *core.Message, c *core.Client) error {
	if m.Type != "direct" {
		return core.Errorf(http.StatusNotFound, "there is no type %q", m.Type)
	}
	err := c.Scope().Send(context.Background(), m.Channel, m)
	if errors.Is(err, core.ErrOffline) { // nobody is there: no failure here, as with the peers
		return nil
	}
	return err
}
