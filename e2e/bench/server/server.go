package server

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// Server is one contestant.
type Server struct {
	Name    string
	Library string // "" for raw, "go-ws" for the hosts, the module path of a peer
	Dialect string // what its clients speak: "gows" or "centrifuge"

	clusters bool
	serve    func(l net.Listener, redis string) error
}

// All are the contestants: the floor, the hosts of go-ws, the peers.
var All = []Server{
	{Name: "raw", Dialect: "gows", serve: serveRaw},
	{Name: "net/http", Library: "go-ws", Dialect: "gows", clusters: true, serve: onNetHTTP},
	{Name: "gin", Library: "go-ws", Dialect: "gows", clusters: true, serve: onGin},
	{Name: "echo", Library: "go-ws", Dialect: "gows", clusters: true, serve: onEcho},
	{Name: "fiber", Library: "go-ws", Dialect: "gows", clusters: true, serve: onFiber},
	{Name: "melody", Library: "github.com/olahol/melody", Dialect: "gows", serve: serveMelody},
	{Name: "gorilla", Library: "github.com/gorilla/websocket", Dialect: "gows", serve: serveGorilla},
	{Name: "gws", Library: "github.com/lxzan/gws", Dialect: "gows", serve: serveGWS},
	{
		Name: "centrifuge", Library: "github.com/centrifugal/centrifuge", Dialect: "centrifuge", clusters: true,
		serve: serveCentrifuge,
	},
	{Name: "socketio", Library: "github.com/gofiber/contrib/socketio", Dialect: "gows", serve: serveSocketio},
}

// messageBytes is what a client may send at once, envelope included. It is the default of go-ws and of centrifuge; the
// others have none but melody, whose 512 bytes are too few.
const messageBytes = 64 << 10

// Find returns the contestant of that name.
func Find(name string) (Server, error) {
	i := slices.IndexFunc(All, func(s Server) bool { return s.Name == name })
	if i < 0 {
		return Server{}, fmt.Errorf("there is no server %q: take one of %s", name, names(All))
	}
	return All[i], nil
}

func names(servers []Server) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.Name)
	}
	return strings.Join(all, ", ")
}

// Clusters reports whether several of these servers can be one by way of Redis.
func (s Server) Clusters() bool { return s.clusters }

// Serve serves until l is closed. redis is the address of the Redis that makes several servers one; "" keeps everything
// in memory.
func (s Server) Serve(l net.Listener, redis string) error {
	if redis != "" && !s.clusters {
		some := slices.DeleteFunc(slices.Clone(All), func(s Server) bool { return !s.clusters })
		return fmt.Errorf("%s knows no cluster: leave Redis out, or take one of %s", s.Name, names(some))
	}
	return s.serve(l, redis)
}

// compared are the modules whose versions belong to the result.
var compared = []string{
	"github.com/duxweb/go-ws",
	"github.com/gin-gonic/gin",
	"github.com/labstack/echo/v4",
	"github.com/gofiber/fiber/v2",
	"github.com/gofiber/contrib/websocket",
	"github.com/olahol/melody",
	"github.com/gorilla/websocket",
	"github.com/lxzan/gws",
	"github.com/centrifugal/centrifuge",
	"github.com/gofiber/contrib/socketio",
}

// Versions returns the versions of the libraries and frameworks in this program, by module path. One that is built from
// a folder, as go-ws is, has the version "(devel)".
func Versions() map[string]string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	return versionsOf(info)
}

func versionsOf(info *debug.BuildInfo) map[string]string {
	versions := map[string]string{}
	for _, module := range info.Deps {
		if !slices.Contains(compared, module.Path) {
			continue
		}
		versions[module.Path] = module.Version
		if module.Replace != nil {
			versions[module.Path] = cmp.Or(module.Replace.Version, "(devel)")
		}
	}
	return versions
}

// serveHTTP serves ws and what the load generator asks for.
func serveHTTP(l net.Listener, ws http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/ws", ws)
	mux.HandleFunc("/gc", func(http.ResponseWriter, *http.Request) { collect() })
	mux.HandleFunc("/mallocs", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(mallocs())) })
	return http.Serve(l, mux)
}

// serveFiber is serveHTTP on Fiber.
func serveFiber(l net.Listener, ws fiber.Handler) error {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/ws", ws)
	app.Get("/gc", func(*fiber.Ctx) error {
		collect()
		return nil
	})
	app.Get("/mallocs", func(c *fiber.Ctx) error { return c.SendString(mallocs()) })
	return app.Listener(l)
}

func collect() {
	runtime.GC()
	runtime.GC() // what a pool or a finalizer held in the first one goes in the second
	debug.FreeOSMemory()
}

func mallocs() string {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return strconv.FormatUint(stats.Mallocs, 10)
}
