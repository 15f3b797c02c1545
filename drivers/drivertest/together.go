package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/duxweb/go-ws/core"
)

var together = []scene{
	{name: "everything may be called at the same time", run: everythingAtOnce},
	{name: "no call outlasts its context", run: contextsEnd},
}

func everythingAtOnce(s *stage) {
	peers := []*peer{s.node(), s.node(), s.node()}
	room, app := topic("room"), core.Topic{App: "app"}
	stays := s.node()
	stays.subscribe(room)
	var published, accepted atomic.Int64
	publish := func(ctx context.Context, p *peer, t core.Topic) error {
		published.Add(1)
		return p.link.Publish(ctx, core.Publication{Topic: t, Payload: []byte("x")}, func(err error) {
			if err == nil {
				accepted.Add(1)
			}
		})
	}
	worker := func(ctx context.Context, p *peer, i int) error {
		own := topic(fmt.Sprint("room ", i))
		id := fmt.Sprint("client ", i%4)
		for range s.rounds/4 + 1 {
			m := p.Member(id)
			number, err := p.tryRegister(ctx, "app", m)
			if err != nil || number == 0 {
				return fmt.Errorf("register: number %d: %w", number, err)
			}
			p.Watch(own)
			err = errors.Join(p.link.Subscribe(ctx, own, room), publish(ctx, p, own), publish(ctx, p, room))
			if err != nil {
				return fmt.Errorf("subscribe and publish: %w", err)
			}
			first, err := p.tryJoin(ctx, m, own, room)
			if err != nil {
				return fmt.Errorf("join: first in %v: %w", first, err)
			}
			_, err = p.link.Members(ctx, room, i)
			_, err2 := p.link.Count(ctx, room)
			_, err3 := p.link.Find(ctx, "app", id)
			if err := errors.Join(err, err2, err3); err != nil {
				return fmt.Errorf("members, count and find: %w", err)
			}
			if err := errors.Join(p.link.Command(ctx, stays.ID(), commands()[0]), p.link.Command(ctx, "", commands()[1])); err != nil {
				return fmt.Errorf("command: %w", err)
			}
			last, err := p.tryLeave(ctx, m, own, room, app)
			if err != nil {
				return fmt.Errorf("leave: last in %v: %w", last, err)
			}
			p.Unwatch(own)
			if err := p.link.Unsubscribe(ctx, own); err != nil {
				return fmt.Errorf("unsubscribe: %w", err)
			}
		}
		return nil
	}
	passenger := func(ctx context.Context) error { // comes and goes
		for range s.rounds/4 + 1 {
			p, err := s.tryOpen(ctx, NewNode())
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			m := p.Member("passenger")
			_, err = p.tryRegister(ctx, "app", m)
			_, err2 := p.tryJoin(ctx, m, room)
			if err := errors.Join(err, err2, p.link.Subscribe(ctx, room), publish(ctx, p, room), p.link.Close(ctx)); err != nil {
				return fmt.Errorf("a node that comes and goes: %w", err)
			}
			p.End()
			if late := p.Late(); len(late) > 0 {
				return fmt.Errorf("called after Close had returned: %q", late)
			}
		}
		return nil
	}
	ctx, cancel := s.soon()
	defer cancel()
	s.atOnce(8, func(i int) error {
		if i >= 6 {
			return passenger(ctx)
		}
		return worker(ctx, peers[i%3], i)
	})
	s.await("done of every publication", func() bool { return accepted.Load() == published.Load() })
	if n := stays.count(room); n != 0 {
		s.Fatalf("everybody has left: Count: got %d, want 0", n)
	}
	stays.wantMembers(stays.members(room, 0))
	for i := range 4 {
		stays.wantMembers(stays.find("app", fmt.Sprint("client ", i)))
	}
	own := topic("afterwards")
	stays.subscribe(own)
	peers[0].publish(own, "x")
	stays.expect(own, "x")
}

// contextsEnd asks only that calls return: whether they were carried out nobody knows.
func contextsEnd(s *stage) {
	a, b := s.node(), s.node()
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	for _, p := range []*peer{a, s.publisher()} {
		for _, c := range p.calls(b.ID(), a.Member("anna"), func(error) {}) {
			s.within(c.name+" with a context that has ended", func() { _ = c.of(ended) })
		}
	}
	s.within("Open with a context that has ended", func() {
		if link, err := s.on().Driver().Open(ended, NewNode()); err == nil {
			_ = link.Close(context.WithoutCancel(ended))
		}
	})
}
