package main

import (
	"net"
	"net/http"

	"github.com/gofiber/fiber/v2"

	gows "github.com/duxweb/go-ws/adapters/fiber"
	"github.com/duxweb/go-ws/core"
)

func serve(service *core.Service, listener net.Listener) error {
	app := fiber.New()
	app.Get("/ws", gows.Fiber(service))
	app.Post("/push", func(c *fiber.Ctx) error {
		news := fiber.Map{"type": "news", "message": c.FormValue("text")}
		if err := service.Push([]string{"room:1"}, news); err != nil {
			return err
		}
		return c.SendStatus(http.StatusOK)
	})
	return app.Listener(listener)
}
