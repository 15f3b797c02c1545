// Package gows mounts a go-ws service in Fiber v3:
//
//	app.Get("/ws", gows.Fiber(service))
//
// Nothing of a fiber.Ctx is kept, nor of its memory: Fiber reuses both for the next request.
package gows

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v3"

	"github.com/duxweb/go-ws/core"
)

// Option tells Fiber where to find something about a client. Options are applied in order, to a handshake that holds the
// request and, as Token, what a middleware has left as the local "token" (Fiber's keyauth does). An Option of your own
// may change what it likes. What it sets is copied, the strings in maps, slices and structs included, but not what is
// behind pointers.
type Option func(c fiber.Ctx, h *core.Handshake)

// WithToken finds the token of a client. Where it returns "" the library goes on looking: see Token.
func WithToken(token func(c fiber.Ctx) string) Option {
	return func(c fiber.Ctx, h *core.Handshake) {
		if t := token(c); t != "" {
			h.Token = t
		}
	}
}

// WithIdentity hands over the identity that an authentication middleware has established, with its "client_id":
// Provider.Auth is not asked then. Where it returns nil, the token decides.
func WithIdentity(identity func(c fiber.Ctx) map[string]any) Option {
	return func(c fiber.Ctx, h *core.Handshake) { h.Identity = identity(c) }
}

// WithApp finds the app that a client belongs to, by a route parameter for example. What the client itself says about it
// does not count then. Where it returns "", it is as without this option.
func WithApp(app func(c fiber.Ctx) string) Option {
	return func(c fiber.Ctx, h *core.Handshake) { h.App = app(c) }
}

// WithData finds values to be merged into Client.Data.
func WithData(data func(c fiber.Ctx) map[string]any) Option {
	return func(c fiber.Ctx, h *core.Handshake) { h.Data = data(c) }
}

// Fiber returns the handler of a WebSocket route. It asks who the client is, accepts or refuses, and returns nil at once.
// It may be mounted on several routes.
func Fiber(service *core.Service, opts ...Option) fiber.Handler {
	return func(c fiber.Ctx) error {
		h := handshake(c)
		for _, o := range opts {
			o(c, h)
		}
		ticket, err := service.Admit(c.Context(), h.Clone())
		return answer(c, service, ticket, err)
	}
}

// Refuse returns a handler that refuses a connection in a way that a browser's script can read, for the error handler of
// an authentication middleware to call. code is a close code (3005 for an expired token) or one of HTTP's; see
// core.Service.Refuse. A request that is no upgrade gets a status and JSON.
func Refuse(service *core.Service, code int, reason string) fiber.Handler {
	return func(c fiber.Ctx) error {
		ticket, err := service.AdmitRefused(handshake(c).Clone(), code, reason)
		return answer(c, service, ticket, err)
	}
}

func handshake(c fiber.Ctx) *core.Handshake {
	h := &core.Handshake{
		Proto: string(c.Request().Header.Protocol()), Method: c.Method(), Host: string(c.Request().Host()), RemoteAddr: c.IP(),
		Peer:   c.RequestCtx().RemoteAddr().String(),
		Header: http.Header{}, Query: query(c), Token: local(c),
	}
	for name, values := range c.GetReqHeaders() {
		for _, value := range values {
			h.Header.Add(name, value) // makes the name canonical, which it is not where normalizing is switched off
		}
	}
	return h
}

func query(c fiber.Ctx) url.Values {
	values, _ := url.ParseQuery(string(c.Request().URI().QueryString())) // as net/http does, what cannot be read is left out
	return values
}

func local(c fiber.Ctx) string {
	token, _ := c.Locals("token").(string)
	return token
}

// answer writes a refusal, or hands the connection over as soon as the handler has returned.
func answer(c fiber.Ctx, service *core.Service, ticket *core.Ticket, err error) error {
	if refusal := (*core.Refusal)(nil); errors.As(err, &refusal) {
		for name := range refusal.Header {
			c.Set(name, refusal.Header.Get(name))
		}
		return c.Status(refusal.Status).JSON(refusal)
	}
	c.Status(http.StatusSwitchingProtocols) // for access logs; the core writes the response
	c.RequestCtx().HijackSetNoResponse(true)
	c.RequestCtx().Hijack(func(hijacked net.Conn) { service.AttachHijacked(hijacked, ticket) })
	return nil
}

// Token returns the token of a request from the first place that has one, for a JWT middleware to look up: the local
// "token", header Token, Authorization: Bearer, subprotocol gows.bearer.<base64url>, query token. It is a copy.
func Token(c fiber.Ctx) string {
	h := handshake(c)
	if h.Token == "" {
		h.Token = core.Token(h.Header, h.Query)
	}
	return strings.Clone(h.Token)
}

const key = "github.com/duxweb/go-ws"

// Middleware shares a service with the handlers behind it, which find it with From.
func Middleware(service *core.Service) fiber.Handler {
	return func(c fiber.Ctx) error {
		c.Locals(key, service)
		return c.Next()
	}
}

// From returns the service that Middleware shares, or nil where Middleware is not mounted in front of the handler.
func From(c fiber.Ctx) *core.Service {
	service, _ := c.Locals(key).(*core.Service)
	return service
}
