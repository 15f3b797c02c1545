// Package core is go-ws without any framework: Service accepts WebSocket connections, knows who is in which channel, and
// fans out messages. It is an http.Handler; adapters mount it in Gin, Echo and Fiber.
//
//	service := core.New(drivers.NewMemoryDriver(), &core.Provider{
//		Auth:      func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
//		Subscribe: func(client *core.Client, channel string) error { return nil },
//		Publish:   func(client *core.Client, message *core.Message) error { return nil },
//	})
//	if err := service.Run(); err != nil { ... }
//	http.Handle("/ws", service)
//	service.Push([]string{"room:1"}, map[string]any{"type": "news", "message": "hello"})
//
// # The life of a message
//
// One file is one step; read them in this order.
//
//	handshake.go   the request in plain values          origin.go   which pages may connect
//	admit.go       who is it? Auth, identity -> Ticket   limits.go   how many, from where, how fast
//	door.go        net/http: hijack, refuse             hijacked.go   Fiber: out of fasthttp's hands
//	serveconn.go   connections of other libraries
//	connection.go  from the 101 to the end: the reader  socket*.go  reading without a buffer, writing without waiting
//	sessions.go    one client id, several connections
//	decode.go      the envelope                         message.go  payloads and answers
//	verbs.go       subscribe, publish, presence, hooks  provider.go what the hooks are
//	subscribe.go   into and out of channels             presence.go join, leave, counts
//	app.go         push, send, kick: what Service can do
//	driver.go      the seam to the other nodes          node.go     what drivers call
//	hub.go         who is here                          interest.go what this node receives from others
//	channel.go     who is subscribed, what is pending  turn.go     one slice for all subscribers
//	outbox.go      to the kernel, or what waits for it   debt.go     what waits for all of them
//	sweeper.go     pings, expiry, peers that vanished   service.go  Run and Shutdown
//	peerlog.go     what is logged about one peer        guard.go    what a driver or a log may not do: panic
//
// # Concurrency
//
// Goroutines: a reader per connection, which runs its hooks; a turn per channel that has something to write, unless the
// publisher or its reader runs it; a drainer per connection with a backlog; one leave per connection closed from this
// side; and the sweeper, the janitor and the keepers of sessions and of debts of the service; and one for each line that is
// logged. Shutdown waits for all of them, but for a hook of Auth or a log that hangs.
//
// Locks are taken in the order hub shard, channel, client, flight. No lock is held across a hook, a call of the driver, or a
// wait. A turn writes to a client under the client's lock: such a write never waits.
package core
