module github.com/duxweb/go-ws

// The two supported Go releases; 1.25 brought testing/synctest and WaitGroup.Go.
go 1.25

require github.com/gorilla/websocket v1.5.3
