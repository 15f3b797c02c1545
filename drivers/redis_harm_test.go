package drivers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// What goes wrong in one place must harm nothing else, and what was done must stay known: each scenario is a defect that
// the driver once had.

const twoBeats = 10 * time.Second // of 4 s, on a busy machine

func TestWhatGoesWrongInOnePlaceHarmsNothingElse(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"contexts that are shorter than an answer":              shortContexts,
		"a server that refuses to write":                        refusesToWrite,
		"a Leave that was refused, of who has joined again":     joinsAfterARefusedLeave,
		"all is lost while a connection gets its number":        losesBehindANumber,
		"a thousand readers over a slow line":                   manyReaders,
		"a Leave that fails in one of its topics":               leavesAllButOne,
		"keys of other programs among those of a dead node":     sweepsAroundOtherKeys,
		"a sweep on a server that was told of no death":         sweepsWhereNobodyDied,
		"a Subscribe that fails":                                subscribeFails,
		"the subscription of a publisher is open and silent":    publisherHearsNothing,
		"more commands than a node can hold":                    tooManyCommands,
		"attempts to register that fail":                        registrationsFail,
		"a node that takes long to be told of an outage":        toldSlowly,
		"what is done without a server has failed":              failsWithoutServer,
		"who has never left is not told to have joined":         joinsAreNotRepeated,
		"who was told to have left is told to have joined once": joinsAreToldAgain,
	})
}

func TestWhatGoesWrongInOneLaneHarmsNoOther(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"a Join while its slot moves":    joinsWhileItMoves,
		"joins as long as a slot moves":  keepsJoiningWhileItMoves,
		"a master dies that has no heir": masterDies,
	})
}

// becomes fails the test unless it is so in time.
func (x *trial) becomes(limit time.Duration, what string, so func() bool) {
	x.Helper()
	if !within(limit, so) {
		x.Fatalf("not in %v: %s", limit, what)
	}
}

// undisturbed fails the test when a node was told of an outage.
func (x *trial) undisturbed(nodes ...*drivertest.Node) {
	x.Helper()
	for i, n := range nodes {
		if downs, ups := n.Outages(); downs != 0 || ups != 0 {
			x.Errorf("node %d was told Down %d times, Up %d times", i, downs, ups)
		}
	}
}

// beats waits until the counter of a registration was raised so often, by beats where nothing else is written.
func (x *trial) beats(client *redis.Client, nodes, reg string, times int) {
	x.Helper()
	counter := func() string { return client.HGet(x.Context(), nodes, reg).Val() }
	for range times {
		before := counter()
		x.becomes(twoBeats, "the next beat of "+reg, func() bool { return counter() != before })
	}
}

// publishes returns what became of a publication.
func (x *trial) publishes(link core.Link, topic core.Topic, text string) error {
	x.Helper()
	word := make(chan error, 1)
	p := core.Publication{Topic: topic, Payload: []byte(text)}
	if err := link.Publish(x.Context(), p, func(err error) { word <- err }); err != nil {
		return err
	}
	select {
	case err := <-word:
		return err
	case <-time.After(answered):
		x.Errorf("nobody says what became of %q", text)
		return nil
	}
}

// joins returns what a Join came to that is given so much time.
func (x *trial) joins(link core.Link, n *drivertest.Node, id string, limit time.Duration, topic core.Topic) error {
	ctx, cancel := context.WithTimeout(x.Context(), limit)
	defer cancel()
	m := n.Member(id)
	n.Enter(m, topic)
	_, err := link.Join(ctx, m, topic)
	if err != nil {
		n.Exit(m, topic)
	}
	return err
}

// counts fails the test unless so many client ids come to be in room.
func (x *trial) counts(link core.Link, want int) {
	x.Helper()
	x.becomes(recovery, fmt.Sprint(want, " in the room"), func() bool {
		n, err := link.Count(x.Context(), room)
		return err == nil && n == want
	})
}

func topicOf(channel string) core.Topic { return core.Topic{App: room.App, Channel: channel} }

func shortContexts(x *trial) {
	server := redistest.Start(x.T)
	p := redistest.NewProxy(x.T, server.Addr())
	n := drivertest.NewNode()
	link := openIn(x.T, at(x.T, p.Addr()), n)
	subscription := func() string {
		id, _, _ := strings.Cut(server.CLI("CLIENT", "LIST", "TYPE", "PUBSUB"), " ")
		return id
	}
	before := subscription()
	p.Slow(60 * time.Millisecond)
	ended := make(chan struct{})
	var patient sync.WaitGroup // ends with ended
	for range 4 {
		patient.Go(func() {
			for {
				if _, err := link.Count(x.Context(), room); err != nil {
					x.Errorf("a Count that has the time to wait: %v", err)
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(x.Context(), 20*time.Millisecond)
		if _, err := link.Count(ctx, room); err == nil {
			x.Error("a Count was answered sooner than that is possible")
		}
		cancel()
		must(x.T, x.publishes(link, room, "in between"))
	}
	close(ended)
	patient.Wait()
	p.Restore()
	x.becomes(recovery, "all publications arrive", func() bool { return len(n.Got(room)) == 20 })
	if after := subscription(); after != before {
		x.Errorf("the subscription is another one: %q, was %q", after, before)
	}
	x.undisturbed(n)
}

func refusesToWrite(x *trial) {
	server := redistest.Start(x.T)
	driver := at(x.T, server.Addr())
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link, watching := openIn(x.T, driver, n), openIn(x.T, driver, other)
	anna := n.Member("anna")
	n.Enter(anna, room)
	must(x.T, link.Register(x.Context(), room.App, anna, n.Connect(room.App, anna)))
	_, err := link.Join(x.Context(), anna, room)
	must(x.T, err)

	server.CLI("CONFIG", "SET", "maxmemory", "1")
	n.Exit(anna, room)
	n.Disconnect(anna)
	if last, err := link.Leave(x.Context(), anna, room, topicOf("")); err == nil || len(last) != 0 {
		x.Errorf("Leave: %v, %v", last, err)
	}
	if err := x.joins(link, n, "bert", answered, room); err == nil || !strings.Contains(err.Error(), "OOM") {
		x.Errorf("Join does not say that the server is full: %v", err)
	}
	x.becomes(2*twoBeats, "two beats fail", func() bool {
		must(x.T, x.publishes(watching, room, "hello"))
		return len(n.Faults()) >= 2 && len(other.Faults()) >= 2
	})
	must(x.T, x.publishes(watching, room, "last"))
	x.becomes(recovery, "the last publication", func() bool { return slices.Contains(n.Got(room), "last") })
	x.undisturbed(n, other)
	if gaps := n.Gaps(room) + other.Gaps(room); gaps != 0 {
		x.Errorf("%d gaps", gaps)
	}
	if changes := slices.Concat(n.Changes(), other.Changes()); len(changes) != 0 {
		x.Errorf("told too soon: %v", changes)
	}

	server.CLI("CONFIG", "SET", "maxmemory", "0")
	x.becomes(twoBeats, "anna is gone", func() bool {
		count, err := watching.Count(x.Context(), room)
		found, err2 := watching.Find(x.Context(), room.App, "anna")
		return err == nil && err2 == nil && count == 0 && len(found) == 0
	})
	x.becomes(recovery, "that anna has left is told", func() bool { return len(n.Changes()) > 0 })
	x.beats(server.Client(), "ws:{0}:nodes", n.ID()+".1", 1)
	if c := slices.Concat(n.Changes(), other.Changes()); len(c) != 1 || c[0].Joined || c[0].Member.ConnID != anna.ConnID {
		x.Errorf("told: %+v, want once that anna has left", c)
	}
	must(x.T, x.joins(link, n, "bert", answered, room))
	x.undisturbed(n, other)
}

func joinsAfterARefusedLeave(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	link := openIn(x.T, at(x.T, server.Addr()), n)
	anna := n.Member("anna")
	n.Enter(anna, room)
	_, err := link.Join(x.Context(), anna, room)
	must(x.T, err)
	server.CLI("CONFIG", "SET", "maxmemory", "1")
	if last, err := link.Leave(x.Context(), anna, room); err == nil || len(last) != 0 {
		x.Errorf("Leave: %v, %v", last, err)
	}
	x.becomes(twoBeats, "a beat fails", func() bool { return len(n.Faults()) > 0 }) // so that the next one is not due
	server.CLI("CONFIG", "SET", "maxmemory", "0")
	if first, err := link.Join(x.Context(), anna, room); err != nil || len(first) != 0 { // she never left
		x.Errorf("Join: %v, %v", first, err)
	}
	x.beats(server.Client(), "ws:{0}:nodes", n.ID()+".1", 2) // with the first of which the Leave would be made up for
	x.counts(link, 1)
	if changes := n.Changes(); len(changes) != 0 {
		x.Errorf("told: %+v", changes)
	}
}

func losesBehindANumber(x *trial) {
	server := redistest.Start(x.T)
	driver := at(x.T, server.Addr())
	n := drivertest.NewNode()
	link, watching := open(x.T, driver, n), open(x.T, driver, drivertest.NewNode())
	anna := n.Member("anna")
	numbered := n.Connect(room.App, anna)
	must(x.T, link.Register(x.Context(), room.App, anna, func(number uint64) {
		server.CLI("FLUSHALL")
		server.CLI("CLIENT", "KILL", "TYPE", "pubsub") // so that it is noticed at once
		// Were it noticed here, the node would register anew all but this connection, which has no number yet.
		if within(time.Second, func() bool { return registrations(server)[n.ID()+".2"] != "" }) {
			x.Error("the node has registered anew before the connection has its number")
		}
		numbered(number)
	}))
	x.becomes(recovery, "the node has registered anew", func() bool { return registrations(server)[n.ID()+".2"] != "" })
	x.becomes(time.Second, "anna is found", func() bool {
		found, err := watching.Find(x.Context(), room.App, "anna")
		return err == nil && len(found) == 1 && found[0].Number != 0
	})
}

func manyReaders(x *trial) {
	const prompt = 1500 * time.Millisecond // it takes a few ms, but for what else this machine does
	server := redistest.Start(x.T)
	p := redistest.NewProxy(x.T, server.Addr())
	n := drivertest.NewNode()
	link := openIn(x.T, newRedis(x.T, drivers.RedisOptions{Addr: p.Addr(), PoolSize: 4}), n)
	p.Slow(10 * time.Millisecond) // so that there are 200 answers a second at most
	ended := make(chan struct{})
	var reading sync.WaitGroup // ends with ended
	var answers atomic.Int64
	for i := range 1000 {
		reading.Go(func() {
			for {
				if _, err := link.Find(x.Context(), room.App, strconv.Itoa(i)); err == nil {
					answers.Add(1)
				}
				if _, err := link.Members(x.Context(), room, 0); err == nil {
					answers.Add(1)
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	x.becomes(recovery, "all are reading", func() bool { return answers.Load() > 100 })
	for i := range 5 {
		begin := time.Now()
		must(x.T, x.publishes(link, room, "hello"))
		if took := time.Since(begin); took > prompt {
			x.Errorf("a publication took %v", took)
		}
		begin = time.Now()
		must(x.T, x.joins(link, n, fmt.Sprint("client ", i), answered, room))
		if took := time.Since(begin); took > prompt {
			x.Errorf("a Join took %v", took)
		}
	}
	x.beats(server.Client(), "ws:{0}:nodes", n.ID()+".1", 2)
	close(ended)
	reading.Wait()
	x.undisturbed(n)
	x.becomes(recovery, "all publications arrive", func() bool { return len(n.Got(room)) == 5 })
}

func leavesAllButOne(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	link := open(x.T, at(x.T, server.Addr()), n)
	topics := []core.Topic{topicOf("a"), topicOf("b"), topicOf("c")}
	anna := n.Member("anna")
	n.Enter(anna, topics...)
	first, err := link.Join(x.Context(), anna, topics...)
	if must(x.T, err); !slices.Equal(first, topics) {
		x.Errorf("Join: %v", first)
	}
	server.CLI("SET", "ws:{0}:count:app:b", "mine")
	n.Exit(anna, topics...)
	last, err := link.Leave(x.Context(), anna, topics...)
	if err == nil || !strings.Contains(err.Error(), `"ws:{0}:count:app:b"`) {
		x.Errorf("Leave does not name the key: %v", err)
	}
	if !slices.Equal(last, []core.Topic{topics[0], topics[2]}) {
		x.Errorf("Leave returns %v beside the error, want the others", last)
	}
	for _, topic := range last {
		if count, err := link.Count(x.Context(), topic); count != 0 || err != nil {
			x.Errorf("%v: %d, %v", topic, count, err)
		}
	}
}

func sweepsAroundOtherKeys(x *trial) {
	server := redistest.Start(x.T)
	p := redistest.NewProxy(x.T, server.Addr())
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link, watching := open(x.T, at(x.T, p.Addr()), n), open(x.T, at(x.T, server.Addr()), other)
	var topics []core.Topic
	for i := range 20 {
		topics = append(topics, topicOf(strconv.Itoa(i)))
	}
	for _, id := range []string{"anna", "bert", "carl", "zoe"} {
		m := n.Member(id)
		must(x.T, link.Register(x.Context(), room.App, m, n.Connect(room.App, m)))
		if id == "anna" {
			n.Enter(m, topics...)
			_, err := link.Join(x.Context(), m, topics...)
			must(x.T, err)
		}
	}
	keys := []string{"ws:{0}:count:app:7", "ws:{0}:client:app:zoe"}
	for _, key := range keys {
		server.CLI("SET", key, "mine")
	}
	p.Cut()
	server.CLI("HSET", "ws:{0}:nodes", n.ID()+".1", "dead")
	x.becomes(mourning, "the dead registration is gone", func() bool { return len(registrations(server)) == 1 })
	for _, id := range []string{"anna", "bert", "carl"} {
		if found, err := watching.Find(x.Context(), room.App, id); len(found) != 0 || err != nil {
			x.Errorf("Find of %s: %v, %v", id, found, err)
		}
	}
	left := map[core.Topic]int{}
	for _, c := range other.Changes() {
		left[c.Topic]++
	}
	for _, topic := range topics {
		if topic.Channel != "7" && left[topic] != 1 {
			x.Errorf("that anna has left %v was told %d times", topic, left[topic])
		}
	}
	faults := fmt.Sprint(other.Faults())
	for _, key := range keys {
		if !strings.Contains(faults, `"`+key+`"`) {
			x.Errorf("no fault names %s: %s", key, faults)
		}
	}
	for key := range strings.Lines(server.CLI("KEYS", "ws:{0}:*"+n.ID()+".1*")) {
		if strings.TrimSpace(key) != "" {
			x.Errorf("left behind: %s", key)
		}
	}
}

// Sentinel had made another server the master, a node had registered there anew and swept its old registration: over a
// connection to the old master, which had hung, came back, and knew of nothing. All its clients were told to have left.
func sweepsWhereNobodyDied(x *trial) {
	server := redistest.Start(x.T)
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link, watching := open(x.T, at(x.T, server.Addr()), n), open(x.T, at(x.T, server.Addr()), other)
	m := n.Member("anna")
	must(x.T, link.Register(x.Context(), room.App, m, n.Connect(room.App, m)))
	n.Enter(m, room)
	_, err := link.Join(x.Context(), m, room)
	must(x.T, err)
	drivers.Sweep(x.Context(), watching, n.ID()+".1")
	if changes := other.Changes(); len(changes) != 0 {
		x.Errorf("told: %v", changes)
	}
	if count, err := watching.Count(x.Context(), room); count != 1 || err != nil {
		x.Errorf("%d in the room, %v", count, err)
	}
	if found, err := watching.Find(x.Context(), room.App, "anna"); len(found) != 1 || err != nil {
		x.Errorf("%d connections of anna, %v", len(found), err)
	}
}

func subscribeFails(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	link := openIn(x.T, at(x.T, server.Addr()), n)
	over, cancel := context.WithCancel(x.Context())
	cancel()
	if err := link.Subscribe(over, room, topicOf("b")); err == nil {
		x.Error("Subscribe has succeeded with a context that is over")
	}
	must(x.T, link.Subscribe(x.Context(), topicOf("c"))) // confirmed behind whatever the failed one has sent
	for _, topic := range []core.Topic{room, topicOf("b"), topicOf("c")} {
		must(x.T, x.publishes(link, topic, "hello"))
	}
	x.becomes(recovery, "the last publication arrives", func() bool { return len(n.Got(topicOf("c"))) == 1 })
	if got, failed := len(n.Got(room)), len(n.Got(topicOf("b"))); got != 1 || failed != 0 {
		x.Errorf("%d publications have arrived in the room, want 1; %d in what was not subscribed to", got, failed)
	}
	want := drivers.Waiting{Wanted: 4} // the node's own channel, that of all nodes, the room and c
	x.becomes(recovery, "nobody waits", func() bool {
		now := drivers.WaitingIn(link)
		now.Connected = false
		return now == want
	})

	server.Kill()
	x.becomes(recovery, "the connection is gone", func() bool { return !drivers.WaitingIn(link).Connected })
	for i := range 500 {
		ctx, cancel := context.WithTimeout(x.Context(), time.Millisecond)
		if link.Subscribe(ctx, topicOf(strconv.Itoa(i))) == nil || link.Subscribe(ctx, topicOf("same")) == nil {
			x.Error("Subscribe has succeeded without a server")
		}
		cancel()
	}
	if now := drivers.WaitingIn(link); now != want {
		x.Errorf("left behind: %+v, want %+v", now, want)
	}
}

func publisherHearsNothing(x *trial) {
	server := redistest.Start(x.T)
	p := redistest.NewProxy(x.T, server.Addr())
	n := drivertest.NewNode()
	open(x.T, at(x.T, server.Addr()), n)
	link := open(x.T, at(x.T, p.Addr()), nil)
	asks := func(action core.Action, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(x.Context(), limit)
		defer cancel()
		return link.Command(ctx, n.ID(), core.Command{Action: action, App: room.App, ClientID: "anna", Channels: []string{"a"}})
	}
	must(x.T, asks(core.ActionSubscribe, answered))
	p.StallSubscriptions()
	if asks(core.ActionSubscribe, time.Second) == nil {
		x.Error("an answer has arrived over a connection that is silent")
	}
	must(x.T, asks(core.ActionSubscribe, answered))
	must(x.T, asks(core.ActionUnsubscribe, answered))
}

func tooManyCommands(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	hangs := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hangs) })
	n.Answer(func(core.Command) error {
		<-hangs
		return nil
	})
	open(x.T, at(x.T, server.Addr()), n)
	x.Cleanup(goOn) // before the link is closed, which waits for it
	link := open(x.T, at(x.T, server.Addr()), nil)
	const size, sent, most = 256 << 10, 136, 64 // 34 MiB, of which 16 may wait: more are dropped than that
	payload := json.RawMessage(`{"x":"` + strings.Repeat("x", size) + `"}`)
	sends := func(i int, payload json.RawMessage) {
		x.Helper()
		must(x.T, link.Command(x.Context(), n.ID(), core.Command{
			Action: core.ActionSend, App: room.App, ClientID: "anna", Number: uint64(i), Payload: payload,
		}))
	}
	for i := range sent {
		sends(i, payload)
	}
	x.becomes(recovery, "some are dropped", func() bool { return len(n.Faults()) >= sent-most-1 })
	for _, err := range n.Faults() {
		if !strings.Contains(err.Error(), "more commands") {
			x.Errorf("a fault: %v", err)
		}
	}
	goOn()
	x.becomes(recovery, "the others are carried out", func() bool { return len(n.Commands())+len(n.Faults()) == sent })
	if kept := len(n.Commands()); kept > most+1 || kept < most-1 { // the first one does not wait
		x.Errorf("%d commands of 256 KiB were kept, want %d", kept, most)
	}
	dropped := len(n.Faults())
	for i := sent; i < 2*sent; i++ {
		sends(i, json.RawMessage(`{"x":"later"}`))
	}
	x.becomes(recovery, "later ones are carried out", func() bool {
		commands := n.Commands()
		return commands[len(commands)-1].Number == 2*sent-1
	})
	if !slices.IsSortedFunc(n.Commands(), func(a, b core.Command) int { return int(a.Number) - int(b.Number) }) {
		x.Error("they were not carried out in order")
	}
	if len(n.Faults()) != dropped || len(n.Commands()) != 2*sent-dropped {
		x.Errorf("of the later ones some were dropped: %v", n.Faults()[dropped:])
	}
}

func registrationsFail(x *trial) {
	server := redistest.Start(x.T)
	p := redistest.NewProxy(x.T, server.Addr())
	var dials atomic.Int64
	client := redis.NewClient(&redis.Options{Addr: p.Addr(), Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	x.Cleanup(func() { _ = client.Close() })
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link := openIn(x.T, newRedis(x.T, drivers.RedisOptions{Client: client}), n)
	openIn(x.T, at(x.T, server.Addr()), other)
	must(x.T, x.joins(link, n, "anna", answered, room))
	p.Cut()
	x.becomes(recovery, "the node is told", func() bool { downs, _ := n.Outages(); return downs == 1 })
	before := dials.Load()
	x.becomes(recovery, "several attempts fail", func() bool { return dials.Load() >= before+14 }) // of the subscription, too
	p.Restore()
	x.becomes(recovery, "the node is told that all is well", func() bool { _, ups := n.Outages(); return ups == 1 })
	want := slices.Sorted(slices.Values([]string{n.ID() + ".2", other.ID() + ".1"}))
	x.becomes(twoBeats, fmt.Sprintf("the registrations are %q", want), func() bool { // each attempt was for the same one
		return slices.Equal(slices.Sorted(maps.Keys(registrations(server))), want)
	})
	x.counts(link, 1)
}

// bystander is a node that takes long to be told.
type bystander struct {
	*drivertest.Node

	told chan string   // what it is being told
	on   chan struct{} // holds what lets it go on
}

func (n *bystander) Down(err error, part func(core.Topic) bool) {
	n.told <- "Down"
	<-n.on
	n.Node.Down(err, part)
}

func (n *bystander) Up(part func(core.Topic) bool) {
	n.told <- "Up"
	<-n.on
	n.Node.Up(part)
}

func toldSlowly(x *trial) {
	server := redistest.Start(x.T)
	n := &bystander{drivertest.NewNode(), make(chan string, 100), make(chan struct{}, 100)}
	link := openIn(x.T, at(x.T, server.Addr()), n)
	x.Cleanup(func() { close(n.on) }) // before the link is closed, which waits for it
	server.CLI("CLIENT", "KILL", "TYPE", "pubsub")
	for _, what := range []string{"Down", "Up"} {
		select {
		case told := <-n.told:
			if told != what {
				x.Errorf("told %s, want %s", told, what)
			}
		case <-time.After(recovery):
			x.Fatalf("not told %s", what)
		}
		called := make(chan error, 2)
		var calling sync.WaitGroup // ends with the answers
		calling.Go(func() { called <- x.publishes(link, room, "hello") })
		calling.Go(func() {
			_, err := link.Count(x.Context(), room)
			called <- err
		})
		late := time.After(2 * time.Second)
		for range 2 {
			select {
			case err := <-called:
				if err != nil {
					x.Errorf("while the node is being told %s: %v", what, err)
				}
			case <-late:
				x.Errorf("a call has to wait while the node is being told %s", what)
			}
		}
		n.on <- struct{}{}
		calling.Wait()
	}
	x.becomes(recovery, "it was told", func() bool { downs, ups := n.Outages(); return downs == 1 && ups == 1 })
}

func failsWithoutServer(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	link := openIn(x.T, at(x.T, server.Addr()), n)
	must(x.T, x.publishes(link, room, "hello"))
	server.Kill()
	for i := range 50 {
		if err := x.publishes(link, room, "nothing"); err == nil {
			x.Errorf("publication %d has succeeded", i)
		}
	}
	for i := range 5 {
		if err := x.joins(link, n, "anna", 200*time.Millisecond, room); err == nil {
			x.Errorf("Join %d has succeeded", i)
		}
	}
	must(x.T, errors.Join(n.Faults()...))
}

// pair runs two nodes, the first behind a proxy. Anna and bert are in the room on it.
func pair(x *trial) (server *redistest.Server, p *redistest.Proxy, nodes [2]*drivertest.Node, links [2]core.Link) {
	x.Helper()
	server = redistest.Start(x.T)
	p = redistest.NewProxy(x.T, server.Addr())
	for i, addr := range []string{p.Addr(), server.Addr()} {
		nodes[i] = drivertest.NewNode()
		links[i] = openIn(x.T, at(x.T, addr), nodes[i])
	}
	for _, id := range []string{"anna", "bert"} {
		must(x.T, x.joins(links[0], nodes[0], id, answered, room))
	}
	return server, p, nodes, links
}

// anew waits until both nodes have the registration of this number and no other one is there.
func (x *trial) anew(server *redistest.Server, nodes [2]*drivertest.Node, numbers [2]int) {
	x.Helper()
	var want []string
	for i, n := range nodes {
		want = append(want, fmt.Sprintf("%s.%d", n.ID(), numbers[i]))
	}
	slices.Sort(want)
	x.becomes(recovery, fmt.Sprintf("the registrations are %q", want), func() bool {
		return slices.Equal(slices.Sorted(maps.Keys(registrations(server))), want)
	})
}

func joinsAreNotRepeated(x *trial) {
	server, _, nodes, links := pair(x)
	server.CLI("FLUSHALL")
	x.anew(server, nodes, [2]int{2, 2})
	x.counts(links[1], 2)
	server.Restart()
	x.anew(server, nodes, [2]int{3, 3})
	x.counts(links[1], 2)
	must(x.T, x.publishes(links[1], room, "last"))
	x.becomes(recovery, "the last publication arrives", func() bool { return slices.Contains(nodes[0].Got(room), "last") })
	for i, n := range nodes {
		if changes := n.Changes(); len(changes) != 0 {
			x.Errorf("node %d was told %d changes, of %s for one, joined %v", i, len(changes), changes[0].Member.ClientID, changes[0].Joined)
		}
	}
}

func joinsAreToldAgain(x *trial) {
	server, p, nodes, links := pair(x)
	p.Stall() // so that it does not find out before the other one
	server.CLI("HSET", "ws:{0}:nodes", nodes[0].ID()+".1", "dead")
	changes := func(joined bool) (ids []string) {
		for _, c := range slices.Concat(nodes[0].Changes(), nodes[1].Changes()) {
			if c.Joined == joined && c.Topic == room {
				ids = append(ids, c.Member.ClientID)
			}
		}
		slices.Sort(ids)
		return ids
	}
	both := []string{"anna", "bert"}
	x.becomes(recovery, "both are told to have left", func() bool { return len(changes(false)) >= 2 })
	if joined := changes(true); len(joined) != 0 {
		x.Errorf("told to have joined: %q", joined)
	}
	p.Restore()
	x.becomes(recovery, "both are told to have joined", func() bool { return slices.Equal(changes(true), both) })
	x.counts(links[1], 2)
	x.beats(server.Client(), "ws:{0}:nodes", nodes[1].ID()+".1", 1)
	if left, joined := changes(false), changes(true); !slices.Equal(left, both) || !slices.Equal(joined, both) {
		x.Errorf("told to have left %q, to have joined %q, want each once", left, joined)
	}
}

// clusterLanes is how many there are.
const clusterLanes = 16

// inLane returns a topic of a lane, each time the same for a name.
func inLane(lane int, name string) core.Topic {
	for i := 0; ; i++ {
		t := topicOf(fmt.Sprint(name, " ", i))
		if int(crc32.ChecksumIEEE([]byte(t.App+":"+t.Channel))%clusterLanes) == lane {
			return t
		}
	}
}

func nodesOf(lane int) string { return fmt.Sprintf("ws:{%d}:nodes", lane) }

// clusterOf runs a cluster of three masters, and returns a driver for it.
func clusterOf(x *trial) (*redistest.Cluster, core.Driver) {
	x.Helper()
	c := redistest.StartCluster(x.T, 3, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	x.Cleanup(func() { _ = client.Close() })
	return c, newRedis(x.T, drivers.RedisOptions{Client: client})
}

// migration is one of a slot, of which no key has moved yet.
type migration struct {
	from, to           *redistest.Server
	slot, fromID, toID string
}

// migrates begins to move the slot of a key, to where the function move does.
func migrates(c *redistest.Cluster, key string) migration {
	m := migration{from: c.MasterOf(key), to: c.Servers()[0]}
	if m.to == m.from {
		m.to = c.Servers()[1]
	}
	m.slot, m.fromID, m.toID = m.from.CLI("CLUSTER", "KEYSLOT", key), m.from.CLI("CLUSTER", "MYID"), m.to.CLI("CLUSTER", "MYID")
	m.to.CLI("CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.fromID)
	m.from.CLI("CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.toID)
	return m
}

func (m migration) callOff() {
	m.from.CLI("CLUSTER", "SETSLOT", m.slot, "STABLE")
	m.to.CLI("CLUSTER", "SETSLOT", m.slot, "STABLE")
}

// refusals returns how often the server has said that some of the keys are not there.
func (m migration) refusals() (times int) {
	_, text, _ := strings.Cut(m.from.CLI("INFO", "errorstats"), "errorstat_TRYAGAIN:count=")
	_, _ = fmt.Sscan(text, &times)
	return times
}

// firstOnly fails the test unless the first registration of each node is all that is in a lane.
func (m migration) firstOnly(x *trial, lane int, nodes ...*drivertest.Node) {
	x.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, n.ID()+".1")
	}
	slices.Sort(want)
	now, err := m.from.Client().HKeys(x.Context(), nodesOf(lane)).Result()
	if slices.Sort(now); err != nil || !slices.Equal(now, want) {
		x.Errorf("the registrations are %q, %v, want %q", now, err, want)
	}
}

func joinsWhileItMoves(x *trial) {
	const lane, another = 3, 5
	c, driver := clusterOf(x)
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link := open(x.T, driver, n)
	open(x.T, driver, other)
	m := migrates(c, nodesOf(lane))
	if x.joins(link, n, "anna", time.Second, inLane(lane, "a")) == nil || m.refusals() == 0 {
		x.Error("the Join was not refused: nothing is tested")
	}
	must(x.T, x.joins(link, n, "anna", answered, inLane(another, "a")))
	x.beats(m.from.Client(), nodesOf(lane), n.ID()+".1", 2)
	m.callOff()
	must(x.T, x.joins(link, n, "anna", answered, inLane(lane, "a")))
	x.undisturbed(n, other)
	m.firstOnly(x, lane, n, other)

	m = migrates(c, nodesOf(lane))
	before := m.refusals()
	joined := make(chan error, 1)
	var joining sync.WaitGroup // ends with the answer
	joining.Go(func() { joined <- x.joins(link, n, "bert", answered, inLane(lane, "b")) })
	x.becomes(recovery, "the Join is refused", func() bool { return m.refusals() > before })
	move(x.T, c, nodesOf(lane))
	joining.Wait()
	must(x.T, <-joined)
}

func keepsJoiningWhileItMoves(x *trial) {
	const lane = 3
	c, driver := clusterOf(x)
	n, other := drivertest.NewNode(), drivertest.NewNode()
	link := open(x.T, driver, n)
	open(x.T, driver, other)
	m := migrates(c, nodesOf(lane))
	ended := make(chan struct{})
	var joining sync.WaitGroup // ends with ended
	for i := range 4 {
		joining.Go(func() {
			for j := 0; ; j++ {
				_ = x.joins(link, n, fmt.Sprint(i, " ", j), 3*time.Second, inLane(lane, fmt.Sprint(i, " ", j)))
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	x.becomes(recovery, "joins are refused", func() bool { return m.refusals() > 0 })
	before := m.refusals()
	x.beats(m.from.Client(), nodesOf(lane), n.ID()+".1", 3) // else the other node soon holds it for dead
	if m.refusals() < before+10 {
		x.Error("hardly anything was refused meanwhile: nothing is tested")
	}
	close(ended)
	m.callOff()
	joining.Wait()
	must(x.T, x.joins(link, n, "anna", answered, inLane(lane, "a")))
	x.undisturbed(n, other)
	m.firstOnly(x, lane, n, other)
}

// parted is a node that remembers what of it was down.
type parted struct {
	*drivertest.Node

	mu    sync.Mutex // guards parts
	parts []func(core.Topic) bool
}

func (n *parted) Down(err error, part func(core.Topic) bool) {
	n.mu.Lock()
	n.parts = append(n.parts, part)
	n.mu.Unlock()
	n.Node.Down(err, part)
}

// down returns how often each lane was.
func (n *parted) down() (lanes [clusterLanes]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for lane := range lanes {
		for _, part := range n.parts {
			if part == nil || part(inLane(lane, "old")) {
				lanes[lane]++
			}
		}
	}
	return lanes
}

func masterDies(x *trial) {
	c, driver := clusterOf(x)
	for _, s := range c.Servers() {
		s.CLI("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	n := &parted{Node: drivertest.NewNode()}
	link := open(x.T, driver, n)
	dying := c.Servers()[1]
	var lost [clusterLanes]int
	total := 0
	for lane := range clusterLanes {
		must(x.T, link.Subscribe(x.Context(), inLane(lane, "old")))
		if c.MasterOf(nodesOf(lane)) == dying {
			lost[lane] = 1
			total++
		}
	}
	if total == 0 || total == clusterLanes {
		x.Fatalf("%d lanes are lost: nothing is tested", total)
	}
	dying.Kill()
	x.becomes(recovery, "the lost lanes are down", func() bool { downs, _ := n.Outages(); return downs >= total })
	if down := n.down(); down != lost {
		x.Errorf("Down was told so often in each lane: %v, want %v", down, lost)
	}
	var calling sync.WaitGroup // ends with the answers
	for lane := range clusterLanes {
		for what, call := range map[string]func() error{
			"a publication": func() error { return x.publishes(link, inLane(lane, "old"), "hello") },
			"Join":          func() error { return x.joins(link, n.Node, "anna", time.Minute, inLane(lane, "old")) },
			"Subscribe":     func() error { return link.Subscribe(x.Context(), inLane(lane, "new")) },
			"Count": func() error {
				_, err := link.Count(x.Context(), inLane(lane, "old"))
				return err
			},
		} {
			if what == "Join" && lost[lane] == 1 { // whose limit is the driver's
				call = func() error {
					_, err := link.Join(x.Context(), n.Member("anna"), inLane(lane, "old"))
					return err
				}
			}
			calling.Go(func() {
				begin := time.Now()
				err := call()
				if took := time.Since(begin); (err != nil) != (lost[lane] == 1) || took > answered {
					x.Errorf("%s in lane %d, of which %d is lost: %v after %v", what, lane, lost[lane], err, took.Round(time.Millisecond))
				}
			})
		}
	}
	calling.Wait()
	for lane := range clusterLanes {
		if lost[lane] == 0 {
			x.becomes(recovery, "a publication in what is left", func() bool { return len(n.Got(inLane(lane, "old"))) == 1 })
		}
	}
	if down := n.down(); down != lost {
		x.Errorf("in the end Down was told so often in each lane: %v, want %v", down, lost)
	}
}
