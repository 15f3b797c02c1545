package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
)

// options are what a run is made from.
type options struct {
	seed    uint64
	length  time.Duration
	driver  string // memory or redis, for texts
	nodes   int
	clients int
	rest    time.Duration // between two quiet points
	verbose bool
	out     io.Writer
	replay  string
	connect func(prefix string) (core.Driver, error)
}

// stage is one run: nodes, actors, operators, and what is known of them.
type stage struct {
	options

	think    time.Duration // of an actor between two steps, on average
	settle   time.Duration // within which all actors begin
	log      *slog.Logger
	failures *failures
	count    counters
	groups   []*group
	places   []*place
	actors   []*actor
	first    []*actor // of each client id
	traces   *trace   // of the stage itself
	readers  sync.WaitGroup
	pulse    pulse
	sends    atomic.Int64
	kicked   atomic.Int64
	untold   int64 // doubts at the last quiet point

	epoch atomic.Int64
	gate  sync.RWMutex // held for reading by each step of anybody, for writing at a quiet point

	mu    sync.Mutex // guards the rest
	rests chan struct{}
	conns map[string]*conn
	kicks map[string]string // reason -> client id
	old   map[string]string // kicks of the last epoch
}

// place is an app of a group: what is pushed in one is never heard in another.
type place struct {
	name       string
	app        string
	group      *group
	channels   map[string]*channel
	list       []*channel
	slim, fat  []*channel // to choose from
	latest     []*channel
	hall       *channel
	broadcasts *channel
}

// pick returns a channel that somebody of that temper may like.
func (p *place) pick(t *temper, throw uint64) *channel {
	if t.fat && throw%4 != 0 {
		return p.fat[throw/4%uint64(len(p.fat))]
	}
	return p.slim[throw/4%uint64(len(p.slim))]
}

func newPlace(g *group, app string, crowd int) *place {
	p := &place{name: g.name + "/" + app, app: app, group: g, channels: map[string]*channel{}}
	p.broadcasts = &channel{place: p.name, kind: broadcasts, streams: map[string]*stream{}}
	p.channels[""] = p.broadcasts
	for _, k := range kinds {
		count := max(1, crowd/50)
		if k.fat {
			count = max(1, crowd/400)
		}
		if k.prefix == "hall" {
			count = 1
		}
		for i := range count {
			ch := &channel{place: p.name, name: fmt.Sprintf("%s:%d", k.prefix, i), kind: k, streams: map[string]*stream{}}
			p.channels[ch.name] = ch
			p.list = append(p.list, ch)
			switch {
			case k.prefix == "hall":
				p.hall = ch
			case k.fat:
				p.fat = append(p.fat, ch)
			default:
				p.slim = append(p.slim, ch)
			}
			if k.latest {
				p.latest = append(p.latest, ch)
			}
		}
	}
	return p
}

// run plays the whole and returns what it has found.
//
//nolint:contextcheck // the end takes its time, also that of a run that was ended
func run(ctx context.Context, o options) (*report, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &stage{
		options: o, failures: &failures{replay: o.replay, stop: stop}, conns: map[string]*conn{}, kicks: map[string]string{},
		rests: make(chan struct{}), traces: &trace{},
	}
	s.log = slog.New(&s.count.logged)
	s.think = max(time.Second, time.Duration(o.clients)*time.Millisecond)
	s.settle = min(o.length/4, time.Duration(o.clients)*time.Millisecond)
	s.epoch.Store(1)
	defer s.close()
	if err := s.build(); err != nil {
		return nil, err
	}
	begun := time.Now()
	alive, end := context.WithCancel(context.Background())
	defer end()
	var crowd sync.WaitGroup
	crowd.Go(func() { s.pulse.run(alive) })
	s.play(alive, &crowd)
	s.rounds(ctx)
	if !s.failures.failed() {
		s.gate.Lock()
		s.quiet(true)
		end()
		s.shutDown()
		s.gate.Unlock()
	}
	s.failures.close()
	end()
	s.wake()
	s.hangUp()
	crowd.Wait()
	s.hangUp() // those whose last step was to connect
	s.readers.Wait()
	return s.report(time.Since(begun)), s.failures.err()
}

// hangUp closes what is open behind a failure.
func (s *stage) hangUp() {
	for _, c := range s.all() {
		c.writes.Lock()
		if c.wire != nil {
			_ = c.wire.Close()
		}
		c.writes.Unlock()
	}
}

// build starts the nodes and makes the actors.
func (s *stage) build() error {
	for _, name := range []string{"many", "single"} {
		driver, err := s.connect(name)
		if err != nil {
			return err
		}
		g := &group{stage: s, name: name, driver: driver}
		if name == "single" {
			g.sessions = core.ReplaceOld
		}
		s.groups = append(s.groups, g)
		if err := g.start(s.nodes); err != nil {
			return err
		}
	}
	many, single := s.groups[0], s.groups[1]
	main, shop := newPlace(many, "", s.clients), newPlace(many, "shop", s.clients/8)
	alone := newPlace(single, "", s.clients/10)
	s.places = []*place{main, shop, alone}
	for _, p := range []*place{main, shop} {
		for _, ch := range p.list {
			if ch.kind.rules.Presence == core.PresenceEvents {
				a := s.actor(p, tempers[len(tempers)-1], "observer-"+ch.name, false)
				a.room = ch
			}
		}
	}
	for _, t := range tempers {
		for i := range s.clients * t.share / 100 {
			switch {
			case t.name == "single":
				s.actor(alone, t, fmt.Sprint("single-", i/3), true)
			case i%8 == 7:
				s.actor(shop, t, fmt.Sprint(t.name, "-", i), false)
			case i%8 >= 5: // two of eight share an id
				s.actor(main, t, fmt.Sprint(t.name, "-twin-", i/8), true)
			default:
				s.actor(main, t, fmt.Sprint(t.name, "-", i), false)
			}
		}
	}
	return nil
}

func (s *stage) actor(p *place, t *temper, id string, shared bool) *actor {
	number := len(s.actors)
	a := &actor{stage: s, number: number, place: p, temper: t, rng: rand.New(rand.NewPCG(s.seed, uint64(number)))}
	if shared && number > 0 && s.actors[number-1].identity.id == id {
		a.identity = s.actors[number-1].identity
	} else {
		a.identity = &identity{id: id, shared: shared, single: p.group.sessions == core.ReplaceOld}
		s.first = append(s.first, a)
	}
	s.actors = append(s.actors, a)
	return a
}

// play starts everybody.
func (s *stage) play(ctx context.Context, crowd *sync.WaitGroup) {
	for _, a := range s.actors {
		crowd.Go(func() { a.run(ctx) })
	}
	number := 1 << 20 // their own seeds
	for _, g := range s.groups {
		for i, n := range g.nodes {
			for j := range 2 {
				number++
				o := &operator{
					stage: s, node: n, number: number, latest: i == 0 && j == 0,
					rng: rand.New(rand.NewPCG(s.seed, uint64(number))),
				}
				for _, p := range s.places {
					if p.group == g {
						o.places = append(o.places, p)
					}
				}
				crowd.Go(func() { o.run(ctx) })
			}
		}
		number++
		r := &restarter{group: g, rng: rand.New(rand.NewPCG(s.seed, uint64(number)))}
		crowd.Go(func() { r.run(ctx) })
	}
}

// rounds goes from quiet point to quiet point until the time is over or something has failed.
//
//nolint:contextcheck // a quiet point is gone through to its end
func (s *stage) rounds(ctx context.Context) {
	over := time.NewTimer(s.length)
	defer over.Stop()
	progress := time.NewTicker(10 * time.Second)
	defer progress.Stop()
	rest := time.NewTimer(min(s.rest, 2*s.settle+time.Second))
	defer rest.Stop()
	for {
		select {
		case <-over.C:
			return
		case <-ctx.Done():
			return
		case <-progress.C:
			s.say("%s", s.count.line())
		case <-rest.C:
			s.gate.Lock()
			s.quiet(false)
			s.gate.Unlock()
			rest.Reset(s.rest)
		}
	}
}

func (s *stage) say(format string, args ...any) {
	if s.verbose {
		fmt.Fprintf(s.out, time.Now().Format("15:04:05 ")+s.driver+" "+format+"\n", args...)
	}
}

// shutDown ends all nodes at once, and sees that nobody is left.
func (s *stage) shutDown() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all sync.WaitGroup
	for _, g := range s.groups {
		for _, n := range g.nodes {
			all.Go(func() {
				if err := n.end(ctx); err != nil {
					s.fail("the end", err)
				}
			})
		}
	}
	all.Wait()
	for _, c := range s.all() {
		c.awaitEnd()
	}
	if err := s.settled(); err != nil {
		s.fail("after the end", err)
	}
}

// close ends the servers. The services have ended before, unless something has failed.
func (s *stage) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, g := range s.groups {
		for _, n := range g.nodes {
			all.Go(func() {
				_ = n.life.Load().service.Shutdown(ctx)
				n.close()
			})
		}
	}
	all.Wait()
}

func (s *stage) fail(who string, err error) { s.failures.add(who, err, s.traces) }

func (s *stage) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c.token] = c
}

func (s *stage) find(token string) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[token]
}

// all returns the connections of this epoch, and those that are open.
func (s *stage) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		all = append(all, c)
	}
	return all
}

// resting is closed when a quiet point begins.
func (s *stage) resting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rests
}

// wake ends all stalls.
func (s *stage) wake() {
	s.mu.Lock()
	close(s.rests)
	s.rests = make(chan struct{})
	s.mu.Unlock()
	for _, c := range s.all() { // its reader may wait for a frame
		c.resume()
	}
}

// kick returns the reason for a kick of somebody.
func (s *stage) kick(id string) (reason string) {
	reason = fmt.Sprint("kick-", s.kicked.Add(1))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kicks[reason] = id
	return reason
}

// kickOf returns whom a reason is for.
func (s *stage) kickOf(reason string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.kicks[reason]; ok {
		return id
	}
	return s.old[reason]
}

func (s *stage) wasKicked(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kicked := range s.kicks {
		if kicked == id {
			return true
		}
	}
	for _, kicked := range s.old {
		if kicked == id {
			return true
		}
	}
	return false
}

// padding is how much longer a message of a channel is than it must be.
func (s *stage) padding(ch *channel, throw uint64) int {
	switch {
	case ch.kind.fat:
		return 2<<10 + int(throw%(20<<10))
	case throw%100 == 0:
		return int(throw % (8 << 10))
	}
	return int(throw % 200)
}

// isEnd reports whether an error is what a node says that ends.
func (l *life) isEnd(err error) bool {
	return l.closing.Load() && (errors.Is(err, core.ErrClosed) || errors.Is(err, core.ErrUnavailable))
}
