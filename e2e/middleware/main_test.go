// Package middleware tests the adapters behind the middlewares that people put in front of a route: those that let
// somebody in, and those that only stand in the way. All is real: the framework, its middleware, and the sockets.
package middleware

import (
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	leaktest.Main(m, "fasthttp.(*workerPool).Start", "fasthttp.updateServerDate", "fasthttp/stackless.funcWorker")
}
