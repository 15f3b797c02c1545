package core_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	if r := refusal(t, s, from("10.0.0.1:2", "")); r == nil || r.Code != core.CloseTooMany {
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
		} else if full && (r.Status != http.StatusTooManyRequests || r.Code != core.CloseTooMany || r.Reason != "too many connections from this address") {
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
	s := coretest.Run(t, core.WithLogger(nil), core.WithTrustedProxies("10.0.0.0/8", "2001:db8::1", "::1"), &core.Provider{
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
		{"8.8.8.8", "10.0.0.1:1", []string{"8.8.8.8, 198.51.100.1"}, "198.51.100.1"},             // a framework that believes anything
		{"8.8.8.8", "192.0.2.1:1", []string{"8.8.8.8"}, "8.8.8.8"},                               // its own affair
		{"@", "@", []string{"198.51.100.1"}, "@"},                                                // a Unix socket
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

func TestTheLargestDebtorsAreCutOffFirst(t *testing.T) {
	t.Parallel()
	j, log := keepJournal(t)
	s := coretest.Run(t, permissive(), log, core.WithTotalOutboxBytes(8<<20), core.WithOutboxBytes(8<<20))
	small, smallClient := wireTCP(t, s, "small")
	var large []*core.Client
	for n := range 3 {
		_, c := wireTCP(t, s, "large"+strconv.Itoa(n))
		large = append(large, c)
	}
	text := core.Message{Type: "n", Message: "0 " + strings.Repeat("x", 300<<10)}
	for range 2 {
		if err := smallClient.Send(text); err != nil {
			t.Fatal(err)
		}
	}
	closed := func() (n int) {
		for _, c := range large {
			if c.Closed() {
				n++
			}
		}
		return n
	}
	for n := 0; closed() == 0; n++ {
		if n > 100 {
			t.Fatal("nobody is cut off: ", core.DebtBytes(s), " bytes wait")
		}
		for _, c := range large[:1+n%len(large)] { // the first gets the most
			_ = c.Send(text)
		}
	}
	if !large[0].Closed() {
		t.Error("it was not the largest debtor that was cut off")
	}
	eventually(t, "the debt to fall", func() bool { return core.DebtBytes(s) <= 8<<20 })
	eventually(t, "the log", func() bool {
		return len(j.with("too slow", "code=3003", "too much waits for all clients together")) > 0
	})
	for range 2 { // what waits for the others is theirs
		if got := small.text(); numberIn(got) != 0 {
			t.Fatalf("%.40s", got)
		}
	}
	small.ping()
	if n := s.Stats().Slow; n != int64(closed()) {
		t.Errorf("%d slow clients are counted, %d were closed", n, closed())
	}
}

func TestWhatWaitsIsForgottenHoweverAConnectionEnds(t *testing.T) {
	t.Parallel()
	ends := map[string]func(p *wire, c *core.Client){
		"it reads everything":     func(p *wire, _ *core.Client) { p.text() },
		"it goes":                 func(p *wire, _ *core.Client) { _ = p.nc.Close() },
		"it is closed and reads":  func(p *wire, c *core.Client) { _ = c.Close(4000, ""); p.rest() },
		"it is closed and stalls": func(_ *wire, c *core.Client) { _ = c.Close(4000, "") },
		"it stalls":               func(*wire, *core.Client) {},
		"it breaks the protocol":  func(p *wire, _ *core.Client) { p.write(3, nil) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for transport, pair := range transports {
				s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithWriteStall(100*time.Millisecond))
				server, client := pair(t)
				p := wireTo(t, s, "ann", server, client)
				p.ping()
				c := core.FindClients(s, "", "ann")[0]
				if err := c.Send(core.Message{Type: "n", Message: "0 " + strings.Repeat("x", 900<<10)}); err != nil {
					t.Fatal(err)
				}
				if core.DebtBytes(s) == 0 {
					t.Fatal("nothing waits")
				}
				end(p, c)
				eventually(t, transport+": the debt to be forgotten", func() bool { return core.DebtBytes(s) == 0 })
			}
		})
	}
}

func TestOneMessageDoesNotWaitInAllOutboxesAtOnce(t *testing.T) {
	t.Parallel()
	const limit, size = 1 << 20, 700 << 10
	s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(limit))
	var peers []*wire
	for n := range 3 * core.Ahead {
		p, c := wireTCP(t, s, strconv.Itoa(n))
		sub(t, c, "room")
		peers = append(peers, p)
	}
	push(t, s, "room", core.Message{Type: "n", Message: "7 " + strings.Repeat("x", size)})
	var most int
	for n, p := range peers { // one after the other takes it in
		eventually(t, "the message to be on its way", func() bool {
			most = max(most, core.DebtBytes(s))
			return core.BacklogBytes(core.FindClients(s, "", strconv.Itoa(n))[0]) > 0
		})
		if got := p.text(); numberIn(got) != 7 || len(got) < size {
			t.Fatalf("%.40s", got)
		}
	}
	if most > limit+core.Ahead*(size+100) {
		t.Errorf("%d bytes waited at a time", most)
	}
	if most <= limit {
		t.Errorf("never more than %d bytes waited, %d may", most, limit)
	}
	push(t, s, "room", number(8))
	for _, p := range peers {
		if got := p.text(); numberIn(got) != 8 {
			t.Fatalf("%.40s", got)
		}
	}
}

// It reads, and slowly enough not to be done: the write stall alone would not close it.
func TestWhoDoesNotTakeAMessageInFlightIsCutOffAndTheOthersGetIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), core.WithLogger(nil), core.WithFlightBytes(1), core.WithWriteStall(2*time.Second))
		p, slow := wirePipe(t, s, "slow")
		sub(t, slow, "room")
		var reading sync.WaitGroup
		reading.Go(func() {
			for buf := make([]byte, 4<<10); !slow.Closed(); <-time.After(100 * time.Millisecond) {
				_, _ = p.nc.Read(buf)
			}
		})
		for n := range 20 {
			p, c := wirePipe(t, s, strconv.Itoa(n))
			sub(t, c, "room")
			reading.Go(func() {
				if got := p.text(); numberIn(got) != 7 || c.Closed() {
					t.Errorf("%.40s", got)
				}
			})
		}
		begun := time.Now()
		push(t, s, "room", core.Message{Type: "n", Message: "7 " + strings.Repeat("x", 300<<10)})
		reading.Wait()
		var why *core.CloseError
		if !errors.As(context.Cause(slow.Context()), &why) || *why != (core.CloseError{Code: core.CloseTooSlow, Reason: "did not take a message in 2s"}) {
			t.Error(why)
		}
		if took := time.Since(begun); took > 2200*time.Millisecond {
			t.Error("it took", took)
		}
	})
}

func TestOnePeerDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, log := keepJournal(t)
		s := coretest.Run(t, log, core.WithLogRate(3))
		nobody := func(address string) {
			h := from(address, "")
			h.Identity = nil
			if refusal(t, s, h) == nil {
				t.Fatal("nobody was let in")
			}
		}
		for n := range 50 {
			nobody("192.0.2.1:" + strconv.Itoa(1000+n))
		}
		nobody("192.0.2.2:1") // another one
		if n := len(j.with("refused", "192.0.2.1:")); n != 3 {
			t.Errorf("%d lines about a peer in a second", n)
		}
		j.has("refused", "192.0.2.2:1")
		<-time.After(time.Second)
		nobody("192.0.2.1:9")
		j.has("refused", "192.0.2.1:9", "suppressed=47")
		nobody("192.0.2.1:8")
		if len(j.with("192.0.2.1:8", "suppressed")) > 0 {
			t.Error("what was suppressed is told twice")
		}
		if n := s.Stats().Refused; n != 53 {
			t.Error("refused:", n)
		}
	})
}

func TestPeersOfManyAddressesShareTheLogThatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, log := keepJournal(t)
		s := coretest.Run(t, log, core.WithLogRate(3))
		address := netip.MustParseAddr("10.0.0.0")
		for range 5000 {
			address = address.Next()
			h := from(netip.AddrPortFrom(address, 1).String(), "")
			h.Identity = nil
			if refusal(t, s, h) == nil {
				t.Fatal("nobody was let in")
			}
		}
		if n := len(j.with("refused")); n != 1024+3 {
			t.Errorf("%d lines", n)
		}
		if n := core.LoggedPeers(s); n > 1025 {
			t.Errorf("%d peers are remembered", n)
		}
	})
}

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
func gather(s *core.Service, n int) (closed func() []time.Duration) {
	var mu sync.Mutex
	var at []time.Duration
	begun := time.Now()
	for i := range n {
		core.AttachStub(s, strconv.Itoa(i), func(p []byte) {
			if p[0] == 0x88 { // a close frame
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(begun))
			}
		})
	}
	return func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(at)
	}
}

func TestShutdownSpreadsTheClosesOfACrowd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		clients int
		window  core.Option
		timeout time.Duration
		want    time.Duration
	}{
		{clients: 3000, timeout: time.Minute, want: 4900 * time.Millisecond},
		{clients: 3000, timeout: 4 * time.Second, want: 1900 * time.Millisecond}, // half of what there is
		{clients: 3000, timeout: time.Minute, window: core.WithShutdownWindow(time.Second), want: 900 * time.Millisecond},
		{clients: 3000, timeout: time.Minute, window: core.WithShutdownWindow(0)},
		{clients: 1000, timeout: time.Minute},
	} {
		t.Run(fmt.Sprint(c.clients, " in ", c.timeout, " ", c.want), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := core.New(drivers.NewMemoryDriver(), permissive(), c.window)
				if err := s.Run(); err != nil {
					t.Fatal(err)
				}
				closed := gather(s, c.clients)
				ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
				defer cancel()
				if err := s.Shutdown(ctx); err != nil {
					t.Fatal(err)
				}
				at := closed()
				if len(at) != c.clients || at[len(at)-1] != c.want {
					t.Fatalf("%d were closed, the last one after %v", len(at), at[len(at)-1])
				}
				seconds := map[int]int{}
				for _, d := range at {
					seconds[int(d/time.Second)]++
				}
				if parts := int(c.want/time.Second) + 1; seconds[0] > c.clients/parts+c.clients/10 {
					t.Errorf("not spread: %v", seconds)
				}
			})
		})
	}
}

func TestACrowdThatIsBeingClosedIsStillServedAndNobodyComesIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := core.New(drivers.NewMemoryDriver(), permissive(), core.WithLogger(nil))
		if err := s.Run(); err != nil {
			t.Fatal(err)
		}
		closed := gather(s, 1001)
		down := make(chan error)
		go func() { down <- s.Shutdown(t.Context()) }() // ends with the window
		<-time.After(2500 * time.Millisecond)
		synctest.Wait()
		if n := len(closed()); n < 400 || n > 600 {
			t.Errorf("%d are closed in the middle of the window", n)
		}
		r := refusal(t, s, from("192.0.2.1:1", ""))
		if r == nil || r.Status != http.StatusServiceUnavailable || r.Code != core.CloseRestart || r.Header.Get("Retry-After") == "" {
			t.Errorf("%+v", r)
		}
		if err := s.Broadcast(t.Context(), number(1)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if delivered := int(s.Stats().Delivered); delivered != 1001-len(closed()) {
			t.Errorf("%d of %d have got it", delivered, 1001-len(closed()))
		}
		if err := s.Shutdown(t.Context()); err != nil { // another call waits for the first
			t.Error(err)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
		if n := len(closed()); n != 1001 {
			t.Error("closed:", n)
		}
	})
}

func TestWhatWasPushedWhileACrowdIsBeingClosedComesBeforeTheClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := core.New(drivers.NewMemoryDriver(), permissive(), core.WithLogger(nil))
		if err := s.Run(); err != nil {
			t.Fatal(err)
		}
		gather(s, 1500)
		var mu sync.Mutex
		var got []byte
		core.AttachStub(s, "listener", func(p []byte) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, p...)
		})
		down := make(chan error)
		go func() { down <- s.Shutdown(t.Context()) }() // ends with the window
		accepted := 0
		for !core.FindClosed(s, "listener") {
			if s.Broadcast(t.Context(), number(accepted)) == nil {
				accepted++
			}
			<-time.After(10 * time.Millisecond)
		}
		if err := <-down; err != nil {
			t.Fatal(err)
		}
		parser := frame.Parser{Unmasked: true}
		heard := 0
		for {
			m, rest, err := parser.Next(got)
			if err != nil {
				t.Fatal(err)
			}
			if got = rest; m.Op == frame.Close {
				break
			}
			if m.Op != frame.Text {
				t.Fatal("no close frame behind ", heard, " messages")
			}
			if n := numberIn(string(m.Payload)); n != heard {
				t.Fatalf("got %d, want %d", n, heard)
			}
			heard++
		}
		if heard < accepted-1 || heard == 0 { // the last one may have come behind the close
			t.Errorf("%d of %d", heard, accepted)
		}
	})
}

func TestARefusedNewcomerIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	s := core.New(drivers.NewMemoryDriver(), permissive(), core.WithLogger(nil))
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	defer server.Close()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := knock(t, server, "/", nil)
	if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); a.Status != http.StatusServiceUnavailable || err != nil || seconds < 1 || seconds > 5 {
		t.Fatalf("%+v", a)
	}
}
