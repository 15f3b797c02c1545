package drivers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/leaktest"
	"github.com/duxweb/go-ws/internal/redistest"
)

func TestAfterAnOutageOfRedisEverythingIsAsBefore(t *testing.T) {
	t.Parallel()
	breaks := map[string]func(*trial, *redistest.Server){
		"killed and restarted empty": func(x *trial, s *redistest.Server) {
			s.Kill()
			x.goesOn(2 * time.Second)
			s.Restart()
		},
		"paused for 10 s": func(x *trial, s *redistest.Server) {
			s.Pause()
			x.goesOn(10 * time.Second)
			s.Resume()
		},
		"paused for 20 s": func(x *trial, s *redistest.Server) {
			s.Pause()
			x.goesOn(20 * time.Second)
			s.Resume()
		},
		"flushed":                  func(_ *trial, s *redistest.Server) { s.CLI("FLUSHALL") },
		"the subscriptions killed": func(_ *trial, s *redistest.Server) { s.CLI("CLIENT", "KILL", "TYPE", "pubsub") },
		"all connections killed":   func(_ *trial, s *redistest.Server) { killAll(s) },
	}
	scenarios := map[string]func(x *trial){
		"dead, which Health and all calls say": func(x *trial) {
			aways(x, (*redistest.Server).Kill, (*redistest.Server).Restart)
		},
		"paused, which Health and all calls say": func(x *trial) {
			aways(x, (*redistest.Server).Pause, (*redistest.Server).Resume)
		},
	}
	scenarios["dead, while nobody joins or registers"] = joinsNobody
	for name, cause := range breaks {
		scenarios[name] = func(x *trial) {
			server := redistest.Start(x.T)
			nodes := []*local{run(x.T, at(x.T, server.Addr())), run(x.T, at(x.T, server.Addr()))}
			crowd(x, nodes...)
			x.begins()
			x.outage(func() { cause(x, server) }, nodes...)
		}
	}
	together(t, scenarios)
}

// goesOn lets an outage last, in which nothing may succeed.
func (x *trial) goesOn(d time.Duration) {
	x.away.Store(true)
	passing(d)
	x.away.Store(false)
}

func killAll(s *redistest.Server) {
	for _, kind := range []string{"pubsub", "normal"} {
		s.CLI("CLIENT", "KILL", "TYPE", kind)
	}
}

// at returns a driver for the server at an address.
func at(t testing.TB, addr string) core.Driver {
	t.Helper()
	return newRedis(t, drivers.RedisOptions{Addr: addr})
}

func aways(x *trial, goes, comes func(*redistest.Server)) {
	server := redistest.Start(x.T)
	n := run(x.T, at(x.T, server.Addr()))
	c, bert := n.in("anna", "one"), n.in("bert")
	x.sites = []site{n}
	x.begins()
	mark := x.mark()
	goes(server)
	begin := time.Now()
	var joining sync.WaitGroup
	joining.Go(func() { // ends with the answer
		// The node is in the channel already, so that it is the Join which fails.
		asked := time.Now()
		err := bert.subscribes("one")
		took := time.Since(asked)
		x.Logf("subscribe to a channel with subscribers: %v after %v", err, took.Round(time.Millisecond))
		if err == nil || took > answered {
			x.Errorf("subscribe to a channel with subscribers: %v after %v, want 503", err, took)
		}
	})
	defer joining.Wait()
	if !within(recovery, func() bool { return n.health() != nil }) {
		x.Fatal("Health says nothing")
	}
	x.Logf("noticed after %v: %v", time.Since(begin).Round(time.Millisecond), n.health())
	if text := n.health().Error(); !strings.Contains(text, server.Addr()) {
		x.Errorf("Health does not say who is away: %s", text)
	}
	begin = time.Now()
	if err := n.push("one", "hello"); !errors.Is(err, core.ErrUnavailable) || time.Since(begin) > answered {
		x.Errorf("Push: %v after %v, want ErrUnavailable", err, time.Since(begin))
	}
	begin = time.Now()
	if err := c.subscribes("two"); err == nil || !strings.Contains(err.Error(), "503") || time.Since(begin) > answered {
		x.Errorf("subscribe: %v after %v, want 503", err, time.Since(begin))
	}
	if _, err := n.look(Question{Channels: []string{"one"}}); !errors.Is(err, core.ErrUnavailable) {
		x.Errorf("Count: %v, want ErrUnavailable", err)
	}
	comes(server)
	x.settles(time.Now(), recovery, x.healthy, x.gap(mark))
}

func joinsNobody(x *trial) {
	server := redistest.Start(x.T)
	n := drivertest.NewNode()
	link, err := at(x.T, server.Addr()).Open(x.Context(), n)
	must(x.T, err)
	x.Cleanup(func() {
		if err := link.Close(context.Background()); err != nil {
			x.Error(err)
		}
	})
	topic := core.Topic{Channel: "one"}
	must(x.T, link.Subscribe(x.Context(), topic))
	server.Kill()
	if !within(recovery, func() bool { downs, _ := n.Outages(); return downs == 1 }) {
		x.Error("the node is not told")
	}
	for i := range 3 {
		m := core.Member{ClientID: "anna", ConnID: fmt.Sprint("conn ", i), Node: n.ID()}
		ctx, cancel := context.WithTimeout(x.Context(), time.Second)
		if _, err := link.Join(ctx, m, topic); err == nil {
			x.Error("Join succeeds")
		}
		cancel()
		ctx, cancel = context.WithTimeout(x.Context(), time.Second)
		if err := link.Register(ctx, "", m, func(uint64) { x.Error("there is a number") }); err == nil {
			x.Error("Register succeeds")
		}
		cancel()
	}
	if _, ups := n.Outages(); ups != 0 {
		x.Error("the node is told that all is well")
	}
	server.Restart()
	if !within(recovery, func() bool { _, ups := n.Outages(); return ups == 1 }) {
		x.Error("the node is not told that all is well again")
	}
	if count, err := link.Count(x.Context(), topic); count != 0 || err != nil {
		x.Errorf("Count: %d, %v", count, err)
	}
}

func TestNodesAreMissedOnlyWhileTheyAreDead(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"one that stops is missed until it wakes":            sleeps,
		"the clients of one that was killed leave once":      dies,
		"one whose link is slow works":                       slow,
		"nothing arrives twice from one that misses replies": lossy,
		"one whose link was cut is not missed": func(x *trial) {
			linkFails(x, func(p *redistest.Proxy) {
				p.Cut()
				passing(3 * time.Second)
				p.Restore()
			})
		},
		"one whose link hangs for 8 s is not missed": func(x *trial) {
			linkFails(x, func(p *redistest.Proxy) {
				p.Stall()
				passing(8 * time.Second)
				p.Restore()
			})
		},
		"one whose subscription is open and silent makes another": func(x *trial) {
			linkFails(x, (*redistest.Proxy).StallSubscriptions)
		},
		"one whose connections are all open and silent makes others": func(x *trial) {
			linkFails(x, (*redistest.Proxy).StallConnections)
		},
	})
}

func sleeps(x *trial) {
	server := redistest.Start(x.T)
	nodes := []*local{run(x.T, at(x.T, server.Addr())), run(x.T, at(x.T, server.Addr()))}
	other := startElsewhere(x.T, server.Addr())
	crowd(x, nodes...)
	must(x.T, other.in("sleeper", "one", "two"))
	must(x.T, other.in("both 0", "two")) // who is in the channel on another node too
	x.sites = append(x.sites, other)
	x.begins()

	mark := x.mark()
	other.Pause()
	stopped := time.Now()
	x.sites, x.gone = x.sites[:2], []string{"sleeper"}
	x.settles(stopped, mourning, x.left(mark, "sleeper"))
	x.onlyOnce(mark, "leave", "sleeper")
	passing(time.Until(stopped.Add(20 * time.Second)))

	mark = x.mark()
	other.Resume()
	x.sites, x.gone = append(x.sites, other), nil
	x.settles(time.Now(), recovery, x.healthy, func() error {
		return x.told(nodes, mark, "join", "sleeper")
	})
	x.sites = x.sites[:2] // the other has slept through that leave
	x.never("leave", mark)
}

// left returns a condition: everybody in a channel was told that the client has left it.
func (x *trial) left(mark marks, clients ...string) func() error {
	return func() error {
		people, err := x.everybody()
		if err != nil {
			return err
		}
		for _, p := range people {
			for _, channel := range p.Channels {
				for _, c := range clients {
					if number(mark.since(p), "leave", channel, c) == 0 {
						return fmt.Errorf("%s on %s was not told that %s left %q", p.ID, p.Node, c, channel)
					}
				}
			}
		}
		return nil
	}
}

func (x *trial) told(nodes []*local, mark marks, kind, client string) error {
	for _, n := range nodes {
		people, _ := n.people()
		for _, p := range people {
			for _, channel := range p.Channels {
				if number(mark.since(p), kind, channel, client) == 0 {
					return fmt.Errorf("%s on %s was not told of a %s of %s in %q", p.ID, p.Node, kind, client, channel)
				}
			}
		}
	}
	return nil
}

// onlyOnce fails the test when somebody was told more than once since mark, or of somebody else.
func (x *trial) onlyOnce(mark marks, kind string, clients ...string) {
	x.Helper()
	people, err := x.everybody()
	must(x.T, err)
	for _, p := range people {
		seen := map[Told]bool{}
		for _, m := range mark.since(p) {
			if m.Type != kind {
				continue
			}
			known := false
			for _, c := range clients {
				known = known || m.Client == c
			}
			if !known || seen[m] {
				x.Errorf("%s on %s was told too much: %+v", p.ID, p.Node, m)
			}
			seen[m] = true
		}
	}
}

func dies(x *trial) {
	server := redistest.Start(x.T)
	nodes := []*local{run(x.T, at(x.T, server.Addr())), run(x.T, at(x.T, server.Addr()))}
	other := startElsewhere(x.T, server.Addr())
	crowd(x, nodes...)
	var lost []string
	for i := range 10 {
		lost = append(lost, fmt.Sprint("lost ", i))
		must(x.T, other.in(lost[i], "one", "two"))
	}
	must(x.T, other.in("everywhere", "one"))
	must(x.T, other.in("both 0", "one", "two"))
	x.sites = append(x.sites, other)
	x.begins()

	mark := x.mark()
	other.Kill()
	killed := time.Now()
	x.sites, x.gone = x.sites[:2], lost
	x.settles(killed, mourning, x.left(mark, lost...), func() error {
		if r := registrations(server); len(r) != 2 {
			return fmt.Errorf("registrations: %v", r)
		}
		return nil
	})
	must(x.T, x.flows()) // behind everything that either of the nodes has told
	x.onlyOnce(mark, "leave", lost...)
	x.never("gap", mark)
	x.never("join", mark)
	for _, kind := range []string{"conns:", "topics:", "members:"} {
		for key := range strings.Lines(server.CLI("KEYS", "ws:{0}:"+kind+"*")) {
			if !strings.Contains(key, nodes[0].service.Stats().Node) && !strings.Contains(key, nodes[1].service.Stats().Node) {
				x.Errorf("left behind: %s", key)
			}
		}
	}
}

// behindProxy runs two nodes, the first of them behind a proxy.
func behindProxy(t *testing.T, opts ...core.Option) (p *redistest.Proxy, nodes []*local) {
	t.Helper()
	s := redistest.Start(t)
	p = redistest.NewProxy(t, s.Addr())
	return p, []*local{run(t, at(t, p.Addr()), opts...), run(t, at(t, s.Addr()), opts...)}
}

func linkFails(x *trial, breaks func(*redistest.Proxy)) {
	p, nodes := behindProxy(x.T)
	crowd(x, nodes...)
	x.begins()
	all := x.mark()
	breaks(p)
	back := time.Now()
	x.settles(back, recovery, x.healthy, func() error {
		people, err := nodes[0].people()
		must(x.T, err)
		return gapless(people, all)
	})
	x.never("leave", all)
	x.sites = x.sites[1:] // the other one has noticed nothing
	x.never("gap", all)
}

func slow(x *trial) {
	p, nodes := behindProxy(x.T)
	p.Slow(100 * time.Millisecond)
	crowd(x, nodes...)
	x.begins()
	mark := x.mark()
	end := time.Now().Add(10 * time.Second) // more than one beat, and the look at the subscription behind it
	for i := 0; time.Now().Before(end); i++ {
		must(x.T, x.healthy())
		nodes[0].in(fmt.Sprint("late ", i), "one", fmt.Sprint("late ", i))
		x.settles(time.Now(), 3*time.Second)
	}
	x.never("gap", mark)
	x.never("leave", mark)
}

func lossy(x *trial) {
	p, nodes := behindProxy(x.T)
	crowd(x, nodes...)
	listener := nodes[1].in("listener", "lossy")
	x.begins()
	p.LoseReplies()
	lost, got := 0, 0
	var all sync.WaitGroup
	var mu sync.Mutex // guards lost
	for i := range 20 {
		all.Go(func() { // ends with its pushes
			for j := range 10 {
				err := nodes[0].push("lossy", fmt.Sprintf("%d of %d", j, i))
				if err != nil && !errors.Is(err, core.ErrUnavailable) {
					x.Errorf("Push: %v", err)
				}
				mu.Lock()
				if err != nil {
					lost++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	p.Restore()
	x.settles(time.Now(), recovery, x.healthy)
	seen := map[string]bool{}
	for _, m := range listener.knows().Told {
		if m.Channel == "lossy" && m.Type == "news" && strings.Contains(m.Message, " of ") {
			if got++; seen[m.Message] {
				x.Errorf("%q arrived twice", m.Message)
			}
			seen[m.Message] = true
		}
	}
	x.Logf("of 200 pushes %d have failed, %d messages have arrived", lost, got)
	if lost == 0 || got == 0 {
		x.Error("nothing was tested")
	}
}

func TestOneOfTwoConnectionsAtTheSameMomentSurvives(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"40 times": func(x *trial) {
			_, nodes := behindProxy(x.T, core.WithSessions(core.ReplaceOld))
			for i := range 40 {
				duel(x.T, nodes, fmt.Sprint("twin ", i), func() {})
			}
		},
		"while the link of one node is cut": func(x *trial) {
			p, nodes := behindProxy(x.T, core.WithSessions(core.ReplaceOld))
			for i := range 8 {
				duel(x.T, nodes, fmt.Sprint("twin ", i), func() {
					passing(time.Duration(i) * 500 * time.Microsecond)
					p.Cut()
					passing(500 * time.Millisecond)
					p.Restore()
				})
			}
		},
		"when the link is cut before the older one is told": func(x *trial) {
			p, nodes := behindProxy(x.T, core.WithSessions(core.ReplaceOld))
			cut := &interrupted{Driver: at(x.T, p.Addr()), cut: p.Cut, replacing: make(chan struct{})}
			newer := run(x.T, cut, core.WithSessions(core.ReplaceOld))
			older := nodes[1].in("twin")
			c := surf(x.T, newer.service, "twin")
			<-cut.replacing
			passing(500 * time.Millisecond)
			p.Restore()
			if !within(recovery, func() bool { return older.knows().Closed == "3502" }) {
				x.Error("the older connection lives on")
			}
			if err := c.registers(); err != nil {
				x.Errorf("the newer one does not: %v", err)
			}
		},
		"when the older one's node does not hear of it": func(x *trial) {
			p, nodes := behindProxy(x.T, core.WithSessions(core.ReplaceOld))
			older := nodes[0].in("twin")
			p.StallSubscriptions()
			newer := nodes[1].in("twin")
			if !within(recovery, func() bool { return older.knows().Closed == "3502" }) {
				x.Error("the older connection lives on")
			}
			if err := newer.registers(); err != nil {
				x.Errorf("the newer one does not: %v", err)
			}
		},
	})
}

// interrupted is a driver whose link is cut when it is about to have a connection replaced.
type interrupted struct {
	core.Driver

	once      sync.Once
	cut       func()
	replacing chan struct{} // closed when it was about to
}

func (d *interrupted) Open(ctx context.Context, n core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, n)
	return interruptedLink{link, d}, err
}

type interruptedLink struct {
	core.Link

	driver *interrupted
}

func (l interruptedLink) Command(ctx context.Context, node string, c core.Command) error {
	if c.Action == core.ActionReplace {
		l.driver.once.Do(func() {
			l.driver.cut()
			close(l.driver.replacing)
		})
	}
	return l.Link.Command(ctx, node, c)
}

// duel connects one client id on both nodes at the same moment, and sees that exactly one of them is left in the end. Who
// is told to try again does so.
func duel(t *testing.T, nodes []*local, id string, meanwhile func()) {
	t.Helper()
	both := make([]*surfer, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { // ends with the answer, or the connection
			c, err := trySurf(n.service, id)
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			both[i] = c
			_ = c.registers()
		})
	}
	meanwhile()
	all.Wait()
	var why []string
	open := func() (open int) {
		why = nil
		for i, c := range both {
			if c == nil {
				t.FailNow()
			}
			closed := c.knows().Closed
			if why = append(why, closed); closed == "" {
				open++
			}
			if closed == "3004" {
				c.hangUp()
				both[i] = surf(t, nodes[i].service, id)
				_ = both[i].registers()
			}
		}
		return open
	}
	if !within(recovery, func() bool { return open() == 1 && !slices.Contains(why, "3004") }) {
		t.Fatalf("%s: %d are left: %q", id, open(), why)
	}
	passing(50 * time.Millisecond) // what is still on its way
	if n := open(); n != 1 {
		t.Fatalf("%s: %d are left: %q", id, n, why)
	}
	for _, c := range both {
		t.Cleanup(c.hangUp)
	}
}

func TestANodeNoticesThatItsWritesAreLostWhileNobodyDoesAnything(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"the last of one node": func(x *trial) {
			loses(x, func(s *redistest.Server, nodes []*local) { takeBack(s, nodes[0], "both 0") })
		},
		"the last of all nodes": func(x *trial) {
			loses(x, func(s *redistest.Server, nodes []*local) {
				takeBack(s, nodes[0], "both 0")
				takeBack(s, nodes[1], "both 1")
			})
		},
		"all": func(x *trial) {
			loses(x, func(s *redistest.Server, _ []*local) { s.CLI("FLUSHALL") })
		},
	})
}

func loses(x *trial, writes func(*redistest.Server, []*local)) {
	server := redistest.Start(x.T)
	nodes := []*local{run(x.T, at(x.T, server.Addr())), run(x.T, at(x.T, server.Addr()))}
	crowd(x, nodes...)
	x.begins()
	mark := x.mark()
	writes(server, nodes)
	if x.truth() == nil {
		x.Error("nothing was lost")
	}
	x.settles(time.Now(), recovery, x.healthy)
	x.never("leave", mark)
}

// takeBack undoes what a node has written about its client in a channel, as a failover does that loses the last writes.
func takeBack(s *redistest.Server, n *local, client string) {
	node := n.service.Stats().Node
	s.CLI("HSET", "ws:{0}:nodes", node+".1", "1")
	s.CLI("DEL", "ws:{0}:members:"+node+".1::two")
	s.CLI("HDEL", "ws:{0}:count::two", client)
}

func TestANodeEndsAndBeginsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"Shutdown while it is dead": func(x *trial) { endsWithout(x, (*redistest.Server).Kill) },
		"Shutdown while it hangs":   func(x *trial) { endsWithout(x, (*redistest.Server).Pause) },
		"Run while it is dead":      func(x *trial) { beginsWithout(x, (*redistest.Server).Kill, (*redistest.Server).Restart) },
		"Run while it hangs":        func(x *trial) { beginsWithout(x, (*redistest.Server).Pause, (*redistest.Server).Resume) },
	})
}

func endsWithout(x *trial, goes func(*redistest.Server)) {
	leaktest.Check(x.T)
	server := redistest.Start(x.T)
	service := core.New(at(x.T, server.Addr()), provider(), core.WithLogger(nil))
	must(x.T, service.Run())
	n := &local{t: x.T, service: service}
	for i := range 20 {
		n.in(fmt.Sprint("client ", i), "one", fmt.Sprint("own ", i))
	}
	goes(server)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := service.Shutdown(ctx)
	x.Logf("Shutdown returned after %v: %v", time.Since(begin).Round(time.Millisecond), err)
	if time.Since(begin) > 11500*time.Millisecond {
		x.Error("it took too long")
	}
	people, _ := n.people()
	for _, p := range people {
		if p.Closed != "3001" {
			x.Errorf("%s was closed with %q", p.ID, p.Closed)
		}
	}
}

func beginsWithout(x *trial, goes, comes func(*redistest.Server)) {
	server := redistest.Start(x.T)
	driver := at(x.T, server.Addr())
	goes(server)
	service := core.New(driver, provider(), core.WithLogger(nil))
	begin := time.Now()
	err := service.Run()
	if err == nil || !strings.Contains(err.Error(), "redis at "+server.Addr()) {
		x.Errorf("Run: %v, want an error that says where Redis is not", err)
	}
	x.Logf("Run returned after %v: %v", time.Since(begin).Round(time.Millisecond), err)
	comes(server)
	n := run(x.T, driver)
	must(x.T, service.Run())
	x.Cleanup(func() { _ = service.Shutdown(context.Background()) })
	again := &local{t: x.T, service: service}
	again.in("anna", "one")
	n.in("bert", "one")
	x.sites = []site{again, n}
	x.begins()
}

func TestThousandsSubscribeAtOnceAfterARestart(t *testing.T) {
	t.Parallel()
	// 10,000 take 2 s without the race detector, and 15 s of both processors with it.
	const clients, patient = 2_000, 30 * time.Second
	server := redistest.Start(t)
	quiet := core.WithChannel("*", core.Rules{})
	driver := at(t, server.Addr())
	var all []*surfer
	var services []*core.Service
	for range 2 {
		n := run(t, driver, quiet)
		services = append(services, n.service)
	}
	begin := time.Now()
	for i := range clients {
		all = append(all, surf(t, services[i%2], fmt.Sprint("client ", i)))
	}
	for _, c := range all {
		must(t, c.registers())
	}
	t.Logf("connected in %v", time.Since(begin).Round(time.Millisecond))
	server.Restart()
	begin = time.Now()
	var subscribing sync.WaitGroup
	errs := make(chan error, clients)
	for i, c := range all {
		subscribing.Go(func() { // ends with the answer that says yes, or the last that does not
			for {
				err := c.subscribes(fmt.Sprint("room ", i%500))
				if err == nil || time.Since(begin) > patient {
					errs <- err
					return
				}
			}
		})
	}
	subscribing.Wait()
	took := time.Since(begin)
	again := 0
	for _, c := range all {
		must(t, <-errs)
		again += len(c.knows().Outside)
	}
	t.Logf("%d clients have subscribed within %v, %d had to ask again", clients, took.Round(time.Millisecond), again)
	if took > patient {
		t.Errorf("it took longer than %v", patient)
	}
	want := strconv.Itoa(clients / 500)
	if got := server.CLI("HLEN", "ws:{0}:count::room 1"); got != want {
		t.Errorf("%s in a room, want %s", got, want)
	}
	for i, c := range all {
		if c.knows().Closed != "" {
			t.Fatalf("client %d was closed: %s", i, c.knows().Closed)
		}
	}
}

func TestACrowdInOneChannelIsCountedAtOnceAndSweptWhole(t *testing.T) {
	t.Parallel()
	const crowdOf, callers = 50_000, 64
	server := redistest.Start(t)
	driver := at(t, server.Addr())
	topic := core.Topic{App: "", Channel: "hall"}
	big, small := drivertest.NewNode(), drivertest.NewNode()
	links := make([]core.Link, 2)
	for i, n := range []*drivertest.Node{big, small} {
		link, err := driver.Open(t.Context(), n)
		must(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := link.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		must(t, link.Subscribe(t.Context(), topic))
		links[i] = link
	}
	member := func(i int, node string) core.Member {
		return core.Member{ClientID: fmt.Sprint("client ", i), ConnID: fmt.Sprint("conn ", i, " ", node), Node: node, Since: time.Now()}
	}
	begin := time.Now()
	var joining sync.WaitGroup
	for c := range callers {
		joining.Go(func() { // ends with its share
			for i := c; i < crowdOf; i += callers {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				first, err := links[0].Join(ctx, member(i, big.ID()), topic)
				cancel()
				if err != nil || len(first) != 1 {
					t.Errorf("Join: %v, %v", first, err)
					return
				}
			}
		})
	}
	joining.Wait()
	t.Logf("%d have joined within %v", crowdOf, time.Since(begin).Round(time.Millisecond))
	for i := range 10 { // who is on both nodes
		first, err := links[1].Join(t.Context(), member(i, small.ID()), topic)
		if must(t, err); len(first) != 0 {
			t.Errorf("client %d has joined for the first time", i)
		}
	}
	_, err := links[1].Join(t.Context(), member(crowdOf, small.ID()), topic)
	must(t, err)

	monitor := server.Client()
	must(t, monitor.ConfigSet(t.Context(), "slowlog-log-slower-than", "0").Err())
	must(t, monitor.Do(t.Context(), "slowlog", "reset").Err())
	n, err := links[1].Count(t.Context(), topic)
	must(t, err)
	if n != crowdOf+1 {
		t.Errorf("Count is %d, want %d", n, crowdOf+1)
	}
	var commands []string
	log, err := monitor.SlowLogGet(t.Context(), -1).Result()
	must(t, err)
	for _, entry := range log {
		if command := strings.Join(entry.Args, " "); strings.Contains(command, "hall") { // else it is a beat
			commands = append(commands, strings.ToLower(command))
		}
	}
	if want := "hlen ws:{0}:count::hall"; len(commands) != 1 || commands[0] != want {
		t.Errorf("Count: %q, want %q", commands, want)
	}
	must(t, monitor.ConfigSet(t.Context(), "slowlog-log-slower-than", "-1").Err())
	for _, limit := range []int{1, 999, 1001, 20_000} {
		members, err := links[1].Members(t.Context(), topic, limit)
		if must(t, err); len(members) != limit {
			t.Errorf("Members with limit %d: %d", limit, len(members))
		}
	}
	begin = time.Now()
	patient, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	members, err := links[1].Members(patient, topic, 0)
	if must(t, err); len(members) != crowdOf+11 {
		t.Errorf("%d members, want %d", len(members), crowdOf+11)
	}
	t.Logf("listed in %v", time.Since(begin).Round(time.Millisecond))

	// As if it had died. What it writes next it finds out; but nothing is on that node.
	begin = time.Now()
	must(t, monitor.HSet(t.Context(), "ws:{0}:nodes", big.ID()+".1", "dead").Err())
	if !within(mourning+recovery, func() bool {
		n, err := links[1].Count(t.Context(), topic)
		must(t, err)
		return n == 11 && errors.Is(monitor.HGet(t.Context(), "ws:{0}:nodes", big.ID()+".1").Err(), redis.Nil)
	}) {
		t.Fatal("the dead are not swept")
	}
	t.Logf("swept within %v", time.Since(begin).Round(time.Millisecond))
	gone := map[string]int{}
	for _, node := range []*drivertest.Node{big, small} {
		for _, c := range node.Changes() {
			if c.Joined {
				t.Fatalf("%+v", c)
			}
			gone[c.Member.ClientID]++
		}
	}
	for id, times := range gone {
		if times != 1 {
			t.Fatalf("%s has left %d times", id, times)
		}
	}
	if len(gone) != crowdOf-10 {
		t.Errorf("%d have left, want %d", len(gone), crowdOf-10)
	}
	if keys := monitor.Keys(t.Context(), "ws:{0}:*"+big.ID()+".1*").Val(); len(keys) != 0 {
		t.Errorf("left behind: %q", keys)
	}
}
