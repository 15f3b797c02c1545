package gows_test

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/labstack/echo/v4"

	gows "github.com/duxweb/go-ws/adapters/echo"
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
		return func(c echo.Context) error {
			c.Set("user", c.Request().Header.Get("X-User"))
			c.Set("roles", []string{c.Request().Header.Get("X-User")})
			return next(c)
		}
	})
	e.GET("/plain", func(c echo.Context) error { return c.String(http.StatusOK, "plain") })
	e.GET("/ws/:user", gows.Echo(service,
		gows.WithIdentity(func(c echo.Context) map[string]any { return map[string]any{"client_id": c.Get("user")} }),
		gows.WithData(func(c echo.Context) map[string]any {
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
	for name, follow := range map[string]func(c echo.Context) error{
		"an error":         func(echo.Context) error { return late },
		"an error of HTTP": func(echo.Context) error { return echo.NewHTTPError(http.StatusTeapot, "too late") },
		"its handler":      func(c echo.Context) error { c.Error(late); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
			e := echo.New()
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
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

// TestTheServerShutsDownBeforeTheService: Echo's Shutdown is that of net/http, which knows nothing of WebSockets, so that
// main waits first for the server and then for the service. A function of RegisterOnShutdown is no place for that: nobody
// waits for it.
func TestTheServerShutsDownBeforeTheService(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/ws", gows.Echo(service))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.Listener = l
	called, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	e.Server.RegisterOnShutdown(func() {
		defer close(done)
		close(called)
		<-release
	})
	ended := make(chan error, 1)
	go func() { ended <- e.Start("") }()
	s := &site{Site: wstest.Site{T: t, Address: l.Addr().String()}}
	alice := s.Knock("/ws", "Token", "alice")
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	if err := e.Shutdown(ctx); err != nil {
		t.Fatal("the server waited for the socket, or for the function:", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
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
