package main

import (
	"fmt"

	"github.com/duxweb/go-ws/e2e/bench/load"
)

// scenario is one thing that all servers have to do.
type scenario struct {
	name    string
	title   string
	columns []metric // what its table shows; the first is what its chart shows
	run     func(*contest) error
}

// metric is something that is measured, by the name it has in the results.
type metric string

const (
	cpu      metric = "cpu"      // microseconds of the server's CPU for each delivery
	rate     metric = "rate"     // deliveries per second
	p50      metric = "p50"      // microseconds
	p99      metric = "p99"      //
	p999     metric = "p999"     //
	allocs   metric = "allocs"   // allocations of the server for each message, all its deliveries included
	memory   metric = "memory"   // bytes of resident memory for each connection
	connects metric = "connects" // connections per second
	lost     metric = "lost"     // deliveries that did not come; below 0 when some came twice
	closed   metric = "closed"   // clients that the server has closed
	alone    metric = "alone"    // p99 without what disturbs
)

// heads are the heads of the columns.
var heads = map[metric]string{
	cpu: "us of CPU a delivery", rate: "deliveries/s", p50: "p50 us", p99: "p99 us", p999: "p99.9 us", allocs: "allocations a message",
	memory: "bytes a connection", connects: "connects/s", lost: "lost", closed: "closed", alone: "p99 us without them",
}

// more are the metrics of which more is better.
var more = map[metric]bool{rate: true, connects: true}

var (
	oneInFlight = []metric{cpu, rate, p50, p99, allocs, lost}
	underLoad   = []metric{rate, cpu, allocs, lost}
)

// scenarios are in the order in which they run. Where the difference from raw is a few percent all rounds are needed; three
// will do for the others.
var scenarios = []scenario{
	broadcast("room", 1000, 1, 1, 128),
	broadcast("room-16B", 1000, 1, 1, 16),
	broadcast("room-4K", 1000, 1, 1, 4<<10),
	broadcast("hall", 10_000, 1, 1, 128),
	broadcast("ten", 1000, 10, 1, 128),
	broadcast("thousand", 1000, 1000, 1, 128),
	broadcast("room-load", 1000, 1, 64, 128),
	broadcast("room-load-16B", 1000, 1, 64, 16),
	broadcast("room-load-4K", 1000, 1, 64, 4<<10),
	broadcast("hall-load", 10_000, 1, 64, 128),
	broadcast("ten-load", 1000, 10, 64, 128),
	broadcast("thousand-load", 1000, 1000, 64, 128),
	{
		"paced", "one channel of 1,000, 20 messages of 128 B a second",
		[]metric{cpu, p50, p99, p999, lost},
		threeRounds(fanOut(load.Plan{Clients: 1000, Channels: 1}, load.Task{Size: 128, Rate: 20})),
	},
	{
		"direct", "to one of 1,000 clients by its id, one message in flight",
		oneInFlight,
		threeRounds(fanOut(load.Plan{Clients: 1000}, load.Task{Size: 128, Window: 1, Direct: true})),
	},
	{
		"direct-load", "to one of 1,000 clients by its id, 64 messages in flight",
		underLoad,
		threeRounds(fanOut(load.Plan{Clients: 1000}, load.Task{Size: 128, Window: 64, Direct: true})),
	},
	{
		"everyone", "1,000 clients in 100 channels of 10, all of them publish at once",
		underLoad,
		threeRounds(fanOut(load.Plan{Clients: 1000, Channels: 100, Everyone: true}, load.Task{Size: 128, Window: 1000})),
	},
	{
		"slow", "one channel of 1,000, of which 100 read nothing; messages of 4 KiB, one in flight",
		[]metric{p99, alone, p50, lost, closed},
		slowTenth,
	},
	{
		"beside", "a channel of one, 100 messages a second, beside three channels of 1,000 with 64 in flight each",
		[]metric{p99, p50, p999, rate, lost},
		threeRounds(besideFloods),
	},
	{
		"idle", "5,000 connections, authenticated and in one of 100 channels",
		[]metric{memory, connects},
		threeRounds(idle(5000)),
	},
	{
		"idle-15000", "15,000 connections, authenticated and in one of 100 channels",
		[]metric{memory, connects},
		threeRounds(idle(15_000)),
	},
	{
		"cluster", "two nodes and Redis: one channel of 1,000, published on the other node, one message in flight",
		oneInFlight,
		threeRounds(cluster(load.Plan{Clients: 1000, Channels: 1}, load.Task{Size: 128, Window: 1})),
	},
	{
		"cluster-load", "two nodes and Redis: one channel of 1,000, published on the other node, 64 messages in flight",
		underLoad,
		threeRounds(cluster(load.Plan{Clients: 1000, Channels: 1}, load.Task{Size: 128, Window: 64})),
	},
	{
		"cluster-thousand", "two nodes and Redis: 1,000 channels of one, published on the other node, 64 messages in flight",
		underLoad,
		threeRounds(cluster(load.Plan{Clients: 1000, Channels: 1000}, load.Task{Size: 128, Window: 64})),
	},
}

// broadcast is the scenario of one publisher and clients who each are in one of some channels.
func broadcast(name string, clients, channels, window, size int) scenario {
	columns, flying := underLoad, fmt.Sprintf("%d messages", window)
	if window == 1 {
		columns, flying = oneInFlight, "one message"
	}
	where := "one channel of " + grouped(clients)
	if channels > 1 {
		where = fmt.Sprintf("%s channels of %s", grouped(channels), grouped(clients/channels))
	}
	run := fanOut(load.Plan{Clients: clients, Channels: channels}, load.Task{Size: size, Window: window})
	if window > 1 {
		run = threeRounds(run)
	}
	return scenario{name, fmt.Sprintf("%s, %s of %s in flight", where, flying, bytesOf(size)), columns, run}
}
