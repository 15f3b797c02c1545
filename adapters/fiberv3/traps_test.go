package gows_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"

	gows "github.com/duxweb/go-ws/adapters/fiberv3"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/wstest"
)

// TestAClientStaysWhoItWas: Fiber hands the context of a request to the next one.
func TestAClientStaysWhoItWas(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	s := newSite(t, fiber.Config{})
	s.app.Use(func(c fiber.Ctx) error {
		c.Locals("user", "user "+c.Get("X-User"))
		return c.Next()
	})
	s.app.Get("/plain", func(c fiber.Ctx) error { return c.SendString(fmt.Sprint(c.Locals("user"))) })
	s.app.Get("/ws", gows.Fiber(service,
		gows.WithIdentity(func(c fiber.Ctx) map[string]any { return fiber.Map{"client_id": c.Locals("user")} }),
		gows.WithData(func(c fiber.Ctx) map[string]any { return fiber.Map{"roles": []any{c.Locals("user")}} })))
	s.open()
	alice := s.Knock("/ws", "X-User", "alice")
	const want = `user alice "" 127.0.0.1 map[client_id:user alice roles:[user alice]]`
	if got := alice.Whoami(); got != want {
		t.Fatal(got)
	}
	s.Others("/ws", "X-User", "MALLORY")
	if got := alice.Whoami(); got != want {
		t.Errorf("alice has become %s", got)
	}
}

// TestStringsOfARequestOutliveIt: those that Fiber returns are in memory that the next request is read into.
func TestStringsOfARequestOutliveIt(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
	s := newSite(t, fiber.Config{
		ProxyHeader: "X-Forwarded-For", TrustProxy: true, TrustProxyConfig: fiber.TrustProxyConfig{Loopback: true},
	})
	s.app.Use(func(c fiber.Ctx) error {
		c.Locals("local", c.Get("X-Name"))
		return c.Next()
	})
	s.app.Get("/ws/:name", gows.Fiber(service,
		gows.WithToken(func(c fiber.Ctx) string { return c.Cookies("name") }),
		gows.WithIdentity(func(c fiber.Ctx) map[string]any {
			return fiber.Map{"client_id": c.Get("X-Name"), "deep": fiber.Map{
				"query": c.Query("name"), "strings": []string{c.Params("name")},
				"any": []any{c.Locals("local"), map[string]string{c.Get("X-Name"): c.Cookies("name")}},
			}}
		}),
		gows.WithData(func(c fiber.Ctx) map[string]any {
			return fiber.Map{"path": c.Path(), "lists": [][]any{{c.Params("name")}, {c.Locals("local")}}}
		})))
	s.open()
	knock := func(name string) *wstest.Peer {
		return s.Knock("/ws/"+name+"?name="+name, "X-Name", name, "Cookie", "name="+name, "X-Forwarded-For", name)
	}
	alice := knock("alice-alice-alice")
	want := alice.Whoami()
	if strings.Count(want, "alice-alice-alice") != 12 {
		t.Fatal(want)
	}
	const mallory = "MALLORY-MALLORY-M"
	s.Others("/ws/"+mallory+"?name="+mallory, "X-Name", mallory, "Cookie", "name="+mallory, "X-Forwarded-For", mallory)
	if got := alice.Whoami(); got != want {
		t.Errorf("alice has become %s", got)
	}
}

// TestASilentSocketHearsNothingOfOthers: fasthttp gives the buffer of a connection away as soon as the handler that was
// handed the connection returns, and reads the next client's request into it.
func TestASilentSocketHearsNothingOfOthers(t *testing.T) {
	t.Parallel()
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var heard atomic.Int64
			provider := wstest.Speaking()
			whoami := provider.Message
			provider.Message = func(m *core.Message, client *core.Client) error {
				heard.Add(1)
				return whoami(m, client)
			}
			service := coretest.Run(t, provider, core.WithLogger(nil))
			s := newSite(t, fiber.Config{})
			change(s.app)
			s.app.Get("/ws", gows.Fiber(service))
			s.app.Get("/plain", func(c fiber.Ctx) error { return c.SendString("plain") })
			s.open()
			const each = 8
			var silent, others []*wstest.Peer
			speak := func() {
				for _, alice := range silent {
					alice.Whoami()
				}
			}
			ask := func() {
				for _, other := range others {
					if _, err := other.Asks("/plain", http.Header{"X-Secret": {"secret"}, "Cookie": {"session=secret"}}); err != nil {
						t.Error(err)
					}
				}
			}
			for range each {
				silent = append(silent, s.Knock("/ws", "Token", "alice"))
			}
			for range 2 * each { // each of these connections has a buffer for as long as it stays
				others = append(others, s.Dial())
			}
			ask()
			speak() // whoever reads a second time, into a buffer that is not his any more, hears the others
			ask()
			ask()
			if n := heard.Load(); n != each || service.Stats().Connections != each {
				t.Errorf("%d messages were heard from %d clients, and %d are left", n, each, service.Stats().Connections)
			}
			speak()
		})
	}
}

// variants are the ways in which a server hands over a connection.
var variants = map[string]func(app *fiber.App){
	"as it comes":              func(*fiber.App) {},
	"with KeepHijackedConns":   func(app *fiber.App) { app.Server().KeepHijackedConns = true },
	"with a limit per address": func(app *fiber.App) { app.Server().MaxConnsPerIP = 1000 },
}

// TestALimitPerAddressCountsRight: closing a connection that fasthttp counts by its address twice is a panic of the
// process, or closes that of somebody else.
func TestALimitPerAddressCountsRight(t *testing.T) {
	t.Parallel()
	const limit, workers, rounds = 5, 4, 50
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprint("KeepHijackedConns ", kept), func(t *testing.T) {
			t.Parallel()
			var services [workers + 1]atomic.Pointer[core.Service]
			s := newSite(t, fiber.Config{})
			s.app.Server().MaxConnsPerIP, s.app.Server().KeepHijackedConns = limit, kept
			s.app.Get("/ws/:worker", func(c fiber.Ctx) error {
				worker, err := strconv.Atoi(c.Params("worker"))
				if err != nil {
					return err
				}
				return gows.Fiber(services[worker].Load())(c)
			})
			s.app.Get("/plain", func(c fiber.Ctx) error { return c.SendString("plain") })
			s.open()
			for i := range services {
				services[i].Store(coretest.Run(t, wstest.Speaking(), core.WithLogger(nil)))
			}
			var all sync.WaitGroup
			for worker := range workers {
				all.Go(func() {
					for i := range rounds {
						p := s.comesIn("/ws/" + strconv.Itoa(worker))
						if got := p.Whoami(); !strings.HasPrefix(got, "alice") {
							t.Error(got)
						}
						if i%len(endings) == 0 {
							shutDown(t, p, services[worker].Load())
							services[worker].Store(coretest.Run(t, wstest.Speaking(), core.WithLogger(nil)))
							continue
						}
						endings[i%len(endings)](p)
					}
				})
			}
			all.Go(func() {
				for range workers * rounds {
					p := s.Dial()
					_, _ = p.Asks("/plain", http.Header{}) // refused now and then
					_ = p.Close()
				}
			})
			all.Wait()
			last := "/ws/" + strconv.Itoa(workers)
			var open []*wstest.Peer
			for i := range 10 {
				for len(open) < limit {
					open = append(open, s.comesIn(last))
				}
				if status := s.refused(); status != http.StatusTooManyRequests {
					t.Fatalf("number %d got in, with status %d", limit+1, status)
				}
				for _, p := range open {
					p.Whoami()
				}
				endings[1+i%3](open[0])
				endings[1+(i+1)%3](open[1])
				open = open[2:]
			}
		})
	}
}

// endings are ways for a connection to end, but for the first, which is shutDown.
var endings = []func(p *wstest.Peer){
	nil,
	func(p *wstest.Peer) { // the client says good-bye
		p.Says(8, "\x03\xe8")
		p.Closes(1000)
	},
	func(p *wstest.Peer) { // the server does
		p.Says(1, `{"type":"leave"}`)
		p.Closes(4001)
	},
	func(p *wstest.Peer) { // the client disappears
		_ = p.Conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck,forcetypeassert // it was dialled so
		_ = p.Close()
	},
}

func shutDown(t *testing.T, p *wstest.Peer, service *core.Service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(ctx) }()
	p.Closes(core.CloseRestart)
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestWhatFollowsASocketDoesNotReachIt: middlewares go on after the adapter, with a response that is none any more.
func TestWhatFollowsASocketDoesNotReachIt(t *testing.T) {
	t.Parallel()
	late := errors.New("too late")
	for name, follow := range map[string]func(c fiber.Ctx) error{
		"an error":         func(fiber.Ctx) error { return late },
		"an error of HTTP": func(fiber.Ctx) error { return fiber.NewError(http.StatusTeapot, "too late") },
		"JSON": func(c fiber.Ctx) error {
			return c.Status(http.StatusInternalServerError).JSON(fiber.Map{"error": "too late"})
		},
		"another response": func(c fiber.Ctx) error {
			c.Response().Reset()
			c.Set("Connection", "close")
			return c.SendString("too late")
		},
	} {
		for variant, change := range variants {
			t.Run(name+", "+variant, func(t *testing.T) {
				t.Parallel()
				service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
				s := newSite(t, fiber.Config{})
				change(s.app)
				followed := make(chan struct{})
				s.app.Use(func(c fiber.Ctx) error {
					defer close(followed)
					if err := c.Next(); err != nil {
						t.Error("the adapter returned", err)
					}
					return follow(c)
				})
				s.app.Get("/ws", gows.Fiber(service))
				s.open()
				alice := s.Knock("/ws", "Token", "alice")
				<-followed
				alice.Whoami()
				endings[2](alice)
				if got := s.log.String(); got != "" {
					t.Error(got)
				}
			})
		}
	}
}

// TestTheServerShutsDownBeforeTheService: Fiber's Shutdown knows nothing of WebSockets, so that main waits first for the
// server and then for the service. A hook is no place for that where main waits for Listen: it returns before.
func TestTheServerShutsDownBeforeTheService(t *testing.T) {
	t.Parallel()
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
			s := newSite(t, fiber.Config{})
			change(s.app)
			listened := make(chan error, 1)
			s.app.Hooks().OnPostShutdown(func(error) error {
				if err, first := <-s.ended; first {
					listened <- err
					close(s.ended)
				}
				return nil
			})
			s.app.Get("/ws", gows.Fiber(service))
			s.open()
			alice := s.Knock("/ws", "Token", "alice")
			if err := s.app.ShutdownWithTimeout(coretest.Patience); err != nil {
				t.Fatal("the server waited for the socket:", err)
			}
			if err := <-listened; err != nil {
				t.Error(err)
			}
			alice.Whoami()
			shutDown(t, alice, service)
		})
	}
}

// TestALongTokenNeedsALargerReadBuffer: Fiber's has 4 KiB for the whole header, unlike net/http's of 1 MiB.
func TestALongTokenNeedsALargerReadBuffer(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("x", 8<<10)
	for size, want := range map[int]int{0: http.StatusRequestHeaderFieldsTooLarge, 16 << 10: http.StatusSwitchingProtocols} {
		service := coretest.Run(t, wstest.Speaking(), core.WithLogger(nil))
		s := newSite(t, fiber.Config{ReadBufferSize: size})
		s.app.Get("/ws", gows.Fiber(service))
		s.open()
		p := s.Dial()
		if status, err := p.Asks("/ws", coretest.Handshake().Header, "Authorization", "Bearer "+token); status != want {
			t.Fatalf("with a buffer of %d bytes: %d, %v", size, status, err)
		}
		if want == http.StatusSwitchingProtocols && !strings.HasPrefix(p.Whoami(), token) {
			t.Error("the token is another one")
		}
	}
}

// site is an app that is served, and what its server logs.
type site struct {
	wstest.Site

	app   *fiber.App
	ended chan error   // what Listener returned
	conns atomic.Int64 // those that are the server's
	log   wstest.Journal
}

func newSite(t *testing.T, config fiber.Config) *site {
	t.Helper()
	s := &site{Site: wstest.Site{T: t}, app: fiber.New(config), ended: make(chan error, 1)}
	s.app.Server().Logger = log.New(&s.log, "", 0)
	s.app.Server().ConnState = func(_ net.Conn, state fasthttp.ConnState) {
		switch state {
		case fasthttp.StateNew:
			s.conns.Add(1)
		case fasthttp.StateClosed, fasthttp.StateHijacked:
			s.conns.Add(-1)
		default:
		}
	}
	return s
}

// open serves the app until the test ends.
func (s *site) open() {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	s.Address = l.Addr().String()
	go func() { s.ended <- s.app.Listener(l, fiber.ListenConfig{DisableStartupMessage: true}) }()
	s.Cleanup(func() {
		// Where there is a limit per address, fasthttp's Shutdown may close a connection twice that is just ending.
		deadline := time.Now().Add(coretest.Patience)
		for s.conns.Load() > 0 && time.Now().Before(deadline) {
			<-time.After(time.Millisecond)
		}
		_ = s.app.Shutdown()
		if err := <-s.ended; err != nil {
			s.Error(err)
		}
	})
}

// comesIn asks for a WebSocket until there is room for one.
func (s *site) comesIn(path string) *wstest.Peer {
	s.Helper()
	for deadline := time.Now().Add(coretest.Patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		p := s.Dial()
		if status, _ := p.Asks(path, coretest.Handshake().Header, "Token", "alice"); status == http.StatusSwitchingProtocols {
			return p
		}
		_ = p.Close()
	}
	s.Fatal("there is no room for a connection any more")
	return nil
}

// refused connects, and returns the status that it is refused with before it says anything.
func (s *site) refused() int {
	s.Helper()
	p := s.Dial()
	defer p.Close()
	_ = p.SetDeadline(time.Now().Add(time.Second))
	response, err := http.ReadResponse(p.In, nil)
	if err != nil {
		s.Fatal("not refused:", err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
