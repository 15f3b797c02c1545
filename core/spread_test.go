package core_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

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

// Each of the fifty parts waited a second for a driver that was away.
func TestACrowdIsClosedInTimeWhileTheDriverIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newScripted(drivers.NewMemoryDriver())
		s := core.New(d, permissive(), core.WithLogger(nil))
		if err := s.Run(); err != nil {
			t.Fatal(err)
		}
		closed := gather(s, 1001)
		d.on(hangs("subscribe"))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if at := closed(); len(at) != 1001 || at[1000] > 7*time.Second {
			t.Errorf("%d were closed, the last one after %v", len(at), at[len(at)-1])
		}
		<-time.After(20 * time.Second) // what hung has ended
	})
}
