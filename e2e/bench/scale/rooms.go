package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Every client is in three rooms, one of each kind.
const (
	pair = iota
	team
	hall
	kinds
)

var kindNames = [kinds]string{"pair", "team", "hall"}

// plan says who is where. Client i connects to node i mod Nodes, so that the members of a room sit on different nodes.
type plan struct {
	Connections int
	Nodes       int
	Rooms       [kinds]int    // members of a room, by kind
	Rate        float64       // connections per second that are opened, of all nodes together
	Spread      time.Duration // a client that has lost its connection waits for a random part of this
	Node        int           // whose clients a process holds
	Addr        string        // of that node
}

// clients returns how many clients a node has.
func (p plan) clients(node int) int { return (p.Connections - node + p.Nodes - 1) / p.Nodes }

func (p plan) rooms(kind int) int { return (p.Connections + p.Rooms[kind] - 1) / p.Rooms[kind] }

func (p plan) roomOf(client, kind int) int { return client / p.Rooms[kind] }

// members returns how many are in a room; the last one may have fewer.
func (p plan) members(kind, room int) int {
	return min(p.Rooms[kind], p.Connections-room*p.Rooms[kind])
}

func roomName(kind, room int) string { return kindNames[kind] + "-" + strconv.Itoa(room) }

// A text begins with a mark, and says of which phase and kind it is, on which node its publisher sits, and when it was
// due. All digits are hexadecimal.
const (
	mark     = '~'
	stampLen = 1 + 2 + 1 + 3 + 16
)

type stamp struct {
	phase, kind, node int
	due               time.Duration // of the machine's monotonic clock
}

func (s stamp) String() string {
	return fmt.Sprintf("%c%02x%01x%03x%016x", mark, s.phase, s.kind, s.node, int64(s.due))
}

var errStamp = errors.New("a text that nobody of us has published")

func parseStamp(b []byte) (s stamp, err error) {
	if len(b) < stampLen {
		return s, errStamp
	}
	var n [4]uint64
	for i, at := range [][2]int{{1, 3}, {3, 4}, {4, 7}, {7, stampLen}} {
		for _, c := range b[at[0]:at[1]] {
			switch {
			case '0' <= c && c <= '9':
				n[i] = n[i]<<4 | uint64(c-'0')
			case 'a' <= c && c <= 'f':
				n[i] = n[i]<<4 | uint64(c-'a'+10)
			default:
				return s, errStamp
			}
		}
	}
	s = stamp{int(n[0]), int(n[1]), int(n[2]), time.Duration(n[3])}
	if s.kind >= kinds {
		return s, errStamp
	}
	return s, nil
}

// started and startedAt tie the process's clock, which is cheap to read, to the machine's, which all processes share.
var (
	started   = time.Now()
	startedAt = machineClock()
)

// monotonic returns the time of the machine's monotonic clock.
func monotonic() time.Duration { return startedAt + time.Since(started) }

func machineClock() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return 0 // a Linux without this clock would not run Go
	}
	return time.Duration(t.Nano())
}
