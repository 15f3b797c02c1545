package e2e

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
)

// programs are the examples that run alone; TestCluster ends the other one.
var programs = []string{"chat", "gin", "echo", "fiber"}

// TestSlowRequestsHoldUpNoExample sends each example requests that never end. Its time limits end them, but no socket; and
// a SIGTERM in the midst of them ends the program with exit code 0, as stop wants it. All wait at the same time.
func TestSlowRequestsHoldUpNoExample(t *testing.T) {
	t.Parallel()
	type run struct {
		lives, ends *server
		alice, bob  *websocket.Conn // before the slow requests
		slow        map[string]net.Conn
	}
	runs := map[string]*run{}
	for _, example := range programs {
		binary := build(t, example)
		r := &run{lives: newServer(t, binary), ends: newServer(t, binary)}
		r.alice, r.bob = r.lives.socket("alice"), r.ends.socket("bob")
		runs[example] = r
	}
	var stopped sync.WaitGroup
	for _, r := range runs {
		r.slow = r.lives.slowRequests()
		r.ends.slowRequests()
		stopped.Go(r.ends.stop)
	}
	stopped.Wait()
	for example, r := range runs {
		for what, nc := range r.slow {
			if _, err := io.Copy(io.Discard, nc); timedOut(err) {
				t.Errorf("%s: who sends %s keeps the connection for %v", example, what, patience)
			}
		}
		pingPong(t, r.alice)
		var closed *websocket.CloseError
		if _, text, err := r.bob.ReadMessage(); !errors.As(err, &closed) || closed.Code != core.CloseRestart {
			t.Errorf("%s: bob heard %q, %v, want close %d", example, text, err, core.CloseRestart)
		}
		if _, err := net.Dial("tcp", r.ends.address); err == nil {
			t.Errorf("%s: somebody still listens", example)
		}
	}
}

func timedOut(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// socket is a client that is in.
func (s *server) socket(name string) *websocket.Conn {
	s.t.Helper()
	status, token := s.post("/login", "name="+name)
	if status != http.StatusOK {
		s.t.Fatalf("/login: %d %s", status, token)
	}
	conn, response, err := websocket.DefaultDialer.Dial("ws://"+s.address+"/ws", http.Header{"Token": {token}})
	if err != nil {
		s.t.Fatalf("%v\n%v", err, response)
	}
	_ = response.Body.Close()
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(2 * patience))
	pingPong(s.t, conn)
	return conn
}

func pingPong(t *testing.T, conn *websocket.Conn) {
	t.Helper()
	if err := conn.WriteJSON(core.Message{Type: "ping"}); err != nil {
		t.Fatal(err)
	}
	var m core.Message
	if err := conn.ReadJSON(&m); err != nil || m.Type != "pong" {
		t.Fatalf("got %+v, %v, want a pong", m, err)
	}
}

// slowRequests returns connections that have begun something and say no more.
func (s *server) slowRequests() map[string]net.Conn {
	s.t.Helper()
	head := "POST /push?room=lobby HTTP/1.1\r\nHost: " + s.address + "\r\n"
	conns := map[string]net.Conn{}
	for what, begun := range map[string]string{
		"nothing":      "",
		"half a line":  "GET /ws?tok",
		"half a head":  "GET /ws HTTP/1.1\r\nHost: " + s.address + "\r\nUpgrade: web",
		"half a body":  head + "Content-Length: 100\r\n\r\nhello",
		"half a chunk": head + "Transfer-Encoding: chunked\r\n\r\n10\r\nhello",
		"no second":    "GET /icon.svg HTTP/1.1\r\nHost: " + s.address + "\r\n\r\n",
	} {
		nc, err := net.Dial("tcp", s.address)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = nc.Close() })
		_ = nc.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(nc, strings.NewReader(begun)); err != nil {
			s.t.Fatal(err)
		}
		if what == "no second" { // it is idle once it is answered
			if _, err := bufio.NewReader(nc).ReadString('\n'); err != nil {
				s.t.Fatal(err)
			}
		}
		conns[what] = nc
	}
	return conns
}
