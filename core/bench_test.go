package core_test

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// audience subscribes stubs to the channel "room". settled waits until they have been written so many frames in all.
func audience(tb testing.TB, s *core.Service, size int) (settled func(frames int64)) {
	tb.Helper()
	for i := range size {
		sub(tb, core.AttachStub(s, strconv.Itoa(i), func([]byte) {}), "room")
	}
	before := s.Stats().Delivered
	return func(frames int64) {
		for s.Stats().Delivered < before+frames {
			runtime.Gosched()
		}
	}
}

func quiet(tb testing.TB) *core.Service {
	tb.Helper()
	return coretest.Run(tb, permissive(), core.WithLogger(nil), core.WithChannel("*", core.Rules{Presence: core.PresenceOff}))
}

// What a push costs, its turn included, with one message in flight.
func BenchmarkPush(b *testing.B) {
	for _, size := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("to ", size), func(b *testing.B) {
			s := quiet(b)
			settled := audience(b, s, size)
			payload := core.Message{Type: "message", Message: strings.Repeat("x", 100)}
			channels := []string{"room"}
			b.ReportAllocs()
			var frames int64
			for b.Loop() {
				if err := s.Push(channels, payload); err != nil {
					b.Fatal(err)
				}
				frames += int64(size)
				settled(frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/delivery")
		})
	}
}

// The same with publishers that do not wait for deliveries: batches form.
func BenchmarkPushUnderLoad(b *testing.B) {
	for _, size := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("to ", size), func(b *testing.B) {
			s := quiet(b)
			settled := audience(b, s, size)
			payload := core.Message{Type: "message", Message: strings.Repeat("x", 100)}
			b.ReportAllocs()
			var pushed atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := s.Push([]string{"room"}, payload); err != nil {
						b.Error(err)
						return
					}
					pushed.Add(1)
				}
			})
			settled(pushed.Load() * int64(size))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/delivery")
		})
	}
}

// Joining and leaving a channel that thousands are in, with and without presence.
func BenchmarkSubUnsub(b *testing.B) {
	for name, presence := range map[string]core.Presence{"no presence": core.PresenceOff, "presence": core.PresenceOn} {
		b.Run(name, func(b *testing.B) {
			s := coretest.Run(b, permissive(), core.WithLogger(nil), core.WithChannel("*", core.Rules{Presence: presence}))
			audience(b, s, 10_000)
			c := core.AttachStub(s, "churn", func([]byte) {})
			b.ReportAllocs()
			for b.Loop() {
				if err := errors.Join(c.Sub("room"), c.Unsub("room")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A channel that comes into being and is left again, at which the driver is asked.
func BenchmarkNewChannel(b *testing.B) {
	s := quiet(b)
	c := core.AttachStub(s, "ann", func([]byte) {})
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if err := errors.Join(c.Sub(strconv.Itoa(n)), c.Unsub()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	type order struct {
		ID    int      `json:"id"`
		Items []string `json:"items"`
	}
	for name, payload := range map[string]any{
		"message": core.Message{Type: "message", Message: strings.Repeat("x", 100)},
		"map":     map[string]any{"type": "order", "id": 5},
		"struct":  order{5, []string{"one", "two"}},
		"json":    []byte(`{"id":5,"items":["one","two"]}`),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := core.Encode(payload, "ann", "room"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, text := range map[string]string{
		"message": `{"id":"1","type":"message","channel":"room:1","message":"` + strings.Repeat("x", 100) + `"}`,
		"data":    `{"id":"1","type":"order","data":{"id":5,"items":["one","two"],"price":1234567890123456789}}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := core.Decode([]byte(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A message is encoded once and its bytes are shared: what a push allocates does not depend on how many get it.
func TestNothingIsAllocatedPerDelivery(t *testing.T) { // not parallel: it counts allocations
	payload := core.Message{Type: "message", Message: strings.Repeat("x", 100)}
	allocations := func(s *core.Service, size int, settled func(frames int64), opts ...core.PushOption) float64 {
		channels := []string{"room"}
		var frames int64
		return testing.AllocsPerRun(50, func() {
			if err := s.Push(channels, payload, opts...); err != nil {
				t.Fatal(err)
			}
			frames += int64(size)
			settled(frames)
		})
	}
	stubs := func(size int, opts ...core.PushOption) float64 {
		s := quiet(t)
		return allocations(s, size, audience(t, s, size), opts...)
	}
	sockets := func(size int) float64 {
		s := quiet(t)
		for i := range size {
			server, client := unixPair(t)
			p := wireTo(t, s, strconv.Itoa(i), server, client)
			p.ping()
			sub(t, core.FindClients(s, "", strconv.Itoa(i))[0], "room")
			go func() { // ends with the connection
				for buf := make([]byte, 1<<10); ; {
					if _, err := client.Read(buf); err != nil {
						return
					}
				}
			}()
		}
		before := s.Stats().Delivered
		return allocations(s, size, func(frames int64) {
			for s.Stats().Delivered < before+frames {
				runtime.Gosched()
			}
		})
	}
	// Pools are emptied now and then, and under the race detector all the time: hence the allowance.
	few := stubs(10)
	for name, many := range map[string]float64{
		"5,000 stubs": stubs(5000), "5,000 stubs, one of them excluded": stubs(5000, core.ExceptConn("one")), "300 sockets": sockets(300),
	} {
		t.Logf("%v allocations for 10 stubs, %v for %s", few, many, name)
		if many > few+30 {
			t.Errorf("a push to %s allocates %v times, one to 10 stubs %v times", name, many, few)
		}
	}
}
