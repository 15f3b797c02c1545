package drivertest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

var presence = []scene{
	{name: "the first connection of a client id joins and the last one leaves", run: firstAndLast},
	{name: "joining twice and leaving twice change nothing", run: joinedTwice},
	{name: "Join and Leave report each of several topics", run: severalTopics},
	{name: "of joins at once one is the first, of leaves at once one is the last", run: joinsAtOnce},
	{name: "Members lists the connections on every node", run: membersEverywhere},
	{name: "Members lists no more than its limit", run: membersLimited},
	{name: "Count counts a client id once, wherever its connections are", run: countsOnce},
	{name: "presence keeps topics and client ids with odd names apart", run: oddPresence},
}

// wantTopics fails the case unless got is want, in any order.
func (p *peer) wantTopics(what string, got []core.Topic, want ...core.Topic) {
	p.s.Helper()
	order := func(a, b core.Topic) int { return strings.Compare(fmt.Sprintf("%q", a), fmt.Sprintf("%q", b)) }
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		p.s.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func firstAndLast(s *stage) {
	a, b := s.node(), s.node()
	room := topic("room")
	a1, a2, b1, other := a.Member("anna"), a.Member("anna"), b.Member("anna"), b.Member("bert")
	for range 2 {
		a.wantTopics("first of anna", a.join(a1, room), room)
		b.wantTopics("second of anna", b.join(b1, room))
		a.wantTopics("third of anna", a.join(a2, room))
		b.wantTopics("first of bert", b.join(other, room), room)
		a.wantTopics("anna leaves with one of three", a.leave(a1, room))
		a.wantTopics("anna leaves with two of three", a.leave(a2, room))
		b.wantTopics("bert leaves", b.leave(other, room), room)
		b.wantTopics("anna leaves with the last", b.leave(b1, room), room)
	}
}

func joinedTwice(s *stage) {
	a, b := s.node(), s.node()
	room := topic("room")
	a1, b1 := a.Member("anna"), b.Member("anna")
	a.wantTopics("first", a.join(a1, room), room)
	a.wantTopics("again", a.join(a1, room))
	b.wantTopics("one that never joined leaves", b.leave(b1, room, topic("other")))
	b.wantTopics("second", b.join(b1, room))
	b.wantTopics("it leaves", b.leave(b1, room))
	b.wantTopics("it leaves again", b.leave(b1, room))
	if n := b.count(room); n != 1 {
		s.Fatalf("Count: got %d, want 1", n)
	}
	a.wantTopics("last", a.leave(a1, room), room)
	a.wantTopics("nobody is left", a.leave(a1, room))
	if n := b.count(room); n != 0 {
		s.Fatalf("Count: got %d, want 0", n)
	}
}

func severalTopics(s *stage) {
	a, b := s.node(), s.node()
	one, two, three := topic("one"), topic("two"), topic("three")
	a1, b1 := a.Member("anna"), b.Member("anna")
	b.join(b1, two)
	a.wantTopics("Join", a.join(a1, one, two, three), one, three)
	a.wantTopics("Join of one more", a.join(a1, one, topic("four"), three), topic("four"))
	a.wantTopics("Leave", a.leave(a1, one, two, three, topic("never")), one, three)
	b.wantTopics("Leave of the other", b.leave(b1, one, two), two)
	a.wantTopics("Leave of the rest", a.leave(a1, two, topic("four")), topic("four"))
}

func joinsAtOnce(s *stage) {
	const conns = 6
	peers := []*peer{s.node(), s.node()}
	room := topic("room")
	for range s.rounds {
		var members [conns]core.Member
		for i := range members {
			members[i] = peers[i%2].Member("anna")
		}
		var first, last atomic.Int32
		s.atOnce(conns, func(i int) error {
			ctx, cancel := s.soon()
			defer cancel()
			topics, err := peers[i%2].tryJoin(ctx, members[i], room)
			first.Add(int32(len(topics)))
			return err
		})
		if first.Load() != 1 {
			s.Fatalf("%d of %d connections were the first", first.Load(), conns)
		}
		s.atOnce(conns, func(i int) error {
			ctx, cancel := s.soon()
			defer cancel()
			topics, err := peers[i%2].tryLeave(ctx, members[i], room)
			last.Add(int32(len(topics)))
			return err
		})
		if last.Load() != 1 {
			s.Fatalf("%d of %d connections were the last", last.Load(), conns)
		}
	}
}

func membersEverywhere(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	room := topic("room")
	want := []core.Member{a.Member("anna"), b.Member("anna"), b.Member("bert")}
	a.join(want[0], room, topic("other"))
	b.join(want[1], room)
	b.join(want[2], room)
	for _, p := range []*peer{a, b, c} {
		p.wantMembers(p.members(room, 0), want...)
		p.wantMembers(p.members(topic("other"), 0), want[0])
		p.wantMembers(p.members(topic("empty"), 0))
	}
	b.leave(want[1], room)
	for _, p := range []*peer{a, b, c} {
		p.wantMembers(p.members(room, 0), want[0], want[2])
	}
}

func membersLimited(s *stage) {
	a, b := s.node(), s.node()
	room := topic("room")
	joined := map[string]bool{}
	for i := range 6 {
		p := []*peer{a, b}[i%2]
		m := p.Member(fmt.Sprint("client ", i))
		p.join(m, room)
		joined[m.ConnID] = true
	}
	for _, test := range []struct{ limit, want int }{{-1, 6}, {0, 6}, {1, 1}, {4, 4}, {5, 5}, {6, 6}, {100, 6}} {
		for _, p := range []*peer{a, b} {
			seen := map[string]bool{}
			for _, m := range p.members(room, test.limit) {
				if !joined[m.ConnID] || seen[m.ConnID] {
					s.Fatalf("limit %d: %+v never joined, or is listed twice", test.limit, m)
				}
				seen[m.ConnID] = true
			}
			if len(seen) != test.want {
				s.Fatalf("limit %d: %d connections, want %d", test.limit, len(seen), test.want)
			}
		}
	}
}

func countsOnce(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	room := topic("room")
	want := func(n int) {
		s.Helper()
		for _, p := range []*peer{a, b, c} {
			if got := p.count(room); got != n {
				s.Fatalf("Count: got %d, want %d", got, n)
			}
		}
	}
	a1, a2, b1, other := a.Member("anna"), a.Member("anna"), b.Member("anna"), b.Member("bert")
	want(0)
	a.join(a1, room, topic("other"))
	want(1)
	a.join(a2, room)
	b.join(b1, room)
	want(1)
	b.join(other, room)
	want(2)
	a.leave(a1, room)
	b.leave(b1, room)
	want(2)
	a.leave(a2, room)
	want(1)
	b.leave(other, room)
	want(0)
}

func oddPresence(s *stage) {
	a, b := s.node(), s.node()
	topics := slices.DeleteFunc(oddTopics(), func(t core.Topic) bool { return t.Channel == "" })
	members := make([]core.Member, len(topics))
	for i, t := range topics {
		members[i] = a.Member(t.Channel) // odd, too
		a.register(t.App, members[i])
		a.wantTopics("first", a.join(members[i], t), t)
	}
	for i, t := range topics {
		b.wantMembers(b.find(t.App, t.Channel), members[i])
		b.wantMembers(b.members(t, 0), members[i])
		if n := b.count(t); n != 1 {
			s.Fatalf("Count of %q: got %d, want 1", t, n)
		}
	}
	for i, t := range topics {
		a.wantTopics("last", a.leave(members[i], t, core.Topic{App: t.App}), t)
		b.wantMembers(b.find(t.App, t.Channel))
	}
}
