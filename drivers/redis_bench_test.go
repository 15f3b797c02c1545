//go:build unix

package drivers_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// BenchmarkRedisPublish is a Push of 128 bytes from 256 goroutines, each of which waits for the driver's word. us-cpu/op is
// the processor time of this process, that of Redis left out.
func BenchmarkRedisPublish(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(callers, " callers"), func(b *testing.B) {
			link := open(b, newRedis(b, drivers.RedisOptions{Addr: redistest.Start(b).Addr()}), nil)
			payload := make([]byte, 128)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			before := processorTime(b)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() { // ends when b.N are done
					word := make(chan error, 1)
					done := func(err error) { word <- err }
					for left.Add(-1) >= 0 {
						if err := link.Publish(context.Background(), core.Publication{Topic: room, Payload: payload}, done); err != nil {
							b.Error(err)
							return
						}
						if err := <-word; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1000/float64(b.N), "us-cpu/op")
		})
	}
}

// processorTime returns what this process has used.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// counting is a node that counts what is delivered.
type counting struct {
	*drivertest.Node
	delivered atomic.Int64
	all       chan struct{}
	want      int64
}

func (n *counting) Deliver(context.Context, core.Publication) error {
	if n.delivered.Add(1) == n.want {
		close(n.all)
	}
	return nil
}

// BenchmarkRedisReceive is a publication of 128 bytes on its way into another node.
func BenchmarkRedisReceive(b *testing.B) {
	server := redistest.Start(b)
	driver := newRedis(b, drivers.RedisOptions{Addr: server.Addr()})
	from := open(b, driver, nil)
	to := &counting{Node: drivertest.NewNode(), all: make(chan struct{}), want: int64(b.N)}
	openIn(b, driver, to)
	payload := make([]byte, 128)
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	for range b.N {
		if err := from.Publish(context.Background(), core.Publication{Topic: room, Payload: payload}, func(error) {}); err != nil {
			b.Fatal(err)
		}
	}
	<-to.all
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1000/float64(b.N), "us-cpu/op")
}
