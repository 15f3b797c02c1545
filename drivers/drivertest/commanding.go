package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/duxweb/go-ws/core"
)

var commanding = []scene{
	{name: "a command reaches the node it is for, and no other", run: commandsOne},
	{name: "a command for everybody reaches every node", run: commandsAll},
	{name: "a command that no node received is ErrOffline", run: commandsNobody},
	{name: "what a node answers to a command comes back", run: answersComeBack, needs: func(h Harness) bool { return h.Answers }},
	{name: "arguments are the caller's again when a call has returned", run: argumentsReused},
	{name: "a publisher without a node publishes, commands and reads", run: publisherWorks},
	{name: "a publisher without a node is no node to others", run: publisherIsNoNode},
}

// commands of every kind, with every field used.
func commands() []core.Command {
	return []core.Command{
		{Action: core.ActionSend, App: "app", ClientID: "anna", Payload: json.RawMessage(`{"type":"message","data":[1,"é🙂 <&>"]}`)},
		{Action: core.ActionClose, ClientID: "anna", Code: 4000, Reason: "bye: \"é\"", Except: []string{"conn 1", "conn,2"}},
		{Action: core.ActionSubscribe, App: "an app", ClientID: "a:b *", Channels: []string{"room", "a room", "*"}},
		{Action: core.ActionUnsubscribe, App: "app", ClientID: "anna", Channels: []string{"room"}},
		{Action: core.ActionReplace, App: "app", ClientID: "anna", Number: 1<<63 + 1},
	}
}

// wantCommands waits until the node has got exactly these commands, in any order.
func (p *peer) wantCommands(want ...core.Command) {
	p.s.Helper()
	p.s.waits(func() bool { return len(p.Commands()) >= len(want) })
	got := p.Commands()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(c core.Command) bool { return sameCommand(c, w) }) {
			p.s.Fatalf("%+v is not in %+v", w, got)
		}
	}
	if len(got) != len(want) {
		p.s.Fatalf("got %d commands, want %d: %+v", len(got), len(want), got)
	}
}

// sameCommand compares payloads as JSON: a driver may encode a command as it likes.
func sameCommand(a, b core.Command) bool {
	var texts [2]any
	for i, c := range []*core.Command{&a, &b} {
		if c.Payload != nil && json.Unmarshal(c.Payload, &texts[i]) != nil {
			return false
		}
		c.Payload = nil
	}
	return reflect.DeepEqual(a, b) && reflect.DeepEqual(texts[0], texts[1])
}

func commandsOne(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	for _, cmd := range commands() {
		if err := errors.Join(a.command(b.ID(), cmd), c.command(c.ID(), cmd)); err != nil {
			s.Fatalf("Command: %v", err)
		}
	}
	b.wantCommands(commands()...)
	c.wantCommands(commands()...)
	a.wantCommands()
}

func commandsAll(s *stage) {
	a, b, c := s.node(), s.node(), s.node()
	for _, cmd := range commands() {
		if err := a.command("", cmd); err != nil {
			s.Fatalf("Command: %v", err)
		}
	}
	for _, p := range []*peer{a, b, c} {
		p.wantCommands(commands()...)
	}
}

func commandsNobody(s *stage) {
	a, b := s.node(), s.node()
	nobody := func(node string) {
		s.Helper()
		if err := a.command(node, commands()[0]); !errors.Is(err, core.ErrOffline) {
			s.Fatalf("Command to %q: got %v, want ErrOffline", node, err)
		}
	}
	nobody("nobody")
	nobody(b.ID() + "x")
	nobody("*")
	b.close()
	nobody(b.ID())
	a.wantCommands()
	b.wantCommands()
}

func answersComeBack(s *stage) {
	a, b := s.node(), s.node()
	broken := errors.New("the node's own error")
	for _, answer := range []error{broken, fmt.Errorf("wrapped: %w", core.ErrTooManyChannels), core.ErrOffline} {
		b.Answer(func(core.Command) error { return answer })
		if err := a.command(b.ID(), commands()[0]); !errors.Is(err, answer) {
			s.Fatalf("Command to one: got %v, want %v", err, answer)
		}
		want := answer
		if errors.Is(answer, core.ErrOffline) {
			want = nil // the other node did it
		}
		if err := a.command("", commands()[0]); !errors.Is(err, want) {
			s.Fatalf("Command to all: got %v, want %v", err, want)
		}
	}
	a.Answer(func(core.Command) error { return core.ErrOffline })
	if err := a.command("", commands()[0]); !errors.Is(err, core.ErrOffline) {
		s.Fatalf("Command to all, meant for no connection: got %v, want ErrOffline", err)
	}
}

func argumentsReused(s *stage) {
	a, b := s.node(), s.node()
	room, other := topic("room"), topic("other")
	topics := []core.Topic{room}
	a.subscribe(topics...)
	topics[0] = other
	a.subscribe(topic("third"))

	m := a.Member("anna")
	topics[0] = room
	a.join(m, topics...)
	topics[0] = other
	b.wantTopics("Join of a second connection", b.join(b.Member("anna"), room))

	sent := core.Command{
		Action: core.ActionSend, ClientID: "anna", Payload: json.RawMessage(`{"data":"as it was"}`),
		Channels: []string{"room"}, Except: []string{"conn"},
	}
	cmd := sent
	cmd.Payload, cmd.Channels, cmd.Except = slices.Clone(sent.Payload), slices.Clone(sent.Channels), slices.Clone(sent.Except)
	a.must("Command", func(ctx context.Context) error { return a.link.Command(ctx, b.ID(), cmd) })
	copy(cmd.Payload, `{"data":"otherwise"}`)
	cmd.Channels[0], cmd.Except[0] = "other", "other"
	b.wantCommands(sent)

	b.publish(other, "one")
	b.publish(room, "two")
	a.expect(room, "two")
	a.expect(other)
}

func publisherWorks(s *stage) {
	from, a := s.publisher(), s.node()
	room := topic("room")
	a.subscribe(room)
	from.publish(room, "one")
	a.expect(room, "one")
	m := a.Member("anna")
	a.register("app", m)
	a.join(m, room)
	from.wantMembers(from.find("app", "anna"), m)
	from.wantMembers(from.members(room, 10), m)
	if n := from.count(room); n != 1 {
		s.Fatalf("Count: got %d, want 1", n)
	}
	if err := errors.Join(from.command("", commands()[0]), from.command(a.ID(), commands()[1])); err != nil {
		s.Fatalf("Command: %v", err)
	}
	a.wantCommands(commands()[:2]...)
}

func publisherIsNoNode(s *stage) {
	one, two := s.publisher(), s.publisher()
	if err := one.command("", commands()[0]); !errors.Is(err, core.ErrOffline) {
		s.Fatalf("Command among publishers: got %v, want ErrOffline", err)
	}
	ctx, cancel := s.soon()
	defer cancel()
	_ = two.link.Subscribe(ctx, topic("room")) // an error or not: there is nobody to deliver to
	one.publish(topic("room"), "one")
	a := s.node()
	a.subscribe(topic("room"))
	one.publish(topic("room"), "two") // the first may still be on its way
	s.await("the second publication", func() bool { return slices.Contains(a.Got(topic("room")), "two") })
	if err := one.command("", commands()[0]); err != nil {
		s.Fatalf("Command: %v", err)
	}
	a.wantCommands(commands()[0])
}
