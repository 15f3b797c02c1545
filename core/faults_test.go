package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// The tests of this file live a whole life of a connection again and again, and fail its first call of a kind, then its
// second, and so on, until there is none left to fail. After each life the others must not have noticed.

// trigger strikes at one call of a verb, or from that one on.
type trigger struct {
	verb string
	at   int  // the call to fail, from 1
	on   bool // and all that follow

	mu    sync.Mutex // guards seen
	seen  int
	armed bool
}

func (f *trigger) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = true
}

func (f *trigger) disarm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
}

// strikes counts a call, and reports whether it is to fail.
func (f *trigger) strikes(verb string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if verb != f.verb || !f.armed {
		return false
	}
	f.seen++
	return f.seen == f.at || f.on && f.seen > f.at
}

// struck reports whether there was a call to fail.
func (f *trigger) struck() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen >= f.at
}

// everyCall runs a life with its first call of a verb failing, then with its second, until there is none left. atLeast is
// how many there must have been.
func everyCall(t *testing.T, verb string, atLeast int, live func(t *testing.T, f *trigger)) {
	t.Helper()
	for _, on := range []bool{false, true} {
		n := 1
		for ; ; n++ {
			f := &trigger{verb: verb, at: n, on: on}
			which := fmt.Sprint(verb, " ", n)
			if on {
				which += " and all after it"
			}
			if !t.Run(which, func(t *testing.T) { live(t, f) }) || !f.struck() {
				break
			}
		}
		if n <= atLeast {
			t.Errorf("%d calls of %s, want %d", n-1, verb, atLeast)
		}
	}
}

// faultyConn is a connection whose calls fail. hurt does the failing call.
type faultyConn struct {
	net.Conn
	*trigger

	hurt func(c *faultyConn, p []byte) (int, error)

	mu      sync.Mutex // guards the rest
	writeBy time.Time
	once    sync.Once
	closed  chan struct{}
}

func (c *faultyConn) Read(p []byte) (int, error) {
	if c.strikes("Read") {
		return c.hurt(c, p)
	}
	return c.Conn.Read(p)
}

func (c *faultyConn) Write(p []byte) (int, error) {
	if c.strikes("Write") {
		return c.hurt(c, p)
	}
	return c.Conn.Write(p)
}

func (c *faultyConn) SetDeadline(at time.Time) error {
	if c.strikes("SetDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	return c.Conn.SetDeadline(at)
}

func (c *faultyConn) SetReadDeadline(at time.Time) error {
	if c.strikes("SetReadDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	return c.Conn.SetReadDeadline(at)
}

func (c *faultyConn) SetWriteDeadline(at time.Time) error {
	if c.strikes("SetWriteDeadline") {
		_, err := c.hurt(c, nil)
		return err
	}
	c.mu.Lock()
	c.writeBy = at
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(at)
}

func (c *faultyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	err := c.Conn.Close()
	if c.strikes("Close") {
		_, err = c.hurt(c, nil)
	}
	return err
}

// The ways in which a call fails.

func failsWith(err error) func(*faultyConn, []byte) (int, error) {
	return func(*faultyConn, []byte) (int, error) { return 0, err }
}

// breaksOff brings the half of what arrived, and what follows is lost with the connection.
func breaksOff(c *faultyConn, p []byte) (int, error) {
	n, _ := c.Conn.Read(p)
	_ = c.Conn.Close()
	return n / 2, syscall.ECONNRESET
}

// loses loses everything that arrives: a network that drops packets.
func loses(c *faultyConn, p []byte) (int, error) {
	for {
		if _, err := c.Conn.Read(p); err != nil {
			return 0, err
		}
	}
}

// takesHalf writes the half, and says so or not.
func takesHalf(err error) func(*faultyConn, []byte) (int, error) {
	return func(c *faultyConn, p []byte) (int, error) {
		n, failed := c.Conn.Write(p[:len(p)/2])
		if failed != nil {
			return n, failed
		}
		return n, err
	}
}

// takesNothing takes nothing until the deadline.
func takesNothing(c *faultyConn, _ []byte) (int, error) {
	c.mu.Lock()
	by := c.writeBy
	c.mu.Unlock()
	if by.IsZero() {
		return 0, errors.New("a write without a deadline would hang for ever")
	}
	select {
	case <-time.After(time.Until(by)):
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

// witness is a client that takes in whatever comes, and says what it is told to for as long as anybody listens.
type witness struct {
	t     testing.TB
	nc    net.Conn
	words chan []byte
	ended chan struct{} // closed when the server has hung up
	mute  bool          // closes are not answered

	mu    sync.Mutex // guards the rest
	texts []string
	codes []int // of close frames
}

func newWitness(t testing.TB, nc net.Conn) *witness {
	t.Helper()
	w := &witness{t: t, nc: nc, words: make(chan []byte, 100), ended: make(chan struct{})}
	go func() { // ends when the connection does
		defer close(w.ended)
		defer nc.Close()
		w.listen()
	}()
	go func() { // ends with the test, which closes words
		for word := range w.words {
			_, _ = nc.Write(word)
		}
	}()
	t.Cleanup(func() {
		close(w.words)
		_ = nc.Close()
		<-w.ended
	})
	return w
}

// listen reads the 101 and then frames. What arrives may end anywhere, but must be right up to there.
func (w *witness) listen() {
	parser := frame.Parser{Unmasked: true}
	buf := make([]byte, 4<<10)
	var head []byte
	inside := false
	for {
		n, err := w.nc.Read(buf)
		data := slices.Clone(buf[:n])
		if !inside {
			head = append(head, data...)
			_, rest, there := strings.Cut(string(head), "\r\n\r\n")
			if data = []byte(rest); there {
				inside = true
			} else {
				data = nil
			}
		}
		for len(data) > 0 {
			var m frame.Message
			var broken error
			if m, data, broken = parser.Next(data); broken != nil {
				w.t.Errorf("the stream is broken: %v", broken)
				return
			}
			w.take(m)
		}
		if err != nil {
			return
		}
	}
}

func (w *witness) take(m frame.Message) {
	switch m.Op {
	case frame.Text:
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.codes) > 0 || !json.Valid(m.Payload) {
			w.t.Errorf("%q, behind the codes %v", m.Payload, w.codes)
		}
		w.texts = append(w.texts, string(m.Payload))
	case frame.Close:
		code, _, _ := frame.ParseClose(m.Payload)
		w.mu.Lock()
		w.codes = append(w.codes, int(code))
		w.mu.Unlock()
		if !w.mute {
			w.words <- masked(frame.Close, string(m.Payload))
		}
	case frame.Ping:
		w.words <- masked(frame.Pong, string(m.Payload))
	case frame.Continuation, frame.Binary, frame.Pong:
	}
}

func (w *witness) say(m core.Message) {
	text, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	w.words <- masked(frame.Text, string(text))
}

// count is how much has arrived, but for closes.
func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.texts)
}

// heard returns what has arrived: the ids of answers, the numbers of pushes and the codes of closes, in order.
func (w *witness) heard() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var heard []string
	for _, text := range w.texts {
		var m struct {
			ID, Type, Message string
			Code              int
		}
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			w.t.Error(err)
		}
		word := m.Type + m.ID
		switch m.Type {
		case "n":
			word, _, _ = strings.Cut(m.Message, " ")
		case "error":
			word += " " + strconv.Itoa(m.Code)
		}
		heard = append(heard, word)
	}
	for _, code := range w.codes {
		heard = append(heard, strconv.Itoa(code))
	}
	return heard
}

// wholeLife is what ann hears when nothing fails.
var wholeLife = []string{"receive1", "receive2", "message3", "receive3", "1", "2", "3", "4", "pong4", "receive5", "1000"}

// asks is a provider that allows everything, answers anything and notes who comes and goes.
func asks(d *diary) *core.Provider {
	p := permissive()
	p.Event = func(name string, c *core.Client) error {
		if name == core.EventPing {
			return nil
		}
		return d.note(name, c)
	}
	p.Message = func(m *core.Message, _ *core.Client) error { return m.Reply("well") }
	return p
}

// balanced fails the test unless each connection that was online and is not there any more was offline once, behind that.
func (d *diary) balanced(t *testing.T, there ...*core.Client) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	open := map[string]bool{}
	for _, e := range d.events {
		event, conn, _ := strings.Cut(e, " ")
		if open[conn] == (event == core.EventOnline) {
			t.Errorf("%s comes twice, or first, in %v", e, d.events)
		}
		open[conn] = event == core.EventOnline
	}
	for conn, online := range open {
		if online != slices.ContainsFunc(there, func(c *core.Client) bool { return c.ConnID == conn }) {
			t.Errorf("%s is online: %v, in %v", conn, online, d.events)
		}
	}
}

// scene is a service with bob in a room, and ann, who is going to come over a connection that fails.
type scene struct {
	t        *testing.T
	s        *core.Service
	d        *diary
	bob, ann *witness
	pushed   int      // how many
	taken    []string // the numbers of those without an error

	owesLeaves   bool // the driver has refused to let somebody leave, which it would have to make up for
	failsToClose bool

	kick   bool                               // the server ends ann's life, and she does not answer
	attach func(ticket *core.Ticket) net.Conn // takes ann's ticket and returns her end
	settle func(there func() bool)            // returns when there holds, or nothing goes on any more
	pass   func()                             // lets a time pass after which everything that hangs has ended
}

func (sc *scene) admit(id string) *core.Ticket {
	sc.t.Helper()
	h := coretest.Handshake()
	h.Identity = user(id)
	ticket, err := sc.s.Admit(sc.t.Context(), h)
	if err != nil {
		sc.t.Fatal(err)
	}
	return ticket
}

// setUp connects bob over a connection without faults.
func (sc *scene) setUp() {
	server, client := net.Pipe()
	sc.s.Attach(server, nil, sc.admit("bob"))
	sc.bob = newWitness(sc.t, client)
	sc.bob.say(core.Message{ID: "1", Type: "subscribe", Channel: "room"})
	sc.settle(func() bool { return sc.bob.count() == 1 })
}

// live is ann's life: she does everything that clients do. It returns what she heard.
func (sc *scene) live() []string {
	sc.t.Helper()
	sc.ann = newWitness(sc.t, sc.attach(sc.admit("ann")))
	sc.ann.mute = sc.kick
	n := 0
	said := func(answers int, m core.Message) {
		sc.ann.say(m)
		n += answers
		sc.settled(n)
	}
	said(1, core.Message{ID: "1", Type: "subscribe", Channel: "room"})
	said(1, core.Message{ID: "2", Type: "presence", Channel: "room"})
	said(2, core.Message{ID: "3", Type: "message", Channel: "room", Message: strings.Repeat("x", 300)})
	for range 4 {
		sc.push()
		n++
		sc.settled(n)
	}
	said(1, core.Message{ID: "4", Type: "ping"})
	said(1, core.Message{ID: "5", Type: "ask"})
	if sc.kick {
		_ = sc.s.Disconnect(sc.t.Context(), "ann", 0, "") // she may have gone
	} else {
		sc.ann.words <- masked(frame.Close, "\x03\xe8")
	}
	sc.pass()
	select {
	case <-sc.ann.ended:
	default:
		sc.t.Error("the connection was never closed")
	}
	return sc.ann.heard()
}

// settled waits until ann has heard so much, or hears no more.
func (sc *scene) settled(n int) {
	sc.settle(func() bool {
		select {
		case <-sc.ann.ended:
			return true
		default:
			return sc.ann.count() >= n
		}
	})
}

func (sc *scene) push() {
	sc.t.Helper()
	sc.pushed++
	push(sc.t, sc.s, "room", padded(sc.pushed))
	sc.taken = append(sc.taken, strconv.Itoa(sc.pushed))
}

// unharmed checks that nothing is left of ann, and that bob has missed nothing and is served.
func (sc *scene) unharmed() {
	t, s := sc.t, sc.s
	t.Helper()
	sc.settle(func() bool { return len(core.FindClients(s, "", "ann")) == 0 })
	for _, c := range core.FindClients(s, "", "ann") {
		t.Errorf("ann is still there: %v", cause(c))
	}
	sc.push()
	sc.bob.say(core.Message{ID: "2", Type: "ask"})
	last := func() bool {
		return slices.Contains(sc.bob.heard(), "receive2") && slices.Contains(sc.bob.heard(), strconv.Itoa(sc.pushed))
	}
	sc.settle(last)
	if !last() || !sc.inOrder(sc.bob.heard()) {
		t.Errorf("bob heard %v; taken were %v", sc.bob.heard(), sc.taken)
	}
	if members, err := s.Members(t.Context(), "room", 0); err != nil || !slices.Equal(clientIDs(members), []string{"bob"}) {
		t.Errorf("members: %v, %v", clientIDs(members), err)
	}
	if n, err := s.Count(t.Context(), "room"); n != 1 && !sc.owesLeaves || err != nil {
		t.Errorf("%d are counted, %v", n, err)
	}
	if online, err := s.Online(t.Context(), "ann"); online || err != nil {
		t.Errorf("ann is online: %v, %v", online, err)
	}
	if stats := s.Stats(); stats.Connections != 1 || stats.Hooks != 0 || core.Occupied(s) != 1 {
		t.Errorf("%d connections are counted; %+v", core.Occupied(s), stats)
	}
	sc.settle(func() bool { return core.DebtBytes(s) == 0 })
	if n := core.DebtBytes(s); n != 0 {
		t.Errorf("%d bytes are counted as waiting", n)
	}
	sc.d.balanced(t, core.FindClients(s, "", "bob")...)
}

// inOrder reports whether the pushes that were taken are in heard, and no push twice or out of its turn.
func (sc *scene) inOrder(heard []string) bool {
	_, pushes := apart(heard)
	before := 0
	for _, word := range pushes {
		n, err := strconv.Atoi(word)
		if err != nil || n <= before {
			return false
		}
		before = n
	}
	return !slices.ContainsFunc(sc.taken, func(n string) bool { return !slices.Contains(pushes, n) })
}

// shutDown ends the service, which nothing of what happened may hold up.
func (sc *scene) shutDown() {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	if err := sc.s.Shutdown(ctx); (err != nil) != sc.failsToClose {
		sc.t.Error(err)
	}
	<-sc.bob.ended
	if heard := sc.bob.heard(); heard[len(heard)-1] != "3001" {
		sc.t.Errorf("bob heard %v", heard)
	}
	sc.d.balanced(sc.t)
}

// beginning fails the test unless the answers that ann heard, and the pushes, are those that wholeLife begins with, in order:
// what she says may be lost while she hears on.
func beginning(t *testing.T, heard []string) {
	t.Helper()
	answers, pushes := apart(heard)
	allAnswers, allPushes := apart(wholeLife)
	if !startsWith(allAnswers, answers) || !startsWith(allPushes, pushes) {
		t.Errorf("ann heard %v", heard)
	}
}

// apart returns the answers and the numbers of the pushes in what was heard, without close codes.
func apart(heard []string) (answers, pushes []string) {
	for _, word := range heard {
		switch n, err := strconv.Atoi(word); {
		case err != nil:
			answers = append(answers, word)
		case n < 1000:
			pushes = append(pushes, word)
		}
	}
	return answers, pushes
}

func startsWith(all, some []string) bool {
	return len(some) <= len(all) && slices.Equal(all[:len(some)], some)
}

// In a bubble, where what hangs costs nothing, over a connection that can only block.
func TestAConnectionWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		verb, name string
		atLeast    int // calls in a life
		hurt       func(c *faultyConn, p []byte) (int, error)
	}{
		{"Read", "reset", 6, failsWith(syscall.ECONNRESET)},
		{"Read", "end of file", 6, failsWith(io.EOF)},
		{"Read", "time-out", 6, failsWith(os.ErrDeadlineExceeded)},
		{"Read", "cut in a message", 6, breaksOff},
		{"Read", "nothing arrives any more", 6, loses},
		{"Write", "broken pipe", 8, failsWith(syscall.EPIPE)},
		{"Write", "no buffers", 8, failsWith(syscall.ENOBUFS)},
		{"Write", "half with an error", 8, takesHalf(io.ErrShortWrite)},
		{"Write", "half without an error", 8, takesHalf(nil)},
		{"Write", "takes nothing", 8, takesNothing},
		{"SetDeadline", "error", 1, failsWith(os.ErrNoDeadline)},
		{"SetReadDeadline", "error", 1, failsWith(os.ErrNoDeadline)},
		{"SetWriteDeadline", "error", 8, failsWith(os.ErrNoDeadline)},
		{"Close", "error", 1, failsWith(syscall.EIO)},
	} {
		t.Run(fault.verb+" "+fault.name, func(t *testing.T) {
			t.Parallel()
			everyCall(t, fault.verb, fault.atLeast, func(t *testing.T, f *trigger) {
				t.Helper()
				synctest.Test(t, func(t *testing.T) {
					d := &diary{}
					sc := &scene{t: t, s: coretest.Run(t, core.WithLogger(nil), asks(d)), d: d, kick: fault.verb == "SetReadDeadline"}
					sc.settle = func(func() bool) { synctest.Wait() }
					sc.pass = func() { <-time.After(time.Minute) }
					sc.attach = func(ticket *core.Ticket) net.Conn {
						server, client := net.Pipe()
						sc.s.Attach(&faultyConn{Conn: server, trigger: f, hurt: fault.hurt, closed: make(chan struct{})}, nil, ticket)
						return client
					}
					sc.setUp()
					f.arm()
					heard := sc.live()
					beginning(t, heard)
					if !f.struck() && !sc.kick && !slices.Equal(heard, wholeLife) {
						t.Errorf("without a fault ann heard %v", heard)
					}
					sc.unharmed()
					sc.shutDown()
				})
			})
		})
	}
}

// Over TCP, where the kernel takes a part of what is written, or nothing: that loses nothing.
func TestASocketWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		verb, name string
		atLeast    int
		share      float64
		err        error
		lossless   bool
	}{
		{"read", "reset", 6, 0, syscall.ECONNRESET, false},
		{"read", "end of file", 6, 0, io.EOF, false},
		{"try", "broken pipe", 8, 0, syscall.EPIPE, false},
		{"try", "half, then a broken pipe", 8, 0.5, syscall.EPIPE, false},
		{"try", "no buffers", 8, 0, syscall.ENOBUFS, false},
		{"try", "half", 8, 0.5, nil, true},
		{"try", "nothing", 8, 0, nil, true},
		{"write", "broken pipe", 8, 0, syscall.EPIPE, false},
		{"write", "half, then a time-out", 8, 0.5, os.ErrDeadlineExceeded, false},
	} {
		t.Run(fault.verb+" "+fault.name, func(t *testing.T) {
			t.Parallel()
			everyCall(t, fault.verb, fault.atLeast, func(t *testing.T, f *trigger) {
				t.Helper()
				strike := func(verb string) (float64, error) {
					switch {
					case f.strikes(verb):
						return fault.share, fault.err
					case verb == "try" && fault.verb == "write": // so that there is something to write
						return 0, nil
					}
					return 1, nil
				}
				d := &diary{}
				sc := &scene{t: t, s: coretest.Run(t, core.WithLogger(nil), asks(d)), d: d}
				sc.settle = func(there func() bool) { eventually(t, "what was asked for", there) }
				sc.pass = func() {
					select {
					case <-sc.ann.ended:
					case <-time.After(coretest.Patience):
					}
				}
				sc.attach = func(ticket *core.Ticket) net.Conn {
					server, client := tcpPair(t)
					core.AttachThrough(sc.s, server, ticket, strike)
					return client
				}
				sc.setUp()
				f.arm()
				heard := sc.live()
				beginning(t, heard)
				if (fault.lossless || !f.struck()) && !slices.Equal(heard, wholeLife) {
					t.Errorf("ann heard %v", heard)
				}
				sc.unharmed()
				sc.shutDown()
			})
		})
	}
}

// faultyDriver is a driver of one node whose calls fail. hurt does the failing call, or does not.
type faultyDriver struct {
	core.Driver
	*trigger

	hurt func(ctx context.Context, call func() error) error
}

func (d faultyDriver) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	return faultyLink{link, d}, err
}

type faultyLink struct {
	core.Link
	d faultyDriver
}

func (l faultyLink) do(ctx context.Context, verb string, call func() error) error {
	if l.d.strikes(verb) {
		return l.d.hurt(ctx, call)
	}
	return call()
}

// Publish fails by its word, too: what is lost has been accepted before.
func (l faultyLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	if !l.d.strikes("Publish") {
		return l.Link.Publish(ctx, p, done)
	}
	called := false
	err := l.d.hurt(ctx, func() error {
		called = true
		return l.Link.Publish(ctx, p, func(error) {})
	})
	if called {
		done(err)
		return nil
	}
	return err
}

func (l faultyLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	return l.do(ctx, "Subscribe", func() error { return l.Link.Subscribe(ctx, topics...) })
}

func (l faultyLink) Unsubscribe(ctx context.Context, topics ...core.Topic) error {
	return l.do(ctx, "Unsubscribe", func() error { return l.Link.Unsubscribe(ctx, topics...) })
}

func (l faultyLink) Register(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
	return l.do(ctx, "Register", func() error { return l.Link.Register(ctx, app, m, numbered) })
}

func (l faultyLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	err = l.do(ctx, "Join", func() (err error) {
		first, err = l.Link.Join(ctx, m, topics...)
		return err
	})
	return first, err
}

func (l faultyLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	err = l.do(ctx, "Leave", func() (err error) {
		last, err = l.Link.Leave(ctx, m, topics...)
		return err
	})
	return last, err
}

func (l faultyLink) Members(ctx context.Context, topic core.Topic, limit int) (members []core.Member, err error) {
	err = l.do(ctx, "Members", func() (err error) {
		members, err = l.Link.Members(ctx, topic, limit)
		return err
	})
	return members, err
}

func (l faultyLink) Count(ctx context.Context, topic core.Topic) (n int, err error) {
	err = l.do(ctx, "Count", func() (err error) {
		n, err = l.Link.Count(ctx, topic)
		return err
	})
	return n, err
}

func (l faultyLink) Find(ctx context.Context, app, clientID string) (found []core.Member, err error) {
	err = l.do(ctx, "Find", func() (err error) {
		found, err = l.Link.Find(ctx, app, clientID)
		return err
	})
	return found, err
}

func (l faultyLink) Command(ctx context.Context, node string, c core.Command) error {
	return l.do(ctx, "Command", func() error { return l.Link.Command(ctx, node, c) })
}

func (l faultyLink) Close(ctx context.Context) error {
	return l.do(ctx, "Close", func() error { return l.Link.Close(ctx) })
}

// The ways in which a call of the driver fails.
var driverFaults = map[string]func(ctx context.Context, call func() error) error{
	"refuses": func(context.Context, func() error) error { return errBroken },
	"loses its answer": func(_ context.Context, call func() error) error {
		_ = call()
		return errBroken
	},
	"hangs": func(ctx context.Context, _ func() error) error {
		<-ctx.Done()
		return ctx.Err()
	},
	"hangs with its answer": func(ctx context.Context, call func() error) error {
		_ = call()
		<-ctx.Done()
		return ctx.Err()
	},
	"panics": func(context.Context, func() error) error { panic("a mistake in the driver") },
}

// driverCalls are the calls of the driver, and how often a life makes each at least.
var driverCalls = map[string]int{
	"Publish": 5, "Subscribe": 2, "Unsubscribe": 1, "Register": 2, "Join": 3, "Leave": 3, "Members": 2, "Count": 1, "Find": 5,
	"Command": 4, "Close": 1,
}

func TestADriverWhoseCallsFailHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for kind, hurt := range driverFaults {
		for verb, atLeast := range driverCalls {
			t.Run(verb+" "+kind, func(t *testing.T) {
				t.Parallel()
				everyCall(t, verb, atLeast, func(t *testing.T, f *trigger) {
					t.Helper()
					synctest.Test(t, func(t *testing.T) { liveWithDriver(t, f, hurt) })
				})
			})
		}
	}
}

// liveWithDriver is a life that makes every call of the driver.
func liveWithDriver(t *testing.T, f *trigger, hurt func(ctx context.Context, call func() error) error) {
	t.Helper()
	d := &diary{}
	s := core.New(faultyDriver{drivers.NewMemoryDriver(), f, hurt}, core.WithLogger(nil), asks(d), events("room"), core.WithSessions(core.ReplaceOld))
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	sc := &scene{t: t, s: s, d: d, owesLeaves: f.verb == "Leave"}
	sc.settle = func(func() bool) { synctest.Wait() }
	sc.setUp()
	f.arm()
	come := func() *witness {
		server, client := net.Pipe()
		s.Attach(server, nil, sc.admit("ann"))
		synctest.Wait()
		return newWitness(t, client)
	}
	// try makes a call, with a deadline as programs do, and reports whether there was no error.
	try := func(what string, call func(ctx context.Context) error) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := call(ctx)
		synctest.Wait()
		if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrOffline) {
			t.Errorf("%s: %v", what, err)
		}
		return err == nil
	}
	pushed := func() {
		sc.pushed++
		if try("Push", func(ctx context.Context) error { return s.PushContext(ctx, []string{"room"}, number(sc.pushed)) }) {
			sc.taken = append(sc.taken, strconv.Itoa(sc.pushed))
		}
	}
	ann := come()
	questions := []core.Message{
		{ID: "1", Type: "subscribe", Channel: "own"},
		{ID: "2", Type: "subscribe", Channel: "room"},
		{ID: "3", Type: "presence", Channel: "room"},
		{ID: "4", Type: "message", Channel: "room", Message: "hello"},
		{ID: "5", Type: "unsubscribe", Channel: "own"},
	}
	for _, m := range questions {
		ann.say(m)
		<-time.After(10 * time.Second)
	}
	pushed()
	pushed()
	for _, verb := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"Send", func(ctx context.Context) error { return s.Send(ctx, "ann", core.Message{Type: "note"}) }},
		{"Broadcast", func(ctx context.Context) error { return s.Broadcast(ctx, core.Message{Type: "note"}) }},
		{"Subscribe", func(ctx context.Context) error { return s.Subscribe(ctx, "ann", "more") }},
		{"Members", func(ctx context.Context) error {
			_, err := s.Members(ctx, "more", 0)
			return err
		}},
		{"Count", func(ctx context.Context) error {
			_, err := s.Count(ctx, "more")
			return err
		}},
		{"Online", func(ctx context.Context) error {
			_, err := s.Online(ctx, "ann")
			return err
		}},
		{"Unsubscribe", func(ctx context.Context) error { return s.Unsubscribe(ctx, "ann", "more") }},
	} {
		try(verb.name, verb.call)
	}
	answersEach(t, ann, len(questions))
	other := come() // which replaces her
	<-time.After(10 * time.Second)
	pushed()
	try("Disconnect", func(ctx context.Context) error { return s.Disconnect(ctx, "ann", 0, "") })
	_ = ann.nc.Close() // where that failed
	_ = other.nc.Close()
	<-time.After(20 * time.Second)

	if f.verb != "Close" {
		f.disarm()
	}
	sc.unharmed()
	sc.failsToClose = f.verb == "Close" && f.at == 1
	sc.shutDown()
}

// answersEach fails the test unless each of the questions got one answer, or the connection has ended.
func answersEach(t *testing.T, w *witness, questions int) {
	t.Helper()
	select {
	case <-w.ended:
		return
	default:
	}
	for id := 1; id <= questions; id++ {
		n := 0
		for _, word := range w.heard() {
			word, _, _ = strings.Cut(word, " ")
			if word == "receive"+strconv.Itoa(id) || word == "error"+strconv.Itoa(id) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("question %d has %d answers: %v", id, n, w.heard())
		}
	}
}

func TestAHookThatEndsItsGoroutineEndsItsConnectionOnly(t *testing.T) {
	t.Parallel()
	for hook, provoke := range causes {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				book, logged := keepJournal(t)
				d := &diary{}
				s := start(t, drivers.NewMemoryDriver(), logged, everyHook(func(name string, c *core.Client) error {
					if name == core.EventOnline || name == core.EventOffline {
						_ = d.note(name, c)
					}
					if name == hook && c.ClientID == "ann" {
						runtime.Goexit() // as t.Fatal in a hook of a test does
					}
					return nil
				}))
				bystander, _ := connect(t, s, "bystander")
				ann := coretest.Connect(t, s, user("ann"))
				provoke(ann)
				why := ann.Closed()
				if hook != core.EventOffline && why.Code != core.CloseInternal {
					t.Error(why)
				}
				<-time.After(2 * time.Second)
				if found := core.FindClients(s, "", "ann"); len(found) != 0 || s.Stats().Hooks != 0 {
					t.Errorf("%d are still there; %+v", len(found), s.Stats())
				}
				book.has("ERROR", hook+" ended its goroutine", "client=ann")
				bystander.Nothing()
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if hook != core.EventOnline { // which has not returned
					d.balanced(t)
				}
			})
		})
	}
}

// brokenError is an error type whose pointer may be nil, as that of many programs, and is then returned as an error that is not.
type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

// chainError is one that is asked for its cause, too.
type chainError struct{ cause error }

func (e *chainError) Error() string { return "a chain" }

func (e *chainError) Unwrap() error { return e.cause }

func TestAHookWhoseErrorIsANilPointerHarmsItsOwnConnectionOnly(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"of a program": (*brokenError)(nil), "of a program, with a cause": (*chainError)(nil), "of the core": (*core.Error)(nil),
		"a refusal": (*core.Refusal)(nil), "wrapped": fmt.Errorf("users: %w", (*core.Error)(nil)), "a close": (*core.CloseError)(nil),
	} {
		for hook, provoke := range causes {
			t.Run(name+" in "+hook, func(t *testing.T) {
				t.Parallel()
				s := coretest.Run(t, core.WithLogger(nil), everyHook(func(name string, c *core.Client) error {
					if name == hook && c.ClientID == "ann" {
						return err
					}
					return nil
				}))
				bystander, _ := connect(t, s, "bystander")
				ann := coretest.Connect(t, s, user("ann"))
				provoke(ann)
				switch hook {
				case core.EventOnline:
					if why := ann.Closed(); why.Code != core.CloseInternal && why.Code != core.CloseRefused {
						t.Error(why)
					}
				case core.EventPing:
					ann.Expect("pong")
				case core.EventOffline:
				default:
					if got := ann.Expect("error"); got.Code != 500 {
						t.Error(got.Raw)
					}
				}
				bystander.Nothing()
			})
		}
		t.Run(name+" in Auth", func(t *testing.T) {
			t.Parallel()
			s := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: func(string) (map[string]any, error) { return nil, err }})
			_, refused := s.Admit(t.Context(), coretest.Handshake())
			var r *core.Refusal
			if !errors.As(refused, &r) || r.Status != 503 && r.Status != 401 {
				t.Error(refused)
			}
		})
	}
}

// brokenLog is a handler of a log that a test breaks.
type brokenLog struct {
	mu     sync.Mutex // guards handle
	handle func() error

	noAttrs bool // WithAttrs panics
}

func (l *brokenLog) breaks(handle func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handle = handle
}

func (*brokenLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *brokenLog) Handle(context.Context, slog.Record) error {
	l.mu.Lock()
	handle := l.handle
	l.mu.Unlock()
	if handle == nil {
		return nil
	}
	return handle()
}

func (l *brokenLog) WithAttrs([]slog.Attr) slog.Handler {
	if l.noAttrs {
		panic("a mistake in the log")
	}
	return l
}

func (l *brokenLog) WithGroup(string) slog.Handler { return l }

// The log is written by readers, drainers, the sweeper and who closes: none of them may stop for it.
func TestALogThatFailsHarmsNobody(t *testing.T) {
	t.Parallel()
	for kind, handle := range map[string]func(mended <-chan struct{}) error{
		"it panics":                  func(<-chan struct{}) error { panic("a mistake in the log") },
		"it panics before it begins": func(<-chan struct{}) error { return nil },
		"its disk is full":           func(<-chan struct{}) error { return syscall.ENOSPC },
		"nobody reads its pipe": func(mended <-chan struct{}) error {
			<-mended
			return nil
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				broken, mended := &brokenLog{noAttrs: kind == "it panics before it begins"}, make(chan struct{})
				defer close(mended)
				d := &diary{}
				p := asks(d)
				p.Message = func(m *core.Message, _ *core.Client) error {
					switch m.Type {
					case "panics":
						panic("in a hook")
					case "hangs":
						<-time.After(15 * time.Second)
					}
					return m.Reply("well")
				}
				sc := &scene{t: t, d: d, s: start(t, drivers.NewMemoryDriver(), core.WithOutboxBytes(8<<10), core.WithLogger(slog.New(broken)), p)}
				sc.settle = func(func() bool) { synctest.Wait() }
				sc.setUp()
				broken.breaks(func() error { return handle(mended) })
				server, client := net.Pipe()
				sc.s.Attach(server, nil, sc.admit("ann"))
				ann := newWitness(t, client)
				ann.say(core.Message{ID: "1", Type: "panics"})
				ann.say(core.Message{ID: "2", Type: "hangs"})
				ann.say(core.Message{ID: "3", Type: "ask"})
				wirePipe(t, sc.s, "does not read")
				if err := sc.s.Subscribe(t.Context(), "does not read", "room"); err != nil {
					t.Fatal(err)
				}
				for range 30 {
					sc.push()
					synctest.Wait()
				}
				if stats := sc.s.Stats(); stats.Slow != 1 {
					t.Errorf("%+v", stats)
				}
				vanished, _ := wirePipe(t, sc.s, "vanished")
				go func() { _, _ = io.Copy(io.Discard, vanished.nc) }() // ends with the connection
				<-time.After(time.Minute)
				if want := []string{"error1 500", "receive2", "receive3"}; !slices.Equal(ann.heard(), want) {
					t.Errorf("ann heard %v, want %v", ann.heard(), want)
				}
				for _, id := range []string{"vanished", "does not read"} {
					if len(core.FindClients(sc.s, "", id)) != 0 {
						t.Errorf("%s is still there: the sweeper has stopped", id)
					}
				}
				_ = ann.nc.Close()
				<-time.After(5 * time.Second)
				sc.unharmed()
				sc.shutDown()
			})
		})
	}
}

// What a log that hangs has not been given is counted in the next line that it takes.
func TestALogThatWasStuckSaysHowManyLinesItHasLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, _ := keepJournal(t)
		mended := make(chan struct{})
		s := coretest.Run(t, core.WithLogger(slog.New(stuckHandler{slog.NewTextHandler(book, nil), mended})))
		knocks := func(n int) {
			for range n {
				if _, err := s.Admit(t.Context(), coretest.Handshake()); err == nil {
					t.Error("admitted without Auth")
				}
			}
		}
		begun := time.Now()
		knocks(4)
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("four lines took %v", waited)
		}
		close(mended)
		synctest.Wait()
		knocks(2)
		if lines := book.with("gows: refused"); len(lines) != 3 {
			t.Error(lines)
		}
		book.has("lost=3")
	})
}

// stuckHandler hands on lines once the log is mended.
type stuckHandler struct {
	slog.Handler
	mended <-chan struct{}
}

func (h stuckHandler) Handle(ctx context.Context, r slog.Record) error {
	<-h.mended
	return h.Handler.Handle(ctx, r)
}

func TestADriverThatPanicsIsUnavailableAndLogged(t *testing.T) {
	t.Parallel()
	book, logged := keepJournal(t)
	f := &trigger{verb: "Publish", at: 1, on: true, armed: true}
	s := coretest.RunOn(t, faultyDriver{drivers.NewMemoryDriver(), f, driverFaults["panics"]}, logged, permissive())
	ann, _ := connect(t, s, "ann")
	ann.Error(503, core.Message{Type: "message", Channel: "room"})
	if err := s.Push([]string{"room"}, "x"); !errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
	ann.Nothing()
	if n := len(book.with("ERROR", "the driver panicked", "a mistake in the driver", "stack=", "faults_test.go")); n != 2 {
		t.Error(book.with("panicked"))
	}
	dead := core.New(openPanics{}, core.WithLogger(nil))
	if err := dead.Run(); err == nil || !strings.Contains(err.Error(), "the driver panicked") {
		t.Error(err)
	}
	if err := dead.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A driver that has accepted a publication before it panics has given its word: the answer is there, and so is the error.
func TestADriverThatPanicsBehindItsWordHoldsUpNoPublisher(t *testing.T) {
	t.Parallel()
	s := coretest.RunOn(t, wordThenPanic{drivers.NewMemoryDriver()}, core.WithLogger(nil), permissive())
	ann, _ := connect(t, s, "ann")
	for range 3 {
		ann.Do(core.Message{Type: "message", Channel: "room"})
		ann.Expect("error")
	}
}

type wordThenPanic struct{ core.Driver }

func (d wordThenPanic) Open(ctx context.Context, node core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, node)
	return wordThenPanicLink{link}, err
}

type wordThenPanicLink struct{ core.Link }

func (wordThenPanicLink) Publish(_ context.Context, _ core.Publication, done func(error)) error {
	done(nil)
	panic("behind its word")
}

// openPanics is a driver that was not made by its constructor, say.
type openPanics struct{ core.Driver }

// A peer that has gone between the request and the 101 was never there.
func TestAConnectionThatIsLostBeforeThe101IsNeverOnline(t *testing.T) {
	t.Parallel()
	for name, pair := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &diary{}
			s := coretest.Run(t, asks(d), core.WithLogger(nil))
			h := coretest.Handshake()
			h.Identity = user("ann")
			ticket, err := s.Admit(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			server, client := pair(t)
			if tcp, ok := client.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset
			}
			_ = client.Close()
			s.Attach(server, nil, ticket)
			eventually(t, "the end", func() bool { return s.Stats().Connections == 0 })
			d.balanced(t)
			if online, err := s.Online(t.Context(), "ann"); online || err != nil {
				t.Error(online, err)
			}
		})
	}
}

// exhausted is a listener whose process has no descriptor left for a while.
type exhausted struct {
	net.Listener

	mu   sync.Mutex // guards left
	left int        // calls that fail
}

func (l *exhausted) fail(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = n
}

func (l *exhausted) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = max(0, l.left-1)
	return l.left > 0
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failing() {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAProcessWithoutDescriptorsKeepsTheConnectionsItHas(t *testing.T) {
	t.Parallel()
	p := permissive()
	p.Auth = func(token string) (map[string]any, error) { return user(token), nil }
	s := coretest.Run(t, p, core.WithLogger(nil))
	server := httptest.NewUnstartedServer(s)
	listener := &exhausted{Listener: server.Listener}
	server.Listener = listener
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	enter := func(id string) *peer {
		p := call(t, server, openingRequest(server, "/?token="+id))
		p.enter()
		return p
	}
	asks := func(p *peer) {
		t.Helper()
		p.say(masked(frame.Text, `{"type":"ping","id":"1"}`))
		if m := p.hear(); string(m.Payload) != `{"type":"pong","id":"1"}` {
			t.Error(string(m.Payload))
		}
	}
	ann := enter("ann") // Accept waits again
	listener.fail(4)
	bob := enter("bob") // taken by the Accept that waited; the next ones fail
	asks(ann)
	asks(bob)
	asks(enter("carol")) // net/http tries again, after 5, 10 and 20 ms
	if left := listener.failing(); left {
		t.Error("Accept was not called as often as it was to fail")
	}
}

// The program's own goroutine meets the panic, as with json.Marshal: nothing has begun by then.
func TestAPayloadWhoseEncodingPanicsHarmsItsCallerOnly(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, core.WithLogger(nil), hooked())
	ann, client := connect(t, s, "ann")
	sub(t, client, "room")
	for name, verb := range map[string]func() error{
		"Service.Push": func() error { return s.Push([]string{"room"}, bomb{}) },
		"Broadcast":    func() error { return s.Broadcast(t.Context(), bomb{}) },
		"Service.Send": func() error { return s.Send(t.Context(), "ann", bomb{}) },
		"Client.Push":  func() error { return client.Push([]string{"room"}, bomb{}) },
		"Client.Send":  func() error { return client.Send(bomb{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			_ = verb()
		}()
	}
	ann.Nothing()
	push(t, s, "room", number(1))
	ann.Expect("n")
}

// A context that has ended is not waited beyond, whatever the driver does.
func TestACallWhoseContextIsCancelledReturnsWithIt(t *testing.T) {
	t.Parallel()
	for verb := range driverCalls {
		if verb == "Register" || verb == "Unsubscribe" || verb == "Close" || verb == "Leave" { // not of a program's call
			continue
		}
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &trigger{verb: verb, at: 1, on: true}
				s := coretest.RunOn(t, faultyDriver{drivers.NewMemoryDriver(), f, driverFaults["hangs"]}, permissive(), core.WithLogger(nil))
				connect(t, s, "ann")
				f.arm()
				ctx, cancel := context.WithCancel(t.Context())
				calls := []func() error{
					func() error { return s.PushContext(ctx, []string{"room"}, "x") },
					func() error { return s.Broadcast(ctx, "x") },
					func() error { return s.Send(ctx, "ann", "x") },
					func() error { return s.Subscribe(ctx, "ann", "room") },
					func() error {
						_, err := s.Members(ctx, "room", 0)
						return err
					},
					func() error {
						_, err := s.Count(ctx, "room")
						return err
					},
					func() error {
						_, err := s.Online(ctx, "ann")
						return err
					},
				}
				errs := make(chan error, len(calls))
				for _, call := range calls {
					go func() { errs <- call() }() // ends with ctx
				}
				<-time.After(time.Second)
				cancel()
				synctest.Wait()
				failed := 0
				for range calls {
					select {
					case err := <-errs:
						if err != nil {
							failed++
							if !errors.Is(err, context.Canceled) || !errors.Is(err, core.ErrUnavailable) {
								t.Error(err)
							}
						}
					default:
						t.Error("a call goes on")
					}
				}
				if failed == 0 {
					t.Error("no call has met the driver")
				}
				f.disarm()
			})
		})
	}
}

func TestHalfOfTheMemoryLimitMayWaitForAllClients(t *testing.T) { // not parallel: the limit is the process's
	before := debug.SetMemoryLimit(16 << 20)
	limited := core.New(drivers.NewMemoryDriver(), core.WithOutboxBytes(1<<30), core.WithLogger(nil))
	debug.SetMemoryLimit(before)
	if err := limited.Run(); err != nil {
		t.Fatal(err)
	}
	_, c := wirePipe(t, limited, "does not read")
	most := 0
	for range 100 {
		if c.Send(strings.Repeat("x", 300<<10)) != nil {
			break
		}
		most = max(most, core.DebtBytes(limited))
	}
	eventually(t, "what waits to be forgotten", func() bool { return core.DebtBytes(limited) == 0 })
	if why := cause(c); why == nil || !strings.Contains(why.Reason, "all clients together") || most < 7<<20 {
		t.Errorf("%v, when %d bytes waited", why, most)
	}
	if err := limited.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
