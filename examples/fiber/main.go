// Command fiber is the chat of examples/chat behind Fiber and its JWT middleware. Run it with go run . in this folder and
// open http://localhost:8080 in two windows. A terminal brings the token as a header:
//
//	token=$(curl -d name=carol localhost:8080/login)
//	curl -H "Authorization: Bearer $token" localhost:8080/online
//	curl -H "Authorization: Bearer $token" -d "Lunch?" localhost:8080/users/alice/notify
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os/signal"
	"syscall"
	"time"

	jwtware "github.com/gofiber/contrib/jwt"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/filesystem"
	"github.com/gofiber/fiber/v2/middleware/logger"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/golang-jwt/jwt/v5"

	gows "github.com/duxweb/go-ws/adapters/fiber"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
	"github.com/duxweb/go-ws/examples/chat/rooms"
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	flag.Parse()

	service, app := application()
	if err := service.Run(); err != nil {
		log.Fatal(err)
	}
	go func() {
		if err := app.Listen(*addr); err != nil {
			log.Fatal(err)
		}
	}()
	log.Print("the chat listens on ", *addr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-ctx.Done()
	stop() // a second signal ends at once
	// More than ReadTimeout: who is slow to send a request leaves time for the sockets.
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	err := errors.Join(app.ShutdownWithContext(deadline), service.Shutdown(deadline))
	cancel()
	if err != nil {
		log.Fatal(err)
	}
}

// application returns the service, which does not run yet, and the routes to it.
func application() (*core.Service, *fiber.App) {
	chat := rooms.New()
	service := core.New(drivers.NewMemoryDriver(), &core.Provider{ // no Auth: the middleware knows who it is
		Subscribe: chat.Subscribe, Publish: chat.Publish, Message: chat.Message,
	}, core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents}))

	app := fiber.New(fiber.Config{
		DisableStartupMessage: true,
		ReadTimeout:           10 * time.Second, // of requests; a socket has none
	})
	app.Use(logger.New()) // prints ${path}; ${url} has the query, too, where a token may stand
	app.Use(recover.New(), sameSite)
	app.Post("/login", login)
	app.Post("/push", func(c *fiber.Ctx) error { // open to the page's curl line; yours asks who may
		return answer(c, chat.Push(service, c.Query("room"), string(c.Body())))
	})

	known := signedIn(service)
	app.Get("/ws", known, gows.Fiber(service, gows.WithIdentity(func(c *fiber.Ctx) map[string]any {
		return identity(c.Locals("user"))
	})))
	app.Post("/kick", known, func(c *fiber.Ctx) error { // yours asks who may
		by := fmt.Sprint("kicked by ", identity(c.Locals("user"))["client_id"])
		return answer(c, service.Disconnect(c.UserContext(), c.Query("name"), core.CloseKicked, by))
	})
	app.Post("/users/:name/notify", known, func(c *fiber.Ctx) error { // on all devices of that person
		name, err := url.PathUnescape(c.Params("name"))
		if err != nil {
			return fiber.ErrBadRequest
		}
		notice := &core.Message{Type: "notice", Message: string(c.Body())}
		return answer(c, service.Send(c.UserContext(), name, notice))
	})
	app.Get("/online", known, func(c *fiber.Ctx) error {
		members, err := service.Members(c.UserContext(), rooms.Lobby, 1000)
		if err != nil {
			return answer(c, err)
		}
		return c.JSON(rooms.Names(members))
	})

	// A route that upgrades with contrib/websocket already may keep doing so. A page that offers its token as a subprotocol
	// wants gows answered. Who signs in by cookie sets Origins, too: without it pages of any origin may connect.
	app.Get("/contrib", known, websocket.New(func(conn *websocket.Conn) {
		_ = service.ServeConn(conn, &core.Handshake{Identity: identity(conn.Locals("user"))}) // logs why it refuses
	}, websocket.Config{Subprotocols: []string{"gows"}}))

	app.Use(filesystem.New(filesystem.Config{Root: http.FS(page.Files)}))
	return service, app
}

var secret = []byte(rand.Text() + rand.Text()) // of this process: no token outlives it

// login gives a token to everybody who has a name. Yours asks for a password.
func login(c *fiber.Ctx) error {
	name, err := rooms.Name(c.FormValue("name"))
	if err != nil {
		return answer(c, err)
	}
	token, err := sign(name, time.Now().Add(10*time.Minute))
	if err != nil {
		return answer(c, err)
	}
	return c.SendString(token)
}

func sign(name string, end time.Time) (string, error) {
	claims := jwt.MapClaims{"sub": name, "exp": end.Unix()}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
}

// signedIn lets pass who has a token. All others are refused in a way that a page can read: it comes back with a new one.
func signedIn(service *core.Service) fiber.Handler {
	refuse := gows.Refuse(service, core.CloseExpired, "please sign in again")
	check := jwtware.New(jwtware.Config{
		SigningKey:   jwtware.SigningKey{JWTAlg: jwtware.HS256, Key: secret},
		ErrorHandler: func(c *fiber.Ctx, _ error) error { return refuse(c) },
	})
	return func(c *fiber.Ctx) error {
		c.Request().Header.Set(fiber.HeaderAuthorization, "Bearer "+gows.Token(c)) // which no script can set for a socket
		return check(c)
	}
}

// identity tells the library who this is, and until when: it then ends the connection.
func identity(user any) map[string]any {
	token, _ := user.(*jwt.Token)
	claims, _ := token.Claims.(jwt.MapClaims)
	return fiber.Map{"client_id": claims["sub"], "exp": claims["exp"]}
}

// sameSite keeps pages of other sites from posting in the name of somebody who looks at them.
func sameSite(c *fiber.Ctx) error {
	request, err := adaptor.ConvertRequest(c, false)
	if err != nil {
		return fiber.ErrBadRequest
	}
	if err := http.NewCrossOriginProtection().Check(request); err != nil {
		return c.Status(fiber.StatusForbidden).SendString(err.Error())
	}
	return c.Next()
}

func answer(c *fiber.Ctx, err error) error {
	status, text := rooms.Outcome(err)
	return c.Status(status).SendString(text)
}
