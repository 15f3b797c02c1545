package drivertest

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/duxweb/go-ws/core"
)

var subscribing = []scene{
	{name: "a topic subscribed to twice arrives once, and ends with one Unsubscribe", run: subscribedTwice},
	{name: "a subscription is in force when Subscribe has returned", run: inForce},
	{name: "nothing published after an Unsubscribe arrives", run: unsubscribed},
	{name: "an Unsubscribe ends its own topics on its own node", run: ownTopicsOnly},
}

func subscribedTwice(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	a.subscribe(topic("other"), room)
	b.subscribe(room)
	from.publish(room, "one", "two")
	a.expect(room, "one", "two")
	b.expect(room, "one", "two")
	a.unsubscribe(room)
	a.settle(room, from, b)
}

func inForce(s *stage) {
	a, from := s.node(), s.publisher()
	for i := range s.rounds {
		t := topic(fmt.Sprint("room ", i))
		a.subscribe(t)
		from.publish(t, strconv.Itoa(i))
	}
	for i := range s.rounds {
		a.expect(topic(fmt.Sprint("room ", i)), strconv.Itoa(i))
	}
}

func unsubscribed(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room)
	b.subscribe(room)
	from.publish(room, "before")
	a.expect(room, "before")
	a.unsubscribe(room)
	a.settle(room, from, b)
	before := len(a.Got(room))
	from.publish(room, "after", "also after")
	s.await("the witness", func() bool { return slices.Contains(b.Got(room), "also after") })
	a.subscribe(room)
	from.publish(room, "again")
	s.await("the new subscription", func() bool { return slices.Contains(a.Got(room), "again") })
	if got := a.Got(room)[before:]; !slices.Equal(got, []string{"again"}) {
		s.Fatalf("got %q after Unsubscribe, want %q", got, "again")
	}
}

// settle waits until what from publishes in t arrives no more, although witness gets it. A driver may return from
// Unsubscribe before everybody has heard of it.
func (p *peer) settle(t core.Topic, from, witness *peer) {
	p.s.Helper()
	pulse := topic("pulse")
	p.subscribe(pulse)
	quiet, n := 0, 0
	p.s.await("the end of a subscription", func() bool {
		n++
		probe := fmt.Sprint("probe ", n)
		from.publish(t, probe)
		from.publish(pulse, probe)
		p.s.await("the witness", func() bool { return slices.Contains(witness.Got(t), probe) })
		p.s.await("the pulse", func() bool { return slices.Contains(p.Got(pulse), probe) })
		if quiet++; slices.Contains(p.Got(t), probe) {
			quiet = 0
		}
		return quiet == 3
	})
}

func ownTopicsOnly(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	one, two, three := topic("one"), topic("two"), topic("three")
	a.subscribe(one, two, three)
	b.subscribe(two)
	a.unsubscribe(two, topic("never subscribed"))
	b.unsubscribe(one)
	for _, t := range []core.Topic{one, two, three} {
		from.publish(t, "x")
	}
	a.expect(one, "x")
	a.expect(three, "x")
	b.expect(two, "x")
}
