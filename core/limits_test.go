package core_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

func TestMessagesBeyondTheRateAreRefusedAndLaterOnesAreNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithMessageRate(2, 5))
		c := coretest.Connect(t, s, user("ann"))
		for range 5 {
			c.Do(core.Message{Type: "subscribe", Channel: "room"})
		}
		refused := c.Error(http.StatusTooManyRequests, core.Message{Type: "message", Channel: "room", Message: "heard?"})
		if refused.Message.Message != "too many messages, slow down" {
			t.Fatal(refused.Raw)
		}
		<-time.After(time.Second)
		for range 2 { // a second's worth
			c.Do(core.Message{Type: "presence", Channel: "room"})
		}
		c.Error(http.StatusTooManyRequests, core.Message{Type: "ping"})
		<-time.After(time.Hour)
		for range 5 { // never more than the burst
			c.Do(core.Message{Type: "ping"})
		}
		c.Error(http.StatusTooManyRequests, core.Message{Type: "ping"})
		<-time.After(time.Minute)
		c.Nothing() // the message that was refused was not published
	})
}

func TestAFloodIsRefusedAndThenClosed(t *testing.T) {
	t.Parallel()
	floods := map[string][]byte{
		"messages": masked(frame.Text, `{"type":"subscribe","channel":"room"}`),
		"pings":    masked(frame.Ping, "are you there?"),
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMessageRate(1, 3))
			h := coretest.Handshake()
			h.Identity = user("ann")
			ticket, err := s.Admit(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			p := attach(t, s, ticket)
			var writing sync.WaitGroup
			writing.Go(func() { _, _ = p.Write([]byte(strings.Repeat(string(flood), 30))) })
			heard := map[frame.Op]int{}
			m := p.hear()
			for ; m.Op != frame.Close; m = p.hear() {
				heard[m.Op]++
			}
			code, reason, err := frame.ParseClose(m.Payload)
			if code != core.CloseTooManyBad || reason != "too many messages" || err != nil {
				t.Error(code, reason, err)
			}
			if name == "pings" && heard[frame.Pong] != 3 || name == "messages" && heard[frame.Text] < 20 {
				t.Error("heard", heard)
			}
			_ = p.Close()
			writing.Wait()
		})
	}
}

func TestWithoutARateNobodyIsRefused(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	c := coretest.Connect(t, s, user("ann"))
	for range 2000 {
		c.Do(core.Message{Type: "ping"})
	}
}

// from is a handshake that comes from an address.

func from(remote, peer string, forwarded ...string) *core.Handshake {
	h := coretest.Handshake()
	h.RemoteAddr, h.Peer = remote, peer
	h.Identity = user("ann")
	for _, line := range forwarded {
		h.Header.Add("X-Forwarded-For", line)
	}
	return h
}

// refusal returns why a handshake was refused, or nil.

func refusal(t *testing.T, s *core.Service, h *core.Handshake) *core.Refusal {
	t.Helper()
	_, err := s.Admit(t.Context(), h)
	if err == nil {
		return nil
	}
	r, ok := err.(*core.Refusal) //nolint:errorlint // Admit returns no other
	if !ok {
		t.Fatal(err)
	}
	return r
}

func TestAFullNodeSaysWhenToComeBackAndHasRoomAgain(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnections(2))
	ann := coretest.Connect(t, s, user("ann"))
	coretest.Connect(t, s, user("bob"))
	r := refusal(t, s, from("10.0.0.1:1", ""))
	if r == nil || r.Status != http.StatusServiceUnavailable || r.Code != core.CloseInternal || r.Reason != "this node is full, try again" {
		t.Fatalf("%+v", r)
	}
	if seconds, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 5 {
		t.Fatal(r.Header)
	}
	ann.Close(1000, "")
	eventually(t, "ann to be gone", func() bool { return s.Stats().Connections == 1 })
	coretest.Connect(t, s, user("cleo"))
}

// A ticket reserves nothing, so Attach decides again.

func TestOfManyTicketsOnlyAsManyAsThereIsRoomForAreConnections(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnections(1))
	var tickets []*core.Ticket
	for range 3 {
		ticket, err := s.Admit(t.Context(), from("10.0.0.1:1", ""))
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	attach(t, s, tickets[0])
	for _, ticket := range tickets[1:] {
		if code, reason := attach(t, s, ticket).closed(); code != core.CloseInternal || reason != "this node is full, try again" {
			t.Fatal(code, reason)
		}
	}
	if stats := s.Stats(); stats.Connections != 1 || stats.Refused != 2 {
		t.Fatalf("%+v", stats)
	}
}

func TestHandshakesUnderWayCountAsConnections(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	s := coretest.Run(t, core.WithLogger(nil), core.WithMaxConnectionsPerAddress(1), &core.Provider{Auth: func(string) (map[string]any, error) {
		close(asked)
		<-answer
		return user("ann"), nil
	}})
	slow := from("10.0.0.1:1", "")
	slow.Identity, slow.Token = nil, "token"
	admitted := make(chan error)
	go func() { // ends when Auth is let go
		_, err := s.Admit(t.Context(), slow)
		admitted <- err
	}()
	<-asked
	if r := refusal(t, s, from("10.0.0.1:2", "")); r == nil || r.Status != http.StatusTooManyRequests {
		t.Fatalf("%+v", r)
	}
	close(answer)
	if err := <-admitted; err != nil {
		t.Fatal(err)
	}
	if r := refusal(t, s, from("10.0.0.1:3", "")); r != nil {
		t.Fatal("a ticket that is never used reserves something:", r)
	}
}

func TestOneAddressHasSoManyConnections(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnectionsPerAddress(2))
	for _, address := range []string{"192.0.2.1:1", "192.0.2.1:2", "[2001:db8::1]:1", "[2001:db8::2]:1", "@", "@", "@"} {
		coretest.Dial(t, s, from(address, ""))
	}
	for address, full := range map[string]bool{
		"192.0.2.1:3": true, "192.0.2.1": true, "[::ffff:192.0.2.1]:4": true, "::ffff:192.0.2.1": true, "192.0.2.2:1": false,
		"[2001:db8::ffff]:1": true, "[2001:db8:0:0:ffff::1%eth0]:1": true, "2001:db8::7%eth0": true, "[2001:db8:0:1::1]:1": false,
		"@": false, "": false,
	} {
		r := refusal(t, s, from(address, ""))
		if (r != nil) != full {
			t.Errorf("%q: refused: %v, want %v", address, r, full)
		} else if full && (r.Status != http.StatusTooManyRequests || r.Code != core.CloseInternal || r.Header.Get("Retry-After") == "" || r.Reason != "too many connections from this address, try again") {
			t.Errorf("%+v", r)
		}
	}
}

func TestAnAddressWhoseConnectionsHaveEndedHasRoomAgain(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnectionsPerAddress(2))
	for range 10 {
		one, other := coretest.Dial(t, s, from("192.0.2.1:1", "")), coretest.Dial(t, s, from("192.0.2.1:2", ""))
		if refusal(t, s, from("192.0.2.1:3", "")) == nil {
			t.Fatal("there is room for a third one")
		}
		one.Close(1000, "")
		other.Cut()
		eventually(t, "both to be gone", func() bool { return s.Stats().Connections == 0 })
	}
}

// Gin and Echo believe X-Forwarded-For of anybody unless they are told otherwise: what they say is shown, but not counted.

func TestWhatTheFrameworkTakesForTheAddressIsNotCounted(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnectionsPerAddress(1))
	coretest.Dial(t, s, from("198.51.100.1", "192.0.2.1:1"))
	if refusal(t, s, from("198.51.100.2", "192.0.2.1:2")) == nil {
		t.Fatal("a header has hidden the peer's address")
	}
	if r := refusal(t, s, from("198.51.100.1", "192.0.2.2:2")); r != nil {
		t.Fatal(r)
	}
}

func TestForwardedAddressesAreBelievedOfTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	s := coretest.Run(t, core.WithLogger(nil), core.WithTrustedProxies("10.0.0.0/8", "2001:db8::1", "::1", "::ffff:172.16.0.0/108", "::ffff:172.32.0.1"), &core.Provider{
		Authenticate: func(_ context.Context, h *core.Handshake) (map[string]any, error) {
			seen <- h.RemoteAddr
			return user("ann"), nil
		},
	})
	for _, c := range []struct {
		remote, peer string
		forwarded    []string
		want         string
	}{
		{"192.0.2.1:1", "192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1:1"}, // not trusted
		{"192.0.2.1:1", "192.0.2.1:1", nil, "192.0.2.1:1"},
		{"10.0.0.1:1", "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", "10.0.0.1:1", nil, "10.0.0.1"},                                            // it says nothing
		{"10.0.0.1:1", "10.0.0.1:1", []string{"8.8.8.8, 198.51.100.1"}, "198.51.100.1"},          // the client has sent the first
		{"10.0.0.1:1", "10.0.0.1:1", []string{"8.8.8.8", "198.51.100.1"}, "198.51.100.1"},        // in two lines
		{"10.0.0.1:1", "10.0.0.1:1", []string{"198.51.100.1, 10.9.9.9"}, "198.51.100.1"},         // two proxies
		{"10.0.0.1:1", "10.0.0.1:1", []string{"10.1.1.1, 10.9.9.9"}, "10.1.1.1"},                 // a client of the own network
		{"10.0.0.1:1", "10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},              // nobody knows who that was
		{"10.0.0.1:1", "10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},              // some write the port
		{"[2001:db8::1]:1", "[2001:db8::1]:1", []string{"[2001:db8:1::7]:80"}, "2001:db8:1::7"},  // also of IPv6
		{"[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"}, // as a socket for both shows IPv4
		{"172.16.0.1:1", "172.16.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},               // trusted as IPv4 in IPv6
		{"172.32.0.1:1", "172.32.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"8.8.8.8", "10.0.0.1:1", []string{"8.8.8.8, 198.51.100.1"}, "198.51.100.1"}, // a framework that believes anything
		{"8.8.8.8", "192.0.2.1:1", []string{"8.8.8.8"}, "8.8.8.8"},                   // its own affair
		{"@", "@", []string{"198.51.100.1"}, "@"},                                    // a Unix socket
	} {
		h := from(c.remote, c.peer, c.forwarded...)
		h.Identity = nil
		if _, err := s.Admit(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != c.want {
			t.Errorf("%s (%s), forwarded for %q: got %s, want %s", c.remote, c.peer, c.forwarded, got, c.want)
		}
	}
}

func TestBehindATrustedProxyEachClientCountsForItself(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMaxConnectionsPerAddress(1), core.WithTrustedProxies("127.0.0.1"))
	provider := &core.Provider{Auth: core.Anonymous}
	if err := s.RegisterProvider("", provider); err != nil {
		t.Fatal(err)
	}
	server := mount(t, s)
	for n := range 3 {
		address := "X-Forwarded-For: 192.0.2." + strconv.Itoa(n)
		call(t, server, openingRequest(server, "/", address)).enter()
		again := call(t, server, openingRequest(server, "/", address))
		if line, err := again.in.ReadString('\n'); err != nil || !strings.Contains(line, "429") {
			t.Fatal(line, err)
		}
	}
}

func TestOneClientIDHasSoManyConnectionsOnAllNodes(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	opts := []core.Option{permissive(), core.WithLogger(nil), core.WithMaxConnectionsPerClient(3)}
	nodes := []*core.Service{coretest.RunOn(t, driver, opts...), coretest.RunOn(t, driver, opts...)}
	var conns []*coretest.Conn
	for n := range 3 {
		c := coretest.Connect(t, nodes[n%2], user("ann"))
		c.Do(core.Message{Type: "ping"})
		conns = append(conns, c)
	}
	for _, node := range nodes {
		if why := coretest.Connect(t, node, user("ann")).Closed(); *why != (core.CloseError{Code: core.CloseTooMany, Reason: "too many connections"}) {
			t.Fatal(why)
		}
		coretest.Connect(t, node, user("bob")).Do(core.Message{Type: "ping"})
	}
	conns[0].Close(1000, "")
	eventually(t, "the first one to be gone", func() bool {
		found, err := core.Registered(nodes[1], "ann")
		return err == nil && found == 2
	})
	coretest.Connect(t, nodes[1], user("ann")).Do(core.Message{Type: "ping"})
	for _, c := range conns[1:] {
		c.Nothing()
	}
}

func TestAuthRunsSoManyTimesAtOnceAndTheOthersWaitTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := 0, 0
		s := coretest.Run(t, core.WithAuthConcurrency(3), core.WithLogger(nil), &core.Provider{Auth: func(token string) (map[string]any, error) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return user(token), nil
		}})
		begun := time.Now()
		var knocking sync.WaitGroup
		for n := range 12 {
			knocking.Go(func() {
				h := coretest.Handshake()
				h.Token = strconv.Itoa(n)
				if _, err := s.Admit(t.Context(), h); err != nil {
					t.Error(err)
				}
			})
		}
		knocking.Wait()
		if took := time.Since(begun); most != 3 || took != 4*time.Second {
			t.Errorf("%d at once, in %v", most, took)
		}
	})
}

func TestWhoWaitsTooLongForItsTurnIsToldToTryAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		j, log := keepJournal(t)
		s := coretest.Run(t, core.WithAuthConcurrency(1), core.WithAuthTimeout(2*time.Second), log, &core.Provider{
			Auth: func(string) (map[string]any, error) {
				<-hang
				return user("ann"), nil
			},
		})
		for range 3 { // the first one hangs and keeps its place
			h := coretest.Handshake()
			h.Token = secret
			r := refusal(t, s, h)
			if r == nil || r.Status != http.StatusServiceUnavailable || r.Reason != "try again" || r.Header.Get("Retry-After") == "" {
				t.Fatalf("%+v", r)
			}
		}
		if n := len(j.with("1 calls run already (core.WithAuthConcurrency)")); n != 2 {
			t.Errorf("%d lines:\n%s", n, j.with(""))
		}
		close(hang)
		synctest.Wait()
		if r := refusal(t, s, func() *core.Handshake { h := coretest.Handshake(); h.Token = secret; return h }()); r != nil {
			t.Error(r)
		}
	})
}

// It reads, and slowly enough not to be done: the write stall alone would not close it.

func TestOptionsThatProtectNothingAreReportedByRun(t *testing.T) {
	t.Parallel()
	for want, opt := range map[string]core.Option{
		"core.WithMaxConnections(0)":               core.WithMaxConnections(0),
		"core.WithMaxConnectionsPerAddress(-1)":    core.WithMaxConnectionsPerAddress(-1),
		"core.WithMaxConnectionsPerClient(0)":      core.WithMaxConnectionsPerClient(0),
		"core.WithAuthConcurrency(0)":              core.WithAuthConcurrency(0),
		"core.WithMessageRate(0)":                  core.WithMessageRate(0, 1),
		"core.WithMessageRate(-3)":                 core.WithMessageRate(1, -3),
		"core.WithTotalOutboxBytes(0)":             core.WithTotalOutboxBytes(0),
		"core.WithFlightBytes(0)":                  core.WithFlightBytes(0),
		"core.WithLogRate(0)":                      core.WithLogRate(0),
		"core.WithShutdownWindow(-1ns)":            core.WithShutdownWindow(-1),
		`core.WithTrustedProxies("proxy.example")`: core.WithTrustedProxies("proxy.example"),
		`core.WithTrustedProxies("10.0.0.0/99")`:   core.WithTrustedProxies("10.0.0.0/99"),
	} {
		err := core.New(drivers.NewMemoryDriver(), opt, core.WithLogger(nil)).Run()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// gather connects n clients that take everything, and returns when each of them was closed.

func TestABurstWithoutEndIsNone(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithMessageRate(1, math.MaxInt))
	c := coretest.Connect(t, s, user("ann"))
	for range 100 {
		c.Do(core.Message{Type: "ping"})
	}
}

// It had the whole time again, for a client that nobody served any more, and kept its place that long.
func TestWhoseTurnComesLateHasWhatIsLeftOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 2)
		s := coretest.Run(t, core.WithAuthConcurrency(1), core.WithAuthTimeout(10*time.Second), core.WithLogger(nil), &core.Provider{
			Authenticate: func(ctx context.Context, _ *core.Handshake) (map[string]any, error) {
				deadline, _ := ctx.Deadline()
				left <- time.Until(deadline)
				select {
				case <-time.After(9 * time.Second):
				case <-ctx.Done():
				}
				return user("ann"), ctx.Err()
			},
		})
		var knocking sync.WaitGroup
		for range 2 {
			knocking.Go(func() { _, _ = s.Admit(t.Context(), coretest.Handshake()) })
		}
		knocking.Wait()
		if first, second := <-left, <-left; first != 10*time.Second || second != time.Second {
			t.Error(first, second)
		}
	})
}

// What the program says about the address is shown, as of the other doors; and an error of Auth is logged without the token.
func TestAnUpgradedConnectionIsCountedByItsOwnAddress(t *testing.T) {
	t.Parallel()
	j, log := keepJournal(t)
	s := coretest.Run(t, log, core.WithMaxConnectionsPerAddress(1), &core.Provider{Auth: func(token string) (map[string]any, error) {
		if token == secret {
			return nil, fmt.Errorf("%s: %w", token, net.ErrClosed)
		}
		return user(token), nil
	}})
	server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var upgrader websocket.Upgrader
		if conn, err := upgrader.Upgrade(w, r, nil); err == nil {
			_ = s.ServeConn(conn, &core.Handshake{Token: r.Header.Get("Token"), RemoteAddr: r.Header.Get("X-Forwarded-For")})
		}
	}))
	call(t, server, openingRequest(server, "/", "Token: ann", "X-Forwarded-For: 192.0.2.1")).enter()
	eventually(t, "ann to be in", func() bool {
		online, err := s.Online(t.Context(), "ann")
		return online && err == nil
	})
	second := call(t, server, openingRequest(server, "/", "Token: bob", "X-Forwarded-For: 192.0.2.2"))
	second.enter()
	if code, reason := second.closed(); code != core.CloseInternal || reason != "too many connections from this address, try again" {
		t.Error(code, reason)
	}
	j.has("refused", "remote=192.0.2.2")
	if err := s.Disconnect(t.Context(), "ann", 0, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ann to be gone", func() bool { return s.Stats().Connections == 0 })
	failed := call(t, server, openingRequest(server, "/", "Token: "+secret, "X-Forwarded-For: 192.0.2.3"))
	failed.enter()
	failed.closed()
	j.has("refused", "remote=192.0.2.3", "(token)")
}
