package gows_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	gows "github.com/duxweb/go-ws/adapters/fiber"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// TestAClientStaysWhoItWas: Fiber hands the context of a request to the next one.
func TestAClientStaysWhoItWas(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, speaking(), core.WithLogger(nil))
	s := newSite(t, fiber.Config{})
	s.app.Use(func(c *fiber.Ctx) error {
		c.Locals("user", "user "+c.Get("X-User"))
		return c.Next()
	})
	s.app.Get("/plain", func(c *fiber.Ctx) error { return c.SendString(fmt.Sprint(c.Locals("user"))) })
	s.app.Get("/ws", gows.Fiber(service,
		gows.WithIdentity(func(c *fiber.Ctx) map[string]any { return fiber.Map{"client_id": c.Locals("user")} }),
		gows.WithData(func(c *fiber.Ctx) map[string]any { return fiber.Map{"roles": []any{c.Locals("user")}} })))
	s.open()
	alice := s.knock("/ws", "X-User", "alice")
	const want = `user alice "" 127.0.0.1 map[client_id:user alice roles:[user alice]]`
	if got := alice.whoami(); got != want {
		t.Fatal(got)
	}
	s.others("/ws", "X-User", "MALLORY")
	if got := alice.whoami(); got != want {
		t.Errorf("alice has become %s", got)
	}
}

// TestStringsOfARequestOutliveIt: those that Fiber returns are in memory that the next request is read into.
func TestStringsOfARequestOutliveIt(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, speaking(), core.WithLogger(nil))
	s := newSite(t, fiber.Config{ProxyHeader: "X-Forwarded-For"})
	s.app.Use(func(c *fiber.Ctx) error {
		c.Locals("local", c.Get("X-Name"))
		return c.Next()
	})
	s.app.Get("/ws/:name", gows.Fiber(service,
		gows.WithToken(func(c *fiber.Ctx) string { return c.Cookies("name") }),
		gows.WithIdentity(func(c *fiber.Ctx) map[string]any {
			return fiber.Map{"client_id": c.Get("X-Name"), "deep": fiber.Map{
				"query": c.Query("name"), "strings": []string{c.Params("name")},
				"any": []any{c.Locals("local"), map[string]string{c.Get("X-Name"): c.Cookies("name")}},
			}}
		}),
		gows.WithData(func(c *fiber.Ctx) map[string]any {
			return fiber.Map{"path": c.Path(), "lists": [][]any{{c.Params("name")}, {c.Locals("local")}}}
		})))
	s.open()
	knock := func(name string) *peer {
		return s.knock("/ws/"+name+"?name="+name, "X-Name", name, "Cookie", "name="+name, "X-Forwarded-For", name)
	}
	alice := knock("alice-alice-alice")
	want := alice.whoami()
	if strings.Count(want, "alice-alice-alice") != 12 {
		t.Fatal(want)
	}
	const mallory = "MALLORY-MALLORY-M"
	s.others("/ws/"+mallory+"?name="+mallory, "X-Name", mallory, "Cookie", "name="+mallory, "X-Forwarded-For", mallory)
	if got := alice.whoami(); got != want {
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
			provider := speaking()
			whoami := provider.Message
			provider.Message = func(m *core.Message, client *core.Client) error {
				heard.Add(1)
				return whoami(m, client)
			}
			service := coretest.Run(t, provider, core.WithLogger(nil))
			s := newSite(t, fiber.Config{})
			change(s.app)
			s.app.Get("/ws", gows.Fiber(service))
			s.app.Get("/plain", func(c *fiber.Ctx) error { return c.SendString("plain") })
			s.open()
			const each = 8
			var silent, others []*peer
			speak := func() {
				for _, alice := range silent {
					alice.whoami()
				}
			}
			ask := func() {
				for _, other := range others {
					if _, err := other.asks("/plain", http.Header{"X-Secret": {"secret"}, "Cookie": {"session=secret"}}); err != nil {
						t.Error(err)
					}
				}
			}
			for range each {
				silent = append(silent, s.knock("/ws", "Token", "alice"))
			}
			for range 2 * each { // each of these connections has a buffer for as long as it stays
				others = append(others, s.dial())
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
			s.app.Get("/ws/:worker", func(c *fiber.Ctx) error {
				worker, err := strconv.Atoi(c.Params("worker"))
				if err != nil {
					return err
				}
				return gows.Fiber(services[worker].Load())(c)
			})
			s.app.Get("/plain", func(c *fiber.Ctx) error { return c.SendString("plain") })
			s.open()
			for i := range services {
				services[i].Store(coretest.Run(t, speaking(), core.WithLogger(nil)))
			}
			var all sync.WaitGroup
			for worker := range workers {
				all.Go(func() {
					for i := range rounds {
						p := s.comesIn("/ws/" + strconv.Itoa(worker))
						if got := p.whoami(); !strings.HasPrefix(got, "alice") {
							t.Error(got)
						}
						if i%len(endings) == 0 {
							p.shutDown(services[worker].Load())
							services[worker].Store(coretest.Run(t, speaking(), core.WithLogger(nil)))
							continue
						}
						endings[i%len(endings)](p)
					}
				})
			}
			all.Go(func() {
				for range workers * rounds {
					p := s.dial()
					_, _ = p.asks("/plain", http.Header{}) // refused now and then
					_ = p.Close()
				}
			})
			all.Wait()
			last := "/ws/" + strconv.Itoa(workers)
			var open []*peer
			for i := range 10 {
				for len(open) < limit {
					open = append(open, s.comesIn(last))
				}
				if status := s.refused(); status != http.StatusTooManyRequests {
					t.Fatalf("number %d got in, with status %d", limit+1, status)
				}
				for _, p := range open {
					p.whoami()
				}
				endings[1+i%3](open[0])
				endings[1+(i+1)%3](open[1])
				open = open[2:]
			}
		})
	}
}

// endings are ways for a connection to end, but for the first, which is shutDown.
var endings = []func(p *peer){
	nil,
	func(p *peer) { // the client says good-bye
		p.says(8, "\x03\xe8")
		p.closes(1000)
	},
	func(p *peer) { // the server does
		p.says(1, `{"type":"leave"}`)
		p.closes(4001)
	},
	func(p *peer) { // the client disappears
		_ = p.Conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck,forcetypeassert // it was dialled so
		_ = p.Close()
	},
}

func (p *peer) shutDown(service *core.Service) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(ctx) }()
	p.closes(core.CloseRestart)
	if err := <-down; err != nil {
		p.t.Error(err)
	}
}

// TestWhatFollowsASocketDoesNotReachIt: middlewares go on after the adapter, with a response that is none any more.
func TestWhatFollowsASocketDoesNotReachIt(t *testing.T) {
	t.Parallel()
	late := errors.New("too late")
	for name, follow := range map[string]func(c *fiber.Ctx) error{
		"an error":         func(*fiber.Ctx) error { return late },
		"an error of HTTP": func(*fiber.Ctx) error { return fiber.NewError(http.StatusTeapot, "too late") },
		"JSON": func(c *fiber.Ctx) error {
			return c.Status(http.StatusInternalServerError).JSON(fiber.Map{"error": "too late"})
		},
		"another response": func(c *fiber.Ctx) error {
			c.Response().Reset()
			c.Set("Connection", "close")
			return c.SendString("too late")
		},
	} {
		for variant, change := range variants {
			t.Run(name+", "+variant, func(t *testing.T) {
				t.Parallel()
				service := coretest.Run(t, speaking(), core.WithLogger(nil))
				s := newSite(t, fiber.Config{})
				change(s.app)
				followed := make(chan struct{})
				s.app.Use(func(c *fiber.Ctx) error {
					defer close(followed)
					if err := c.Next(); err != nil {
						t.Error("the adapter returned", err)
					}
					return follow(c)
				})
				s.app.Get("/ws", gows.Fiber(service))
				s.open()
				alice := s.knock("/ws", "Token", "alice")
				<-followed
				alice.whoami()
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
			service := coretest.Run(t, speaking(), core.WithLogger(nil))
			s := newSite(t, fiber.Config{})
			change(s.app)
			listened := make(chan error, 1)
			s.app.Hooks().OnShutdown(func() error {
				if err, first := <-s.ended; first {
					listened <- err
					close(s.ended)
				}
				return nil
			})
			s.app.Get("/ws", gows.Fiber(service))
			s.open()
			alice := s.knock("/ws", "Token", "alice")
			if err := s.app.ShutdownWithTimeout(coretest.Patience); err != nil {
				t.Fatal("the server waited for the socket:", err)
			}
			if err := <-listened; err != nil {
				t.Error(err)
			}
			alice.whoami()
			alice.shutDown(service)
		})
	}
}

// TestALongTokenNeedsALargerReadBuffer: Fiber's has 4 KiB for the whole header, unlike net/http's of 1 MiB.
func TestALongTokenNeedsALargerReadBuffer(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("x", 8<<10)
	for size, want := range map[int]int{0: http.StatusRequestHeaderFieldsTooLarge, 16 << 10: http.StatusSwitchingProtocols} {
		service := coretest.Run(t, speaking(), core.WithLogger(nil))
		s := newSite(t, fiber.Config{ReadBufferSize: size})
		s.app.Get("/ws", gows.Fiber(service))
		s.open()
		p := s.dial()
		if status, err := p.asks("/ws", coretest.Handshake().Header, "Authorization", "Bearer "+token); status != want {
			t.Fatalf("with a buffer of %d bytes: %d, %v", size, status, err)
		}
		if want == http.StatusSwitchingProtocols && !strings.HasPrefix(p.whoami(), token) {
			t.Error("the token is another one")
		}
	}
}

// speaking lets in everybody, under their token, tells them who they are, and shows them out.
func speaking() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Message: func(m *core.Message, client *core.Client) error {
			if m.Type == "leave" {
				return client.Close(4001, "bye")
			}
			return m.Reply(fmt.Sprintf("%s %q %s %v", client.ClientID, client.Token, client.RemoteAddr(), client.Data))
		},
	}
}

// site is an app that is served, and what its server logs.
type site struct {
	*testing.T

	app     *fiber.App
	address string
	ended   chan error   // what Listener returned
	conns   atomic.Int64 // those that are the server's
	log     journal
}

func newSite(t *testing.T, config fiber.Config) *site {
	t.Helper()
	config.DisableStartupMessage = true
	s := &site{T: t, app: fiber.New(config), ended: make(chan error, 1)}
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
	s.address = l.Addr().String()
	go func() { s.ended <- s.app.Listener(l) }()
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

// journal is what was logged.
type journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// peer is a client in a few lines: a library for it would be a requirement of this module.
type peer struct {
	net.Conn

	t  *testing.T
	in *bufio.Reader
}

func (s *site) dial() *peer {
	s.Helper()
	nc, err := net.Dial("tcp", s.address)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(coretest.Patience))
	return &peer{nc, s.T, bufio.NewReader(nc)}
}

// asks sends a GET, with pairs of names and values added to its header, and returns the status of the answer.
func (p *peer) asks(path string, h http.Header, pairs ...string) (int, error) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.RemoteAddr().String()+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for request.Header = h; len(pairs) > 0; pairs = pairs[2:] {
		h.Set(pairs[0], pairs[1])
	}
	var all bytes.Buffer // a server that has read enough closes, and more cannot be written then
	if err := request.Write(&all); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Write(all.Bytes()); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(p.in, request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		_, err = io.Copy(io.Discard, response.Body)
	}
	return response.StatusCode, err
}

// knock asks for a WebSocket.
func (s *site) knock(path string, pairs ...string) *peer {
	s.Helper()
	p := s.dial()
	if status, err := p.asks(path, coretest.Handshake().Header, pairs...); status != http.StatusSwitchingProtocols {
		s.Fatalf("%s: %d, %v", path, status, err)
	}
	return p
}

// comesIn asks for a WebSocket until there is room for one.
func (s *site) comesIn(path string) *peer {
	s.Helper()
	for deadline := time.Now().Add(coretest.Patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		p := s.dial()
		if status, _ := p.asks(path, coretest.Handshake().Header, "Token", "alice"); status == http.StatusSwitchingProtocols {
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
	p := s.dial()
	defer p.Close()
	_ = p.SetDeadline(time.Now().Add(time.Second))
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		s.Fatal("not refused:", err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// others makes requests with a header that is not that of alice, on connections that stay for a while, and sockets.
func (s *site) others(path string, pairs ...string) {
	s.Helper()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				mallory := s.knock(path, pairs...)
				p := s.dial()
				for range 8 {
					if _, err := p.asks("/plain", http.Header{}, pairs...); err != nil {
						s.Error(err)
					}
				}
				_, _ = mallory.Close(), p.Close()
			}
		})
	}
	all.Wait()
}

// says sends a frame of at most 125 bytes.
func (p *peer) says(opcode byte, text string) {
	p.t.Helper()
	if _, err := p.Write(append([]byte{0x80 | opcode, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
		p.t.Fatal(err)
	}
}

// whoami asks the provider of speaking.
func (p *peer) whoami() string {
	p.t.Helper()
	p.says(1, `{"id":"1","type":"whoami"}`)
	var m core.Message
	if opcode, payload := p.hears(); opcode != 1 || json.Unmarshal(payload, &m) != nil || m.Type != "receive" {
		p.t.Fatalf("frame %d: %q", opcode, payload)
	}
	return fmt.Sprint(m.Data)
}

// closes waits for the server's close, and leaves.
func (p *peer) closes(code uint16) {
	p.t.Helper()
	defer p.Close()
	if opcode, payload := p.hears(); opcode != 8 || len(payload) < 2 || binary.BigEndian.Uint16(payload) != code {
		p.t.Errorf("frame %d: %q, want close %d", opcode, payload, code)
	}
}

// hears returns the next frame.
func (p *peer) hears() (opcode byte, payload []byte) {
	p.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(p.in, head[:2]); err != nil {
		p.t.Fatal(err)
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(p.in, head[2:]); err != nil {
			p.t.Fatal(err)
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(p.in, payload); err != nil {
		p.t.Fatal(err)
	}
	return head[0] & 0xf, payload
}
