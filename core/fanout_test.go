package core_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// permissive is a provider that allows everything the core can do by itself.
func permissive() *core.Provider {
	return &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	}
}

func user(id string) map[string]any { return map[string]any{"client_id": id} }

// connect connects a client over a pipe and returns both of its ends.
func connect(t testing.TB, s *core.Service, id string) (*coretest.Conn, *core.Client) {
	t.Helper()
	conn := coretest.Connect(t, s, user(id))
	conn.Do(core.Message{Type: "ping"}) // online has returned
	return conn, core.FindClients(s, "", id)[0]
}

// wire is a client's end of a connection that reads only when it is told to, and checks every frame that it reads.
type wire struct {
	t  testing.TB
	nc net.Conn
	in *bufio.Reader
}

// wireTo connects a client over any pair of connections and returns both of its ends. The 101 has been read, so the
// client is registered soon; online may still run.
func wireTo(t testing.TB, s *core.Service, id string, server, client net.Conn) *wire {
	t.Helper()
	h := coretest.Handshake()
	h.Identity = user(id)
	ticket, err := s.Admit(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	s.Attach(server, nil, ticket)
	p := &wire{t: t, nc: client, in: bufio.NewReader(client)}
	if response, err := http.ReadResponse(p.in, nil); err != nil { //nolint:bodyclose // a 101 has no body
		t.Fatal(err)
	} else if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal("wireTo:", response.Status)
	}
	return p
}

// wirePipe connects a peer over a pipe.
func wirePipe(t testing.TB, s *core.Service, id string) (*wire, *core.Client) {
	t.Helper()
	server, client := net.Pipe()
	p := wireTo(t, s, id, server, client)
	p.ping()
	return p, core.FindClients(s, "", id)[0]
}

// wireTCP connects a peer over TCP, with kernel buffers as small as they get.
func wireTCP(t testing.TB, s *core.Service, id string) (*wire, *core.Client) {
	t.Helper()
	server, client := tcpPair(t)
	p := wireTo(t, s, id, server, client)
	p.ping()
	return p, core.FindClients(s, "", id)[0]
}

// tcpPair returns two ends of a TCP connection whose buffers hold little.
func tcpPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	return dialPair(t, "tcp", "127.0.0.1:0")
}

func unixPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	return dialPair(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func dialPair(t testing.TB, network, address string) (server, client net.Conn) {
	t.Helper()
	server, client = unsizedPair(t, network, address)
	for _, nc := range []net.Conn{server, client} {
		if sized, ok := nc.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		}); ok {
			if err := errors.Join(sized.SetReadBuffer(64<<10), sized.SetWriteBuffer(64<<10)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return server, client
}

func unsizedPair(t testing.TB, network, address string) (server, client net.Conn) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial(network, listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// ping waits for the answer to a ping: everything before it has been handled.
func (p *wire) ping() {
	p.t.Helper()
	p.send(core.Message{Type: "ping", ID: "ping"})
	if text := p.text(); text != `{"type":"pong","id":"ping"}` {
		p.t.Fatalf("got %s, want a pong", text)
	}
}

func (p *wire) send(m core.Message) {
	p.t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(1, text)
}

// write sends frames, masked with zeros: the payload is on the wire as it is. They leave together, so that the service
// reads them together.
func (p *wire) write(op byte, payload []byte, more ...string) {
	p.t.Helper()
	b := appendFrame(nil, op, payload)
	for _, text := range more {
		b = appendFrame(b, 1, []byte(text))
	}
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal("write:", err)
	}
}

func appendFrame(b []byte, op byte, payload []byte) []byte {
	b = append(b, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// frame reads one frame, which must be whole and as RFC 6455 has it.
func (p *wire) frame() (op byte, payload []byte, err error) {
	var head [10]byte
	if _, err = io.ReadFull(p.in, head[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(p.in, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		_, err = io.ReadFull(p.in, head[2:10])
		n = binary.BigEndian.Uint64(head[2:10])
	}
	if err != nil || head[0]&0xf0 != 0x80 || n > 16<<20 {
		return 0, nil, fmt.Errorf("bad frame header % x: %w", head, err)
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(p.in, payload); err != nil {
		return 0, nil, fmt.Errorf("frame cut: %w", err)
	}
	return head[0] & 0xf, payload, nil
}

// text returns the next text message.
func (p *wire) text() string {
	p.t.Helper()
	_ = p.nc.SetReadDeadline(time.Now().Add(coretest.Patience))
	op, payload, err := p.frame()
	if err != nil || op != 1 {
		p.t.Fatalf("got frame %d %q %v, want a text", op, payload, err)
	}
	if !json.Valid(payload) {
		p.t.Fatalf("not JSON: %q", payload)
	}
	return string(payload)
}

// rest returns the texts up to the close frame, and why the connection was closed. Behind the close frame there must be
// nothing but the end.
func (p *wire) rest() (texts []string, why core.CloseError) {
	p.t.Helper()
	_ = p.nc.SetReadDeadline(time.Now().Add(coretest.Patience))
	for {
		op, payload, err := p.frame()
		switch {
		case err != nil:
			p.t.Fatalf("after %d texts: %v, want a close frame", len(texts), err)
		case op == 1:
			texts = append(texts, string(payload))
		case op == 8:
			if len(payload) >= 2 {
				why = core.CloseError{Code: int(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:])}
			}
			p.write(8, payload[:min(2, len(payload))])
			if op, payload, err := p.frame(); err == nil {
				p.t.Fatalf("frame %d %q follows the close frame", op, payload)
			}
			return texts, why
		}
	}
}

// number is the payload of a push that a reader can check for order.
func number(n int) core.Message { return core.Message{Type: "n", Message: strconv.Itoa(n)} }

// numberIn returns the number in the text of a push made with number, or -1.
func numberIn(text string) int {
	var m core.Message
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Type != "n" {
		return -1
	}
	n, _, _ := strings.Cut(m.Message, " ")
	i, err := strconv.Atoi(n)
	if err != nil {
		return -1
	}
	return i
}

func sub(t testing.TB, c *core.Client, channels ...string) {
	t.Helper()
	if err := c.Sub(channels...); err != nil {
		t.Fatal(err)
	}
}

func push(t testing.TB, s *core.Service, channel string, payload any, opts ...core.PushOption) {
	t.Helper()
	if err := s.Push([]string{channel}, payload, opts...); err != nil {
		t.Fatal(err)
	}
}

// gate is a subscriber whose socket holds up the turn that writes to it, for as long as it is shut.
type gate struct {
	*core.Client
	reached chan struct{} // receives when a turn stands before the shut gate
	opened  chan struct{} // closed when it is opened

	mu     sync.Mutex // guards the rest
	closed bool
	writes [][]byte
}

// newGate connects a gate to the channel "room", whose first subscriber it should be.
func newGate(t testing.TB, s *core.Service) *gate {
	t.Helper()
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	g.Client = core.AttachStub(s, "gate", g.take)
	sub(t, g.Client, "room")
	return g
}

func (g *gate) take(p []byte) {
	g.mu.Lock()
	g.writes = append(g.writes, bytes.Clone(p))
	closed := g.closed
	g.closed = false
	g.mu.Unlock()
	if closed {
		g.reached <- struct{}{}
		<-g.opened
	}
}

// shut holds up the turn of the channel "room": it returns once a turn with a message "held" stands before the gate.
func (g *gate) shut(t testing.TB, s *core.Service) (open func()) {
	t.Helper()
	g.mu.Lock()
	g.closed, g.writes = true, nil
	g.mu.Unlock()
	pushed := make(chan struct{})
	go func() { // ends when the gate is opened: the publisher may run the turn itself
		defer close(pushed)
		push(t, s, "room", core.Message{Type: "held"})
	}()
	<-g.reached
	open = sync.OnceFunc(func() {
		close(g.opened)
		<-pushed
	})
	t.Cleanup(open)
	return open
}

// written returns how many writes there were, and the frames in each.
func (g *gate) written() (frames []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.writes {
		n := 0
		for in := bufio.NewReader(bytes.NewReader(p)); ; n++ {
			if _, _, err := (&wire{in: in}).frame(); err != nil {
				break
			}
		}
		frames = append(frames, n)
	}
	return frames
}

func TestAPushReachesEverySubscriberOfEachOfItsChannels(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	a, both := connect(t, s, "a")
	b, one := connect(t, s, "b")
	c, _ := connect(t, s, "c")
	sub(t, both, "x", "y", "x")
	sub(t, one, "y")
	if err := s.Push([]string{"x", "y"}, core.Message{Type: "n", Message: "1"}); err != nil {
		t.Fatal(err)
	}
	a.Do(core.Message{Type: "ping"})
	if first, second := a.Expect("n"), a.Expect("n"); first.Channel == second.Channel {
		t.Fatal("both came from", first.Channel)
	}
	a.Nothing()
	if got := b.Expect("n"); got.Raw != `{"type":"n","channel":"y","message":"1"}` {
		t.Fatal(got.Raw)
	}
	b.Nothing()
	c.Nothing()
	push(t, s, "nobody is here", "x")
}

// The stress that the design of turns was chosen by: clients come and go while publishers push, a quarter of the messages
// excludes somebody. A client that is in must miss nothing, and once Unsub has returned nothing more may be accepted.
func TestJoiningAndLeavingWhileOthersPublishLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	const (
		clients    = 300
		publishers = 2
		stays      = 8
	)
	s := coretest.Run(t, &core.Provider{}, core.WithOutboxBytes(64<<20))
	members := make([]*guest, clients)
	var received atomic.Int64
	for i := range members {
		server, client := unixPair(t)
		p := wireTo(t, s, strconv.Itoa(i), server, client)
		eventually(t, "the client", func() bool { return len(core.FindClients(s, "", strconv.Itoa(i))) == 1 })
		members[i] = &guest{index: i, wire: p, client: core.FindClients(s, "", strconv.Itoa(i))[0], received: &received, heard: make(chan struct{})}
	}
	excluded := func(publisher, n int) int {
		if n%4 != 0 {
			return -1
		}
		return (n/4*7 + publisher) % clients
	}
	var begun [publishers]atomic.Int64 // the last message each publisher has begun to push
	var stop atomic.Bool
	var churn, reading, publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for n := 1; !stop.Load() && !t.Failed(); n++ {
				var opts []core.PushOption
				if who := excluded(p, n); who >= 0 {
					opts = append(opts, core.Except(members[who].client))
				}
				begun[p].Store(int64(n))
				if err := s.Push([]string{"room"}, core.Message{Type: "n", Message: fmt.Sprint(n, " ", p)}, opts...); err != nil {
					t.Error("push:", err)
				}
				for s.Stats().Delivered > received.Load()+2_000 && !t.Failed() { // readers in this process need the processor too
					runtime.Gosched()
				}
			}
		})
	}
	for _, c := range members {
		reading.Go(func() {
			if err := c.read(); err != nil {
				t.Errorf("client %d reads %v", c.index, err)
			}
			close(c.heard)
		})
		churn.Go(func() {
			for range stays {
				err := errors.Join(c.client.Send(core.Message{Type: "in"}), c.client.Sub("room"))
				c.from = append(c.from, [publishers]int{int(begun[0].Load()), int(begun[1].Load())})
				if _, open := <-c.heard; open && err == nil {
					err = errors.Join(c.client.Unsub("room"), c.client.Send(core.Message{Type: "out"}))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	churn.Wait()
	stop.Store(true)
	publishing.Wait()
	for _, c := range members {
		_ = c.client.Close(1000, "")
	}
	reading.Wait()
	for _, c := range members {
		if err := c.check(excluded); err != nil {
			t.Fatalf("client %d: %v", c.index, err)
		}
	}
	t.Logf("%d and %d messages, %d deliveries", begun[0].Load(), begun[1].Load(), received.Load())
}

// guest is a client of the test above: it notes what it may expect, and what it gets.
type guest struct {
	index    int
	wire     *wire
	client   *core.Client
	received *atomic.Int64
	heard    chan struct{} // receives when the reader has heard enough in a stay, closed when it ends
	from     [][2]int      // by stay and publisher: a message above has been pushed after Sub returned
	got      [][2][]int    // by stay and publisher
	stray    int           // messages after Unsub had returned
}

func (c *guest) read() error {
	enough := 0
	for {
		op, payload, err := c.wire.frame()
		if err != nil || op == 8 {
			return err
		}
		switch text := string(payload); text {
		case `{"type":"in"}`:
			c.got = append(c.got, [2][]int{})
			enough = 1 + (c.index+len(c.got))%9
		case `{"type":"out"}`:
			enough = -1
		default:
			c.received.Add(1)
			number, publisher, _ := strings.Cut(strings.TrimPrefix(text, `{"type":"n","channel":"room","message":"`), " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
			if enough < 0 {
				c.stray++
				continue
			}
			now := &c.got[len(c.got)-1][publisher[0]-'0']
			*now = append(*now, n)
			if enough--; enough == 0 {
				c.heard <- struct{}{}
			}
			enough = max(enough, 0)
		}
	}
}

func (c *guest) check(excluded func(publisher, n int) int) error {
	if c.stray > 0 || len(c.got) != len(c.from) {
		return fmt.Errorf("%d messages after Unsub, %d stays of %d", c.stray, len(c.got), len(c.from))
	}
	for k, from := range c.from {
		for p, got := range c.got[k] {
			next := from[p] + 1
			if len(got) > 0 && got[0] < next {
				next = got[0] // pushed while Sub was on its way
			}
			for _, n := range got {
				for next < n && excluded(p, next) == c.index {
					next++
				}
				if n != next || excluded(p, n) == c.index {
					return fmt.Errorf("stay %d: got %d of publisher %d, want %d", k, n, p, next)
				}
				next++
			}
		}
	}
	return nil
}

func TestNothingOfAChannelFollowsTheAnswerToItsUnsubscribe(t *testing.T) {
	t.Parallel()
	onEach(t, nil, func(p *wire, c *core.Client) {
		t := p.t
		stop := make(chan struct{})
		var publishing sync.WaitGroup
		defer publishing.Wait()
		defer close(stop)
		publishing.Go(func() { // without pause, as long as the peer is not far behind
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				for core.BacklogBytes(c) > 4<<10 && !c.Closed() {
					runtime.Gosched()
				}
				if err := c.Scope().Push([]string{"room"}, number(n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for range 30 {
			p.send(core.Message{Type: "subscribe", ID: "in", Channel: "room"})
			for inside, heard := true, 0; inside; {
				switch text := p.text(); {
				case strings.HasPrefix(text, `{"id":"in"`):
				case strings.HasPrefix(text, `{"id":"out"`):
					inside = false
				default:
					if heard++; heard == 3 {
						p.send(core.Message{Type: "unsubscribe", ID: "out", Channel: "room"})
					}
				}
			}
			p.ping() // nothing but the pong
		}
	})
}

func TestEachSubscriberSeesTheOrderOfEachPublisher(t *testing.T) {
	t.Parallel()
	const publishers, each = 8, 200
	s := coretest.Run(t, permissive())
	conns := make([]*coretest.Conn, 5)
	for i := range conns {
		conn, client := connect(t, s, strconv.Itoa(i))
		sub(t, client, "room")
		conns[i] = conn
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for n := range each {
				if err := s.Push([]string{"room"}, core.Message{Type: "n", Message: fmt.Sprint(n, " ", p)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	var order []string // of all publishers together: the same for everybody on a node
	for i, conn := range conns {
		next := [publishers]int{}
		for k := range publishers * each {
			got := conn.Expect("n").Message.Message
			var n, p int
			if _, err := fmt.Sscan(got, &n, &p); err != nil || n != next[p] {
				t.Fatalf("got %q, want %d of publisher %d (%v)", got, next[p], p, err)
			}
			next[p]++
			if i == 0 {
				order = append(order, got)
			} else if order[k] != got {
				t.Fatalf("subscriber %d got %q where subscriber 0 got %q", i, got, order[k])
			}
		}
		conn.Nothing()
	}
}

func TestExceptLeavesOutOneConnection(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	tab1, first := connect(t, s, "ann")
	tab2, second := connect(t, s, "ann")
	other, third := connect(t, s, "bob")
	for _, c := range []*core.Client{first, second, third} {
		sub(t, c, "room")
	}
	push(t, s, "room", number(1), core.Except(first))
	push(t, s, "room", number(2), core.ExceptConn(second.ConnID))
	push(t, s, "room", number(3), core.Except(first), core.Except(third), core.Except(nil), core.ExceptConn(""))
	push(t, s, "room", number(4))
	if err := s.Broadcast(t.Context(), number(5), core.Except(second)); err != nil {
		t.Fatal(err)
	}
	for conn, want := range map[*coretest.Conn][]int{tab1: {2, 4, 5}, tab2: {1, 3, 4}, other: {1, 2, 4, 5}} {
		for _, n := range want {
			if got := conn.Expect("n"); numberIn(got.Raw) != n {
				t.Fatalf("got %s, want %d of %v", got.Raw, n, want)
			}
		}
		conn.Nothing()
	}
}

// In one batch, frames with and without exclusions are cut out for each client on its own.
func TestABatchIsCutForThoseItsFramesExclude(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	gate := newGate(t, s)
	var conns []*coretest.Conn
	var clients []*core.Client
	for i := range 4 {
		conn, client := connect(t, s, strconv.Itoa(i))
		sub(t, client, "room")
		conns, clients = append(conns, conn), append(clients, client)
	}
	open := gate.shut(t, s)
	const frames = 60 // one batch
	for n := range frames {
		var opts []core.PushOption
		for i, client := range clients[1:] { // client 0 gets all, client 3 every fourth
			if n%4 <= i {
				opts = append(opts, core.Except(client))
			}
		}
		push(t, s, "room", number(n), opts...)
	}
	open()
	for i, conn := range conns {
		conn.Expect("held")
		for n := range frames {
			if i > 0 && n%4 <= i-1 {
				continue
			}
			if got := conn.Expect("n"); numberIn(got.Raw) != n {
				t.Fatalf("client %d: got %s, want %d", i, got.Raw, n)
			}
		}
		conn.Nothing()
	}
}

func TestFramesAreGatheredWhileATurnRuns(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	gate := newGate(t, s)
	open := gate.shut(t, s)
	for n := range 150 {
		push(t, s, "room", number(n))
	}
	open()
	eventually(t, "the frames", func() bool { return s.Stats().Delivered == 151 })
	if got := gate.written(); fmt.Sprint(got) != "[1 64 64 22]" {
		t.Fatalf("frames in each write: %v, want one turn of 1, and what waited meanwhile in batches of 64 at most", got)
	}
}

func TestABatchHasAtMost256KiB(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	gate := newGate(t, s)
	open := gate.shut(t, s)
	text := strings.Repeat("x", 100<<10)
	push(t, s, "room", text)
	push(t, s, "room", text)
	larger := make(chan error, 1)
	go func() { larger <- s.Push([]string{"room"}, strings.Repeat("y", 300<<10)) }() // ends when it has room
	select {
	case err := <-larger:
		t.Fatal("a frame that does not fit behind what waits was taken:", err)
	case <-time.After(10 * time.Millisecond):
	}
	open()
	if err := <-larger; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the frames", func() bool { return s.Stats().Delivered == 4 })
	if got := gate.written(); fmt.Sprint(got) != "[1 2 1]" {
		t.Fatalf("frames in each write: %v, want [1 2 1]: the large one alone", got)
	}
}

func TestALocalPublisherWaitsForRoomAndNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	gate := newGate(t, s)
	conn, client := connect(t, s, "ann")
	sub(t, client, "room", "other")
	open := gate.shut(t, s)
	text := core.Message{Type: "n", Message: "1 " + strings.Repeat("x", 1<<10)}
	frames := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for core.PendingBytes(s, "room") <= 255<<10 {
		if err := s.PushContext(ctx, []string{"room"}, text); err != nil {
			t.Fatal(err)
		}
		frames++
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s.PushContext(ctx, []string{"room"}, text) }() // ends with ctx
	push(t, s, "other", number(0))                                        // other channels have room
	if got := conn.Expect("n"); got.Channel != "other" {
		t.Fatal(got.Raw)
	}
	select {
	case err := <-waiting:
		t.Fatal("the channel is full, and Push returned", err)
	default:
	}
	cancel()
	if err := <-waiting; !errors.Is(err, core.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	if n := core.PendingBytes(s, "room"); n > 256<<10 {
		t.Fatalf("%d bytes pending, 256 KiB at most", n)
	}
	go func() { waiting <- s.PushContext(t.Context(), []string{"room"}, number(frames)) }() // ends when there is room
	open()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	for conn.Expect("held"); frames > 0; frames-- {
		conn.Expect("n")
	}
	conn.Expect("n")
}

func TestAFullChannelRefusesADriversPublicationAndTellsTheGapBehindWhatIsPending(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive())
	gate := newGate(t, s)
	conn, client := connect(t, s, "ann")
	sub(t, client, "room")
	open := gate.shut(t, s)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	topic := core.Topic{Channel: "room"}
	payload, err := core.Encode(core.Message{Type: "n", Message: "0 " + strings.Repeat("x", 1<<10)}, "", "room")
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for ; ; taken++ {
		if taken > 1000 {
			t.Fatal("1 MB is pending")
		}
		if err = d.node().Deliver(ended, core.Publication{Topic: topic, Payload: payload}); err != nil {
			break
		}
	}
	if !errors.Is(err, core.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	d.node().Gap(topic, core.Topic{Channel: "nobody"})
	open()
	conn.Expect("held")
	for range taken {
		conn.Expect("n")
	}
	if got := conn.Expect("gap"); got.Raw != `{"type":"gap","channel":"room"}` {
		t.Fatal(got.Raw)
	}
	push(t, s, "room", number(1))
	conn.Expect("n")
	conn.Nothing()
	if got := s.Stats().Gaps; got != 1 {
		t.Fatalf("%d gaps counted, want 1", got)
	}
}

func TestAGapIsToldInItsPlace(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive())
	gate := newGate(t, s)
	conn, client := connect(t, s, "ann")
	sub(t, client, "room")
	open := gate.shut(t, s)
	push(t, s, "room", number(1))
	d.node().Gap(core.Topic{Channel: "room"})
	d.node().Gap(core.Topic{Channel: "room"}) // once is enough
	push(t, s, "room", number(2))
	open()
	for _, want := range []string{"held", "n", "gap", "n"} {
		conn.Expect(want)
	}
	d.node().Gap(core.Topic{Channel: "room"}) // in a quiet channel too
	conn.Expect("gap")
	d.node().Gap(core.Topic{}) // of the broadcasts
	if got := conn.Expect("gap"); got.Raw != `{"type":"gap"}` {
		t.Fatal(got.Raw)
	}
	conn.Nothing()
}

// Publishers are slowed down to what the channel's turns can write, instead of filling the memory with what they cannot.
func TestAFloodClosesNobodyAndWaitsInItsPublishers(t *testing.T) {
	t.Parallel()
	const publishers, each, size = 4, 600, 2 << 10
	s := coretest.Run(t, permissive(), core.WithOutboxBytes(publishers*each*size))
	var flooding atomic.Int64 // publishers, of whom one may be the one that runs the turn
	flooding.Store(publishers)
	turn := core.AttachStub(s, "slow turn", func([]byte) {
		for flooding.Load() > 1 && core.PendingBytes(s, "room") < 256<<10-2*size { // room for one more, at most
			runtime.Gosched()
		}
	})
	sub(t, turn, "room")
	conns := make([]*coretest.Conn, 5)
	for i := range conns {
		conn, client := connect(t, s, strconv.Itoa(i))
		sub(t, client, "room")
		conns[i] = conn
	}
	padding := strings.Repeat("x", size)
	var publishing sync.WaitGroup
	var most atomic.Int64
	for range publishers {
		publishing.Go(func() {
			defer flooding.Add(-1)
			for n := range each {
				if err := s.Push([]string{"room"}, core.Message{Type: "n", Message: fmt.Sprint(n, " ", padding)}); err != nil {
					t.Error(err)
					return
				}
				if pending := int64(core.PendingBytes(s, "room")); pending > most.Load() {
					most.Store(pending)
				}
			}
		})
	}
	publishing.Wait()
	for _, conn := range conns {
		for range publishers * each {
			conn.Expect("n")
		}
		conn.Nothing()
	}
	if most.Load() > 256<<10 {
		t.Fatalf("%d KiB were pending, 256 at most", most.Load()>>10)
	}
	if stats := s.Stats(); stats.Slow != 0 || stats.Delivered != 6*publishers*each {
		t.Fatalf("%+v", stats)
	}
}

func TestALargeTurnWaitsForASlotAndASmallOneDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive())
		var large, small atomic.Int64
		for i := range 600 {
			sub(t, core.AttachStub(s, strconv.Itoa(i), func([]byte) { large.Add(1) }), "large")
		}
		for i := range 10 {
			sub(t, core.AttachStub(s, strconv.Itoa(i), func([]byte) { small.Add(1) }), "small")
		}
		release := core.HoldSlots(s)
		push(t, s, "large", "x")
		push(t, s, "small", "x")
		synctest.Wait()
		if large.Load() != 0 || small.Load() != 10 {
			t.Errorf("%d clients of the large channel were written to without a slot, %d of the 10 of the small one", large.Load(), small.Load())
		}
		release()
		synctest.Wait()
		if large.Load() != 600 {
			t.Errorf("%d of 600 were written to", large.Load())
		}
	})
}

func TestALargeChannelIsJoinedAndLeftWithoutCopyingIt(t *testing.T) { // not parallel: it counts allocations
	const members, cycles = 10_000, 2_000
	s := coretest.Run(t, permissive(), core.WithChannel("*", core.Rules{Presence: core.PresenceOff}))
	clients := make([]*core.Client, members)
	for i := range clients {
		clients[i] = core.AttachStub(s, strconv.Itoa(i), func([]byte) {})
		sub(t, clients[i], "room")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range cycles {
		c := clients[i*7%members]
		if err := errors.Join(c.Unsub("room"), c.Sub("room")); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// A copy of the subscribers has 80,000 bytes.
	if each := (after.TotalAlloc - before.TotalAlloc) / cycles; each > 4<<10 {
		t.Fatalf("leaving and joining a channel of %d allocates %d bytes", members, each)
	}
}

func TestIdleChannelsCostLittle(t *testing.T) { // not parallel: it looks at the memory of the process
	const clients, each = 800, 250
	s := coretest.Run(t, permissive(), core.WithChannel("*", core.Rules{Presence: core.PresenceOff}))
	subscribers := make([]*core.Client, clients)
	for i := range subscribers {
		subscribers[i] = core.AttachStub(s, strconv.Itoa(i), func([]byte) {})
	}
	before := core.HeapBytes()
	names := make([]string, each)
	for i, c := range subscribers {
		for k := range names {
			names[k] = fmt.Sprintf("room:%d:%d", i, k)
		}
		sub(t, c, names...)
	}
	for k := range 1000 { // a channel that has been used keeps nothing
		push(t, s, fmt.Sprintf("room:%d:%d", k%clients, k%each), strings.Repeat("x", 1<<10))
	}
	eventually(t, "the pushes", func() bool { return s.Stats().Delivered == 1000 })
	if n := s.Stats().Channels; n < clients*each {
		t.Fatal("channels:", n)
	}
	perChannel := (core.HeapBytes() - before) / (clients * each)
	t.Logf("%d bytes for each of %d channels", perChannel, clients*each)
	if perChannel > 1000 {
		t.Fatalf("an idle channel with one subscriber costs %d bytes", perChannel)
	}
	runtime.KeepAlive(subscribers)
}
