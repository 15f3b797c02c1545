package gows_test

import (
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/duxweb/go-ws/adapters/adaptertest"
	gows "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	leaktest.Main(m)
}

func TestGin(t *testing.T) { adaptertest.Run(t, adaptertest.Host{Serve: serve}) }

func serve(t testing.TB, service *core.Service, l net.Listener) {
	t.Helper()
	router := gin.New()
	handler := gows.Gin(service)
	router.GET("/ws", handler)
	router.POST("/ws", handler)
	router.GET("/context", func(c *gin.Context) { c.Set("token", c.GetHeader("X-Token")) },
		gows.Gin(service, gows.WithToken(func(c *gin.Context) string { return c.GetHeader("X-Other") })))
	router.GET("/identity", gows.Gin(service, gows.WithIdentity(func(c *gin.Context) map[string]any {
		if user := c.GetHeader("X-User"); user != "" {
			return gin.H{"client_id": user}
		}
		return nil
	})))
	router.GET("/nameless", gows.Gin(service, gows.WithIdentity(func(*gin.Context) map[string]any { return gin.H{"role": "admin"} })))
	router.GET("/apps/:app", gows.Gin(service,
		gows.WithApp(func(c *gin.Context) string { return c.Param("app") }),
		gows.WithToken(func(c *gin.Context) string { return c.GetHeader("X-Token") }),
		gows.WithData(func(c *gin.Context) map[string]any { return gin.H{"lang": c.GetHeader("X-Lang")} })))
	router.GET("/expired", gows.Refuse(service, core.CloseExpired, "the token has expired"))
	router.GET("/token", func(c *gin.Context) { c.String(http.StatusOK, "%s", gows.Token(c)) })
	pushed := func(c *gin.Context) { c.Status(adaptertest.Pushed(gows.From(c))) }
	router.GET("/from", gows.Middleware(service), pushed)
	router.GET("/nobody", pushed)
	router.GET("/nil", gows.Gin(nil))
	run(t, router, l)
}

// run serves router on l until the test ends.
func run(t testing.TB, router *gin.Engine, l net.Listener) {
	t.Helper()
	server := &http.Server{Handler: router}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
