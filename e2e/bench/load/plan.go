// Package load opens crowds of WebSocket clients on a server and measures what reaches them: deliveries, how long they
// take, and what they cost the server. The clients are plain sockets and one epoll loop that speaks RFC 6455 by hand, so
// that the client's side costs little, and the same whatever the server is. It runs on Linux and against loopback
// addresses only.
package load

import "time"

// Plan is a crowd to be opened.
type Plan struct {
	URL     string // of the server, such as ws://127.0.0.1:8080/ws
	Publish string // where the publishers connect: another node of the same cluster. "": URL
	Dialect string // "gows" or "centrifuge"
	Name    string // begins the names of the clients and channels, so that crowds on one server are apart

	Clients  int  // client i is in channel i mod Channels
	Channels int  // 0: the clients do not subscribe
	Slow     int  // so many of the clients read nothing once they have subscribed
	Everyone bool // the clients publish, not a connection of its own
}

// Opened is what opening a crowd has shown.
type Opened struct {
	PerSecond float64 // clients connected, authenticated and, with channels, subscribed
}

// Task is what a crowd does for one measurement.
type Task struct {
	Size int // bytes of the text in each message, 15 at least
	// Window is how many messages are in flight: the next one leaves when as many deliveries have come as make up all
	// messages but the newest Window of them. 0: no bound.
	Window int
	Rate   float64       // messages per second. 0: as fast as Window allows
	Direct bool          // each message goes to the next client alone, by its name
	Warm   time.Duration // the same, not counted, before
	For    time.Duration
	Pids   []int // processes whose CPU is counted
}

// Result is what a measurement has shown. Times are microseconds.
type Result struct {
	Messages   int64
	Warming    int64 // messages before, which do not count
	Deliveries int64
	Lost       int64 // what should have arrived and did not; below 0 when more arrived
	Closed     int64 // clients that the server has closed since the crowd was opened; of slow ones those that were reset
	Seconds    float64
	ServerCPU  float64 // for each delivery, user and system, of all Pids
	ClientCPU  float64 // for each delivery, of the crowd
	// How long deliveries took: with a window of one, until a message had reached the last client; with a rate, until it
	// had reached each one, counted from when it was due.
	P50, P99, P999 float64
}

// PerSecond returns the deliveries per second.
func (r Result) PerSecond() float64 { return float64(r.Deliveries) / r.Seconds }
