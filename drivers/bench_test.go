package drivers_test

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

// sink is a node that takes everything and keeps nothing.
type sink struct {
	core.Node // nil: the driver calls nothing but the methods below
	id        string
}

func (n sink) ID() string                                      { return n.id }
func (n sink) Deliver(context.Context, core.Publication) error { return nil }
func (n sink) Joined(core.Topic) iter.Seq[core.Member]         { return none }
func (n sink) Find(string, string) iter.Seq[core.Member]       { return none }
func (n sink) Command(context.Context, core.Command) error     { return nil }

func none(func(core.Member) bool) {}

func BenchmarkMemoryPublish(b *testing.B) {
	for _, nodes := range []int{1, 2} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			driver := drivers.NewMemoryDriver()
			var link core.Link
			for i := range nodes {
				link = openIn(b, driver, sink{id: strconv.Itoa(i)})
			}
			p := core.Publication{Topic: room, Payload: make([]byte, 128)}
			done := func(error) {}
			b.ReportAllocs()
			for b.Loop() {
				if err := link.Publish(b.Context(), p, done); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMemoryPublishParallel publishes to a topic of its own from each processor.
func BenchmarkMemoryPublishParallel(b *testing.B) {
	driver := drivers.NewMemoryDriver()
	link := open(b, driver, sink{id: "node"})
	var topics atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		t := core.Topic{App: "app", Channel: fmt.Sprint("room ", topics.Add(1))}
		if err := link.Subscribe(b.Context(), t); err != nil {
			b.Error(err)
		}
		p := core.Publication{Topic: t, Payload: make([]byte, 128)}
		for pb.Next() {
			if err := link.Publish(b.Context(), p, func(error) {}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkMemoryJoinLeave takes a client in and out of a topic in which there are others.
func BenchmarkMemoryJoinLeave(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			link := open(b, drivers.NewMemoryDriver(), sink{id: "node"})
			join := func(m core.Member) {
				if _, err := link.Join(b.Context(), m, room); err != nil {
					b.Fatal(err)
				}
			}
			for i := range others {
				join(core.Member{ClientID: strconv.Itoa(i), ConnID: strconv.Itoa(i)})
			}
			m := core.Member{ClientID: "anna", ConnID: "conn"}
			b.ReportAllocs()
			for b.Loop() {
				join(m)
				if _, err := link.Leave(b.Context(), m, room); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMemorySubscribe subscribes to a topic and unsubscribes again, beside others.
func BenchmarkMemorySubscribe(b *testing.B) {
	driver := drivers.NewMemoryDriver()
	link := open(b, driver, sink{id: "node"})
	for i := range 10_000 {
		if err := link.Subscribe(b.Context(), core.Topic{App: "app", Channel: strconv.Itoa(i)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := link.Subscribe(b.Context(), room); err != nil {
			b.Fatal(err)
		}
		if err := link.Unsubscribe(b.Context(), room); err != nil {
			b.Fatal(err)
		}
	}
}
