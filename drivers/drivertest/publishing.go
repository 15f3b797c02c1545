package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

var publishing = []scene{
	{name: "a publication comes back to the node that published it", run: comesBack},
	{name: "a publication reaches every subscribed node", run: reachesEveryNode},
	{name: "a node gets nothing from before it subscribed", run: nothingFromBefore},
	{name: "publications of one publisher arrive in order, each once", run: inOrder},
	{name: "a full topic holds up no other", run: fullTopicAlone},
	{name: "a node that cannot take a publication has a gap, the others get it", run: gapForOne},
	{name: "a publication that nobody can take is not lost in silence", run: gapForAll},
	{name: "bytes arrive as they were", run: bytesIntact},
	{name: "odd names are names like others", run: oddNames},
	{name: "two apps never meet in one channel name", run: appsApart},
	{name: "a topic without a channel is one like others", run: broadcast},
	{name: "a payload is the caller's again when Publish has returned", run: payloadReused},
	{name: "Except travels with the publication", run: exceptTravels},
	{name: "done is called exactly once", run: doneOnce},
	{name: "a Publish whose context has ended is refused or goes through", run: publishEnded},
	{name: "a Publish into a full topic ends with its context", run: publishIntoFull},
}

func comesBack(s *stage) {
	a := s.node()
	a.subscribe(topic("room"))
	a.publish(topic("room"), "one", "two")
	a.expect(topic("room"), "one", "two")
}

func reachesEveryNode(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	for _, p := range []*peer{a, b, c} {
		p.subscribe(topic("room"))
	}
	a.publish(topic("room"), "one", "two")
	for _, p := range []*peer{a, b, c} {
		p.expect(topic("room"), "one", "two")
	}
}

func nothingFromBefore(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	a.subscribe(topic("room"))
	b.subscribe(topic("other"))
	from.publish(topic("room"), "early")
	a.expect(topic("room"), "early")
	b.subscribe(topic("room"))
	from.publish(topic("room"), "late")
	b.expect(topic("room"), "late") // behind anything early that would have been on its way
	b.expect(topic("other"))
}

func inOrder(s *stage) {
	const each = 40
	topics := []core.Topic{topic("one"), topic("two"), {App: "app"}}
	a, b := s.node(), s.node()
	a.subscribe(topics...)
	b.subscribe(topics...)
	from := []*peer{s.publisher(), a}
	s.atOnce(len(from), func(i int) error {
		ctx, cancel := s.soon()
		defer cancel()
		for n := range each * len(topics) {
			payload := fmt.Appendf(nil, "%d/%d", i, n/len(topics))
			p := core.Publication{Topic: topics[n%len(topics)], Payload: payload}
			if err := from[i].link.Publish(ctx, p, func(error) {}); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
		return nil
	})
	for _, p := range []*peer{a, b} {
		for _, t := range topics {
			s.waits(func() bool { return len(p.Got(t)) >= each*len(from) })
			for i := range from {
				var got, want []string
				for _, payload := range p.Got(t) {
					if strings.HasPrefix(payload, fmt.Sprint(i, "/")) {
						got = append(got, payload)
					}
				}
				for n := range each {
					want = append(want, fmt.Sprintf("%d/%d", i, n))
				}
				if !slices.Equal(got, want) {
					s.Fatalf("publisher %d in %q: got %q, want %q", i, t, got, want)
				}
			}
		}
	}
}

func fullTopicAlone(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	full, free := topic("full"), topic("free")
	a.subscribe(full, free)
	b.subscribe(full, free)
	a.Fill(full)
	published := make(chan struct{})
	go func() { // ends with the case at the latest, which drains the topic
		defer close(published)
		p := core.Publication{Topic: full, Payload: []byte("one")}
		_ = from.link.Publish(s.Context(), p, func(error) {})
	}()
	s.await("the full topic", func() bool { return a.Waiting(full) > 0 || a.Gaps(full) > 0 })
	s.within("Publish to a topic with room", func() { // no publish, whose context would end before within does
		p := core.Publication{Topic: free, Payload: []byte("two")}
		_ = from.link.Publish(s.Context(), p, func(error) {})
	})
	a.expect(free, "two")
	b.expect(free, "two")
	a.Drain(full)
	s.within("Publish to a topic that was drained", func() { <-published })
	b.expect(full, "one")
	s.await("what was published to the full topic, or a gap", func() bool {
		return len(a.Got(full)) == 1 || a.Gaps(full) > 0
	})
}

func gapForOne(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	b.subscribe(room)
	a.Refuse(room, core.ErrUnavailable)
	from.publish(room, "one")
	b.expect(room, "one")
	s.await("a gap", func() bool { return a.Gaps(room) > 0 })
	a.Refuse(room, nil)
	from.publish(room, "two")
	a.expect(room, "two")
}

func gapForAll(s *stage) {
	a, from := s.node(), s.publisher()
	a.subscribe(topic("room"))
	a.Refuse(topic("room"), core.ErrUnavailable)
	ctx, cancel := s.soon()
	defer cancel()
	var failed atomic.Bool
	err := from.link.Publish(ctx, core.Publication{Topic: topic("room"), Payload: []byte("one")}, func(err error) {
		failed.Store(err != nil)
	})
	s.await("an error or a gap", func() bool { return err != nil || failed.Load() || a.Gaps(topic("room")) > 0 })
}

func bytesIntact(s *stage) {
	a, b := s.node(), s.node()
	a.subscribe(topic("room"))
	b.subscribe(topic("room"))
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	payloads := []string{
		" ", `{"type":"message"}`, "\x00", "nul \x00 within", "line\r\nline\n", "\xff\xfe\xc3(", "é🙂", string(every),
		strings.Repeat(string(every), 4<<10), // 1 MiB
		"last",
	}
	a.publish(topic("room"), payloads...)
	b.expect(topic("room"), payloads...)
	a.expect(topic("room"), payloads...)
}

func oddNames(s *stage) {
	a, from := s.node(), s.publisher()
	topics := oddTopics()
	a.subscribe(topics...)
	for _, t := range decoys {
		from.publish(t, "decoy")
	}
	for i, t := range topics {
		from.publish(t, strconv.Itoa(i))
	}
	for i, t := range topics {
		a.expect(t, strconv.Itoa(i))
	}
	if n := len(a.Publications()); n != len(topics) {
		s.Fatalf("%d publications arrived, want %d", n, len(topics))
	}
}

func appsApart(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	one, two := core.Topic{App: "one", Channel: "room"}, core.Topic{App: "two", Channel: "room"}
	a.subscribe(one)
	b.subscribe(two)
	from.publish(core.Topic{Channel: "room"}, "default")
	from.publish(one, "1")
	from.publish(two, "2")
	from.publish(one, "3")
	a.expect(one, "1", "3")
	b.expect(two, "2")
	from.publish(two, "4")
	b.expect(two, "2", "4")
	for _, p := range []*peer{a, b} {
		if n := len(p.Publications()); n != 2 {
			s.Fatalf("a node got %d publications, want 2: %v", n, p.Publications())
		}
	}
}

func broadcast(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	all, room := core.Topic{App: "app"}, topic("room")
	a.subscribe(all)
	b.subscribe(all, room)
	from.publish(all, "1")
	from.publish(room, "2")
	from.publish(core.Topic{}, "3")
	from.publish(core.Topic{App: "other"}, "4")
	from.publish(all, "5")
	from.publish(room, "6")
	a.expect(all, "1", "5")
	b.expect(all, "1", "5")
	b.expect(room, "2", "6")
	if n := len(a.Publications()); n != 2 {
		s.Fatalf("a node got %d publications, want 2: %v", n, a.Publications())
	}
	a.unsubscribe(all)
	from.publish(all, "7")
	b.expect(all, "1", "5", "7")
}

func payloadReused(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	a.subscribe(topic("room"))
	b.subscribe(topic("room"))
	buf, except := make([]byte, 0, 64), make([]string, 1)
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint("payload ", i))
		buf = append(buf[:0], want[i]...)
		except[0] = fmt.Sprint("conn ", i)
		from.must("Publish", func(ctx context.Context) error {
			p := core.Publication{Topic: topic("room"), Payload: buf, Except: except}
			return from.link.Publish(ctx, p, func(error) {})
		})
		copy(buf, bytes.Repeat([]byte("x"), len(buf)))
		except[0] = "x"
	}
	for _, p := range []*peer{a, b} {
		p.expect(topic("room"), want...)
		for i, got := range p.Publications() {
			if e := fmt.Sprint("conn ", i); !slices.Equal(got.Except, []string{e}) {
				s.Fatalf("Except: got %q, want %q", got.Except, e)
			}
		}
	}
}

func exceptTravels(s *stage) {
	a, b := s.node(), s.node()
	a.subscribe(topic("room"))
	b.subscribe(topic("room"))
	lists := [][]string{nil, {"conn 1"}, {"conn 1", "conn,2", " ", "é"}, nil}
	for i, except := range lists {
		a.must("Publish", func(ctx context.Context) error {
			p := core.Publication{Topic: topic("room"), Payload: fmt.Append(nil, i), Except: except}
			return a.link.Publish(ctx, p, func(error) {})
		})
	}
	for _, p := range []*peer{a, b} {
		p.expect(topic("room"), "0", "1", "2", "3")
		for i, got := range p.Publications() {
			if !slices.Equal(got.Except, lists[i]) {
				s.Fatalf("Except: got %q, want %q", got.Except, lists[i])
			}
		}
	}
}

func doneOnce(s *stage) {
	const each = 10
	a := s.node()
	from := []*peer{a, s.publisher()}
	a.subscribe(topic("room"))
	calls, failed := make([]atomic.Int32, each*len(from)), make([]atomic.Bool, each*len(from))
	s.atOnce(len(from), func(i int) error {
		ctx, cancel := s.soon()
		defer cancel()
		for n := i * each; n < (i+1)*each; n++ {
			p := core.Publication{Topic: topic("room"), Payload: []byte("x")}
			if n%2 == 0 {
				p.Topic.Channel = "nobody"
			}
			err := from[i].link.Publish(ctx, p, func(err error) {
				calls[n].Add(1)
				failed[n].Store(err != nil)
			})
			if err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
		return nil
	})
	for n := range calls {
		s.await(fmt.Sprintf("done of publication %d", n), func() bool { return calls[n].Load() > 0 })
	}
	for _, p := range from {
		p.close()
	}
	for n := range calls {
		if got := calls[n].Load(); got != 1 || failed[n].Load() {
			s.Fatalf("publication %d: done was called %d times, with an error: %v", n, got, failed[n].Load())
		}
	}
}

func publishEnded(s *stage) {
	a, from := s.node(), s.publisher()
	a.subscribe(topic("room"))
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	var calls, accepted atomic.Int32
	var err error
	s.within("Publish", func() {
		p := core.Publication{Topic: topic("room"), Payload: []byte("late")}
		err = from.link.Publish(ended, p, func(err error) {
			if err == nil {
				accepted.Add(1)
			}
			calls.Add(1)
		})
	})
	if err == nil {
		s.await("done", func() bool { return calls.Load() > 0 })
	}
	from.publish(topic("room"), "next")
	if accepted.Load() > 0 {
		a.expect(topic("room"), "late", "next")
	} else {
		s.await("the next publication", func() bool { return slices.Contains(a.Got(topic("room")), "next") })
	}
	from.close()
	if n := calls.Load(); err != nil && n > 0 || n > 1 {
		s.Fatalf("Publish returned %v, and done was called %d times", err, n)
	}
}

func publishIntoFull(s *stage) {
	a, from := s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	a.Fill(room)
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	returned := make(chan struct{})
	go func() { // ends with its context, or with the case that drains the topic
		defer close(returned)
		_ = from.link.Publish(ctx, core.Publication{Topic: room, Payload: []byte("one")}, func(error) {})
	}()
	s.await("the full topic", func() bool { return a.Waiting(room) > 0 || a.Gaps(room) > 0 })
	cancel()
	s.within("Publish", func() { <-returned })
	a.Drain(room)
	from.publish(room, "two")
	s.await("the next publication", func() bool { return slices.Contains(a.Got(room), "two") })
}
