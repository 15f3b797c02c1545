module github.com/duxweb/go-ws/examples/gin

go 1.25.0

require (
	github.com/duxweb/go-ws v0.1.0
	github.com/duxweb/go-ws/adapters/gin v0.1.0
)

replace github.com/duxweb/go-ws => ../..

replace github.com/duxweb/go-ws/adapters/gin => ../../adapters/gin
