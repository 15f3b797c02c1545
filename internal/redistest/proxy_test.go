package redistest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/internal/redistest"
)

// peer is a connection through a proxy.
type peer struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &peer{nc, t, bufio.NewReader(nc)}
}

func (p *peer) says(words ...string) {
	p.t.Helper()
	text := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, w := range words {
		text = fmt.Appendf(text, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := p.Write(text); err != nil {
		p.t.Fatal(err)
	}
}

// hears fails the test where the next lines are others.
func (p *peer) hears(lines ...string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for _, want := range lines {
		got, err := p.in.ReadString('\n')
		if got = strings.TrimSpace(got); got != want {
			p.t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

// hearsNothing fails the test where something comes or the connection ends.
func (p *peer) hearsNothing() {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := p.in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("got %q, %v", b, err)
	}
}

// ends fails the test where something comes or the connection stays.
func (p *peer) ends() {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	if b, err := p.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("got %q, %v", b, err)
	}
}

// says writes a line and returns the one that is answered.
func says(t *testing.T, nc net.Conn, line string) string {
	t.Helper()
	if _, err := nc.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	got, err := bufio.NewReader(nc).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTheProxyCutsAllConnections(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, redistest.Start(t).Addr())
	a, b := dial(t, p.Addr()), dial(t, p.Addr())
	for _, c := range []*peer{a, b} {
		c.says("PING")
		c.hears("+PONG")
	}
	if n := p.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
	p.Cut()
	a.ends()
	b.ends()
	dial(t, p.Addr()).ends()
	eventually(t, "no connection is open", func() bool { return p.Connections() == 0 })

	p.Restore()
	c := dial(t, p.Addr())
	c.says("PING")
	c.hears("+PONG")
	_ = c.Close()
	eventually(t, "the client's closing is passed on", func() bool { return p.Connections() == 0 })
}

func TestTheProxyEndsWithTheServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	a := dial(t, p.Addr())
	a.says("PING")
	a.hears("+PONG")
	s.Kill()
	a.ends()
	dial(t, p.Addr()).ends()
	s.Restart()
	b := dial(t, p.Addr())
	b.says("PING")
	b.hears("+PONG")
}

func TestTheProxyStalls(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	a := dial(t, p.Addr())
	a.says("SUBSCRIBE", "news")
	a.hears("*3", "$9", "subscribe", "$4", "news", ":1")
	p.Stall()
	b := dial(t, p.Addr())
	b.says("SET", "key", "value")
	s.CLI("PUBLISH", "news", "hello")
	a.hearsNothing()
	b.hearsNothing()
	if n := p.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
	if got := s.CLI("EXISTS", "key"); got != "0" {
		t.Error("the stalled command came through")
	}
	p.Restore()
	a.hears("*3", "$7", "message", "$4", "news", "$5", "hello")
	b.hears("+OK")
}

func TestTheProxyStallsSubscriptionsForGood(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	other := dial(t, p.Addr())
	other.says("PING", "subscribe") // the word alone does not count
	other.hears("$9", "subscribe")
	var subscribers []*peer
	for _, command := range []string{"SUBSCRIBE", "ssubscribe"} {
		a := dial(t, p.Addr())
		a.says(command, "news")
		a.hears("*3", fmt.Sprintf("$%d", len(command)), strings.ToLower(command), "$4", "news", ":1")
		subscribers = append(subscribers, a)
	}
	p.StallSubscriptions()
	p.Restore()
	s.CLI("PUBLISH", "news", "one")
	s.CLI("SPUBLISH", "news", "one")
	for _, a := range subscribers {
		a.says("PING") // arrives, and the answer does not
		a.hearsNothing()
	}
	other.says("PING")
	other.hears("+PONG")

	// In two parts, so that the proxy has to put the command together.
	late := dial(t, p.Addr())
	for _, part := range []string{"*2\r\n$9\r\nsubs", "cribe\r\n$4\r\nnews\r\n"} {
		if _, err := late.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		other.says("PING")
		other.hears("+PONG")
	}
	late.hears("*3", "$9", "subscribe", "$4", "news", ":1")
	s.CLI("PUBLISH", "news", "two")
	late.hears("*3", "$7", "message", "$4", "news", "$3", "two")
	p.StallSubscriptions()
	s.CLI("PUBLISH", "news", "three")
	late.hearsNothing()
	_ = late.Close()
	eventually(t, "the client's closing is passed on", func() bool { return s.CLI("PUBLISH", "news", "four") == "1" })
}

func TestTheProxyStallsAllConnectionsForGood(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	a, subscriber := dial(t, p.Addr()), dial(t, p.Addr())
	a.says("PING")
	a.hears("+PONG")
	subscriber.says("SUBSCRIBE", "news")
	subscriber.hears("*3", "$9", "subscribe", "$4", "news", ":1")
	p.StallConnections()
	p.Restore()
	a.says("SET", "key", "value")
	s.CLI("PUBLISH", "news", "hello")
	eventually(t, "the command arrives", func() bool { return s.CLI("EXISTS", "key") == "1" })
	a.hearsNothing()
	subscriber.hearsNothing()
	late := dial(t, p.Addr())
	late.says("GET", "key")
	late.hears("$5", "value")
	if n := p.Connections(); n != 3 {
		t.Errorf("%d connections", n)
	}
	_ = subscriber.Close()
	eventually(t, "the client's closing is passed on", func() bool { return s.CLI("PUBLISH", "news", "again") == "0" })
}

func TestTheProxySlowsEachChunkInOrder(t *testing.T) {
	t.Parallel()
	const delay = 100 * time.Millisecond
	p := redistest.NewProxy(t, redistest.Start(t).Addr())
	a := dial(t, p.Addr())
	p.Slow(delay)
	begin := time.Now()
	for i := range 20 {
		a.says("PING", fmt.Sprintf("%02d", i))
	}
	for i := range 20 {
		a.hears("$2", fmt.Sprintf("%02d", i))
	}
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("it took %v, want %v at least", took, 2*delay)
	}
	p.Slow(time.Hour)
	a.says("PING")
	a.hearsNothing()
	p.Restore()
	a.hears("+PONG")
}

func TestTheProxyLosesReplies(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	a, listener := dial(t, p.Addr()), dial(t, p.Addr())
	listener.says("SUBSCRIBE", "news")
	listener.hears("*3", "$9", "subscribe", "$4", "news", ":1")
	a.says("PING")
	a.hears("+PONG")
	p.LoseReplies()
	a.says("PUBLISH", "news", "hello")
	a.ends()
	listener.hears("*3", "$7", "message", "$4", "news", "$5", "hello") // it came through
	b := dial(t, p.Addr())
	b.says("INCR", "key")
	b.ends()
	if got := s.CLI("GET", "key"); got != "1" {
		t.Errorf("the counter is %q", got)
	}
	p.Restore()
	c := dial(t, p.Addr())
	c.says("INCR", "key")
	c.hears(":2")
}
