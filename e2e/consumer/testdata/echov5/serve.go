package main

import (
	"net"
	"net/http"

	"github.com/labstack/echo/v5"

	gows "github.com/duxweb/go-ws/adapters/echov5"
	"github.com/duxweb/go-ws/core"
)

func serve(service *core.Service, listener net.Listener) error {
	e := echo.New()
	e.GET("/ws", gows.Echo(service))
	e.POST("/push", func(c *echo.Context) error {
		news := map[string]any{"type": "news", "message": c.FormValue("text")}
		if err := service.Push([]string{"room:1"}, news); err != nil {
			return err
		}
		return c.NoContent(http.StatusOK)
	})
	return http.Serve(listener, e)
}
