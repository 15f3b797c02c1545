package main

import (
	"net"
	"net/http"

	"github.com/gin-gonic/gin"

	gows "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
)

func serve(service *core.Service, listener net.Listener) error {
	router := gin.New()
	router.GET("/ws", gows.Gin(service))
	router.POST("/push", func(c *gin.Context) {
		news := gin.H{"type": "news", "message": c.PostForm("text")}
		if err := service.Push([]string{"room:1"}, news); err != nil {
			c.String(http.StatusServiceUnavailable, err.Error())
		}
	})
	return router.RunListener(listener)
}
