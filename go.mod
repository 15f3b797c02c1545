module github.com/duxweb/go-ws

// The two supported Go releases; 1.25 brought testing/synctest and WaitGroup.Go.
go 1.25

require (
	github.com/gorilla/websocket v1.5.3
	github.com/redis/go-redis/v9 v9.18.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
	go.uber.org/atomic v1.11.0 // indirect
)
