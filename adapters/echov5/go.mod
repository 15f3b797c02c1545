module github.com/duxweb/go-ws/adapters/echov5

go 1.25.0

require (
	github.com/duxweb/go-ws v0.1.0
	github.com/labstack/echo/v5 v5.0.0
)

require github.com/gorilla/websocket v1.5.3 // indirect

replace github.com/duxweb/go-ws => ../..
