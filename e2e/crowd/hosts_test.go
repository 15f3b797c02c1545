//go:build !race

package crowd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/gin-gonic/gin"
	fiber2 "github.com/gofiber/fiber/v2"
	fiber3 "github.com/gofiber/fiber/v3"
	echo4 "github.com/labstack/echo/v4"
	echo5 "github.com/labstack/echo/v5"

	gowsecho "github.com/duxweb/go-ws/adapters/echo"
	gowsecho5 "github.com/duxweb/go-ws/adapters/echov5"
	gowsfiber "github.com/duxweb/go-ws/adapters/fiber"
	gowsfiber3 "github.com/duxweb/go-ws/adapters/fiberv3"
	gowsgin "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

// hosts are the servers that mount a service, with the routes /ws, /stats and /gc.
var hosts = []struct {
	name string
	run  func(l net.Listener, service *core.Service) error
}{
	{"net/http", func(l net.Listener, service *core.Service) error {
		mux := http.NewServeMux()
		mux.Handle("/ws", service)
		return http.Serve(l, beside(service, mux))
	}},
	{"gin", func(l net.Listener, service *core.Service) error {
		router := newGin()
		router.GET("/ws", gowsgin.Gin(service))
		return http.Serve(l, beside(service, router))
	}},
	{"echo", func(l net.Listener, service *core.Service) error {
		e := echo4.New()
		e.GET("/ws", gowsecho.Echo(service))
		return http.Serve(l, beside(service, e))
	}},
	{"echo/v5", func(l net.Listener, service *core.Service) error {
		e := echo5.New()
		e.GET("/ws", gowsecho5.Echo(service))
		return http.Serve(l, beside(service, e))
	}},
	{"fiber", func(l net.Listener, service *core.Service) error {
		app := fiber2.New(fiber2.Config{DisableStartupMessage: true})
		app.Get("/ws", gowsfiber.Fiber(service))
		app.Get("/stats", func(c *fiber2.Ctx) error { return c.JSON(service.Stats()) })
		app.Get("/gc", func(*fiber2.Ctx) error { return collect() })
		return app.Listener(l)
	}},
	{"fiber/v3", func(l net.Listener, service *core.Service) error {
		app := fiber3.New()
		app.Get("/ws", gowsfiber3.Fiber(service))
		app.Get("/stats", func(c fiber3.Ctx) error { return c.JSON(service.Stats()) })
		app.Get("/gc", func(fiber3.Ctx) error { return collect() })
		return app.Listener(l, fiber3.ListenConfig{DisableStartupMessage: true})
	}},
}

func newGin() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	return gin.New()
}

// beside serves what the tests ask for, and the rest with next.
func beside(service *core.Service, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(service.Stats()) })
	mux.HandleFunc("/gc", func(http.ResponseWriter, *http.Request) { _ = collect() })
	return mux
}

func collect() error {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	return nil
}

// serve runs a host or a peer until standard input ends, and prints its address.
func serve(args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() { fatal(serveOn(listener, args[0])) }() // ends with the process
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func serveOn(l net.Listener, name string) error {
	for _, peer := range peers {
		if peer.name == name {
			return peer.run(l)
		}
	}
	service := core.New(drivers.NewMemoryDriver(), &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			return map[string]any{"client_id": token, "user_name": token}, nil
		},
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	}, core.WithLogger(slog.New(slog.DiscardHandler)))
	if err := service.Run(); err != nil {
		return err
	}
	for _, host := range hosts {
		if host.name == name {
			return host.run(l, service)
		}
	}
	return errors.New("there is no host " + name)
}
