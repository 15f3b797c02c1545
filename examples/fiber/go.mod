module github.com/duxweb/go-ws/examples/fiber

go 1.25.0

require (
	github.com/duxweb/go-ws v0.1.0
	github.com/duxweb/go-ws/adapters/fiber v0.1.0
)

replace github.com/duxweb/go-ws => ../..

replace github.com/duxweb/go-ws/adapters/fiber => ../../adapters/fiber
