package e2e

import (
	_ "github.com/gin-contrib/cors"
	_ "github.com/gin-contrib/gzip"
	_ "github.com/gin-contrib/timeout"
	_ "github.com/gin-gonic/gin"
	_ "github.com/gofiber/contrib/jwt"
	_ "github.com/gofiber/contrib/v3/jwt"
	_ "github.com/gofiber/contrib/v3/websocket"
	_ "github.com/gofiber/contrib/websocket"
	_ "github.com/gofiber/fiber/v2"
	_ "github.com/gofiber/fiber/v3"
	_ "github.com/golang-jwt/jwt/v5"
	_ "github.com/labstack/echo-jwt/v4"
	_ "github.com/labstack/echo-jwt/v5"
	_ "github.com/labstack/echo/v4"
	_ "github.com/labstack/echo/v5"
	_ "golang.org/x/mod/module"

	_ "github.com/duxweb/go-ws/adapters/echo"
	_ "github.com/duxweb/go-ws/adapters/echov5"
	_ "github.com/duxweb/go-ws/adapters/fiber"
	_ "github.com/duxweb/go-ws/adapters/fiberv3"
	_ "github.com/duxweb/go-ws/adapters/gin"
)
