package server_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/e2e/bench/server"
	"github.com/duxweb/go-ws/internal/redistest"
)

func TestEveryServerDoesTheSameJob(t *testing.T) {
	t.Parallel()
	for _, s := range server.All {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			at := start(t, s, "")
			ann, bob := at.connect("ann"), at.connect("bob")
			ann.subscribe("x")
			bob.subscribe("x")

			ann.publish("x", "hi")
			ann.hears("hi")
			bob.hears("hi")

			ann.direct("bob", "for bob")
			ann.publish("x", "for all")
			ann.hears("for all")
			bob.hears("for bob", "for all")

			large := strings.Repeat("m", 64<<10)
			most := len(large) - len(bob.publication("x", ""))
			for _, text := range []string{large[:16], large[:4<<10], large[:most]} { // each has another form of length
				bob.publish("x", text)
				ann.hears(text)
				bob.hears(text)
			}

			var burst []string
			for i := range 64 { // in flight
				burst = append(burst, strconv.Itoa(i))
				ann.publish("x", burst[i])
			}
			ann.hears(burst...)
			bob.hears(burst...)
		})
	}
}

func TestWhoHasGoneIsOutOfEverything(t *testing.T) {
	t.Parallel()
	for _, s := range server.All {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			at := start(t, s, "")
			ann := at.connect("ann")
			ann.subscribe("x")
			for i := range 3 {
				bob := at.connect("bob")
				bob.subscribe("x")
				bob.subscribe("y")
				bob.subscribe("y") // twice is once
				ann.publish("x", "both")
				ann.hears("both")
				bob.hears("both")
				bob.leave()

				// A descriptor or an object of bob's may be carl's now.
				carl := at.connect("carl" + strconv.Itoa(i))
				carl.subscribe("z")
				ann.publish("x", "ann alone")
				ann.publish("y", "nobody")
				ann.direct("bob", "nobody either")
				ann.publish("z", "carl alone")
				ann.hears("ann alone")
				carl.hears("carl alone")

				carl.subscribe("x")
				ann.publish("x", "both")
				ann.hears("both")
				carl.hears("both")
				carl.leave()
			}
		})
	}
}

func TestClustersAreOneServer(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	for _, s := range server.All {
		if !s.Clusters() {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			here, there := start(t, s, redis.Addr()), start(t, s, redis.Addr())
			ann, bob := here.connect("ann"), there.connect("bob")
			ann.subscribe("x")
			bob.subscribe("x")
			ann.publish("x", "hi")
			ann.hears("hi")
			bob.hears("hi")
		})
	}
}

func TestAServerWithoutAClusterSaysSo(t *testing.T) {
	t.Parallel()
	s, err := server.Find("melody")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Serve(nil, "127.0.0.1:6379")
	const want = "melody knows no cluster: leave Redis out, or take one of net/http, gin, echo, fiber, centrifuge"
	if err == nil || err.Error() != want {
		t.Errorf("it says %v, not %q", err, want)
	}
}

func TestFindNamesTheServersThatThereAre(t *testing.T) {
	t.Parallel()
	_, err := server.Find("node")
	const want = `there is no server "node": take one of ` +
		"raw, net/http, gin, echo, fiber, melody, gorilla, gws, centrifuge, socketio"
	if err == nil || err.Error() != want {
		t.Errorf("it says %v, not %q", err, want)
	}
}

func TestVersionsAreThoseOfEveryLibrary(t *testing.T) {
	t.Parallel()
	// A test's own program has no list of modules.
	info := &debug.BuildInfo{Deps: []*debug.Module{
		{Path: "github.com/duxweb/go-ws", Version: "v0.1.0", Replace: &debug.Module{Path: "../.."}},
		{Path: "golang.org/x/net", Version: "v0.57.0"},
	}}
	want := map[string]string{"github.com/duxweb/go-ws": "(devel)"}
	for _, s := range server.All {
		if s.Library != "" && s.Library != "go-ws" {
			info.Deps = append(info.Deps, &debug.Module{Path: s.Library, Version: "v1.2.3"})
			want[s.Library] = "v1.2.3"
		}
	}
	if got := server.VersionsOf(info); !maps.Equal(got, want) {
		t.Errorf("got %v, not %v", got, want)
	}
}

// site is a server under test.
type site struct {
	t       *testing.T
	addr    string
	dialect string
}

func start(t *testing.T, s server.Server, redis string) site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the listener is closed
		defer close(ended)
		if err := s.Serve(l, redis); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Serve has not returned")
		}
	})
	at := site{t, l.Addr().String(), s.Dialect}
	at.get("/gc")
	before, err := strconv.ParseUint(at.get("/mallocs"), 10, 64)
	if err != nil || before == 0 {
		t.Errorf("/mallocs says %d (%v)", before, err)
	}
	return at
}

func (at site) get(path string) string {
	at.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + at.addr + path)
	if err != nil {
		at.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		at.t.Fatalf("%s: %s (%v)", path, r.Status, err)
	}
	return string(text)
}

const patience = 10 * time.Second

// person is a client.
type person struct {
	t          *testing.T
	ws         *websocket.Conn
	name       string
	centrifuge bool
	asked      int
	heard      []string // messages that came before an answer
	frame      []string // the rest of a frame of several messages
}

func (at site) connect(name string) *person {
	at.t.Helper()
	// One message is one frame: raw knows no fragments.
	dialer := websocket.Dialer{HandshakeTimeout: patience, WriteBufferSize: 128 << 10}
	ws, r, err := dialer.Dial("ws://"+at.addr+"/ws?token="+name, nil)
	if err != nil {
		at.t.Fatal(err)
	}
	defer r.Body.Close()
	at.t.Cleanup(func() { ws.Close() })
	p := &person{t: at.t, ws: ws, name: name, centrifuge: at.dialect == "centrifuge"}
	if p.centrifuge {
		p.ask(`{"id":%d,"connect":{}}`)
	}
	return p
}

func (p *person) subscribe(channel string) {
	p.t.Helper()
	if !p.centrifuge {
		p.ask(`{"id":"%d","type":"subscribe","channel":"` + channel + `"}`)
		return
	}
	p.ask(`{"id":%d,"subscribe":{"channel":"` + channel + `"}}`)
}

// ask sends a request and reads until its answer is there.
func (p *person) ask(request string) {
	p.t.Helper()
	p.asked++
	p.say(fmt.Sprintf(request, p.asked))
	for {
		m := p.next()
		if fmt.Sprint(m.ID) == strconv.Itoa(p.asked) {
			if m.Type != "" && m.Type != "receive" || m.Error != nil && m.Error.Code != alreadySubscribed {
				p.t.Fatalf("%s asked %s and got %+v", p.name, request, m)
			}
			return
		}
		p.heard = append(p.heard, m.text())
	}
}

func (p *person) publish(channel, text string) {
	p.t.Helper()
	p.say(p.publication(channel, text))
}

func (p *person) publication(channel, text string) string {
	if !p.centrifuge {
		return `{"type":"message","channel":"` + channel + `","message":"` + text + `"}`
	}
	p.asked++
	return fmt.Sprintf(`{"id":%d,"publish":{"channel":"%s","data":{"message":"%s"}}}`, p.asked, channel, text)
}

func (p *person) direct(to, text string) {
	p.t.Helper()
	if !p.centrifuge {
		p.say(`{"type":"direct","channel":"` + to + `","message":"` + text + `"}`)
		return
	}
	p.asked++
	p.say(fmt.Sprintf(`{"id":%d,"rpc":{"method":"direct","data":{"client":"%s","message":"%s"}}}`, p.asked, to, text))
}

func (p *person) say(text string) {
	p.t.Helper()
	_ = p.ws.SetWriteDeadline(time.Now().Add(patience))
	if err := p.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// hears fails the test unless these texts are the next that come, in this order.
func (p *person) hears(texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		for len(p.heard) == 0 {
			if m := p.next(); m.text() != "" {
				p.heard = append(p.heard, m.text())
			}
		}
		got := p.heard[0]
		if p.heard = p.heard[1:]; got != want {
			p.t.Fatalf("%s heard %.40q (%d bytes), not %.40q", p.name, got, len(got), want)
		}
	}
}

// leave closes and waits until the server has, too.
func (p *person) leave() {
	p.t.Helper()
	gone := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := p.ws.WriteControl(websocket.CloseMessage, gone, time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	for err := error(nil); err == nil; {
		_, _, err = p.ws.ReadMessage()
	}
	p.ws.Close()
}

const alreadySubscribed = 105 // of centrifuge, which answers a second subscribe with an error

// message is what any of the servers says.
type message struct {
	ID      any
	Type    string
	Message string // of the project's envelope
	Error   *struct{ Code int }
	Push    struct { // centrifuge's
		Pub, Message struct{ Data struct{ Message string } }
	}
}

// text is what somebody has said; an answer has none.
func (m message) text() string {
	return cmp.Or(m.Message, m.Push.Pub.Data.Message, m.Push.Message.Data.Message)
}

func (p *person) next() (m message) {
	p.t.Helper()
	for len(p.frame) == 0 {
		_ = p.ws.SetReadDeadline(time.Now().Add(patience))
		_, text, err := p.ws.ReadMessage()
		if err != nil {
			p.t.Fatalf("%s: %v", p.name, err)
		}
		p.frame = strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	text := p.frame[0]
	p.frame = p.frame[1:]
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		p.t.Fatalf("%s got %q: %v", p.name, text, err)
	}
	return m
}
