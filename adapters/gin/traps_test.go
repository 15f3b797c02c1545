package gows_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"

	gows "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/wstest"
)

// TestAClientStaysWhoItWas: Gin hands the context of a request to the next one.
func TestAClientStaysWhoItWas(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	router := gin.New()
	router.Use(func(c *gin.Context) {
		c.Set("user", c.GetHeader("X-User"))
		c.Set("roles", []string{c.GetHeader("X-User")})
	})
	router.GET("/plain", func(c *gin.Context) { c.String(http.StatusOK, "plain") })
	router.GET("/ws/:user", gows.Gin(service,
		gows.WithIdentity(func(c *gin.Context) map[string]any { return gin.H{"client_id": c.MustGet("user")} }),
		gows.WithData(func(c *gin.Context) map[string]any {
			return gin.H{"user": c.Param("user"), "roles": c.MustGet("roles")}
		})))
	s := open(t, router)
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
	for name, follow := range map[string]func(c *gin.Context){
		"Error":           func(c *gin.Context) { _ = c.Error(late) },
		"AbortWithError":  func(c *gin.Context) { _ = c.AbortWithError(http.StatusInternalServerError, late) },
		"AbortWithStatus": func(c *gin.Context) { c.AbortWithStatus(http.StatusInternalServerError) },
		"JSON":            func(c *gin.Context) { c.JSON(http.StatusInternalServerError, gin.H{"error": late}) },
		"a panic":         func(*gin.Context) { panic(late) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
			router := gin.New()
			router.Use(gin.RecoveryWithWriter(io.Discard), func(c *gin.Context) {
				c.Next()
				follow(c)
			})
			router.GET("/ws", gows.Gin(service), func(*gin.Context) { t.Error("a handler behind the adapter was called") })
			s := open(t, router)
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

// TestTheServerShutsDownBeforeTheService: http.Server.Shutdown knows nothing of WebSockets, so that main waits first for
// the server and then for the service. A function of RegisterOnShutdown is no place for that: nobody waits for it.
func TestTheServerShutsDownBeforeTheService(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	router := gin.New()
	router.GET("/ws", gows.Gin(service))
	s := open(t, router)
	alice := s.Knock("/ws", "Token", "alice")
	called, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.server.RegisterOnShutdown(func() {
		defer close(done)
		close(called)
		<-release
	})
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		t.Fatal("the server waited for the socket, or for the function:", err)
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
