// Command gin is the chat of examples/chat behind Gin and a JWT middleware. Run it with go run . in this folder and open
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

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	gows "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/chat/page"
	"github.com/duxweb/go-ws/examples/chat/rooms"
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	flag.Parse()
	gin.SetMode(gin.ReleaseMode)

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

	router := gin.New()
	router.Use(gin.LoggerWithFormatter(accessLog), gin.Recovery())
	router.NoRoute(gin.WrapH(http.FileServerFS(page.Files)))
	router.POST("/login", login)
	router.POST("/push", func(c *gin.Context) { // open to the page's curl line; yours asks who may
		answer(c, chat.Push(service, c.Query("room"), body(c)))
	})

	known := router.Group("", signedIn(service))
	known.GET("/ws", gows.Gin(service, gows.WithIdentity(identity)))
	known.POST("/kick", func(c *gin.Context) { // yours asks who may
		by := fmt.Sprint("kicked by ", identity(c)["client_id"])
		answer(c, service.Disconnect(c.Request.Context(), c.Query("name"), core.CloseKicked, by))
	})
	known.POST("/users/:name/notify", func(c *gin.Context) { // on all devices of that person
		notice := &core.Message{Type: "notice", Message: body(c)}
		answer(c, service.Send(c.Request.Context(), c.Param("name"), notice))
	})
	known.GET("/online", func(c *gin.Context) {
		members, err := service.Members(c.Request.Context(), rooms.Lobby, 1000)
		if err != nil {
			answer(c, err)
			return
		}
		c.JSON(http.StatusOK, rooms.Names(members))
	})

	// A route that upgrades with gorilla already may keep doing so. A page that offers its token as a subprotocol wants
	// gows answered; gorilla itself refuses pages of foreign origins.
	upgrader := &websocket.Upgrader{Subprotocols: []string{"gows"}}
	known.GET("/gorilla", func(c *gin.Context) {
		conn, err := upgrader.Upgrade(c.Writer, c.Request, nil)
		if err != nil {
			return // and has been answered
		}
		_ = service.ServeConn(conn, &core.Handshake{Identity: identity(c), RemoteAddr: c.ClientIP()}) // logs why it refuses
	})

	return service, http.NewCrossOriginProtection().Handler(router)
}

var secret = []byte(rand.Text() + rand.Text()) // of this process: no token outlives it

// login gives a token to everybody who has a name. Yours asks for a password.
func login(c *gin.Context) {
	name, err := rooms.Name(c.PostForm("name"))
	if err != nil {
		answer(c, err)
		return
	}
	token, err := sign(name, time.Now().Add(10*time.Minute))
	if err != nil {
		answer(c, err)
		return
	}
	c.String(http.StatusOK, "%s", token)
}

func sign(name string, end time.Time) (string, error) {
	claims := jwt.MapClaims{"sub": name, "exp": end.Unix()}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
}

// signedIn lets pass who has a token. All others are refused in a way that a page can read: it comes back with a new one.
func signedIn(service *core.Service) gin.HandlerFunc {
	key := func(*jwt.Token) (any, error) { return secret, nil }
	refuse := gows.Refuse(service, core.CloseExpired, "please sign in again")
	return func(c *gin.Context) {
		token, err := jwt.Parse(gows.Token(c), key, jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
		if err != nil {
			refuse(c)
			return
		}
		c.Set("claims", token.Claims)
	}
}

// identity tells the library who this is, and until when: it then ends the connection.
func identity(c *gin.Context) map[string]any {
	claims, _ := c.MustGet("claims").(jwt.MapClaims)
	return gin.H{"client_id": claims["sub"], "exp": claims["exp"]}
}

// accessLog is Gin's without the query, where a token may stand.
func accessLog(p gin.LogFormatterParams) string {
	return fmt.Sprintf("%s %d %s %q %v\n", p.TimeStamp.Format(time.DateTime), p.StatusCode, p.Method, p.Request.URL.Path, p.Latency)
}

func body(c *gin.Context) string {
	text, _ := io.ReadAll(io.LimitReader(c.Request.Body, 9<<10))
	return string(text)
}

func answer(c *gin.Context, err error) {
	status, text := rooms.Outcome(err)
	c.String(status, "%s", text)
}
