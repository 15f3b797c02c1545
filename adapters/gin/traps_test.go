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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	gows "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// TestAClientStaysWhoItWas: Gin hands the context of a request to the next one.
func TestAClientStaysWhoItWas(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, speaking(), core.WithLogger(nil))
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
	alice := s.knock("/ws/alice", "X-User", "alice")
	const want = "alice map[client_id:alice roles:[alice] user:alice]"
	if got := alice.whoami(); got != want {
		t.Fatal(got)
	}
	s.others("/ws/MALLORY", "X-User", "MALLORY")
	if got := alice.whoami(); got != want {
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
			service := coretest.Run(t, speaking(), core.WithLogger(nil))
			router := gin.New()
			router.Use(gin.RecoveryWithWriter(io.Discard), func(c *gin.Context) {
				c.Next()
				follow(c)
			})
			router.GET("/ws", gows.Gin(service), func(*gin.Context) { t.Error("a handler behind the adapter was called") })
			s := open(t, router)
			alice := s.knock("/ws", "Token", "alice")
			alice.whoami()
			s.handling.Wait()
			alice.whoami()
			want := ""
			if name == "JSON" { // net/http keeps it from the socket
				want = "http: response.Write on hijacked connection"
			}
			if got := s.log.String(); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != strings.Count(want, "http") {
				t.Errorf("logged was %q, want %q", got, want)
			}
		})
	}
}

// TestTheServerShutsDownBeforeTheService: http.Server.Shutdown knows nothing of WebSockets, so that main waits first for
// the server and then for the service. A function of RegisterOnShutdown is no place for that: nobody waits for it.
func TestTheServerShutsDownBeforeTheService(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, speaking(), core.WithLogger(nil))
	router := gin.New()
	router.GET("/ws", gows.Gin(service))
	s := open(t, router)
	alice := s.knock("/ws", "Token", "alice")
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
	alice.whoami()
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(ctx) }()
	if code := alice.closes(); code != core.CloseRestart {
		t.Error("closed with", code)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// speaking lets in everybody, under their token, and tells them who they are.
func speaking() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Message: func(m *core.Message, client *core.Client) error {
			return m.Reply(fmt.Sprint(client.ClientID, " ", client.Data))
		},
	}
}

// site is a server, and what it logs.
type site struct {
	*testing.T

	server   *http.Server
	address  string
	handling sync.WaitGroup // the requests
	log      journal
}

func open(t *testing.T, h http.Handler) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, address: l.Addr().String()}
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
func (p *peer) asks(path string, h http.Header, pairs ...string) int {
	p.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.RemoteAddr().String()+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for request.Header = h; len(pairs) > 0; pairs = pairs[2:] {
		h.Set(pairs[0], pairs[1])
	}
	if err := request.Write(p); err != nil {
		p.t.Fatal(err)
	}
	response, err := http.ReadResponse(p.in, request)
	if err != nil {
		p.t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		_, _ = io.Copy(io.Discard, response.Body)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// knock asks for a WebSocket.
func (s *site) knock(path string, pairs ...string) *peer {
	s.Helper()
	p := s.dial()
	if status := p.asks(path, coretest.Handshake().Header, pairs...); status != http.StatusSwitchingProtocols {
		s.Fatalf("%s: %d", path, status)
	}
	return p
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
					p.asks("/plain", http.Header{}, pairs...)
				}
				_, _ = mallory.Close(), p.Close()
			}
		})
	}
	all.Wait()
}

// whoami asks the provider of speaking.
func (p *peer) whoami() string {
	p.t.Helper()
	const text = `{"id":"1","type":"whoami"}`
	if _, err := p.Write(append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
		p.t.Fatal(err)
	}
	var m core.Message
	if opcode, payload := p.hears(); opcode != 1 || json.Unmarshal(payload, &m) != nil || m.Type != "receive" {
		p.t.Fatalf("frame %d: %q", opcode, payload)
	}
	return fmt.Sprint(m.Data)
}

// closes returns the code that the server closes with, and leaves.
func (p *peer) closes() int {
	p.t.Helper()
	defer p.Close()
	opcode, payload := p.hears()
	if opcode != 8 || len(payload) < 2 {
		p.t.Fatalf("frame %d: %q", opcode, payload)
	}
	return int(binary.BigEndian.Uint16(payload))
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
