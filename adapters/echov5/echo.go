// Package gows mounts a go-ws service in Echo v5:
//
//	e.GET("/ws", gows.Echo(service))
//
// Nothing of an *echo.Context is kept: Echo reuses it for the next request.
package gows

import (
	"net/http"

	"github.com/labstack/echo/v5"

	"github.com/duxweb/go-ws/core"
)

// Option tells Echo where to find something about a client. Options are applied in order, to a handshake that holds the
// request and, as Token, what a middleware has left as the context value "token". An Option of your own may change what
// it likes.
type Option func(c *echo.Context, h *core.Handshake)

// WithToken finds the token of a client. Where it returns "" the library goes on looking: see Token.
func WithToken(token func(c *echo.Context) string) Option {
	return func(c *echo.Context, h *core.Handshake) {
		if t := token(c); t != "" {
			h.Token = t
		}
	}
}

// WithIdentity hands over the identity that an authentication middleware has established, with its "client_id":
// Provider.Auth is not asked then. Where it returns nil, the token decides.
func WithIdentity(identity func(c *echo.Context) map[string]any) Option {
	return func(c *echo.Context, h *core.Handshake) { h.Identity = identity(c) }
}

// WithApp finds the app that a client belongs to, by a route parameter for example. What the client itself says about it
// does not count then. Where it returns "", it is as without this option.
func WithApp(app func(c *echo.Context) string) Option {
	return func(c *echo.Context, h *core.Handshake) { h.App = app(c) }
}

// WithData finds values to be merged into Client.Data.
func WithData(data func(c *echo.Context) map[string]any) Option {
	return func(c *echo.Context, h *core.Handshake) { h.Data = data(c) }
}

// Echo returns the handler of a WebSocket route. It asks who the client is, accepts or refuses, and returns nil at once.
// It may be mounted on several routes.
func Echo(service *core.Service, opts ...Option) echo.HandlerFunc {
	return func(c *echo.Context) error {
		h := core.NewHandshake(c.Request())
		h.RemoteAddr, h.Token = c.RealIP(), given(c)
		for _, o := range opts {
			o(c, h)
		}
		service.Serve(c.Response(), c.Request(), h)
		return done(c)
	}
}

// Refuse returns a handler that refuses a connection in a way that a browser's script can read, for the error handler of
// an authentication middleware to call. code is a close code (3005 for an expired token) or one of HTTP's; see
// core.Service.Refuse. A request that is no upgrade gets a status and JSON.
func Refuse(service *core.Service, code int, reason string) echo.HandlerFunc {
	return func(c *echo.Context) error {
		service.Refuse(c.Response(), c.Request(), code, reason)
		return done(c)
	}
}

// done keeps Echo from writing to a connection that is not its own any more.
func done(c *echo.Context) error {
	if response, err := echo.UnwrapResponse(c.Response()); err == nil && !response.Committed {
		response.Committed, response.Status = true, http.StatusSwitchingProtocols
	}
	return nil
}

// Token returns the token of a request from the first place that has one, for a JWT middleware to look up: the context
// value "token", header Token, Authorization: Bearer, subprotocol gows.bearer.<base64url>, query token.
func Token(c *echo.Context) string {
	if token := given(c); token != "" {
		return token
	}
	return core.Token(c.Request().Header, c.QueryParams())
}

func given(c *echo.Context) string {
	token, _ := c.Get("token").(string)
	return token
}

const key = "github.com/duxweb/go-ws"

// Middleware shares a service with the handlers behind it, which find it with From.
func Middleware(service *core.Service) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			c.Set(key, service)
			return next(c)
		}
	}
}

// From returns the service that Middleware shares, or nil where Middleware is not mounted in front of the handler.
func From(c *echo.Context) *core.Service {
	service, _ := c.Get(key).(*core.Service)
	return service
}
