package middleware

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gin-contrib/cors"
	"github.com/gin-contrib/gzip"
	"github.com/gin-contrib/timeout"
	"github.com/gin-gonic/gin"
	fiberv2 "github.com/gofiber/fiber/v2"
	compressv2 "github.com/gofiber/fiber/v2/middleware/compress"
	corsv2 "github.com/gofiber/fiber/v2/middleware/cors"
	etagv2 "github.com/gofiber/fiber/v2/middleware/etag"
	helmetv2 "github.com/gofiber/fiber/v2/middleware/helmet"
	loggerv2 "github.com/gofiber/fiber/v2/middleware/logger"
	recoverv2 "github.com/gofiber/fiber/v2/middleware/recover"
	requestidv2 "github.com/gofiber/fiber/v2/middleware/requestid"
	timeoutv2 "github.com/gofiber/fiber/v2/middleware/timeout"
	fiberv3 "github.com/gofiber/fiber/v3"
	compressv3 "github.com/gofiber/fiber/v3/middleware/compress"
	corsv3 "github.com/gofiber/fiber/v3/middleware/cors"
	etagv3 "github.com/gofiber/fiber/v3/middleware/etag"
	helmetv3 "github.com/gofiber/fiber/v3/middleware/helmet"
	loggerv3 "github.com/gofiber/fiber/v3/middleware/logger"
	recoverv3 "github.com/gofiber/fiber/v3/middleware/recover"
	requestidv3 "github.com/gofiber/fiber/v3/middleware/requestid"
	timeoutv3 "github.com/gofiber/fiber/v3/middleware/timeout"
	echov4 "github.com/labstack/echo/v4"
	middlewarev4 "github.com/labstack/echo/v4/middleware"
	echov5 "github.com/labstack/echo/v5"
	middlewarev5 "github.com/labstack/echo/v5/middleware"

	gowsechov4 "github.com/duxweb/go-ws/adapters/echo"
	gowsechov5 "github.com/duxweb/go-ws/adapters/echov5"
	gowsfiberv2 "github.com/duxweb/go-ws/adapters/fiber"
	gowsfiberv3 "github.com/duxweb/go-ws/adapters/fiberv3"
	gowsgin "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// plain is long enough to be compressed.
var plain = strings.Repeat("plain ", 500)

// Each of the following serves the routes /ws and /plain behind middlewares.

func ginBehind(s *site, before ...gin.HandlerFunc) http.Handler {
	router := gin.New()
	router.Use(before...)
	router.GET("/ws", gowsgin.Gin(s.service))
	router.GET("/plain", func(c *gin.Context) { c.String(http.StatusOK, plain) })
	return router
}

func echoV4Behind(s *site, before ...echov4.MiddlewareFunc) http.Handler {
	e := echov4.New()
	e.Logger.SetOutput(&s.log)
	e.Use(before...)
	e.GET("/ws", gowsechov4.Echo(s.service))
	e.GET("/plain", func(c echov4.Context) error { return c.String(http.StatusOK, plain) })
	return e
}

func echoV5Behind(s *site, before ...echov5.MiddlewareFunc) http.Handler {
	e := echov5.New()
	e.Logger = slog.New(slog.NewTextHandler(&s.log, nil))
	e.Use(before...)
	e.GET("/ws", gowsechov5.Echo(s.service))
	e.GET("/plain", func(c *echov5.Context) error { return c.String(http.StatusOK, plain) })
	return e
}

func fiberV2Behind(s *site, before ...fiberv2.Handler) server {
	app := s.fiberV2(fiberv2.Config{})
	for _, handler := range before {
		app.Use(handler)
	}
	app.Get("/ws", gowsfiberv2.Fiber(s.service))
	app.Get("/plain", func(c *fiberv2.Ctx) error { return c.SendString(plain) })
	return app
}

func fiberV3Behind(s *site, before ...fiberv3.Handler) server {
	app := s.fiberV3(fiberv3.Config{})
	for _, handler := range before {
		app.Use(handler)
	}
	app.Get("/ws", gowsfiberv3.Fiber(s.service))
	app.Get("/plain", func(c fiberv3.Ctx) error { return c.SendString(plain) })
	return app
}

// middlewares makes what a framework has, by name. Those called logger print a status and a path.
type middlewares[M any] map[string]func(s *site) M

// timeLimit is made once: New writes to a variable that the ones it has made before read.
var timeLimit = timeout.New(timeout.WithTimeout(coretest.Patience))

var ofGin = middlewares[gin.HandlerFunc]{
	"Logger": func(s *site) gin.HandlerFunc {
		return gin.LoggerWithConfig(gin.LoggerConfig{Output: &s.log, Formatter: func(p gin.LogFormatterParams) string {
			return fmt.Sprintln(p.StatusCode, p.Path)
		}})
	},
	"Recovery": func(s *site) gin.HandlerFunc { return gin.RecoveryWithWriter(&s.log) },
	"gzip":     func(*site) gin.HandlerFunc { return gzip.Gzip(gzip.DefaultCompression) },
	"timeout":  func(*site) gin.HandlerFunc { return timeLimit },
	"cors": func(*site) gin.HandlerFunc {
		return cors.New(cors.Config{AllowOrigins: []string{"https://app.example.com"}})
	},
}

var ofEchoV4 = middlewares[echov4.MiddlewareFunc]{
	"Logger": func(s *site) echov4.MiddlewareFunc {
		//nolint:staticcheck // deprecated, and in use
		return middlewarev4.LoggerWithConfig(middlewarev4.LoggerConfig{Output: &s.log, Format: "${status} ${path}\n"})
	},
	"RequestLogger": func(s *site) echov4.MiddlewareFunc {
		return middlewarev4.RequestLoggerWithConfig(middlewarev4.RequestLoggerConfig{
			LogStatus: true, LogURI: true, HandleError: true,
			LogValuesFunc: func(_ echov4.Context, v middlewarev4.RequestLoggerValues) error {
				_, err := fmt.Fprintln(&s.log, v.Status, v.URI)
				return err
			},
		})
	},
	"Recover": func(*site) echov4.MiddlewareFunc { return middlewarev4.Recover() },
	"Gzip":    func(*site) echov4.MiddlewareFunc { return middlewarev4.Gzip() },
	"BodyDump": func(*site) echov4.MiddlewareFunc {
		return middlewarev4.BodyDump(func(echov4.Context, []byte, []byte) {})
	},
	"ContextTimeout": func(*site) echov4.MiddlewareFunc { return middlewarev4.ContextTimeout(coretest.Patience) },
	"CORS":           func(*site) echov4.MiddlewareFunc { return middlewarev4.CORS() },
}

var ofEchoV5 = middlewares[echov5.MiddlewareFunc]{
	"RequestLogger": func(s *site) echov5.MiddlewareFunc {
		return middlewarev5.RequestLoggerWithConfig(middlewarev5.RequestLoggerConfig{
			LogStatus: true, LogURI: true, HandleError: true,
			LogValuesFunc: func(_ *echov5.Context, v middlewarev5.RequestLoggerValues) error {
				_, err := fmt.Fprintln(&s.log, v.Status, v.URI)
				return err
			},
		})
	},
	"Recover": func(*site) echov5.MiddlewareFunc { return middlewarev5.Recover() },
	"Gzip":    func(*site) echov5.MiddlewareFunc { return middlewarev5.Gzip() },
	"BodyDump": func(*site) echov5.MiddlewareFunc {
		return middlewarev5.BodyDump(func(*echov5.Context, []byte, []byte, error) {})
	},
	"ContextTimeout": func(*site) echov5.MiddlewareFunc { return middlewarev5.ContextTimeout(coretest.Patience) },
	"CORS":           func(*site) echov5.MiddlewareFunc { return middlewarev5.CORS("https://app.example.com") },
}

var ofFiberV2 = middlewares[fiberv2.Handler]{
	"logger": func(s *site) fiberv2.Handler {
		return loggerv2.New(loggerv2.Config{Output: &s.log, Format: "${status} ${path}\n"})
	},
	"recover":   func(*site) fiberv2.Handler { return recoverv2.New() },
	"compress":  func(*site) fiberv2.Handler { return compressv2.New() },
	"etag":      func(*site) fiberv2.Handler { return etagv2.New() },
	"cors":      func(*site) fiberv2.Handler { return corsv2.New() },
	"helmet":    func(*site) fiberv2.Handler { return helmetv2.New() },
	"requestid": func(*site) fiberv2.Handler { return requestidv2.New() },
	"timeout":   func(*site) fiberv2.Handler { return timeoutv2.NewWithContext((*fiberv2.Ctx).Next, coretest.Patience) },
	"Connection: close": func(*site) fiberv2.Handler {
		return func(c *fiberv2.Ctx) error {
			err := c.Next()
			c.Set("Connection", "close")
			return err
		}
	},
}

var ofFiberV3 = middlewares[fiberv3.Handler]{
	"logger": func(s *site) fiberv3.Handler {
		return loggerv3.New(loggerv3.Config{Stream: &s.log, Format: "${status} ${path}\n"})
	},
	"recover":   func(*site) fiberv3.Handler { return recoverv3.New() },
	"compress":  func(*site) fiberv3.Handler { return compressv3.New() },
	"etag":      func(*site) fiberv3.Handler { return etagv3.New() },
	"cors":      func(*site) fiberv3.Handler { return corsv3.New() },
	"helmet":    func(*site) fiberv3.Handler { return helmetv3.New() },
	"requestid": func(*site) fiberv3.Handler { return requestidv3.New() },
	"timeout": func(*site) fiberv3.Handler {
		return timeoutv3.New(fiberv3.Ctx.Next, timeoutv3.Config{Timeout: coretest.Patience})
	},
	"Connection: close": func(*site) fiberv3.Handler {
		return func(c fiberv3.Ctx) error {
			err := c.Next()
			c.Set("Connection", "close")
			return err
		}
	},
}

func TestASocketPassesMiddlewares(t *testing.T) {
	t.Parallel()
	passes(t, "Gin", ofGin, func(s *site, before ...gin.HandlerFunc) server { return s.serve(ginBehind(s, before...)) })
	passes(t, "Echo v4", ofEchoV4, func(s *site, before ...echov4.MiddlewareFunc) server { return s.serve(echoV4Behind(s, before...)) })
	passes(t, "Echo v5", ofEchoV5, func(s *site, before ...echov5.MiddlewareFunc) server { return s.serve(echoV5Behind(s, before...)) })
	passes(t, "Fiber v2", ofFiberV2, fiberV2Behind)
	passes(t, "Fiber v3", ofFiberV3, fiberV3Behind)
}

// passes goes through each middleware of a framework, and through all of them.
func passes[M any](t *testing.T, framework string, all middlewares[M], serve func(s *site, before ...M) server) {
	t.Helper()
	names := slices.Sorted(maps.Keys(all))
	chains := [][]string{names}
	for _, name := range names {
		chains = append(chains, []string{name})
	}
	for _, chain := range chains {
		t.Run(framework+" "+strings.Join(chain, ", "), func(t *testing.T) {
			t.Parallel()
			s := open(t, func(s *site) server {
				var before []M
				for _, name := range chain {
					before = append(before, all[name](s))
				}
				return serve(s, before...)
			})
			s.visit()
			s.dialer.NetDialContext = behindNginx
			s.visit()
			var want []string
			for _, name := range chain {
				if strings.HasSuffix(name, "ogger") {
					want = append(want, slices.Repeat(visited, 2)...)
				}
			}
			s.prints(want...)
		})
	}
}

// visit does all that one can do on a site, and visited is what an access logger makes of it.
func (s *site) visit() {
	s.Helper()
	s.ordinary()
	h := s.page(header("Token", "alice", "Accept-Encoding", "gzip"))
	alice := s.connect("/ws", h)
	frame, err := json.Marshal(core.Message{ID: "1", Type: "echo", Message: "x"})
	if err != nil {
		s.Fatal(err)
	}
	text := strings.Repeat("x", 64<<10-len(frame)+1)
	if got := alice.asks("echo", text); string(got) != strconv.Quote(text) {
		s.Errorf("of %d bytes %d came back", len(text), len(got))
	}
	alice.says(core.Message{Type: "leave"})
	if closed := alice.closes(); closed.Code != 4001 || closed.Text != "bye" {
		s.Error(closed)
	}
	h.Del("Token")
	h.Del("Origin")
	s.refuses("/ws", h, core.CloseRefused, "please enter a name")
	s.ordinary()
}

var visited = []string{"200 /plain", "101 /ws", "101 /ws", "401 /ws", "200 /plain"}

// behindNginx connects as nginx does, which passes on what its configuration says: Connection: upgrade.
func behindNginx(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, network, address)
	return lowercase{nc}, err
}

type lowercase struct{ net.Conn }

func (l lowercase) Write(p []byte) (int, error) {
	return l.Conn.Write(bytes.Replace(p, []byte("Connection: Upgrade"), []byte("Connection: upgrade"), 1))
}

func TestAMiddlewareThatKeepsTheConnectionIsNamed(t *testing.T) {
	t.Parallel()
	limited := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, coretest.Patience, "too late") }
	for name, mount := range map[string]func(s *site) http.Handler{
		"http.TimeoutHandler around net/http": func(s *site) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/ws", s.service)
			mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, plain) })
			return limited(mux)
		},
		"http.TimeoutHandler around Gin": func(s *site) http.Handler {
			return limited(ginBehind(s, gin.RecoveryWithWriter(&s.log)))
		},
		"http.TimeoutHandler around gin-contrib/gzip": func(s *site) http.Handler {
			return limited(ginBehind(s, ofGin["gzip"](s)))
		},
		"http.TimeoutHandler around gin-contrib/timeout": func(s *site) http.Handler {
			return limited(ginBehind(s, ofGin["timeout"](s)))
		},
		"http.TimeoutHandler around Echo v4": func(s *site) http.Handler { return limited(echoV4Behind(s)) },
		"http.TimeoutHandler around Echo v5": func(s *site) http.Handler { return limited(echoV5Behind(s)) },
		"Timeout of Echo v4": func(s *site) http.Handler {
			//nolint:staticcheck // deprecated, and in use
			return echoV4Behind(s, middlewarev4.TimeoutWithConfig(middlewarev4.TimeoutConfig{Timeout: coretest.Patience}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, func(s *site) server { return s.serve(mount(s)) })
			for _, dial := range []func(context.Context, string, string) (net.Conn, error){nil, behindNginx} {
				s.dialer.NetDialContext = dial
				alice := header("Token", "alice", "Accept-Encoding", "gzip")
				for _, h := range []http.Header{alice, s.page(alice), s.page(nil)} {
					got := s.knock("/ws", h)
					if got.Status != http.StatusInternalServerError || got.Code != core.CloseInternal ||
						!strings.Contains(got.Reason, "*http.timeoutWriter") || !strings.Contains(got.Reason, "mount the route outside the timeout middleware") {
						t.Errorf("with %v: %+v", h, got)
					}
				}
				if got, want := s.knock("/ws", nil), (answer{http.StatusUnauthorized, core.CloseRefused, "please enter a name"}); got != want {
					t.Errorf("%+v", got)
				}
				s.ordinary()
			}
			s.prints()
		})
	}
}
