package drivertest

import (
	"context"
	"fmt"
	"time"

	"github.com/duxweb/go-ws/core"
)

var restarting = []scene{
	{
		name: "after a restart of the backend everything is in force again, and every node knows of the gap",
		run:  restarted, needs: func(h Harness) bool { return h.Restart != nil }, alone: true,
	},
}

func restarted(s *stage) {
	a, b, from := s.node(), s.node(), s.publisher()
	room := topic("room")
	a.subscribe(room, core.Topic{App: "app"})
	b.subscribe(room)
	m := a.Member("anna")
	a.register("app", m)
	a.join(m, room)
	from.publish(room, "before")
	a.expect(room, "before")
	b.expect(room, "before")

	s.on().Restart()
	for _, p := range []*peer{a, b} {
		s.await("Down and Up, or a gap", func() bool {
			downs, ups := p.Outages()
			return downs > 0 && ups >= downs || p.Gaps(room) > 0
		})
	}
	s.await("a publication that is accepted", func() bool { return from.accepted(room, "after") })
	for _, p := range []*peer{a, b} {
		s.await("the publication", func() bool {
			got := p.Got(room)
			return got[len(got)-1] == "after"
		})
	}
	s.await("presence", func() bool { return b.count(room) == 1 && len(b.members(room, 0)) == 1 })
	b.wantMembers(b.members(room, 0), m)
	s.await("the connection", func() bool { return len(b.find("app", "anna")) == 1 })
	b.wantMembers(b.find("app", "anna"), m)
	a.subscribe(topic("new"))
	from.publish(topic("new"), "x")
	a.expect(topic("new"), "x")
	a.wantTopics("last", a.leave(m, room, core.Topic{App: "app"}), room)
}

// accepted publishes and reports whether the driver has accepted it within a second.
func (p *peer) accepted(t core.Topic, payload string) bool {
	ctx, cancel := context.WithTimeout(p.s.Context(), time.Second)
	defer cancel()
	word := make(chan error, 1)
	publication := core.Publication{Topic: t, Payload: fmt.Append(nil, payload)}
	err := p.link.Publish(ctx, publication, func(err error) {
		select {
		case word <- err:
		default: // called twice: another case's business
		}
	})
	if err != nil {
		return false
	}
	select {
	case err := <-word:
		return err == nil
	case <-ctx.Done():
		return false
	}
}
