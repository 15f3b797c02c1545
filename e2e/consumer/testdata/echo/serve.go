package main

import (
	"net"
	"net/http"

	"github.com/labstack/echo/v4"

	gows "github.com/duxweb/go-ws/adapters/echo"
	"github.com/duxweb/go-ws/core"
)

func serve(service *core.Service, listener net.Listener) error {
	e := echo.New()
	e.Listener = listener
	e.GET("/ws", gows.Echo(service))
	e.POST("/push", func(c echo.Context) error {
		news := echo.Map{"type": "news", "message": c.FormValue("text")}
		if err := service.Push([]string{"room:1"}, news); err != nil {
			return err
		}
		return c.NoContent(http.StatusOK)
	})
	return e.Start("")
}
