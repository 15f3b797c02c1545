package core_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// transports are the kinds of connections that the core treats differently inside.
var transports = map[string]func(t testing.TB) (server, client net.Conn){
	"tcp":  tcpPair,
	"unix": unixPair,
	"tls":  tlsPair,
	"pipe": func(testing.TB) (server, client net.Conn) { return net.Pipe() },
	"wrapped tcp": func(t testing.TB) (server, client net.Conn) {
		t.Helper()
		server, client = tcpPair(t)
		return struct{ net.Conn }{server}, client
	},
}

var certificates = sync.OnceValue(func() []tls.Certificate {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	return server.TLS.Certificates
})

func tlsPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	server, client = tcpPair(t)
	return tls.Server(server, &tls.Config{Certificates: certificates(), MinVersion: tls.VersionTLS12}),
		tls.Client(client, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own certificate
}

// onEach runs a test on every transport, with a client that has just connected.
func onEach(t *testing.T, opts []core.Option, test func(p *wire, c *core.Client)) {
	t.Helper()
	for name, pair := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := coretest.Run(t, append([]core.Option{permissive(), core.WithLogger(nil)}, opts...)...)
			server, client := pair(t)
			p := wireTo(t, s, "ann", server, client)
			p.ping()
			test(p, core.FindClients(s, "", "ann")[0])
		})
	}
}

func TestMessagesOfAllSizesGoBothWaysIntact(t *testing.T) {
	t.Parallel()
	echo := &core.Provider{Message: func(m *core.Message, c *core.Client) error {
		return c.Send(core.Message{Type: "echo", Message: m.Message})
	}}
	onEach(t, []core.Option{echo, core.WithMessageBytes(1 << 20)}, func(p *wire, _ *core.Client) {
		t := p.t
		for _, size := range []int{0, 1, 80, 81, 125, 126, 127, 1 << 10, 1 << 14, 1<<16 - 1, 1 << 16, 1<<16 + 1, 300 << 10} {
			text := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			p.send(core.Message{Type: "say", Message: text})
			want := `{"type":"echo","message":"` + text + `"}`
			if size == 0 {
				want = `{"type":"echo"}`
			}
			if got := p.text(); got != want {
				t.Fatalf("%d bytes came back as %d: %.80q", size, len(got), got)
			}
		}
	})
}

func TestAMessageThatArrivesByteByByteIsOneMessage(t *testing.T) {
	t.Parallel()
	onEach(t, nil, func(p *wire, _ *core.Client) {
		slow := &wire{t: p.t, nc: byteByByte{p.nc}, in: p.in}
		for range 3 {
			slow.ping()
		}
	})
}

// byteByByte writes each byte on its own.
type byteByByte struct{ net.Conn }

func (b byteByByte) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestWhatWaitsForAPeerLeavesWholeAndInOrder(t *testing.T) {
	t.Parallel()
	onEach(t, []core.Option{core.WithOutboxBytes(16 << 20)}, func(p *wire, c *core.Client) {
		t := p.t
		const messages = 3000
		for n := range messages { // the peer reads nothing meanwhile
			m := core.Message{Type: "n", Message: fmt.Sprint(n, " ", strings.Repeat("x", n%700))}
			if err := c.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		for n := range messages {
			if got := p.text(); numberIn(got) != n {
				t.Fatalf("got %.40s, want %d", got, n)
			}
		}
		p.ping()
	})
}

// The drainer's write deadline must not outlive the backlog.
func TestAWriteLongAfterABacklogArrives(t *testing.T) {
	t.Parallel()
	stall := 50 * time.Millisecond
	onEach(t, []core.Option{core.WithWriteStall(stall)}, func(p *wire, c *core.Client) {
		t := p.t
		for n := range 3 {
			if err := c.Send(core.Message{Type: "n", Message: fmt.Sprint(n, " ", strings.Repeat("x", 500<<10))}); err != nil {
				t.Fatal(err)
			}
			if got := p.text(); numberIn(got) != n {
				t.Fatalf("got %.40s, want %d", got, n)
			}
			eventually(t, "the backlog", func() bool { return core.Drained(c) })
			<-time.After(stall + stall/2)
		}
	})
}

func TestManySendersAndAPeerThatTalksShareOneConnection(t *testing.T) {
	t.Parallel()
	onEach(t, []core.Option{core.WithOutboxBytes(16 << 20)}, func(p *wire, c *core.Client) {
		t := p.t
		const senders, each = 4, 300
		var sending sync.WaitGroup
		for i := range senders {
			sending.Go(func() {
				for n := range each {
					if err := c.Send(core.Message{Type: "n", Message: fmt.Sprint(n, " ", i, " ", strings.Repeat("x", n))}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		sending.Go(func() {
			for range each {
				p.send(core.Message{Type: "ping", ID: "p"})
			}
		})
		next := [senders]int{}
		pongs := 0
		for range senders*each + each {
			var n, i int
			text := p.text()
			if strings.HasPrefix(text, `{"type":"pong"`) {
				pongs++
			} else if _, err := fmt.Sscanf(text, `{"type":"n","message":"%d %d`, &n, &i); err != nil || n != next[i] {
				t.Fatalf("got %.60s, want %d of sender %d (%v)", text, next[i], i, err)
			} else {
				next[i]++
			}
		}
		if pongs != each {
			t.Fatal("pongs:", pongs)
		}
		sending.Wait()
	})
}

// Close comes behind what was sent before, the frame that is partly written included, and nothing comes behind it.
func TestSendThenCloseDeliversTheMessageFirst(t *testing.T) {
	t.Parallel()
	onEach(t, nil, func(p *wire, c *core.Client) {
		t := p.t
		for n := range 3 { // larger than what the kernel takes: the first one is partly written
			if err := c.Send(core.Message{Type: "n", Message: fmt.Sprint(n, " ", strings.Repeat("x", 150<<10))}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(4001, "bye"); err != nil {
			t.Fatal(err)
		}
		if err := c.Send(number(9)); !errors.Is(err, core.ErrClosed) {
			t.Fatal("Send after Close:", err)
		}
		texts, why := p.rest()
		if len(texts) != 3 || numberIn(texts[0]) != 0 || numberIn(texts[1]) != 1 || numberIn(texts[2]) != 2 {
			t.Fatalf("%d texts", len(texts))
		}
		if why != (core.CloseError{Code: 4001, Reason: "bye"}) {
			t.Fatalf("closed with %v", why)
		}
	})
}

func TestCloseDoesNotWaitForAPeerThatReadsNothing(t *testing.T) {
	t.Parallel()
	stall := 300 * time.Millisecond
	onEach(t, []core.Option{core.WithWriteStall(stall)}, func(p *wire, c *core.Client) {
		t := p.t
		if err := c.Send(strings.Repeat("x", 900<<10)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := c.Close(4001, "bye"); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited >= stall {
			t.Fatalf("Close waited %v", waited)
		}
		if err := c.Close(4002, "again"); !errors.Is(err, core.ErrClosed) {
			t.Fatal(err)
		}
		var why *core.CloseError
		if !errors.As(context.Cause(c.Context()), &why) || why.Code != 4001 {
			t.Fatal(why)
		}
	})
}

func TestThePeersCloseIsAnswered(t *testing.T) {
	t.Parallel()
	onEach(t, nil, func(p *wire, c *core.Client) {
		t := p.t
		if err := c.Send(number(1)); err != nil {
			t.Fatal(err)
		}
		p.write(8, append([]byte{4001 >> 8, 4001 & 0xff}, "bye"...), "not JSON, but nobody reads this any more")
		if got := p.text(); numberIn(got) != 1 {
			t.Fatal(got)
		}
		op, payload, err := p.frame()
		if op != 8 || len(payload) != 2 || err != nil {
			t.Fatalf("frame %d %q %v, want a close frame with the code", op, payload, err)
		}
		if op, payload, err := p.frame(); err == nil {
			t.Fatalf("frame %d %q follows the close frame", op, payload)
		}
		var why *core.CloseError
		if <-c.Context().Done(); !errors.As(context.Cause(c.Context()), &why) || *why != (core.CloseError{Code: 4001, Reason: "bye"}) {
			t.Fatal(why)
		}
	})
}

func TestAPeerThatGoesWithoutAWordEndsTheConnection(t *testing.T) {
	t.Parallel()
	onEach(t, nil, func(p *wire, c *core.Client) {
		t := p.t
		_ = p.nc.Close()
		<-c.Context().Done()
		var why *core.CloseError
		if !errors.As(context.Cause(c.Context()), &why) || why.Code != 1006 {
			t.Fatal(why)
		}
	})
}

func TestAPeerThatEndsItsHalfIsGone(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil))
	p, c := wireTCP(t, s, "ann")
	if err := p.nc.(*net.TCPConn).CloseWrite(); err != nil { //nolint:errcheck // wireTCP made it
		t.Fatal(err)
	}
	<-c.Context().Done()
	if _, _, err := p.frame(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

// A peer that is behind by less than the bound loses nothing, one that is behind by more is told why it is closed.
func TestAPeerThatNeverReadsIsClosedBehindWhatWaits(t *testing.T) {
	t.Parallel()
	const outbox = 64 << 10
	onEach(t, []core.Option{core.WithOutboxBytes(outbox)}, func(p *wire, c *core.Client) {
		t := p.t
		sent := 0
		for ; c.Send(core.Message{Type: "n", Message: fmt.Sprint(sent, " ", strings.Repeat("x", 1<<10))}) == nil; sent++ {
			if n := core.BacklogBytes(c); n > outbox+2<<10 {
				t.Fatalf("%d bytes wait, and the client is not closed", n)
			}
		}
		texts, why := p.rest()
		if why != (core.CloseError{Code: core.CloseTooSlow, Reason: "too slow"}) {
			t.Fatalf("closed with %v", why)
		}
		if len(texts) < outbox/(1<<10+100) || len(texts) < sent-1 {
			t.Fatalf("%d texts of %d arrived", len(texts), sent)
		}
		for n, text := range texts {
			if numberIn(text) != n {
				t.Fatalf("got %.40s, want %d", text, n)
			}
		}
	})
}
