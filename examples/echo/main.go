// Command echo is the chat of examples/chat behind Echo and echo-jwt. Run it with go run . in this folder and open
// http://localhost:8080 in two windows. A terminal brings the token as a header:
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
	"io"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	echojwt "github.com/labstack/echo-jwt/v4"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	gows "github.com/duxweb/go-ws/adapters/echo"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
	"github.com/duxweb/go-ws/examples/chat/rooms"
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	flag.Parse()

	service, handler := application()
	if err := service.Run(); err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Addr: *addr, Handler: handler,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, // of requests; a socket has none
	}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	log.Print("the chat listens on ", *addr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-ctx.Done()
	stop() // a second signal ends at once
	// More than ReadTimeout: who is slow to send a request leaves time for the sockets.
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	err := errors.Join(server.Shutdown(deadline), service.Shutdown(deadline))
	cancel()
	if err != nil {
		log.Fatal(err)
	}
}

// application returns the service, which does not run yet, and the routes to it.
func application() (*core.Service, http.Handler) {
	chat := rooms.New()
	service := core.New(drivers.NewMemoryDriver(), &core.Provider{ // no Auth: the middleware knows who it is
		Subscribe: chat.Subscribe, Publish: chat.Publish, Message: chat.Message,
	}, core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents}))

	e := echo.New()
	e.Use(accessLog(), middleware.Recover())
	e.StaticFS("/", page.Files)
	e.POST("/login", login)
	e.POST("/push", func(c echo.Context) error { // open to the page's curl line; yours asks who may
		return answer(c, chat.Push(service, c.QueryParam("room"), body(c)))
	})

	known := signedIn(service)
	e.GET("/ws", gows.Echo(service, gows.WithIdentity(identity)), known)
	e.POST("/kick", func(c echo.Context) error { // yours asks who may
		by := fmt.Sprint("kicked by ", identity(c)["client_id"])
		return answer(c, service.Disconnect(c.Request().Context(), c.QueryParam("name"), core.CloseKicked, by))
	}, known)
	e.POST("/users/:name/notify", func(c echo.Context) error { // on all devices of that person
		notice := &core.Message{Type: "notice", Message: body(c)}
		return answer(c, service.Send(c.Request().Context(), c.Param("name"), notice))
	}, known)
	e.GET("/online", func(c echo.Context) error {
		members, err := service.Members(c.Request().Context(), rooms.Lobby, 1000)
		if err != nil {
			return answer(c, err)
		}
		return c.JSON(http.StatusOK, rooms.Names(members))
	}, known)

	return service, http.NewCrossOriginProtection().Handler(e)
}

var secret = []byte(rand.Text() + rand.Text()) // of this process: no token outlives it

// login gives a token to everybody who has a name. Yours asks for a password.
func login(c echo.Context) error {
	name, err := rooms.Name(c.FormValue("name"))
	if err != nil {
		return answer(c, err)
	}
	token, err := sign(name, time.Now().Add(10*time.Minute))
	if err != nil {
		return answer(c, err)
	}
	return c.String(http.StatusOK, token)
}

func sign(name string, end time.Time) (string, error) {
	claims := jwt.MapClaims{"sub": name, "exp": end.Unix()}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
}

// signedIn lets pass who has a token. All others are refused in a way that a page can read: it comes back with a new one.
func signedIn(service *core.Service) echo.MiddlewareFunc {
	refuse := gows.Refuse(service, core.CloseExpired, "please sign in again")
	return echojwt.WithConfig(echojwt.Config{
		SigningKey: secret,
		TokenLookupFuncs: []middleware.ValuesExtractor{
			func(c echo.Context) ([]string, error) { return []string{gows.Token(c)}, nil },
		},
		ErrorHandler: func(c echo.Context, _ error) error { return refuse(c) },
	})
}

// identity tells the library who this is, and until when: it then ends the connection.
func identity(c echo.Context) map[string]any {
	token, _ := c.Get("user").(*jwt.Token)
	claims, _ := token.Claims.(jwt.MapClaims)
	return echo.Map{"client_id": claims["sub"], "exp": claims["exp"]}
}

// accessLog is Echo's with the path in place of the URI, in whose query a token may stand.
func accessLog() echo.MiddlewareFunc {
	return middleware.RequestLoggerWithConfig(middleware.RequestLoggerConfig{
		LogStatus: true, LogMethod: true, LogURIPath: true, LogLatency: true,
		LogValuesFunc: func(_ echo.Context, v middleware.RequestLoggerValues) error {
			log.Printf("%d %s %q %v", v.Status, v.Method, v.URIPath, v.Latency)
			return nil
		},
	})
}

func body(c echo.Context) string {
	text, _ := io.ReadAll(io.LimitReader(c.Request().Body, 9<<10))
	return string(text)
}

func answer(c echo.Context, err error) error {
	status, text := rooms.Outcome(err)
	return c.String(status, text)
}
