package middleware

import (
	"encoding/base64"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	jwtfiberv2 "github.com/gofiber/contrib/jwt"
	jwtfiberv3 "github.com/gofiber/contrib/v3/jwt"
	fiberv2 "github.com/gofiber/fiber/v2"
	keyv2 "github.com/gofiber/fiber/v2/middleware/keyauth"
	fiberv3 "github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/extractors"
	keyv3 "github.com/gofiber/fiber/v3/middleware/keyauth"
	"github.com/golang-jwt/jwt/v5"
	jwtechov4 "github.com/labstack/echo-jwt/v4"
	jwtechov5 "github.com/labstack/echo-jwt/v5"
	echov4 "github.com/labstack/echo/v4"
	middlewarev4 "github.com/labstack/echo/v4/middleware"
	echov5 "github.com/labstack/echo/v5"
	middlewarev5 "github.com/labstack/echo/v5/middleware"

	gowsechov4 "github.com/duxweb/go-ws/adapters/echo"
	gowsechov5 "github.com/duxweb/go-ws/adapters/echov5"
	gowsfiberv2 "github.com/duxweb/go-ws/adapters/fiber"
	gowsfiberv3 "github.com/duxweb/go-ws/adapters/fiberv3"
	gowsgin "github.com/duxweb/go-ws/adapters/gin"
	"github.com/duxweb/go-ws/core"
)

// What the middlewares below say to who is not let in.
const (
	signIn  = "please sign in"
	expired = "the token has expired"
)

// refusal is how an error of an authentication is told.
func refusal(err error) (code int, reason string) {
	if errors.Is(err, jwt.ErrTokenExpired) || errors.Is(err, errKeyExpired) {
		return core.CloseExpired, expired
	}
	return http.StatusUnauthorized, signIn
}

var secret = []byte("the secret of these tests, 32 bytes")

func key(*jwt.Token) (any, error) { return secret, nil }

// identity is what the service learns of a JWT. The connection ends with it.
func identity(token *jwt.Token) map[string]any {
	claims, _ := token.Claims.(jwt.MapClaims)
	return map[string]any{"client_id": claims["sub"], "role": claims["role"], "exp": claims["exp"]}
}

// jwtInGin is what one writes where a framework has no such middleware of its own.
func jwtInGin(s *site) server {
	authenticate := func(c *gin.Context) {
		token, err := jwt.Parse(gowsgin.Token(c), key, jwt.WithValidMethods([]string{"HS256"}))
		if err != nil {
			code, reason := refusal(err)
			gowsgin.Refuse(s.service, code, reason)(c)
			return
		}
		c.Set("user", token)
	}
	router := gin.New()
	router.GET("/ws", authenticate, gowsgin.Gin(s.service, gowsgin.WithIdentity(func(c *gin.Context) map[string]any {
		token, _ := c.MustGet("user").(*jwt.Token)
		return identity(token)
	})))
	return s.serve(router)
}

func jwtInEchoV4(s *site) server {
	e := echov4.New()
	e.GET("/ws", gowsechov4.Echo(s.service, gowsechov4.WithIdentity(func(c echov4.Context) map[string]any {
		token, _ := c.Get("user").(*jwt.Token)
		return identity(token)
	})), jwtechov4.WithConfig(jwtechov4.Config{
		SigningKey: secret,
		TokenLookupFuncs: []middlewarev4.ValuesExtractor{func(c echov4.Context) ([]string, error) {
			return []string{gowsechov4.Token(c)}, nil
		}},
		ErrorHandler: func(c echov4.Context, err error) error {
			code, reason := refusal(err)
			return gowsechov4.Refuse(s.service, code, reason)(c)
		},
	}))
	return s.serve(e)
}

func jwtInEchoV5(s *site) server {
	e := echov5.New()
	e.GET("/ws", gowsechov5.Echo(s.service, gowsechov5.WithIdentity(func(c *echov5.Context) map[string]any {
		token, _ := c.Get("user").(*jwt.Token)
		return identity(token)
	})), jwtechov5.WithConfig(jwtechov5.Config{
		SigningKey: secret,
		TokenLookupFuncs: []middlewarev5.ValuesExtractor{func(c *echov5.Context) ([]string, middlewarev5.ExtractorSource, error) {
			return []string{gowsechov5.Token(c)}, middlewarev5.ExtractorSourceHeader, nil
		}},
		ErrorHandler: func(c *echov5.Context, err error) error {
			code, reason := refusal(err)
			return gowsechov5.Refuse(s.service, code, reason)(c)
		},
	}))
	return s.serve(e)
}

func jwtInFiberV2(s *site) server {
	app := s.fiberV2(fiberv2.Config{})
	app.Get("/ws", func(c *fiberv2.Ctx) error { // for a middleware that looks into one header only
		c.Request().Header.Set("Authorization", "Bearer "+gowsfiberv2.Token(c))
		return c.Next()
	}, jwtfiberv2.New(jwtfiberv2.Config{
		SigningKey: jwtfiberv2.SigningKey{JWTAlg: "HS256", Key: secret},
		ErrorHandler: func(c *fiberv2.Ctx, err error) error {
			code, reason := refusal(err)
			return gowsfiberv2.Refuse(s.service, code, reason)(c)
		},
	}), gowsfiberv2.Fiber(s.service, gowsfiberv2.WithIdentity(func(c *fiberv2.Ctx) map[string]any {
		token, _ := c.Locals("user").(*jwt.Token)
		return identity(token)
	})))
	return app
}

func jwtInFiberV3(s *site) server {
	app := s.fiberV3(fiberv3.Config{})
	app.Get("/ws", jwtfiberv3.New(jwtfiberv3.Config{
		SigningKey: jwtfiberv3.SigningKey{JWTAlg: "HS256", Key: secret},
		Extractor:  extractors.FromCustom("", func(c fiberv3.Ctx) (string, error) { return gowsfiberv3.Token(c), nil }),
		ErrorHandler: func(c fiberv3.Ctx, err error) error {
			code, reason := refusal(err)
			return gowsfiberv3.Refuse(s.service, code, reason)(c)
		},
	}), gowsfiberv3.Fiber(s.service, gowsfiberv3.WithIdentity(func(c fiberv3.Ctx) map[string]any {
		return identity(jwtfiberv3.FromContext(c))
	})))
	return app
}

var jwtMiddlewares = map[string]func(s *site) server{
	"golang-jwt in Gin":      jwtInGin,
	"echo-jwt v4":            jwtInEchoV4,
	"echo-jwt v5":            jwtInEchoV5,
	"gofiber contrib/jwt":    jwtInFiberV2,
	"gofiber contrib/v3/jwt": jwtInFiberV3,
}

// signed returns a JWT of sub that ends at exp.
func signed(t *testing.T, method jwt.SigningMethod, key any, sub string, exp time.Time) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": sub, "role": "admin", "exp": exp.Unix()}
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAJWTMiddlewareDecidesWhoComesIn(t *testing.T) {
	t.Parallel()
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for name, mount := range jwtMiddlewares {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, mount)
			token := signed(t, jwt.SigningMethodHS256, secret, "alice", soon)
			coded := "gows.bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
			for _, c := range []struct {
				path string
				h    http.Header
			}{
				{"/ws", header("Token", token)},
				{"/ws", header("Authorization", "Bearer "+token)},
				{"/ws", header("Sec-WebSocket-Protocol", "gows, "+coded)},
				{"/ws?token=" + token, nil},
			} {
				for _, h := range []http.Header{c.h, s.page(c.h)} {
					alice := s.connect(c.path, h)
					if got := alice.whoami(); got.ID != "alice" || got.Data["role"] != "admin" {
						t.Errorf("with %v: %+v", h, got)
					}
					if c.h.Get("Sec-WebSocket-Protocol") != "" && alice.protocol != "gows" {
						t.Errorf("the subprotocol is %q", alice.protocol)
					}
				}
			}
			for _, token := range []string{
				"", "alice", token[:len(token)-4] + "AAAA", strings.Replace(token, ".", ".AA", 1),
				signed(t, jwt.SigningMethodHS256, []byte("another secret, also of 32 bytes"), "alice", soon),
				signed(t, jwt.SigningMethodHS384, secret, "alice", soon),
				signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "alice", soon),
			} {
				s.refuses("/ws", header("Authorization", "Bearer "+token), core.CloseRefused, signIn)
			}
			s.refuses("/ws", nil, core.CloseRefused, signIn)
			old := signed(t, jwt.SigningMethodHS256, secret, "alice", past)
			s.refuses("/ws", header("Token", old), core.CloseExpired, expired)
			s.refuses("/ws?token="+old, nil, core.CloseExpired, expired)
			s.prints()
		})
	}
}

func TestAConnectionEndsWithItsJWT(t *testing.T) {
	t.Parallel()
	exp := time.Now().Truncate(time.Second).Add(3 * time.Second) // in two at least
	connect := func(s *site, sub string, exp time.Time) *conn {
		return s.connect("/ws", header("Token", signed(t, jwt.SigningMethodHS256, secret, sub, exp)))
	}
	alices, bobs := map[string]*conn{}, map[string]*conn{}
	for name, mount := range jwtMiddlewares {
		s := open(t, mount)
		alices[name], bobs[name] = connect(s, "alice", exp), connect(s, "bob", exp.Add(time.Hour))
	}
	for name, alice := range alices {
		if closed := alice.closes(); closed.Code != core.CloseExpired || closed.Text != expired {
			t.Errorf("%s: %v", name, closed)
		}
		if early := time.Until(exp); early > 0 {
			t.Errorf("%s: closed %v too early", name, early)
		}
		bobs[name].whoami()
	}
}

var errKeyExpired = errors.New("the key is an old one")

// checked is the validator of the middlewares for keys.
func checked(key string) (bool, error) {
	if key == "expired" {
		return false, errKeyExpired
	}
	return strings.HasPrefix(key, "key-of-"), nil
}

// Below each route /ws has Auth asked about the key, and /identity hands over what the key says.

func keysInEchoV4(s *site) server {
	e := echov4.New()
	keys := middlewarev4.KeyAuthWithConfig(middlewarev4.KeyAuthConfig{
		Validator: func(key string, c echov4.Context) (bool, error) {
			c.Set("token", key)
			return checked(key)
		},
		ErrorHandler: func(err error, c echov4.Context) error {
			code, reason := refusal(err)
			return gowsechov4.Refuse(s.service, code, reason)(c)
		},
	})
	e.GET("/ws", gowsechov4.Echo(s.service), keys)
	e.GET("/identity", gowsechov4.Echo(s.service, gowsechov4.WithIdentity(func(c echov4.Context) map[string]any {
		return map[string]any{"client_id": c.Get("token")}
	})), keys)
	return s.serve(e)
}

func keysInEchoV5(s *site) server {
	e := echov5.New()
	keys := middlewarev5.KeyAuthWithConfig(middlewarev5.KeyAuthConfig{
		Validator: func(c *echov5.Context, key string, _ middlewarev5.ExtractorSource) (bool, error) {
			c.Set("token", key)
			return checked(key)
		},
		ErrorHandler: func(c *echov5.Context, err error) error {
			code, reason := refusal(err)
			return gowsechov5.Refuse(s.service, code, reason)(c)
		},
	})
	e.GET("/ws", gowsechov5.Echo(s.service), keys)
	e.GET("/identity", gowsechov5.Echo(s.service, gowsechov5.WithIdentity(func(c *echov5.Context) map[string]any {
		return map[string]any{"client_id": c.Get("token")}
	})), keys)
	return s.serve(e)
}

// keysInFiberV2 has a middleware that leaves the key as the local "token", in memory of the request.
func keysInFiberV2(s *site) server {
	app := s.fiberV2(fiberv2.Config{})
	keys := keyv2.New(keyv2.Config{
		Validator: func(_ *fiberv2.Ctx, key string) (bool, error) { return checked(key) },
		ErrorHandler: func(c *fiberv2.Ctx, err error) error {
			code, reason := refusal(err)
			return gowsfiberv2.Refuse(s.service, code, reason)(c)
		},
	})
	app.Get("/ws", keys, gowsfiberv2.Fiber(s.service))
	app.Get("/identity", keys, gowsfiberv2.Fiber(s.service, gowsfiberv2.WithIdentity(func(c *fiberv2.Ctx) map[string]any {
		return map[string]any{"client_id": c.Locals("token")}
	})))
	return app
}

func keysInFiberV3(s *site) server {
	app := s.fiberV3(fiberv3.Config{})
	keys := keyv3.New(keyv3.Config{
		Validator: func(_ fiberv3.Ctx, key string) (bool, error) { return checked(key) },
		ErrorHandler: func(c fiberv3.Ctx, err error) error {
			code, reason := refusal(err)
			return gowsfiberv3.Refuse(s.service, code, reason)(c)
		},
	})
	token := func(c fiberv3.Ctx) string { return keyv3.TokenFromContext(c) }
	app.Get("/ws", keys, gowsfiberv3.Fiber(s.service, gowsfiberv3.WithToken(token)))
	app.Get("/identity", keys, gowsfiberv3.Fiber(s.service, gowsfiberv3.WithIdentity(func(c fiberv3.Ctx) map[string]any {
		return map[string]any{"client_id": token(c)}
	})))
	return app
}

func TestAMiddlewareForKeysDecidesWhoComesIn(t *testing.T) {
	t.Parallel()
	for name, mount := range map[string]func(s *site) server{
		"KeyAuth of Echo v4":  keysInEchoV4,
		"KeyAuth of Echo v5":  keysInEchoV5,
		"keyauth of Fiber v2": keysInFiberV2,
		"keyauth of Fiber v3": keysInFiberV3,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, mount)
			var clients []*conn
			for path, want := range map[string]string{"/ws": "by token: key-of-alice", "/identity": "key-of-alice"} {
				alice := s.connect(path, header("Authorization", "Bearer key-of-alice"))
				if got := alice.whoami().ID; got != want {
					t.Errorf("%s: %s", path, got)
				}
				clients = append(clients, alice)
			}
			before := []who{clients[0].whoami(), clients[1].whoami()}
			for range 20 { // into the memory that the key of alice was in
				mallory := s.connect("/identity", header("Authorization", "Bearer key-of-MALLO"))
				if got := mallory.whoami().ID; got != "key-of-MALLO" {
					t.Error(got)
				}
				_ = mallory.Close()
			}
			if after := []who{clients[0].whoami(), clients[1].whoami()}; !reflect.DeepEqual(before, after) {
				t.Errorf("alice was %+v and is %+v", before, after)
			}
			for _, path := range []string{"/ws", "/identity"} {
				s.refuses(path, nil, core.CloseRefused, signIn)
				s.refuses(path, header("Authorization", "Bearer mallory"), core.CloseRefused, signIn)
				s.refuses(path, header("Authorization", "Bearer expired"), core.CloseExpired, expired)
			}
			s.prints()
		})
	}
}

func TestBasicAuthOfGinDecidesWhoComesIn(t *testing.T) {
	t.Parallel()
	s := open(t, func(s *site) server {
		router := gin.New()
		router.GET("/ws", gin.BasicAuth(gin.Accounts{"alice": "secret"}),
			gowsgin.Gin(s.service, gowsgin.WithIdentity(func(c *gin.Context) map[string]any {
				return gin.H{"client_id": c.MustGet(gin.AuthUserKey)}
			})))
		return s.serve(router)
	})
	login := func(user, password string) http.Header {
		return header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	for _, h := range []http.Header{login("alice", "secret"), s.page(login("alice", "secret"))} {
		if got := s.connect("/ws", h).whoami(); got.ID != "alice" {
			t.Errorf("%+v", got)
		}
	}
	for _, h := range []http.Header{nil, login("alice", "guess"), login("mallory", "secret"), s.page(login("alice", "guess"))} {
		if _, r := s.dial("/ws", h); r.status != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("with %v: %d", h, r.status)
		}
	}
	s.prints()
}
