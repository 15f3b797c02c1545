package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/redistest"
)

const (
	riders = 240 // clients, spread over the rooms
	rooms  = 4
	beats  = 2 * time.Millisecond // between two messages of a publisher
)

// TestARollingRestartLosesAndDoublesNothing restarts three nodes one after the other, while each of three publishers pushes
// numbers through all of them. A client that comes back as docs/protocol.md says misses what was pushed while it was away,
// and nothing else.
func TestARollingRestartLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	f := &fleet{t: t, redis: redistest.Start(t).Addr()}
	for i := range f.nodes {
		f.nodes[i].Store(f.start())
	}
	var publishing, riding sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	publishers := make([]*publisher, len(f.nodes))
	for i := range publishers {
		publishers[i] = &publisher{fleet: f, number: i, turn: i}
		publishing.Go(func() { publishers[i].publish(ctx) })
	}
	all := make([]*rider, riders)
	for i := range all {
		all[i] = &rider{fleet: f, number: i}
		riding.Go(all[i].ride)
	}
	t.Cleanup(func() { // also when the test fails half-way
		stop()
		publishing.Wait()
		f.over.Store(true)
		for i := range f.nodes {
			f.end(f.nodes[i].Load())
		}
		riding.Wait()
	})
	until(t, "all are in", func() bool { return f.in.Load() == riders })
	for i := range f.nodes {
		old := f.nodes[i].Load()
		f.end(old)
		f.nodes[i].Store(f.start())
		until(t, "all are in again", func() bool { return f.in.Load() == riders })
	}
	stop()
	publishing.Wait()
	service := f.nodes[0].Load().service
	for room := range rooms {
		if n, err := service.Count(t.Context(), roomName(room)); err != nil || n != riders/rooms {
			t.Errorf("%s: %d, %v", roomName(room), n, err)
		}
		if err := service.Push([]string{roomName(room)}, core.Message{Type: "end"}); err != nil {
			t.Fatal(err)
		}
	}
	riding.Wait()

	owed, moved := 0, 0
	for _, r := range all {
		moved += len(r.sessions) - 1
		for _, p := range publishers {
			owed += r.judge(p)
		}
	}
	if moved < riders { // each node had some of them
		t.Errorf("clients changed their node %d times", moved)
	}
	t.Logf("%d clients changed their node %d times and were owed %d messages", riders, moved, owed)
	if owed < 100*riders {
		t.Error("that is no load")
	}
}

func roomName(number int) string { return fmt.Sprint("room:", number%rooms) }

// fleet is three nodes, each of which is replaced in the course of the test.
type fleet struct {
	t     *testing.T
	redis string
	nodes [3]atomic.Pointer[ship]
	in    atomic.Int64 // clients that are connected and subscribed
	over  atomic.Bool
}

// ship is a node.
type ship struct {
	service *core.Service
	server  *http.Server
	address string
	served  chan error
	once    sync.Once
	ending  atomic.Pointer[time.Time] // when Shutdown was called
}

func (f *fleet) start() *ship {
	f.t.Helper()
	driver, err := drivers.NewRedisDriver(&drivers.RedisOptions{Addr: f.redis})
	if err != nil {
		f.t.Fatal(err)
	}
	n := &ship{served: make(chan error, 1), service: core.New(driver, core.WithLogger(nil), &core.Provider{
		Auth:      func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Subscribe: func(*core.Client, string) error { return nil },
	})}
	if err := n.service.Run(); err != nil {
		f.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	n.address = listener.Addr().String()
	n.server = &http.Server{Handler: n.service, ReadHeaderTimeout: patience}
	go func() { n.served <- n.server.Serve(listener) }()
	return n
}

// end does what a program does on SIGTERM.
func (f *fleet) end(n *ship) {
	n.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.server.Shutdown(ctx); err != nil {
			f.t.Error(err)
		}
		now := time.Now()
		n.ending.Store(&now)
		if err := n.service.Shutdown(ctx); err != nil {
			f.t.Error(err)
		}
		if err := <-n.served; !errors.Is(err, http.ErrServerClosed) {
			f.t.Error(err)
		}
	})
}

// publisher pushes 0, 1, 2 ... into each room, through the nodes in turn.
type publisher struct {
	*fleet

	number, turn int
	pushes       [rooms][]push
}

type push struct {
	begun, done time.Time
	accepted    bool // else nobody knows whether it arrives
}

type number struct{ Publisher, Number int }

func (p *publisher) publish(ctx context.Context) {
	ticker := time.NewTicker(beats)
	defer ticker.Stop()
	for ; ctx.Err() == nil; p.turn++ {
		room, service := p.turn%rooms, p.nodes[p.turn%len(p.nodes)].Load().service
		one := push{begun: time.Now()}
		err := service.PushContext(ctx, []string{roomName(room)}, number{p.number, len(p.pushes[room])})
		one.done, one.accepted = time.Now(), err == nil
		p.pushes[room] = append(p.pushes[room], one)
		if err != nil && !errors.Is(err, core.ErrClosed) && ctx.Err() == nil {
			p.t.Errorf("publisher %d: %v", p.number, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// rider is a client.
type rider struct {
	*fleet

	number   int
	sessions []*session
}

// session is what a client knows of one of its connections.
type session struct {
	node *ship
	from time.Time     // the answer to its subscribe
	got  map[int][]int // publisher -> numbers
}

// ride reconnects until the end is told.
func (r *rider) ride() {
	for attempt := 0; !r.over.Load(); attempt++ {
		ended, heard := r.connect()
		if ended {
			return
		}
		if heard {
			attempt = 0
		}
		longest := min(20*time.Second, time.Second<<attempt)
		<-time.After(time.Duration(rand.Float64() * float64(longest)))
	}
}

// connect is one connection, from the first that listens of the nodes.
func (r *rider) connect() (ended, heard bool) {
	for i, first := 0, rand.IntN(len(r.nodes)); i < len(r.nodes); i++ {
		node := r.nodes[(first+i)%len(r.nodes)].Load()
		url := fmt.Sprintf("ws://%s/?token=rider-%d", node.address, r.number)
		conn, response, err := websocket.DefaultDialer.Dial(url, nil)
		if response != nil {
			_ = response.Body.Close()
		}
		if err == nil {
			defer conn.Close()
			return r.listen(node, conn)
		}
	}
	return false, false
}

type told struct {
	ID, Type string
	Data     json.RawMessage
}

// listen takes notes until the connection ends.
func (r *rider) listen(node *ship, conn *websocket.Conn) (ended, heard bool) {
	_ = conn.SetReadDeadline(time.Now().Add(3 * patience))
	s := &session{node: node, got: map[int][]int{}}
	for _, m := range []core.Message{{Type: "ping"}, {ID: "1", Type: "subscribe", Channel: roomName(r.number)}} {
		_ = conn.WriteJSON(m) // reading says what is wrong
	}
	for {
		var m told
		if err := conn.ReadJSON(&m); err != nil {
			if !websocket.IsCloseError(err, core.CloseRestart) {
				r.t.Errorf("rider %d: %v", r.number, err)
				return true, heard
			}
			if !s.from.IsZero() {
				r.in.Add(-1)
			}
			return false, heard
		}
		heard = true
		switch m.Type {
		case "pong":
		case "receive":
			s.from = time.Now()
			r.sessions = append(r.sessions, s)
			r.in.Add(1)
		case "message":
			var n number
			if err := json.Unmarshal(m.Data, &n); err != nil {
				r.t.Error(err)
			}
			s.got[n.Publisher] = append(s.got[n.Publisher], n.Number)
		case "end":
			return true, heard
		default:
			r.t.Errorf("rider %d heard %+v", r.number, m)
		}
	}
}

// judge compares what a client got of a publisher with what it is owed, and returns how much that is.
func (r *rider) judge(p *publisher) (owed int) {
	last := -1
	for i, s := range r.sessions {
		got := map[int]bool{}
		for _, n := range s.got[p.number] {
			if n <= last {
				r.t.Errorf("rider %d, connection %d: %d of publisher %d came behind %d", r.number, i, n, p.number, last)
				return 0
			}
			last = n
			got[n] = true
		}
		for n, one := range p.pushes[r.number%rooms] {
			if ending := s.node.ending.Load(); !one.accepted || one.begun.Before(s.from) ||
				i < len(r.sessions)-1 && !one.done.Before(*ending) {
				continue
			}
			if owed++; !got[n] {
				r.t.Errorf("rider %d, connection %d: %d of publisher %d is missing, of those up to %d", r.number, i, n, p.number, last)
				return 0
			}
		}
	}
	return owed
}
