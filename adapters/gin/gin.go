// Package gows mounts a go-ws service in Gin:
//
//	router.GET("/ws", gows.Gin(service))
//
// Nothing of a *gin.Context is kept: Gin reuses it for the next request.
package gows

import (
	"bufio"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/duxweb/go-ws/core"
)

// Option tells Gin where to find something about a client. Options are applied in order, to a handshake that holds the
// request and, as Token, what a middleware has left as the context value "token". An Option of your own may change what
// it likes.
type Option func(c *gin.Context, h *core.Handshake)

// WithToken finds the token of a client. Where it returns "" the library goes on looking: see Token.
func WithToken(token func(c *gin.Context) string) Option {
	return func(c *gin.Context, h *core.Handshake) {
		if t := token(c); t != "" {
			h.Token = t
		}
	}
}

// WithIdentity hands over the identity that an authentication middleware has established, with its "client_id":
// Provider.Auth is not asked then. Where it returns nil, the token decides.
func WithIdentity(identity func(c *gin.Context) map[string]any) Option {
	return func(c *gin.Context, h *core.Handshake) { h.Identity = identity(c) }
}

// WithApp finds the app that a client belongs to, by a route parameter for example. What the client itself says about it
// does not count then. Where it returns "", it is as without this option.
func WithApp(app func(c *gin.Context) string) Option {
	return func(c *gin.Context, h *core.Handshake) { h.App = app(c) }
}

// WithData finds values to be merged into Client.Data.
func WithData(data func(c *gin.Context) map[string]any) Option {
	return func(c *gin.Context, h *core.Handshake) { h.Data = data(c) }
}

// Gin returns the handler of a WebSocket route. It asks who the client is, accepts or refuses, and returns at once;
// handlers behind it in the chain are not called. It may be mounted on several routes.
func Gin(service *core.Service, opts ...Option) gin.HandlerFunc {
	return func(c *gin.Context) {
		h := core.NewHandshake(c.Request)
		h.RemoteAddr, h.Token = c.ClientIP(), c.GetString("token")
		for _, o := range opts {
			o(c, h)
		}
		c.Abort() // not after Serve: a middleware with a time limit may have given c away by then
		service.Serve(writer{c.Writer, c}, c.Request, h)
	}
}

// Refuse returns a handler that refuses a connection in a way that a browser's script can read, for an authentication
// middleware to call when it says no. code is a close code (3005 for an expired token) or one of HTTP's; see
// core.Service.Refuse. A request that is no upgrade gets a status and JSON.
func Refuse(service *core.Service, code int, reason string) gin.HandlerFunc {
	return func(c *gin.Context) {
		c.Abort()
		service.Refuse(writer{c.Writer, c}, c.Request, code, reason)
	}
}

// writer hands over the connection, and notes the status 101 for access logs, which Gin itself does not learn of.
type writer struct {
	gin.ResponseWriter

	c *gin.Context
}

func (w writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.WriteHeader(http.StatusSwitchingProtocols)
	nc, buffered, err := w.ResponseWriter.Hijack()
	if err == nil {
		w.c.Writer = taken{w.ResponseWriter}
	}
	return nc, buffered, err
}

// Unwrap shows what middlewares without an Unwrap of their own hide: that of a time-out beneath them, which cannot be
// hijacked. Gin passes that on as a Pusher.
func (w writer) Unwrap() http.ResponseWriter {
	if beneath, ok := w.Pusher().(http.ResponseWriter); ok {
		return beneath
	}
	return w.ResponseWriter
}

// taken is the response when there is none any more, for middlewares that go on with it.
type taken struct{ gin.ResponseWriter }

func (taken) Size() int { return -1 } // so that gzip does not end what it has not begun

func (taken) Write([]byte) (int, error) { return 0, http.ErrHijacked }

func (taken) WriteString(string) (int, error) { return 0, http.ErrHijacked }

// Token returns the token of a request from the first place that has one, for a JWT middleware to look up: the context
// value "token", header Token, Authorization: Bearer, subprotocol gows.bearer.<base64url>, query token.
func Token(c *gin.Context) string {
	if token := c.GetString("token"); token != "" {
		return token
	}
	return core.Token(c.Request.Header, c.Request.URL.Query())
}

const key = "github.com/duxweb/go-ws"

// Middleware shares a service with the handlers behind it, which find it with From.
func Middleware(service *core.Service) gin.HandlerFunc {
	return func(c *gin.Context) { c.Set(key, service) }
}

// From returns the service that Middleware shares, or nil where Middleware is not mounted in front of the handler.
func From(c *gin.Context) *core.Service {
	service, _ := c.Value(key).(*core.Service)
	return service
}
