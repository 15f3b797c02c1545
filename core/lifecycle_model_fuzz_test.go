package core_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// provider carries out what the test asks of hooks: online what is in the identity, Message what is the type.
func (w *world) provider(node int) *core.Provider {
	return &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
		Event: func(name string, c *core.Client) error {
			if name == core.EventPing {
				return nil
			}
			number := c.Data["life"].(int) //nolint:errcheck // world.connect has put it there
			w.mu.Lock()
			w.events[number] = append(w.events[number], name)
			w.clients[number] = c
			w.mu.Unlock()
			if name == core.EventOffline {
				return nil
			}
			return w.inside(c, node, c.Data["online"].(string), "told") //nolint:errcheck // and this
		},
		Message: func(m *core.Message, c *core.Client) error { return w.inside(c, node, m.Type, m.Channel) },
	}
}

// inside is what the hooks do.
func (w *world) inside(c *core.Client, node int, what, channel string) error {
	ctx := c.Context()
	switch what {
	case "fail":
		return core.Errorf(403, "no")
	case "panic":
		panic("in a hook")
	case "close":
		return c.Close(4001, "")
	case "sub":
		return c.Sub(channel)
	case "sub and fail":
		return errors.Join(c.Sub(channel), core.Errorf(403, "no"))
	case "unsub":
		return c.Unsub()
	case "push":
		return c.Push([]string{channel}, core.Message{Type: "message", ID: "inside"})
	case "send":
		return c.Send(core.Message{Type: "letter", ID: "inside"})
	case "kick":
		return w.nodes[node].Disconnect(ctx, c.ClientID, 0, "")
	case "shutdown":
		return w.nodes[node].Shutdown(w.t.Context())
	}
	return nil
}

// connect: what online does is up to the program.
func (w *world) connect(node int, id string, what int) {
	online := []string{"", "", "", "", "sub", "fail", "panic", "close", "sub and fail", "send"}[what%10]
	if what == 255 {
		online = "shutdown"
	}
	l := &life{number: len(w.lives), node: node, id: id, due: map[string][]string{}, there: true}
	w.noteLine("%s connects to node %d, online: %q", l, node, online)
	h := coretest.Handshake()
	h.Identity = map[string]any{"client_id": id, "life": l.number, "online": online}
	if w.down[node] {
		w.refusedBy(w.nodes[node], h)
		return
	}
	older := w.of(id)
	ticket, err := w.nodes[node].Admit(w.t.Context(), h)
	if err != nil {
		w.t.Fatal(err)
	}
	l.peer = enters(w.t, w.nodes[node], ticket)
	if w.sessions == core.RejectNew && len(older) > 0 {
		w.lives = append(w.lives, l)
		l.there, l.code = false, core.CloseTooMany
		return
	}
	if w.sessions == core.ReplaceOld {
		w.raced = slices.ContainsFunc(older, func(m *life) bool { return m.node != node })
		w.over(core.CloseReplaced, older...)
	}
	w.lives = append(w.lives, l)
	l.events = []string{"online"}
	w.cameOnline(l, online)
}

// cameOnline notes what the hook has done.
func (w *world) cameOnline(l *life, online string) {
	refused := func(code int) {
		l.there, l.code = false, code
		for _, channel := range slices.Clone(l.channels) {
			w.leave(l, channel)
		}
	}
	switch online {
	case "sub":
		w.join(l, "told")
	case "fail":
		refused(core.CloseRefused)
	case "sub and fail":
		w.join(l, "told")
		refused(core.CloseRefused)
	case "panic":
		refused(core.CloseInternal)
	case "close":
		w.over(4001, l)
	case "send":
		l.owe("letter", "letter inside")
	case "shutdown":
		w.wentDown(l.node)
	}
}

// hook has a peer make Message do something.
func (w *world) hook(l *life, channel string, what int) {
	kind := []string{"panic", "close", "unsub", "sub", "push", "send", "kick", "fail", "shutdown"}[what/3%9]
	if kind == "shutdown" && what < 230 {
		kind = "anything"
	}
	w.noteLine("%s has its hook do %s, %s", l, kind, channel)
	answer := map[string]string{"panic": "error 500", "fail": "error 403"}[kind]
	id := w.ask(l, kind, channel, answer)
	silent := func() { // it has ended before it could be answered
		l.due["answer"] = slices.DeleteFunc(l.due["answer"], func(a string) bool { return a == "answer "+id })
	}
	switch kind {
	case "close":
		silent()
		w.over(4001, l)
	case "unsub":
		for _, channel := range slices.Clone(l.channels) {
			w.leave(l, channel)
		}
	case "sub":
		w.join(l, channel)
	case "push":
		w.published(channel, "inside", l.id, nil)
	case "send":
		l.owe("letter", "letter inside")
	case "kick":
		silent()
		w.over(core.CloseKicked, w.of(l.id)...)
	case "shutdown":
		silent()
		w.wentDown(l.node)
	}
}

// presence asks who is there.
func (w *world) presence(l *life, channel string) {
	w.noteLine("%s asks who is in %s", l, channel)
	if !slices.Contains(l.channels, channel) {
		w.ask(l, "presence", channel, "error 403")
		return
	}
	var in []string
	for _, m := range w.at(channel) {
		in = append(in, m.id)
	}
	slices.Sort(in)
	w.ask(l, "presence", channel, strings.Join(in, " "))
}

// callClient calls a method of the service's end.
func (w *world) callClient(op byte, l *life, channel string, what int) {
	c := l.client
	var err error
	switch op {
	case opClientSub:
		second := channels[what/3%len(channels)]
		w.noteLine("%s.Sub %s, %s", l, channel, second)
		err = c.Sub(channel, second)
		w.join(l, channel)
		w.join(l, second)
	case opClientUnsub:
		w.noteLine("%s.Unsub %s, and a push", l, channel)
		leaving := []string{channel}
		if what%5 == 0 {
			leaving = slices.Clone(l.channels)
			err = c.Unsub()
		} else {
			err = c.Unsub(channel)
		}
		for _, channel := range leaving {
			w.leave(l, channel)
		}
		if err == nil { // nothing of it is written any more
			id := w.next()
			err = c.Push([]string{channel}, core.Message{Type: "message", ID: id})
			w.published(channel, id, l.id, nil)
		}
	case opClientPush:
		w.noteLine("%s.Push %s", l, channel)
		id := w.next()
		err = c.Push([]string{channel}, core.Message{Type: "message", ID: id}, core.Except(c))
		w.published(channel, id, l.id, l)
	case opClientSend:
		w.noteLine("%s.Send", l)
		id := w.next()
		err = c.Send(core.Message{Type: "letter", ID: id})
		l.owe("letter", "letter "+id)
	case opClientClose:
		code := 4000 + what
		w.noteLine("%s.Close %d, behind a letter", l, code)
		id := w.next()
		l.owe("letter", "letter "+id)
		err = errors.Join(c.Send(core.Message{Type: "letter", ID: id}), c.Close(code, "bye"))
		w.over(code, l)
	}
	if err != nil {
		w.errorf("%v", err)
	}
}

// push pushes from outside of any connection.
func (w *world) push(op byte, node int, id, channel string, what int) {
	s, ctx := w.nodes[node], w.t.Context()
	if w.down[node] {
		return // compareDown asks
	}
	serial := w.next()
	m := core.Message{Type: "message", ID: serial}
	var want, err error
	switch op {
	case opPush:
		w.noteLine("node %d pushes to all channels", node)
		err = s.Push(channels, m)
		for _, channel := range channels {
			w.published(channel, serial, "", nil)
		}
	case opFlood:
		w.noteLine("node %d pushes %d times to %s", node, what%50, channel)
		for range what % 50 {
			serial = w.next()
			err = errors.Join(err, s.Push([]string{channel}, core.Message{Type: "message", ID: serial}))
			w.published(channel, serial, "", nil)
		}
	case opBroadcast:
		w.noteLine("node %d broadcasts", node)
		m.Type = "all"
		err = s.Broadcast(ctx, m)
		for _, l := range w.open() {
			l.owe("all", "all "+serial)
		}
	case opSend:
		w.noteLine("node %d sends to %s", node, id)
		m.Type = "letter"
		err = s.Send(ctx, id, m)
		to := w.of(id)
		if len(to) == 0 {
			want = core.ErrOffline
		}
		for _, l := range to {
			l.owe("letter", "letter "+serial)
		}
	}
	if !errors.Is(err, want) {
		w.errorf("%v, want %v", err, want)
	}
}

// command has a node do something with all connections of a client id.
func (w *world) command(op byte, node int, id, channel string, what int) {
	s, ctx := w.nodes[node], w.t.Context()
	if w.down[node] {
		return
	}
	meant := w.of(id)
	var want, err error
	if len(meant) == 0 {
		want = core.ErrOffline
	}
	switch op {
	case opServiceSubscribe:
		w.noteLine("node %d subscribes %s to %s", node, id, channel)
		err = s.Subscribe(ctx, id, channel)
		for _, l := range meant {
			w.join(l, channel)
		}
	case opServiceUnsubscribe:
		w.noteLine("node %d unsubscribes %s from %s", node, id, channel)
		err = s.Unsubscribe(ctx, id, channel)
		w.takenOut(meant, channel)
	case opDisconnect:
		code := []int{0, 1000, 3005, 4999}[what%4]
		w.noteLine("node %d disconnects %s with %d", node, id, code)
		err = s.Disconnect(ctx, id, code, "out")
		if code == 0 {
			code = core.CloseKicked
		}
		w.over(code, meant...)
	}
	if !errors.Is(err, want) {
		w.errorf("%v, want %v", err, want)
	}
}

// takenOut notes that connections were unsubscribed by the server, one after the other, and told so.
func (w *world) takenOut(meant []*life, channel string) {
	for _, l := range meant {
		if slices.Contains(l.channels, channel) {
			l.owe("unsubscribed", "unsubscribed "+channel)
			w.leave(l, channel)
		}
	}
}

func (w *world) shutdown(node int) {
	w.noteLine("node %d shuts down", node)
	if err := w.nodes[node].Shutdown(w.t.Context()); err != nil {
		w.errorf("%v", err)
	}
	if !w.down[node] {
		w.wentDown(node)
	}
}

func (w *world) wentDown(node int) {
	w.down[node] = true
	here := slices.DeleteFunc(w.open(), func(l *life) bool { return l.node != node })
	w.over(core.CloseRestart, here...)
}

// maxBad is how many bad messages a peer sends: one less than what closes it.
const maxBad = 19

// garbage has a peer send what it must not.
func (w *world) garbage(l *life, what int) {
	bad := func(text, answer string) {
		if l.bad == maxBad {
			return
		}
		l.bad++
		l.peer.says(frame.Text, text)
		l.owe("answer", answer)
	}
	w.noteLine("%s sends garbage %d", l, what%11)
	switch what % 11 {
	case 0:
		bad(`{"type":`, "answer error 400")
	case 1:
		bad(`[]`, "answer error 400")
	case 2:
		bad(`{"type":"subscribe","id":"x"}`, "answer x error 400")
	case 3:
		bad(`{"type":"subscribe","id":"x","channel":"`+"\\u0000"+`"}`, "answer x error 400")
	case 4:
		l.peer.says(frame.Ping, "p")
		l.owe("pong", "p")
	case 5:
		l.peer.says(frame.Binary, "b")
		w.over(1003, l)
	case 6:
		l.peer.says(frame.Text, "\xff")
		w.over(1007, l)
	case 7:
		l.peer.says(frame.Text, strings.Repeat("x", 5000))
		w.over(1009, l)
	case 8:
		l.peer.writes([]byte{0x81, 0})
		w.over(1002, l)
	case 9:
		l.peer.closes(999) // an empty one
		w.over(1005, l)
	case 10:
		l.peer.writes(append(masked(frame.Text, `{"type":"ping","id":"both"}`), masked(frame.Text, `{"type":"fail","id":"y"}`)...))
		l.owe("answer", "answer both pong")
		l.owe("answer", "answer y error 403")
	}
}

// orderOf returns what a message says, and the messages among which its place counts.
func orderOf(text []byte) (order, what string) {
	var m struct {
		ID, Type, Channel, Client string
		Code                      int
		Data                      []struct{ Client string }
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return "broken", string(text)
	}
	said := func(words ...any) string { return strings.Join(strings.Fields(fmt.Sprintln(words...)), " ") }
	switch m.Type {
	case "receive":
		in := []string{}
		for _, member := range m.Data {
			in = append(in, member.Client)
		}
		slices.Sort(in)
		return "answer", said("answer", m.ID, strings.Join(in, " "))
	case "error":
		return "answer", said("answer", m.ID, "error", m.Code)
	case "pong":
		return "answer", said("answer", m.ID, "pong")
	case "join", "leave":
		return "presence", said(m.Type, m.Channel, m.Client)
	case "unsubscribed":
		return "unsubscribed", said(m.Type, m.Channel)
	case "message":
		return m.Channel, m.Type + " " + m.ID + " " + m.Channel + " " + m.Client
	}
	return m.Type, said(m.Type, m.ID)
}
