package core_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// world is the services of a program and what the model knows of them.
type world struct {
	t        *testing.T
	sessions core.Sessions
	nodes    []*core.Service
	down     []bool
	lives    []*life
	serial   int  // of what is asked and pushed
	swept    bool // in this operation all that is quiet was forgotten
	raced    bool // in this operation a leave on one node and a join on another met: either may be the first
	lines    []string

	mu      sync.Mutex // guards what hooks write
	events  map[int][]string
	clients map[int]*core.Client
}

// life is one connection.
type life struct {
	number, node int
	id           string
	peer         *actor
	client       *core.Client // nil when it never was online
	channels     []string
	there        bool
	code         int // it ended with; 0: without a word
	events       []string
	bad          int
	due          map[string][]string // what the peer is to hear in this operation, by what keeps an order
	loose        bool                // it ended together with others, whose leaves it may have heard of
	settled      bool                // it was found to have ended as it should
}

func (l *life) String() string { return l.id + strconv.Itoa(l.number) }

func newWorld(t *testing.T, setup byte) *world {
	t.Helper()
	w := &world{t: t, sessions: core.Sessions(setup % 3), events: map[int][]string{}, clients: map[int]*core.Client{}}
	driver := drivers.NewMemoryDriver()
	for i := range 1 + int(setup)/3%2 {
		w.nodes = append(w.nodes, core.New(driver, w.provider(i), core.WithSessions(w.sessions), core.WithLogger(nil),
			core.WithChannel("told", core.Rules{Presence: core.PresenceEvents}), core.WithMessageBytes(4096)))
		w.down = append(w.down, false)
		if err := w.nodes[i].Run(); err != nil {
			t.Fatal(err)
		}
	}
	w.noteLine("%d nodes, sessions %d", len(w.nodes), w.sessions)
	return w
}

func (w *world) noteLine(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) story() string { return strings.Join(w.lines, "\n") }

func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("when "+w.lines[len(w.lines)-1]+": "+format, args...)
}

// open returns the connections that are there.
func (w *world) open() []*life {
	return slices.DeleteFunc(slices.Clone(w.lives), func(l *life) bool { return !l.there })
}

// of returns the connections of a client id that are there.
func (w *world) of(id string) []*life {
	return slices.DeleteFunc(w.open(), func(l *life) bool { return l.id != id })
}

// at returns the connections that are in a channel.
func (w *world) at(channel string) []*life {
	return slices.DeleteFunc(w.open(), func(l *life) bool { return !slices.Contains(l.channels, channel) })
}

// owe notes what a connection is to hear next among those of one order.
func (l *life) owe(order, what string) {
	if l.there {
		l.due[order] = append(l.due[order], what)
	}
}

// join notes that a connection is in a channel now.
func (w *world) join(l *life, channel string) {
	if !l.there || slices.Contains(l.channels, channel) {
		return
	}
	w.tell("join", l, channel)
	l.channels = append(l.channels, channel)
}

// leave notes that it is no longer.
func (w *world) leave(l *life, channel string) {
	if i := slices.Index(l.channels, channel); i >= 0 {
		l.channels = slices.Delete(l.channels, i, i+1)
		w.tell("leave", l, channel)
	}
}

// tell notes that the others hear of the first of a client id that joins, and of the last that leaves.
func (w *world) tell(what string, l *life, channel string) {
	same := func(m *life) bool { return m != l && m.id == l.id && slices.Contains(m.channels, channel) }
	if channel != "told" || slices.ContainsFunc(w.lives, same) {
		return
	}
	for _, m := range w.at(channel) {
		if m != l {
			m.owe("presence", what+" "+channel+" "+l.id)
		}
	}
}

// over notes that connections have ended, all with the same code.
func (w *world) over(code int, ended ...*life) {
	for _, l := range ended {
		l.there, l.code, l.loose = false, code, len(ended) > 1
		if l.client != nil || slices.Equal(l.events, []string{"online"}) {
			l.events = append(l.events, "offline")
		}
	}
	for _, l := range ended {
		for _, channel := range slices.Clone(l.channels) {
			w.leave(l, channel)
		}
	}
}

// published notes a push to a channel.
func (w *world) published(channel, id, sender string, except *life) {
	for _, l := range w.at(channel) {
		if l != except {
			l.owe(channel, "message "+id+" "+channel+" "+sender)
		}
	}
}

func (w *world) next() string {
	w.serial++
	return strconv.Itoa(w.serial)
}

// ask has a peer send a message, and notes that it is answered: with the data, or the code of an error.
func (w *world) ask(l *life, kind, channel, answer string) (id string) {
	id = w.next()
	if l.there {
		l.peer.says(frame.Text, fmt.Sprintf(`{"type":%q,"channel":%q,"id":%q}`, kind, channel, id))
	}
	l.owe("answer", strings.TrimSpace("answer "+id+" "+answer))
	return id
}

// compare waits until nothing happens any more, and holds what there is against the model.
func (w *world) compare() {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	for _, l := range w.lives {
		l.client = w.clients[l.number]
		if got := w.events[l.number]; !slices.Equal(got, l.events) {
			w.errorf("%s had the events %v, want %v", l, got, l.events)
		}
	}
	w.mu.Unlock()
	for _, l := range w.lives {
		if !l.settled {
			w.compareHeard(l)
			w.compareClient(l)
			l.settled = !l.there
		}
	}
	for i := range w.nodes {
		w.compareNode(i)
	}
	w.raced, w.swept = false, false
}

func (w *world) compareHeard(l *life) {
	w.t.Helper()
	heard, code, wrong := l.peer.heard()
	if wrong != "" {
		w.errorf("%s heard %s", l, wrong)
	}
	for order := range maps.Keys(heard) {
		if _, expected := l.due[order]; !expected {
			l.due[order] = nil
		}
	}
	for order, want := range l.due {
		got := heard[order]
		if order == "presence" {
			slices.Sort(got)
			slices.Sort(want)
			if l.loose || w.raced {
				continue
			}
		}
		if !slices.Equal(got, want) {
			w.errorf("%s heard %q, want %q", l, got, want)
		}
	}
	l.due = map[string][]string{}
	if !l.there && code != l.code {
		w.errorf("%s ended with %d, want %d", l, code, l.code)
	}
	if l.there && code != 0 {
		w.errorf("%s was closed with %d", l, code)
	}
}

// compareClient holds the service's end of a connection against the model.
func (w *world) compareClient(l *life) {
	w.t.Helper()
	c := l.client
	if c == nil {
		return
	}
	if c.Closed() == l.there {
		w.errorf("%s: Closed is %v", l, c.Closed())
	}
	if got := c.Channels(); l.there && !slices.Equal(got, l.channels) || !l.there && got != nil {
		w.errorf("%s is in %q, want %q", l, got, l.channels)
	}
	if l.there {
		return
	}
	for what, err := range map[string]error{
		"Send": c.Send("x"), "Push": c.Push(channels, "x"), "Sub": c.Sub("a"), "Unsub": c.Unsub("a"), "Close": c.Close(0, ""),
	} {
		if !errors.Is(err, core.ErrClosed) {
			w.errorf("%s has ended, and %s returns %v", l, what, err)
		}
	}
	var why *core.CloseError
	if !errors.As(context.Cause(c.Context()), &why) || l.code != 0 && why.Code != l.code {
		w.errorf("%s ended because of %v, want %d", l, why, l.code)
	}
}

func (w *world) compareNode(i int) {
	w.t.Helper()
	s, ctx := w.nodes[i], w.t.Context()
	if w.down[i] {
		w.compareDown(i)
		return
	}
	here := 0
	kept := map[string]bool{}
	for _, l := range w.open() {
		if l.node != i {
			continue
		}
		here++
		kept[""] = true // broadcasts
		for _, channel := range l.channels {
			kept[channel] = true
		}
	}
	if got := s.Stats().Channels; w.swept && got != len(kept) {
		w.errorf("node %d keeps %d channels, want %d", i, got, len(kept))
	}
	if stats := s.Stats(); stats.Connections != here || stats.Hooks != 0 || stats.Dropped != 0 || stats.Gaps != 0 || stats.Slow != 0 || stats.Faults != 0 {
		w.errorf("node %d: %+v, want %d connections", i, stats, here)
	}
	for _, id := range ids {
		if online, err := s.Online(ctx, id); online != (len(w.of(id)) > 0) || err != nil {
			w.errorf("node %d: %s online: %v, %v", i, id, online, err)
		}
	}
	for _, channel := range channels {
		var want []string
		count := map[string]bool{}
		for _, l := range w.at(channel) {
			want = append(want, l.id+" "+l.client.ConnID)
			count[l.id] = true
		}
		members, err := s.Members(ctx, channel, 0)
		var got []string
		for _, m := range members {
			got = append(got, m.ClientID+" "+m.ConnID)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || err != nil {
			w.errorf("node %d: in %s are %q, %v, want %q", i, channel, got, err, want)
		}
		if n, err := s.Count(ctx, channel); n != len(count) || err != nil {
			w.errorf("node %d: Count of %s is %d, %v, want %d", i, channel, n, err, len(count))
		}
	}
}

// compareDown: after the end everything returns ErrClosed.
func (w *world) compareDown(i int) {
	w.t.Helper()
	s, ctx := w.nodes[i], w.t.Context()
	_, online := s.Online(ctx, "ann")
	_, members := s.Members(ctx, "a", 0)
	_, count := s.Count(ctx, "a")
	for what, err := range map[string]error{
		"Push": s.Push(channels, "x"), "Send": s.Send(ctx, "ann", "x"), "Broadcast": s.Broadcast(ctx, "x"), "Subscribe": s.Subscribe(ctx, "ann", "a"),
		"Unsubscribe": s.Unsubscribe(ctx, "ann", "a"), "Disconnect": s.Disconnect(ctx, "ann", 0, ""), "Online": online, "Members": members,
		"Count": count, "Run": s.Run(), "RegisterProvider": s.RegisterProvider("x", &core.Provider{}), "Health": s.Health(ctx),
	} {
		if !errors.Is(err, core.ErrClosed) {
			w.errorf("node %d is down, and %s returns %v", i, what, err)
		}
	}
	if err := s.Shutdown(ctx); err != nil {
		w.errorf("node %d is down, and Shutdown returns %v", i, err)
	}
	if stats := s.Stats(); stats.Connections != 0 || stats.Hooks != 0 {
		w.errorf("node %d is down, and has %+v", i, stats)
	}
}

// end shuts down what is still there. Goroutines that are left then fail the test: a bubble waits for its own.
func (w *world) end() {
	w.t.Helper()
	for i := range w.nodes {
		if !w.down[i] {
			w.shutdown(i)
			if !w.t.Failed() {
				w.compare()
			}
		}
	}
	for _, l := range w.lives {
		l.peer.cut()
	}
}

// actor is a client that notes what it hears. It answers pings and closes at once, as browsers do.
type actor struct {
	nc net.Conn

	mu    sync.Mutex // guards the rest
	notes map[string][]string
	code  int // of the close frame
	wrong string
}

// enters connects to a service.
func enters(t *testing.T, s *core.Service, ticket *core.Ticket) *actor {
	t.Helper()
	server, client := net.Pipe()
	a := &actor{nc: client, notes: map[string][]string{}}
	s.Attach(server, nil, ticket)
	go func() { // ends with the pipe
		if err := eachMessage(client, a.take); err != nil {
			a.note(func() { a.wrong = err.Error() })
		}
	}()
	return a
}

func (a *actor) take(m frame.Message) {
	switch m.Op {
	case frame.Text:
		order, what := orderOf(m.Payload)
		a.note(func() {
			if a.code != 0 {
				a.wrong = what + " behind a close frame"
			}
			a.notes[order] = append(a.notes[order], what)
		})
	case frame.Pong:
		a.note(func() { a.notes["pong"] = append(a.notes["pong"], string(m.Payload)) })
	case frame.Ping:
		go a.says(frame.Pong, string(m.Payload)) // ends with the write, or the pipe
	case frame.Close:
		code, _, err := frame.ParseClose(m.Payload)
		a.note(func() {
			if err != nil || a.code != 0 {
				a.wrong = fmt.Sprintf("a close frame %q, %v", m.Payload, err)
			}
			a.code = int(code)
		})
		go a.answers(int(code)) // ends with the write, or the pipe
	case frame.Binary, frame.Continuation:
	}
}

func (a *actor) note(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// heard returns what was heard since it was last asked, and the code of the close frame.
func (a *actor) heard() (notes map[string][]string, code int, wrong string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	notes, a.notes = a.notes, map[string][]string{}
	return notes, a.code, a.wrong
}

func (a *actor) says(op frame.Op, payload string) { a.writes(masked(op, payload)) }

func (a *actor) closes(code int) {
	a.writes(masked(frame.Close, string(frame.AppendClose(nil, code, "")[2:])))
}

// answers is the end of the closing handshake. A service that was told nonsense does not understand it any more, and waits
// for the peer to hang up.
func (a *actor) answers(code int) {
	a.closes(code)
	if code == 1002 || code == 1007 || code == 1009 {
		a.cut()
	}
}

func (a *actor) writes(b []byte) { _, _ = a.nc.Write(b) } // the service may have hung up

func (a *actor) cut() { _ = a.nc.Close() }

// refusedBy asks a node that is down for a connection.
func (w *world) refusedBy(s *core.Service, h *core.Handshake) {
	w.t.Helper()
	var refused *core.Refusal
	if ticket, err := s.Admit(w.t.Context(), h); ticket != nil || !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		w.errorf("a node that is down says %v, %v", ticket, err)
	}
}

// pass lets time pass: a second or two, in which channels are swept, or as long as it takes to be pinged.
func (w *world) pass(what int) {
	d := time.Duration(1+what%3) * 700 * time.Millisecond
	if what%4 == 0 {
		d = 40 * time.Second // bad messages are forgotten, too
		w.swept = true
		for _, l := range w.lives {
			l.bad = 0
		}
	}
	w.noteLine("%v pass", d)
	<-time.After(d)
}
