package gows_test

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/labstack/echo/v5"

	gows "github.com/duxweb/go-ws/adapters/echov5"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/wstest"
)

// TestAClientStaysWhoItWas: Echo hands the context of a request to the next one.
func TestAClientStaysWhoItWas(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	e := echo.New()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.Set("user", c.Request().Header.Get("X-User"))
			c.Set("roles", []string{c.Request().Header.Get("X-User")})
			return next(c)
		}
	})
	e.GET("/plain", func(c *echo.Context) error { return c.String(http.StatusOK, "plain") })
	e.GET("/ws/:user", gows.Echo(service,
		gows.WithIdentity(func(c *echo.Context) map[string]any { return map[string]any{"client_id": c.Get("user")} }),
		gows.WithData(func(c *echo.Context) map[string]any {
			return map[string]any{"user": c.Param("user"), "roles": c.Get("roles")}
		})))
	s := open(t, e)
	alice := s.Knock("/ws/alice", "X-User", "alice")
	const want = `alice "" 127.0.0.1 map[client_id:alice roles:[alice] user:alice]`
	if got := alice.Whoami(); got != want {
		t.Fatal(got)
	}
	s.Others("/ws/MALLORY", "X-User", "MALLORY")
	if got := alice.Whoami(); got != want {
		t.Errorf("alice has become %s", got)
	}
}

// TestWhatFollowsASocketDoesNotReachIt: middlewares go on after the adapter, with a response that is none any more.
func TestWhatFollowsASocketDoesNotReachIt(t *testing.T) {
	t.Parallel()
	late := errors.New("too late")
	for name, follow := range map[string]func(c *echo.Context) error{
		"an error":         func(*echo.Context) error { return late },
		"an error of HTTP": func(*echo.Context) error { return echo.NewHTTPError(http.StatusTeapot, "too late") },
		"its handler":      func(c *echo.Context) error { c.Echo().HTTPErrorHandler(c, late); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
			e := echo.New()
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c *echo.Context) error {
					if err := next(c); err != nil {
						t.Error("the adapter returned", err)
					}
					return follow(c)
				}
			})
			e.GET("/ws", gows.Echo(service))
			s := open(t, e)
			alice := s.Knock("/ws", "Token", "alice")
			alice.Whoami()
			s.handling.Wait()
			alice.Whoami()
			if got := s.log.String(); got != "" {
				t.Error(got)
			}
		})
	}
}

// TestTheServerShutsDownBeforeTheService: Echo's Start ends as net/http's Shutdown begins, which knows nothing of
// WebSockets, so that main waits first for the server and then for the service. A function of RegisterOnShutdown is no
// place for that: nobody waits for it.
func TestTheServerShutsDownBeforeTheService(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	e := echo.New()
	e.GET("/ws", gows.Echo(service))
	listens, called, release, done := make(chan string, 1), make(chan struct{}), make(chan struct{}), make(chan struct{})
	start := echo.StartConfig{
		Address: "127.0.0.1:0", HideBanner: true, HidePort: true,
		ListenerAddrFunc: func(address net.Addr) { listens <- address.String() },
		BeforeServeFunc: func(server *http.Server) error {
			server.RegisterOnShutdown(func() {
				defer close(done)
				close(called)
				<-release
			})
			return nil
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	asked, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- start.Start(asked, e) }()
	s := &site{Site: wstest.Site{T: t, Address: <-listens}}
	alice := s.Knock("/ws", "Token", "alice")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-called
	close(release)
	<-done
	alice.Whoami()
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(ctx) }()
	alice.Closes(core.CloseRestart)
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// site is a server, and what it logs.
type site struct {
	wstest.Site

	server   *http.Server
	handling sync.WaitGroup // the requests
	log      wstest.Journal
}

func open(t *testing.T, h http.Handler) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Site: wstest.Site{T: t, Address: l.Addr().String()}}
	s.server = &http.Server{ErrorLog: log.New(&s.log, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handling.Add(1)
		defer s.handling.Done()
		h.ServeHTTP(w, r)
	})}
	ended := make(chan error, 1)
	go func() { ended <- s.server.Serve(l) }()
	t.Cleanup(func() {
		_ = s.server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}
