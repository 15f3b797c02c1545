module github.com/duxweb/go-ws/adapters/echov5

go 1.25.0

require (
	github.com/duxweb/go-ws v0.1.0
	github.com/labstack/echo/v5 v5.0.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/redis/go-redis/v9 v9.18.0 // indirect
	go.uber.org/atomic v1.11.0 // indirect
)

replace github.com/duxweb/go-ws => ../..
