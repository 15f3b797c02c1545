package core_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

func TestOnePeerDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, log := keepJournal(t)
		s := coretest.Run(t, log, core.WithLogRate(3))
		nobody := func(address string) { knocked(t, s, address) }
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
			knocked(t, s, netip.AddrPortFrom(address, 1).String())
		}
		if n := len(j.with("refused")); n != 1024+3 {
			t.Errorf("%d lines", n)
		}
		if n := core.LoggedPeers(s); n > 1025 {
			t.Errorf("%d peers are remembered", n)
		}
	})
}

func TestLinesThatAreNotLoggedUseUpNothing(t *testing.T) {
	t.Parallel()
	j := &journal{t: t}
	s := coretest.Run(t, core.WithLogger(slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelWarn}))), core.WithLogRate(1), broken())
	for range 10 {
		knocked(t, s, "192.0.2.1:1")
	}
	coretest.Dial(t, s, from("192.0.2.1:2", "")).Error(http.StatusInternalServerError, core.Message{Type: "x"})
	j.has("a message failed")
}

func TestRefusalsDoNotSilenceWhatWarns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, log := keepJournal(t)
		s := coretest.Run(t, log, core.WithLogRate(1), broken())
		for range 10 {
			knocked(t, s, "192.0.2.1:1")
		}
		coretest.Dial(t, s, from("192.0.2.1:2", "")).Error(http.StatusInternalServerError, core.Message{Type: "x"})
		j.has("a message failed")
		j.has("refused")
	})
}

// Gin takes any X-Forwarded-For for the address: each line would have been about another peer.
func TestAHeaderDoesNotChangeWhomTheLogCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j, log := keepJournal(t)
		s := coretest.Run(t, log, core.WithLogRate(1), broken())
		for n := range 20 {
			c := coretest.Dial(t, s, from("192.0.2."+strconv.Itoa(n), "203.0.113.1:1"))
			c.Error(http.StatusInternalServerError, core.Message{Type: "x"})
		}
		j.has("a message failed")
	})
}

// broken is a provider whose hook fails.
func broken() *core.Provider {
	return &core.Provider{Message: func(*core.Message, *core.Client) error { return errors.New("broken") }}
}

// knocked knocks without saying who it is.
func knocked(t *testing.T, s *core.Service, address string) {
	t.Helper()
	h := from(address, "")
	h.Identity = nil
	if refusal(t, s, h) == nil {
		t.Fatal("nobody was let in")
	}
}

// The lock that Health needs was held while the log was written.
func TestHealthAnswersWhileTheLogHangs(t *testing.T) {
	t.Parallel()
	asked, hang := make(chan struct{}, 100), make(chan struct{})
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithLogger(slog.New(slog.NewTextHandler(hanging{asked, hang}, nil))))
	d.node().Down(errors.New("gone"), nil)
	<-asked
	answered := make(chan error)
	go func() { answered <- s.Health(t.Context()) }() // ends with the log
	if err := <-answered; err == nil {
		t.Error("the driver is away")
	}
	close(hang)
	d.node().Up(nil)
}

// hanging takes a line when it is let go.
type hanging struct{ asked, hang chan struct{} }

func (h hanging) Write(line []byte) (int, error) {
	h.asked <- struct{}{}
	<-h.hang
	return len(line), nil
}
