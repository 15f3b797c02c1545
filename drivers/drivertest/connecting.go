package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

var connecting = []scene{
	{name: "a later connection has a higher number, and is told it once", run: numbersGrow},
	{name: "Find shows the number that a connection is told", run: numberedAlike},
	{name: "Find shows the connections of a client id on every node", run: findsEverywhere},
	{name: "of two connections that come at once the later one finds the other", run: laterFindsEarlier},
	{name: "Leave of the app's topic takes a connection out of Find", run: takenBack},
}

func numbersGrow(s *stage) {
	a, b := s.node(), s.node()
	var last uint64
	for i := range 6 {
		p := []*peer{a, b, b, a}[i%4]
		m := p.Member("anna")
		show := p.Connect("app", m)
		var calls int
		var number uint64
		p.must("Register", func(ctx context.Context) error {
			return p.link.Register(ctx, "app", m, func(n uint64) {
				calls++
				number = n
				show(n)
			})
		})
		if calls != 1 || number <= last {
			s.Fatalf("connection %d: numbered was called %d times, with %d after %d", i, calls, number, last)
		}
		last = number
	}
}

func numberedAlike(s *stage) {
	a, b := s.node(), s.node()
	var seen sync.Map // of uint64, by ConnID
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { // ends with stop
		for {
			select {
			case <-stop:
				return
			default:
			}
			found, _ := b.link.Find(s.Context(), "app", "anna")
			for _, m := range found {
				seen.Store(m.ConnID, m.Number)
			}
		}
	})
	end := sync.OnceFunc(func() {
		close(stop)
		watching.Wait()
	})
	defer end() // where the case fails half way
	told := map[string]uint64{}
	for range s.rounds {
		m := a.Member("anna")
		told[m.ConnID] = a.register("app", m)
		a.leave(m, core.Topic{App: "app"})
	}
	end()
	for conn, number := range told {
		if other, ok := seen.Load(conn); ok && other != number {
			s.Fatalf("Find shows number %d of a connection that was told %d", other, number)
		}
	}
}

func findsEverywhere(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	want := []core.Member{a.Member("anna"), a.Member("anna"), b.Member("anna")}
	want[0].Number = a.register("app", want[0])
	want[1].Number = a.register("app", want[1])
	want[2].Number = b.register("app", want[2])
	otherApp, other := b.Member("anna"), b.Member("anna:1")
	otherApp.Number = b.register("app:1", otherApp)
	other.Number = b.register("app", other)
	for _, p := range []*peer{a, b, c} {
		p.wantMembers(p.find("app", "anna"), want...)
		p.wantMembers(p.find("app:1", "anna"), otherApp)
		p.wantMembers(p.find("app", "anna:1"), other)
		p.wantMembers(p.find("", "anna"))
		p.wantMembers(p.find("app", "ann?"))
		for _, m := range p.find("app", "anna") {
			if i := slices.IndexFunc(want, func(w core.Member) bool { return w.ConnID == m.ConnID }); want[i].Number != m.Number {
				s.Fatalf("Find shows number %d of a connection that was told %d", m.Number, want[i].Number)
			}
		}
	}
}

// wantMembers fails the case unless got is want, in any order. Number is left aside.
func (p *peer) wantMembers(got []core.Member, want ...core.Member) {
	p.s.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(m core.Member) bool {
			return m.ClientID == w.ClientID && m.ConnID == w.ConnID && m.Node == w.Node &&
				m.Since.Equal(w.Since) && bytes.Equal(m.Data, w.Data)
		}) {
			p.s.Fatalf("%+v is not in %+v", w, got)
		}
	}
	if len(got) != len(want) {
		p.s.Fatalf("got %d connections, want %d: %+v", len(got), len(want), got)
	}
}

func laterFindsEarlier(s *stage) {
	peers := []*peer{s.node(), s.node()}
	for round := range s.rounds {
		id := fmt.Sprint("client ", round)
		var members [2]core.Member
		var found [2][]core.Member
		s.atOnce(2, func(i int) (err error) {
			ctx, cancel := s.soon()
			defer cancel()
			members[i] = peers[i].Member(id)
			if members[i].Number, err = peers[i].tryRegister(ctx, "app", members[i]); err != nil {
				return fmt.Errorf("register: %w", err)
			}
			found[i], err = peers[i].link.Find(ctx, "app", id)
			return err
		})
		earlier, later := 0, 1
		if members[0].Number > members[1].Number {
			earlier, later = 1, 0
		}
		if members[0].Number == members[1].Number {
			s.Fatalf("both have number %d", members[0].Number)
		}
		if !slices.ContainsFunc(found[later], func(m core.Member) bool { return m.ConnID == members[earlier].ConnID }) {
			s.Fatalf("connection %d found %+v, without connection %d", members[later].Number, found[later], members[earlier].Number)
		}
	}
}

func takenBack(s *stage) {
	a, b := s.node(), s.node()
	one, two := a.Member("anna"), b.Member("anna")
	a.register("app", one)
	b.register("app", two)
	a.join(one, topic("room"))
	a.leave(one, topic("room"), core.Topic{App: "app"})
	for _, p := range []*peer{a, b} {
		p.wantMembers(p.find("app", "anna"), two)
	}
	b.leave(two, core.Topic{App: "app"})
	a.wantMembers(a.find("app", "anna"))
}
