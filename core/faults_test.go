package core_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// What the tests of faults_conn_test.go and its neighbours share. Those of connections and drivers live a whole life of a
// connection again and again, and fail its first call of a kind, then its second, and so on, until there is none left to
// fail. After each life the others must not have noticed.

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

// maxCalls bounds how many calls of a verb a life makes.
const maxCalls = 100

// everyCall runs a life with its first call of a verb failing, then with its second, until there is none left. atLeast is
// how many there must have been; that is not known when -run leaves lives out.
func everyCall(t *testing.T, verb string, atLeast int, live func(t *testing.T, f *trigger)) {
	t.Helper()
	for _, on := range []bool{false, true} {
		n, all := 1, true
		for ; n <= maxCalls; n++ {
			f := &trigger{verb: verb, at: n, on: on}
			which := fmt.Sprint(verb, " ", n)
			if on {
				which += " and all after it"
			}
			ran := false
			passed := t.Run(which, func(t *testing.T) {
				ran = true
				live(t, f)
			})
			all = all && ran && passed
			if !passed || ran && !f.struck() {
				break
			}
		}
		if all && (n <= atLeast || n > maxCalls) {
			t.Errorf("%d calls of %s, want at least %d, and fewer than %d", n-1, verb, atLeast, maxCalls)
		}
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
		if err := eachMessage(nc, w.take); err != nil {
			t.Errorf("the stream is broken: %v", err)
		}
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

// eachMessage reads the 101 and then messages, until the connection ends or the stream is broken. It may end anywhere, but
// must be right up to there.
func eachMessage(nc net.Conn, take func(frame.Message)) error {
	parser := frame.Parser{Unmasked: true}
	buf := make([]byte, 4<<10)
	var head []byte
	inside := false
	for {
		n, ended := nc.Read(buf)
		data := slices.Clone(buf[:n])
		if !inside {
			head = append(head, data...)
			_, data, inside = bytes.Cut(head, []byte("\r\n\r\n")) // of half a head, nothing is behind it
		}
		for len(data) > 0 {
			m, rest, err := parser.Next(data)
			if err != nil {
				return err
			}
			take(m)
			data = rest
		}
		if ended != nil {
			return nil
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
