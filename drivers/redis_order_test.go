package drivers_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// What happens out of turn: each scenario is an order of events that the driver once got wrong.
func TestWhatHappensOutOfTurnHarmsNobody(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"a node that comes back again and again sees nobody dead": comesBackAgainAndAgain,
		"a Join that finds all data lost is told":                 joinsWhenAllIsLost,
		"an Open that fails says why":                             opensNowhere,
		"of two Subscribes of one topic one gives up":             oneOfTwoGivesUp,
	})
}

// subscriptions returns the ids of the connections that are subscribed to something.
func subscriptions(s *redistest.Server) (ids []string) {
	for line := range strings.Lines(s.CLI("CLIENT", "LIST", "TYPE", "pubsub")) {
		if id, _, ok := strings.Cut(strings.TrimPrefix(line, "id="), " "); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func comesBackAgainAndAgain(x *trial) {
	server := redistest.Start(x.T)
	alive, flapping := drivertest.NewNode(), drivertest.NewNode()
	must(x.T, x.joins(openIn(x.T, at(x.T, server.Addr()), alive), alive, "anna", answered, room))
	theirs := subscriptions(server)
	openIn(x.T, at(x.T, server.Addr()), flapping)
	client := server.Client()
	x.beats(client, "ws:{0}:nodes", alive.ID()+".1", 1)
	for range 12 { // more often than a node has to be silent to be dead
		var killed string
		x.becomes(recovery, "a subscription of the node", func() bool {
			mine := slices.DeleteFunc(subscriptions(server), func(id string) bool { return slices.Contains(theirs, id) })
			if len(mine) == 1 {
				killed = mine[0]
			}
			return killed != ""
		})
		theirs = append(theirs, killed) // the next one is another
		server.CLI("CLIENT", "KILL", "ID", killed)
	}
	x.beats(client, "ws:{0}:nodes", alive.ID()+".1", 2)
	x.undisturbed(alive)
	if told := append(alive.Changes(), flapping.Changes()...); len(told) > 0 {
		x.Errorf("told of %+v", told)
	}
}

func joinsWhenAllIsLost(x *trial) {
	server := redistest.Start(x.T)
	a, b := run(x.T, at(x.T, server.Addr())), run(x.T, at(x.T, server.Addr()))
	anna, bert := a.in("anna", "one"), b.in("bert")
	server.CLI("FLUSHALL")
	must(x.T, bert.subscribes("one"))
	x.becomes(recovery, "anna is told of bert", func() bool { return number(anna.knows().Told, "join", "one", "bert") == 1 })
	x.becomes(recovery, "both count", func() bool {
		n, err := a.service.Count(x.Context(), "one")
		return err == nil && n == 2
	})
	if told := anna.knows().Told; number(told, "join", "one", "bert") != 1 {
		x.Errorf("anna was told %+v", told)
	}
}

func opensNowhere(x *trial) {
	server := redistest.Start(x.T)
	driver := at(x.T, server.Addr())
	server.Kill()
	ctx, cancel := context.WithTimeout(x.Context(), time.Second)
	defer cancel()
	if _, err := driver.Open(ctx, drivertest.NewNode()); err == nil || !strings.Contains(err.Error(), "refused") {
		x.Error(err)
	}
}

func oneOfTwoGivesUp(x *trial) {
	_, p, nodes, links := pair(x)
	fresh := topicOf("fresh")
	p.Stall()
	before := drivers.WaitingIn(links[0]).Unheard
	outcomes := [2]chan error{make(chan error, 1), make(chan error, 1)}
	ctx, giveUp := context.WithCancel(x.Context())
	defer giveUp()
	for i, ctx := range []context.Context{ctx, x.Context()} {
		go func() { outcomes[i] <- links[0].Subscribe(ctx, fresh) }() // ends with its outcome
		x.becomes(recovery, "it waits", func() bool { return drivers.WaitingIn(links[0]).Unheard == before+i+1 })
	}
	giveUp()
	if err := <-outcomes[0]; err == nil {
		x.Error("who gave up was told nil")
	}
	p.Restore()
	if err := <-outcomes[1]; err != nil {
		x.Fatal(err)
	}
	must(x.T, x.publishes(links[1], fresh, "hello"))
	x.becomes(recovery, "the publication", func() bool { return slices.Equal(nodes[0].Got(fresh), []string{"hello"}) })
}
