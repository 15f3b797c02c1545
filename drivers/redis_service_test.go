package drivers_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// threeNodes runs three services on a driver.
func threeNodes(t *testing.T, driver core.Driver, opts ...core.Option) []*core.Service {
	t.Helper()
	opts = append([]core.Option{provider()}, opts...)
	return []*core.Service{coretest.RunOn(t, driver, opts...), coretest.RunOn(t, driver, opts...), coretest.RunOn(t, driver, opts...)}
}

// publisher makes a service that never runs.
func publisher(t *testing.T, driver core.Driver) *core.Service {
	t.Helper()
	s := core.New(driver)
	t.Cleanup(func() {
		if err := s.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

// onBoth runs a test on a single server and on a Cluster.
func onBoth(t *testing.T, test func(t *testing.T, options drivers.RedisOptions)) {
	t.Helper()
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		test(t, drivers.RedisOptions{Addr: redistest.Start(t).Addr()})
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.StartCluster(t, 3, 0).Addrs()})
		t.Cleanup(func() { _ = client.Close() })
		test(t, drivers.RedisOptions{Client: client})
	})
}

func TestRedisServicesTakeAVerbOnAnyNode(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		driver := newRedis(t, options)
		nodes := threeNodes(t, driver)
		anna, bert := in(t, nodes[0], "anna", "room"), in(t, nodes[1], "bert", "room")
		other := in(t, nodes[2], "anna", "room") // a second connection, elsewhere
		all := []*coretest.Conn{anna, bert, other}
		annaConn := ""
		must(t, nodes[1].Disconnect(t.Context(), "bert", 4000, "", core.ExceptConn(connOf(t, nodes[1], "room", "bert")))) // it stays
		members, err := nodes[2].Members(t.Context(), "room", 0)
		must(t, err)
		for _, m := range members {
			if m.ClientID == "anna" && m.Node == nodes[0].Stats().Node {
				annaConn = m.ConnID
			}
		}
		for i, s := range slices.Concat(nodes, []*core.Service{publisher(t, driver)}) {
			text := strconv.Itoa(i)
			expect := func(kind string, conns ...*coretest.Conn) {
				t.Helper()
				for _, c := range conns {
					if got := c.Expect(kind); got.Message.Message != text {
						t.Errorf("on node %d: %s", i, got.Raw)
					}
				}
			}
			must(t, s.Push([]string{"room"}, core.Message{Type: "news", Message: text}))
			expect("news", all...)
			must(t, s.Push([]string{"room"}, core.Message{Type: "others", Message: text}, core.ExceptConn(annaConn)))
			expect("others", bert, other)
			must(t, s.Broadcast(t.Context(), core.Message{Type: "all", Message: text}))
			expect("all", all...)
			must(t, s.Broadcast(t.Context(), core.Message{Type: "all others", Message: text}, core.ExceptConn(annaConn)))
			expect("all others", bert, other)
			must(t, s.Send(t.Context(), "anna", core.Message{Type: "letter", Message: text}))
			expect("letter", anna, other)
			must(t, s.Send(t.Context(), "bert", core.Message{Type: "letter", Message: text}))
			expect("letter", bert)
			for id, want := range map[string]bool{"anna": true, "bert": true, "carl": false} {
				if got, err := s.Online(t.Context(), id); got != want || err != nil {
					t.Errorf("on node %d: %s is online: %v, %v", i, id, got, err)
				}
			}
			if n, err := s.Count(t.Context(), "room"); n != 2 || err != nil {
				t.Errorf("on node %d: Count: %d, %v", i, n, err)
			}
			members, err := s.Members(t.Context(), "room", 0)
			if err != nil || len(members) != 3 {
				t.Errorf("on node %d: Members: %v, %v", i, members, err)
			}
			if two, err := s.Members(t.Context(), "room", 2); err != nil || len(two) != 2 {
				t.Errorf("on node %d: 2 members at most: %v, %v", i, two, err)
			}
			for what, err := range map[string]error{
				"Send":        s.Send(t.Context(), "carl", "letter"),
				"Disconnect":  s.Disconnect(t.Context(), "carl", 0, ""),
				"Subscribe":   s.Subscribe(t.Context(), "carl", "room"),
				"Unsubscribe": s.Unsubscribe(t.Context(), "carl", "room"),
			} {
				if !errors.Is(err, core.ErrOffline) {
					t.Errorf("on node %d: %s: got %v, want ErrOffline", i, what, err)
				}
			}
			guest := in(t, nodes[i%3], "guest")
			must(t, s.Disconnect(t.Context(), "guest", 4001, "enough"))
			if why := guest.Closed(); why.Code != 4001 || why.Reason != "enough" {
				t.Errorf("on node %d: %v", i, why)
			}
		}
		for _, c := range all {
			c.Nothing()
		}
	})
}

// A client that the server has excepted as a *core.Client, by its own node.
func TestRedisBroadcastLeavesOutAClient(t *testing.T) {
	t.Parallel()
	came := make(chan *core.Client, 1)
	p := provider()
	p.Event = func(name string, c *core.Client) error {
		if name == core.EventOnline && c.ClientID == "anna" {
			came <- c
		}
		return nil
	}
	driver := newRedis(t, drivers.RedisOptions{Addr: redistest.Start(t).Addr()})
	a, b := coretest.RunOn(t, driver, p), coretest.RunOn(t, driver, p)
	anna, bert := in(t, a, "anna"), in(t, b, "bert")
	client := <-came
	must(t, b.Broadcast(t.Context(), core.Message{Type: "gossip"}, core.Except(client)))
	must(t, b.Broadcast(t.Context(), core.Message{Type: "news"}))
	bert.Expect("gossip")
	bert.Expect("news")
	anna.Expect("news")
}

func TestRedisSubscriptionByAnotherNodeIsInForceWhenItReturns(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		driver := newRedis(t, options)
		nodes := threeNodes(t, driver)
		anna := in(t, nodes[0], "anna")
		callers := slices.Concat(nodes, []*core.Service{publisher(t, driver)})
		for i := range 100 {
			name := "room " + strconv.Itoa(i)
			must(t, callers[i%4].Subscribe(t.Context(), "anna", name))
			must(t, callers[(i/4+i)%4].Push([]string{name}, core.Message{Type: "news"}))
			if got := anna.Expect("news"); got.Channel != name {
				t.Fatal(got.Raw)
			}
			must(t, callers[(i+1)%4].Unsubscribe(t.Context(), "anna", name))
			must(t, callers[i%4].Push([]string{name}, core.Message{Type: "late"}))
			if got := anna.Expect("unsubscribed"); got.Channel != name {
				t.Fatal(got.Raw)
			}
		}
		anna.Nothing()
	})
}

func TestRedisErrorOfAnotherNodeKeepsItsMeaning(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		driver := newRedis(t, options)
		strict := coretest.RunOn(t, driver, provider(), core.WithMaxChannels(1), core.WithChannelBytes(8))
		anna := in(t, strict, "anna")
		for i, s := range []*core.Service{strict, coretest.RunOn(t, driver, provider()), publisher(t, driver)} {
			must(t, s.Subscribe(t.Context(), "anna", "one"))
			err := s.Subscribe(t.Context(), "anna", "two")
			if !errors.Is(err, core.ErrTooManyChannels) || errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), "WithMaxChannels") {
				t.Errorf("caller %d: got %v, want ErrTooManyChannels", i, err)
			}
			err = s.Subscribe(t.Context(), "anna", "much too long")
			if !errors.Is(err, core.ErrChannelName) || errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), "8 at most") {
				t.Errorf("caller %d: got %v, want ErrChannelName", i, err)
			}
			if err = s.Subscribe(t.Context(), "anna", ""); !errors.Is(err, core.ErrChannelName) {
				t.Errorf("caller %d: got %v, want ErrChannelName", i, err)
			}
			must(t, s.Unsubscribe(t.Context(), "anna", "one"))
			anna.Expect("unsubscribed")
		}
	})
}

func TestRedisJoinAndLeaveAreToldOnceOnEveryNode(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		nodes := threeNodes(t, newRedis(t, options), core.WithChannel("room", core.Rules{Presence: core.PresenceEvents}))
		var watchers []*coretest.Conn
		for i, s := range nodes {
			watchers = append(watchers, in(t, s, "watcher "+strconv.Itoa(i), "room"))
			for _, before := range watchers[:i] {
				before.Expect("join")
			}
		}
		told := func(kind string) {
			t.Helper()
			for i, w := range watchers {
				if got := w.Expect(kind); got.ClientID != "anna" || got.Channel != "room" {
					t.Errorf("watcher %d: %s", i, got.Raw)
				}
			}
		}
		// What was published before has arrived when this has.
		nothing := func() {
			t.Helper()
			must(t, nodes[1].Push([]string{"room"}, core.Message{Type: "now"}))
			for _, w := range watchers {
				w.Expect("now")
				w.Nothing()
			}
		}
		count := func(want int) {
			t.Helper()
			for _, s := range nodes {
				if n, err := s.Count(t.Context(), "room"); n != want || err != nil {
					t.Errorf("Count: %d, %v, want %d", n, err, want)
				}
			}
		}
		one := in(t, nodes[0], "anna", "room")
		told("join")
		count(4)
		two := in(t, nodes[1], "anna", "room") // AllowMany: the second connection of one client
		nothing()
		count(4)
		one.Expect("now")
		one.Close(1000, "")
		nothing()
		count(4)
		two.Do(core.Message{Type: "unsubscribe", Channel: "room"})
		told("leave")
		count(3)
		two.Do(core.Message{Type: "subscribe", Channel: "room"})
		told("join")
		two.Cut()
		told("leave")
		nothing()
		count(3)
	})
}

func TestRedisSessionsAreReplacedAcrossNodes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		nodes := threeNodes(t, newRedis(t, options), core.WithSessions(core.ReplaceOld))
		bert := in(t, nodes[0], "bert")
		last := in(t, nodes[0], "anna", "room")
		for i := range 9 {
			next := in(t, nodes[i*2%3], "anna", "room")
			if why := last.Closed(); why.Code != core.CloseReplaced {
				t.Errorf("the older connection: %v", why)
			}
			last = next
		}
		must(t, nodes[1].Send(t.Context(), "anna", core.Message{Type: "letter"}))
		last.Expect("letter")
		comesTrue(t, "one connection is in the room", func() bool {
			members, err := nodes[2].Members(t.Context(), "room", 0)
			return err == nil && len(members) == 1
		})
		bert.Nothing()
	})
}

func TestRedisSecondSessionIsRejectedOnAnyNode(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		nodes := threeNodes(t, newRedis(t, options), core.WithSessions(core.RejectNew), core.WithLogger(nil))
		for i, s := range nodes {
			first := in(t, s, "anna")
			for _, other := range nodes {
				second := coretest.Connect(t, other, map[string]any{"client_id": "anna"})
				if why := second.Closed(); why.Code != core.CloseTooMany {
					t.Errorf("beside the one on node %d: %v", i, why)
				}
			}
			first.Nothing()
			first.Close(1000, "")
			comesTrue(t, "anna may come again", func() bool {
				online, err := s.Online(t.Context(), "anna")
				return !online && err == nil
			})
		}
	})
}

// Two prefixes on one server, and two DBs with one prefix, are worlds of their own.
func TestRedisOfManyConnectionsOfOneClientAsManyStayAsMay(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		nodes := threeNodes(t, newRedis(t, options), core.WithMaxConnectionsPerClient(3), core.WithLogger(nil))
		conns := make([]*coretest.Conn, 12)
		var coming sync.WaitGroup
		for i := range conns {
			conns[i] = coretest.Connect(t, nodes[i%len(nodes)], map[string]any{"client_id": "anna"})
			coming.Go(func() { conns[i].SendText(`{"type":"ping"}`) })
		}
		coming.Wait()
		comesTrue(t, "three are left", func() bool {
			stats := 0
			for _, s := range nodes {
				stats += s.Stats().Connections
			}
			return stats == 3
		})
		if err := nodes[0].Disconnect(t.Context(), "anna", 4000, "that is all"); err != nil {
			t.Fatal(err)
		}
		codes := map[int]int{}
		for _, c := range conns {
			codes[c.Closed().Code]++
		}
		if codes[core.CloseTooMany] != 9 || codes[4000] != 3 {
			t.Error(codes)
		}
	})
}

func TestRedisPrefixesAndDBsNeverMeet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	addr := server.Addr()
	for name, options := range map[string][2]drivers.RedisOptions{
		"prefixes":            {{Addr: addr, Prefix: "a"}, {Addr: addr, Prefix: "b"}},
		"prefix of a channel": {{Addr: addr, Prefix: "c"}, {Addr: addr, Prefix: "c:pub"}},
		"prefix of a key":     {{Addr: addr, Prefix: "d"}, {Addr: addr, Prefix: "d:0:client"}},
		"glob":                {{Addr: addr, Prefix: "e"}, {Addr: addr, Prefix: "*"}},
		"DBs":                 {{Addr: addr, Prefix: "f"}, {Addr: addr, Prefix: "f", DB: 1}},
		"two other DBs":       {{Addr: addr, Prefix: "g", DB: 2}, {Addr: addr, Prefix: "g", DB: 12}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			neverMeet(t, newRedis(t, options[0]), newRedis(t, options[1]))
		})
	}
}

func TestRedisPrefixesNeverMeetOnACluster(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.StartCluster(t, 3, 0).Addrs()})
	t.Cleanup(func() { _ = client.Close() })
	neverMeet(t, newRedis(t, drivers.RedisOptions{Client: client, Prefix: "a"}),
		newRedis(t, drivers.RedisOptions{Client: client, Prefix: "a:pub"}))
}

func neverMeet(t *testing.T, ours, theirs core.Driver) {
	t.Helper()
	events := core.WithChannel("room", core.Rules{Presence: core.PresenceEvents})
	a, b := coretest.RunOn(t, ours, provider(), events), coretest.RunOn(t, theirs, provider(), events)
	anna, other := in(t, a, "anna", "room"), in(t, b, "anna", "room")
	in(t, a, "bert", "room")
	anna.Expect("join")
	must(t, a.Push([]string{"room"}, core.Message{Type: "push"}))
	must(t, a.Broadcast(t.Context(), core.Message{Type: "broadcast"}))
	must(t, a.Send(t.Context(), "anna", core.Message{Type: "send"}))
	must(t, a.Subscribe(t.Context(), "anna", "hall"))
	// What comes from here has been published behind all that.
	for _, channel := range []string{"room", ""} {
		if must(t, b.Broadcast(t.Context(), core.Message{Type: "own"})); channel != "" {
			must(t, b.Push([]string{channel}, core.Message{Type: "own"}))
		}
	}
	must(t, b.Send(t.Context(), "anna", core.Message{Type: "own"}))
	for range 4 {
		other.Expect("own")
	}
	other.Nothing()
	for what, err := range map[string]error{
		"Send":       b.Send(t.Context(), "bert", "letter"),
		"Disconnect": b.Disconnect(t.Context(), "bert", 0, ""),
		"Subscribe":  b.Subscribe(t.Context(), "bert", "room"),
	} {
		if !errors.Is(err, core.ErrOffline) {
			t.Errorf("%s: got %v, want ErrOffline", what, err)
		}
	}
	members, err := b.Members(t.Context(), "room", 0)
	if err != nil || len(members) != 1 || members[0].Node != b.Stats().Node {
		t.Errorf("Members: %v, %v", members, err)
	}
	for channel, want := range map[string]int{"room": 1, "hall": 0} {
		if n, err := b.Count(t.Context(), channel); n != want || err != nil {
			t.Errorf("Count of %s: %d, %v, want %d", channel, n, err, want)
		}
	}
	must(t, a.Disconnect(t.Context(), "anna", 0, ""))
	if why := anna.Closed(); why.Code != core.CloseKicked {
		t.Errorf("anna: %v", why)
	}
	other.Nothing()

	// A command for all nodes, which no service gives.
	here, there := drivertest.NewNode(), drivertest.NewNode()
	mine, yours := open(t, ours, here), open(t, theirs, there)
	must(t, mine.Command(t.Context(), "", core.Command{Action: core.ActionClose, ClientID: "carl"}))
	must(t, yours.Command(t.Context(), "", core.Command{Action: core.ActionClose, ClientID: "dora"}))
	comesTrue(t, "a command arrives", func() bool { return len(there.Commands()) > 0 && len(here.Commands()) > 0 })
	for node, id := range map[*drivertest.Node]string{here: "carl", there: "dora"} {
		if got := node.Commands(); len(got) != 1 || got[0].ClientID != id {
			t.Errorf("commands: %v, want that about %s", got, id)
		}
	}
}

func TestRedisNamesBeginWithThePrefix(t *testing.T) {
	t.Parallel()
	busy := func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		driver := newRedis(t, options)
		nodes := threeNodes(t, driver)
		must(t, nodes[0].RegisterProvider("shop", provider()))
		for i := range 20 {
			in(t, nodes[0], "anna "+strconv.Itoa(i), "room "+strconv.Itoa(i))
		}
		coretest.Connect(t, nodes[0], map[string]any{"client_id": "bert", "app": "shop"}).Do(core.Message{Type: "subscribe", Channel: "room"})
		must(t, publisher(t, driver).Subscribe(t.Context(), "anna 1", "hall"))
	}
	names := func(t *testing.T, want string, least int, server *redistest.Server, args ...string) {
		t.Helper()
		got := strings.Fields(strings.ReplaceAll(server.CLI(args...), " ", "_"))
		if len(got) < least {
			t.Errorf("%v: only %q", args, got)
		}
		for _, name := range got {
			if !strings.HasPrefix(name, want) {
				t.Errorf("%v: %q does not begin with %q", args, name, want)
			}
		}
	}
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		busy(t, drivers.RedisOptions{Addr: server.Addr(), Prefix: "of:mine"})
		names(t, "of:mine:{0}:", 50, server, "KEYS", "*")
		names(t, "of:mine:{0}:", 27, server, "PUBSUB", "CHANNELS")
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartCluster(t, 3, 0)
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
		t.Cleanup(func() { _ = client.Close() })
		busy(t, drivers.RedisOptions{Client: client, Prefix: "of:mine"})
		for _, server := range c.Servers() {
			names(t, "of:mine:{", 1, server, "KEYS", "*")
			names(t, "of:mine:{", 1, server, "PUBSUB", "SHARDCHANNELS")
			if got := server.CLI("PUBSUB", "CHANNELS"); got != "" {
				t.Errorf("%q are not sharded", got)
			}
		}
	})
}

func TestRedisPublisherIsNoNode(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr()})
	node := coretest.RunOn(t, driver, provider())
	anna := in(t, node, "anna", "room")
	registrations := func() []string {
		fields := strings.Fields(server.CLI("HGETALL", "ws:{0}:nodes"))
		var regs []string
		for i := 0; i < len(fields); i += 2 {
			regs = append(regs, fields[i])
		}
		return regs
	}
	var held holder
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), ClientName: "worker", Dialer: held.dial})
	t.Cleanup(func() { _ = client.Close() })
	connections := func() int { return strings.Count(server.CLI("CLIENT", "LIST"), " name=worker ") }
	regs, channels := registrations(), server.CLI("PUBSUB", "CHANNELS")
	same := func(when string) {
		t.Helper()
		if got := registrations(); !slices.Equal(got, regs) || len(got) != 1 {
			t.Errorf("%s: nodes are %q, were %q", when, got, regs)
		}
		if got := server.CLI("PUBSUB", "CHANNELS"); len(got) != len(channels) {
			t.Errorf("%s: channels are %q, were %q", when, got, channels)
		}
	}
	worker := core.New(newRedis(t, drivers.RedisOptions{Client: client}))
	same("New")
	comesTrue(t, "it has no connections before it needs them", func() bool { return connections() == 0 }) // NewRedisDriver had
	must(t, worker.Push([]string{"room"}, core.Message{Type: "push"}))
	anna.Expect("push")
	must(t, worker.Send(t.Context(), "anna", core.Message{Type: "send"}))
	anna.Expect("send")
	must(t, worker.Broadcast(t.Context(), core.Message{Type: "broadcast"}))
	anna.Expect("broadcast")
	if n, err := worker.Count(t.Context(), "room"); n != 1 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	same("what needs no answer")

	must(t, worker.Subscribe(t.Context(), "anna", "hall"))
	got := strings.Fields(server.CLI("PUBSUB", "CHANNELS"))
	if own := slices.DeleteFunc(got, func(name string) bool { return strings.Contains(channels+"\nws:{0}:pub::hall", name) }); len(own) != 1 ||
		!strings.HasPrefix(own[0], "ws:{0}:node:") {
		t.Errorf("to hear the answer it has subscribed to %q", own)
	}
	if connections() < 2 {
		t.Errorf("%d connections bear its name", connections())
	}
	must(t, worker.Shutdown(t.Context()))
	must(t, node.Unsubscribe(t.Context(), "anna", "hall"))
	comesTrue(t, "the node has left the hall", func() bool { return server.CLI("PUBSUB", "NUMSUB", "ws:{0}:pub::hall") == "ws:{0}:pub::hall\n0" })
	same("Shutdown")
	comesTrue(t, "its connections are closed", func() bool { return connections() == 0 })
	runtime.KeepAlive(&held)
}

func TestRedisMessagesOfOtherPrograms(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr()})
	a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider())
	apps := []string{"", "shop", "a:b", "100%", "%3A", "a%3Ab"}
	conns := map[string]*coretest.Conn{}
	for _, app := range apps {
		for i, s := range []*core.Service{a, b} {
			must(t, s.RegisterProvider(app, provider()))
			c := coretest.Connect(t, s, map[string]any{"client_id": "anna " + strconv.Itoa(i), "app": app})
			c.Do(core.Message{Type: "subscribe", Channel: "news"})
			conns[fmt.Sprint(app, " on ", i)] = c
		}
	}
	// As docs tell other programs to write an app's name.
	escaped := strings.NewReplacer("%", "%25", ":", "%3A")
	for i, app := range apps {
		text := fmt.Sprintf(`{"type":"message",  "channel":"news","data":{"hello":"w\u00f6rld","n":12345678901234567890,"i":%d}}`, i)
		if n := server.CLI("PUBLISH", "ws:{0}:pub:"+escaped.Replace(app)+":news", text); n != "2" {
			t.Errorf("app %q: %s nodes have received it, want 2", app, n)
		}
		everybody := `{"type":"alarm"}`
		if n := server.CLI("PUBLISH", "ws:{0}:pub:"+escaped.Replace(app)+":", everybody); n != "2" {
			t.Errorf("app %q, everybody: %s nodes have received it, want 2", app, n)
		}
		for node := range 2 {
			c := conns[fmt.Sprint(app, " on ", node)]
			if got := c.Expect("message"); got.Raw != text {
				t.Errorf("app %q: got %s, want %s", app, got.Raw, text)
			}
			if got := c.Expect("alarm"); got.Raw != everybody {
				t.Errorf("app %q: got %s, want %s", app, got.Raw, everybody)
			}
		}
	}
	for _, c := range conns {
		c.Nothing()
	}
	if n := a.Stats().Faults + b.Stats().Faults; n != 0 {
		t.Errorf("%d faults", n)
	}
}

// The lane is that of crc32("app:channel"), and the program needs nothing of go-ws.
func TestRedisMessagesOfOtherProgramsOnACluster(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.StartCluster(t, 3, 0).Addrs()})
	t.Cleanup(func() { _ = client.Close() })
	driver := newRedis(t, drivers.RedisOptions{Client: client})
	a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider())
	lanes := map[uint32]bool{}
	for _, app := range []string{"", "shop", "a:b"} {
		var conns []*coretest.Conn
		for i, s := range []*core.Service{a, b} {
			must(t, s.RegisterProvider(app, provider()))
			conns = append(conns, coretest.Connect(t, s, map[string]any{"client_id": "anna " + strconv.Itoa(i), "app": app}))
		}
		for _, name := range []string{"news", "*?[]{}", "Größe", "room 1", "room 2", "room 3", "room 4", ""} {
			if name != "" {
				for _, c := range conns {
					c.Do(core.Message{Type: "subscribe", Channel: name})
				}
			} else {
				for _, c := range conns {
					c.Do(core.Message{Type: "ping"}) // it is there
				}
			}
			text := strings.ReplaceAll(app, ":", "%3A") + ":" + name
			lane := crc32.ChecksumIEEE([]byte(text)) % 16
			lanes[lane] = true
			message := fmt.Sprintf(`{"type":"message","channel":%q}`, name)
			if n, err := client.SPublish(t.Context(), fmt.Sprintf("ws:{%d}:pub:%s", lane, text), message).Result(); n != 2 || err != nil {
				t.Errorf("%q: %d nodes have received it, want 2: %v", text, n, err)
			}
			for _, c := range conns {
				if got := c.Expect("message"); got.Raw != message {
					t.Errorf("%q: got %s, want %s", text, got.Raw, message)
				}
			}
		}
	}
	if len(lanes) < 8 {
		t.Errorf("only the lanes %v were tried", slices.Collect(maps.Keys(lanes)))
	}
}

// commandsOf returns how often a server has carried out each command since CONFIG RESETSTAT, those inside of scripts
// included.
func commandsOf(t *testing.T, server *redistest.Server) (calls map[string]int, total int) {
	t.Helper()
	calls = map[string]int{}
	for line := range strings.Lines(server.CLI("INFO", "commandstats")) {
		rest, ok := strings.CutPrefix(line, "cmdstat_")
		name, stats, _ := strings.Cut(rest, ":calls=")
		count, _, _ := strings.Cut(stats, ",")
		n, err := strconv.Atoi(count)
		if !ok || err != nil || name == "info" || strings.HasPrefix(name, "config") {
			continue
		}
		calls[name] = n
		total += n
	}
	return calls, total
}

func TestRedisSteadyStateIsQuiet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	service := coretest.RunOn(t, newRedis(t, drivers.RedisOptions{Addr: server.Addr()}), provider())
	var connecting sync.WaitGroup
	for i := range 200 {
		connecting.Go(func() { in(t, service, "client "+strconv.Itoa(i), "room") })
	}
	connecting.Wait()
	if n, err := service.Count(t.Context(), "room"); n != 200 || err != nil {
		t.Fatalf("Count: %d, %v", n, err)
	}
	server.CLI("CONFIG", "RESETSTAT")
	const idle = 9 * time.Second
	<-time.After(idle)
	calls, total := commandsOf(t, server)
	// Nothing outside of a script bears the names of what the scripts do.
	sent := calls["evalsha"] + calls["ping"] + calls["hello"] + calls["client|setinfo"] + calls["eval"] + calls["script|load"]
	t.Logf("in %v: %d commands sent, %d with those inside of scripts: %v", idle, sent, total, calls)
	if limit := int(2 * idle.Seconds()); total > limit || calls["evalsha"] < 2 || calls["evalsha"] > 3 {
		t.Errorf("%d commands in %v, want %d at most; %d beats, want 2 or 3", total, idle, limit, calls["evalsha"])
	}
}

// The cost of what every visitor does, without that of others.
func TestRedisRoundTripsOfOneClient(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	service := coretest.RunOn(t, newRedis(t, drivers.RedisOptions{Addr: server.Addr()}), provider())
	in(t, service, "other", "hall").Do(core.Message{Type: "unsubscribe", Channel: "hall"}) // all scripts are known
	in(t, service, "third").Close(1000, "")
	comesTrue(t, "the third is gone", func() bool {
		online, err := service.Online(t.Context(), "third")
		return !online && err == nil
	})
	comesTrue(t, "the hall is empty", func() bool { return !strings.Contains(server.CLI("PUBSUB", "CHANNELS"), "hall") })
	var anna *coretest.Conn
	for _, step := range []struct {
		name string
		do   func()
		sent map[string]int
	}{
		{"connect", func() { anna = in(t, service, "anna") }, map[string]int{"evalsha": 1}},
		{"subscribe", func() { anna.Do(core.Message{Type: "subscribe", Channel: "room"}) }, map[string]int{"evalsha": 1, "subscribe": 1}},
		{"unsubscribe", func() { anna.Do(core.Message{Type: "unsubscribe", Channel: "room"}) }, map[string]int{"evalsha": 1}},
		{"a while later", func() {
			comesTrue(t, "the room is left", func() bool { return !strings.Contains(server.CLI("PUBSUB", "CHANNELS"), "room") })
		}, map[string]int{"unsubscribe": 1}},
		{"disconnect", func() {
			anna.Close(1000, "")
			comesTrue(t, "anna is gone", func() bool { return server.CLI("EXISTS", "ws:{0}:client::anna") == "0" })
		}, map[string]int{"evalsha": 1}},
	} {
		server.CLI("CONFIG", "RESETSTAT")
		step.do()
		calls, total := commandsOf(t, server)
		t.Logf("%s: %d with those inside of scripts: %v", step.name, total, calls)
		beats := calls["publish"] // nobody else publishes
		calls["evalsha"] -= beats
		for _, name := range []string{"evalsha", "eval", "subscribe", "unsubscribe", "script|load", "hgetall"} {
			want := step.sent[name]
			if name == "hgetall" {
				want = beats
			}
			if calls[name] != want {
				t.Errorf("%s: %d %s, want %d", step.name, calls[name], name, want)
			}
		}
	}
}
