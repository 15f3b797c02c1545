package redistest_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/internal/leaktest"
	"github.com/duxweb/go-ws/internal/redistest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const patience = 30 * time.Second

// eventually waits until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !so(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

func TestAKilledServerComesBackEmpty(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	client, addr := s.Client(), s.Addr()
	if err := client.Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if nc, err := net.Dial("tcp", addr); err == nil {
		_ = nc.Close()
		t.Error("a dead server accepts connections")
	}
	s.Kill() // does nothing
	s.Restart()
	if s.Addr() != addr {
		t.Errorf("it is now at %s, was at %s", s.Addr(), addr)
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("it has %d keys", n)
	}
	before := s.CLI("INFO", "server")
	s.Restart() // kills it first
	if s.CLI("INFO", "server") == before {
		t.Error("it was not restarted")
	}
}

func TestAPausedServerAnswersNothingUntilItIsResumed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	client := s.Client()
	for range 3 {
		s.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := client.Ping(ctx).Err(); err == nil {
			t.Error("it answers while it is paused")
		}
		cancel()
		s.Resume()
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Error(err)
		}
	}
	s.Pause()
	s.Kill() // paused or not
	s.Restart()
	if got := s.CLI("PING"); got != "PONG" {
		t.Errorf("PING: %q", got)
	}
}

func TestAServerTakesOptions(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--requirepass", "secret", "--maxclients", "50")
	if got := s.CLI("CONFIG", "GET", "maxclients"); got != "maxclients\n50" {
		t.Errorf("CONFIG GET: %q", got)
	}
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if got := says(t, nc, "PING\r\n"); !strings.HasPrefix(got, "-NOAUTH") {
		t.Errorf("PING without the password: %q", got)
	}
}

// failing is a test that only notes that it failed.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Fatal(...any) { f.failed = true }

func TestAnErrorReplyFailsTheTest(t *testing.T) {
	t.Parallel()
	f := &failing{TB: t}
	s := redistest.Start(f)
	if s.CLI("NOSUCHCOMMAND"); !f.failed {
		t.Error("it did not")
	}
}
