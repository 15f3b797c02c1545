package core_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/leaktest"
)

// start runs a service that the test shuts down itself.
func start(t testing.TB, d core.Driver, opts ...core.Option) *core.Service {
	t.Helper()
	s := core.New(d, opts...)
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestShutdownTellsEverybodyToReconnectBehindWhatWasSent(t *testing.T) {
	t.Parallel()
	for name, pair := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaktest.Check(t)
			var d diary
			s := start(t, drivers.NewMemoryDriver(), &core.Provider{Event: d.note})
			var peers []*wire
			var clients []*core.Client
			for i := range 20 {
				server, client := pair(t)
				p := wireTo(t, s, strconv.Itoa(i), server, client)
				p.ping()
				c := core.FindClients(s, "", strconv.Itoa(i))[0]
				sub(t, c, "room")
				peers, clients = append(peers, p), append(clients, c)
			}
			for n := range 5 {
				push(t, s, "room", number(n))
			}
			large := core.Message{Type: "n", Message: "5 " + strings.Repeat("x", 300<<10)}
			push(t, s, "room", large)
			eventually(t, "the turn", func() bool { return s.Stats().Delivered == 20*6 })
			var reading sync.WaitGroup
			for i, p := range peers {
				reading.Go(func() {
					texts, why := p.rest()
					if len(texts) != 6 || why.Code != core.CloseRestart {
						t.Errorf("client %d: %d texts, then %v", i, len(texts), why)
					}
				})
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range clients {
				if got := d.of(c); got != "online0 offline0" {
					t.Fatal(got)
				}
			}
			if stats := s.Stats(); stats.Connections != 0 || stats.Channels != 0 {
				t.Fatalf("after the end: %+v", stats)
			}
			reading.Wait()
		})
	}
}

func TestShutdownMayBeCalledByManyAndAgain(t *testing.T) {
	t.Parallel()
	leaktest.Check(t)
	s := start(t, drivers.NewMemoryDriver())
	conn, _ := connect(t, s, "ann")
	var callers sync.WaitGroup
	for range 10 {
		callers.Go(func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if n := s.Stats().Connections; n != 0 {
				t.Error("it returned before the end of", n)
			}
		})
	}
	callers.Wait()
	if why := conn.Closed(); why.Code != core.CloseRestart {
		t.Fatal(why)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(); !errors.Is(err, core.ErrClosed) {
		t.Fatal(err)
	}
	if err := s.Health(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Fatal(err)
	}
}

func TestShutdownInsideAHookDoesNotWaitForThatOne(t *testing.T) {
	t.Parallel()
	for hook, cause := range causes {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var s *core.Service
				done := make(chan error, 1)
				s = start(t, drivers.NewMemoryDriver(), core.WithLogger(nil), everyHook(func(name string, c *core.Client) error {
					if name == hook && c.ClientID == "ann" {
						done <- s.Shutdown(context.Background())
					}
					return nil
				}))
				other, _ := connect(t, s, "bob")
				conn := coretest.Connect(t, s, user("ann"))
				begun := time.Now()
				cause(conn)
				if err := <-done; err != nil {
					t.Error(err)
				}
				if why := other.Closed(); why.Code != core.CloseRestart {
					t.Error(why)
				}
				if waited := time.Since(begun); waited > time.Second {
					t.Errorf("it took %v", waited)
				}
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if n := s.Stats().Connections; n != 0 {
					t.Error("connections:", n)
				}
			})
		})
	}
}

// Everyone who shuts down inside a hook is spared by the one call that waits.
func TestShutdownInsideSeveralHooksAndOutside(t *testing.T) {
	t.Parallel()
	for name, outside := range map[string]bool{"hooks": false, "hooks and outside": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var s *core.Service
				const hooks = 3
				done := make(chan error, hooks+1)
				s = start(t, drivers.NewMemoryDriver(), core.WithLogger(nil), &core.Provider{
					Message: func(*core.Message, *core.Client) error {
						<-time.After(time.Second)
						done <- s.Shutdown(context.Background())
						return nil
					},
				})
				for i := range hooks {
					conn, _ := connect(t, s, strconv.Itoa(i))
					conn.Send(core.Message{Type: "down"})
				}
				synctest.Wait() // every hook is in its second
				begun := time.Now()
				callers := hooks
				if outside {
					callers++
					go func() { done <- s.Shutdown(context.Background()) }() // ends with the service
				}
				for range callers {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if waited := time.Since(begun); waited > 3*time.Second {
					t.Errorf("it took %v", waited)
				}
				synctest.Wait()
				if n := s.Stats().Connections; n != 0 {
					t.Error("connections:", n)
				}
			})
		})
	}
}

func TestShutdownReportsHooksThatAreStuckAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var d diary
		s := start(t, drivers.NewMemoryDriver(), core.WithLogger(nil), &core.Provider{
			Event: d.note,
			Message: func(*core.Message, *core.Client) error {
				<-release
				return nil
			},
		})
		var stuck []*core.Client
		for i := range 2 {
			conn, c := connect(t, s, strconv.Itoa(i))
			conn.Send(core.Message{Type: "x"})
			stuck = append(stuck, c)
		}
		_, quick := connect(t, s, "quick")
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 hooks still run") {
			t.Error(err)
		}
		if waited := time.Since(begun); waited != 3*time.Second {
			t.Errorf("it took %v", waited)
		}
		if got := d.of(quick); got != "online0 offline0" {
			t.Error(got)
		}
		if again := s.Shutdown(t.Context()); !errors.Is(again, context.DeadlineExceeded) {
			t.Error("the second call:", again)
		}
		close(release)
		synctest.Wait()
		for _, c := range stuck {
			if got := d.of(c); got != "online0 offline0" {
				t.Error(got)
			}
		}
	})
}

func TestShutdownWithoutADeadlineWaits30Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, drivers.NewMemoryDriver(), core.WithLogger(nil), &core.Provider{
			Message: func(*core.Message, *core.Client) error {
				<-time.After(time.Minute)
				return nil
			},
		})
		conn, _ := connect(t, s, "ann")
		conn.Send(core.Message{Type: "x"})
		synctest.Wait()
		begun := time.Now()
		if err := s.Shutdown(context.Background()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 30*time.Second {
			t.Error(err, time.Since(begun))
		}
		<-time.After(time.Minute)
	})
}

func TestShutdownWaitsAMomentForPeersThatDoNotAnswerAndTheStallForThoseThatDoNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, drivers.NewMemoryDriver(), core.WithLogger(nil))
		p, _ := wirePipe(t, s, "does not answer")
		go func() { _, _, _ = p.frame() }() // the close frame
		begun := time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(begun) != time.Second {
			t.Error(err, time.Since(begun))
		}
		s = start(t, drivers.NewMemoryDriver(), core.WithLogger(nil), core.WithWriteStall(4*time.Second))
		wirePipe(t, s, "does not read")
		begun = time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(begun) > 5*time.Second {
			t.Error(err, time.Since(begun))
		}
	})
}

func TestADriverThatHangsDoesNotHoldUpShutdownLongerThanItsContext(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"leave", "unsubscribe", "subscribe", "join", "publish"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newScripted(drivers.NewMemoryDriver())
				s := start(t, d, permissive(), core.WithLogger(nil), events("*"))
				conn, client := connect(t, s, "ann")
				_, other := connect(t, s, "bob")
				sub(t, client, "room", "left")
				sub(t, other, "room")
				d.on(hangs(verb))
				go func() { _ = client.Sub("hangs") }()             // ends within 6 s
				go func() { _ = client.Push([]string{"x"}, "x") }() // ends within 6 s
				if verb == "unsubscribe" {
					d.on(nil)
					_ = client.Unsub("left")
					d.on(hangs(verb))
					<-time.After(2500 * time.Millisecond) // the janitor hangs now
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				err := s.Shutdown(ctx)
				if waited := time.Since(begun); waited > time.Second {
					t.Errorf("%v after %v", err, waited)
				}
				if why := conn.Closed(); why.Code != core.CloseRestart {
					t.Error(why)
				}
				<-time.After(20 * time.Second) // what hung has ended
			})
		})
	}
}

func TestRunTwiceIsFine(t *testing.T) {
	t.Parallel()
	leaktest.Check(t)
	s := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil))
	var callers sync.WaitGroup
	for range 5 {
		callers.Go(func() {
			if err := s.Run(); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	conn, _ := connect(t, s, "ann")
	conn.Nothing()
	if err := errors.Join(s.Run(), s.Health(t.Context()), s.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// failing is a driver that cannot be opened as long as there is an error.
type failing struct {
	core.Driver
	err error
}

func (f *failing) Open(ctx context.Context, node core.Node) (core.Link, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.Driver.Open(ctx, node)
}

func TestRunMayBeCalledAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	d := &failing{drivers.NewMemoryDriver(), errScripted}
	s := core.New(d, core.WithLogger(nil))
	if err := s.Run(); !errors.Is(err, errScripted) {
		t.Fatal(err)
	}
	if err := s.Health(t.Context()); !errors.Is(err, errScripted) {
		t.Fatal(err)
	}
	if err := s.Push([]string{"room"}, "x"); !errors.Is(err, errScripted) {
		t.Fatal(err)
	}
	d.err = nil
	if err := errors.Join(s.Run(), s.Health(t.Context())); err != nil {
		t.Fatal(err)
	}
	conn, _ := connect(t, s, "ann")
	conn.Nothing()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestShutdownBeforeRun(t *testing.T) {
	t.Parallel()
	s := core.New(drivers.NewMemoryDriver())
	if err := s.Health(t.Context()); err == nil {
		t.Fatal("a service that was not started is healthy")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Run(), s.Push([]string{"room"}, "x"), s.Health(t.Context()), s.RegisterProvider("x", permissive())} {
		if !errors.Is(err, core.ErrClosed) {
			t.Fatal(err)
		}
	}
}

// slow is a driver whose Open takes its time, and which knows how many of its links are open.
type slow struct {
	core.Driver
	opening chan struct{}
	release chan struct{}
	mu      sync.Mutex
	links   int
}

type slowLink struct {
	core.Link
	d *slow
}

func (d *slow) Open(ctx context.Context, node core.Node) (core.Link, error) {
	d.opening <- struct{}{}
	<-d.release
	link, err := d.Driver.Open(ctx, node)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links++
	return slowLink{link, d}, err
}

func (l slowLink) Close(ctx context.Context) error {
	l.d.mu.Lock()
	l.d.links--
	l.d.mu.Unlock()
	return l.Link.Close(ctx)
}

func TestAServiceThatIsShutDownWhileItOpensItsDriverDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(s *core.Service) error{
		"to run":     func(s *core.Service) error { return s.Run() },
		"to publish": func(s *core.Service) error { return s.Push([]string{"room"}, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaktest.Check(t)
			d := &slow{Driver: drivers.NewMemoryDriver(), opening: make(chan struct{}), release: make(chan struct{})}
			s := core.New(d, core.WithLogger(nil))
			opened := make(chan error, 1)
			go func() { opened <- open(s) }() // ends when the driver has opened
			<-d.opening
			if err := s.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			close(d.release)
			if err := <-opened; !errors.Is(err, core.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
			if err := s.Health(t.Context()); !errors.Is(err, core.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
			if d.links != 0 {
				t.Errorf("%d links are still open", d.links)
			}
		})
	}
}

func TestAServiceThatNeverRanServesACronJob(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	node := coretest.RunOn(t, driver, permissive())
	job := core.New(driver)
	ann, client := wirePipe(t, node, "ann")
	sub(t, client, "room")
	ctx := t.Context()
	if err := errors.Join(job.Push([]string{"room"}, number(1)), job.Send(ctx, "ann", number(2)), job.Broadcast(ctx, number(3)),
		job.Subscribe(ctx, "ann", "second"), job.Push([]string{"second"}, number(4)), job.Unsubscribe(ctx, "ann", "second")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 5 { // channels have no order among each other
		got = append(got, ann.text())
	}
	slices.Sort(got)
	want := []string{
		`{"type":"n","channel":"room","message":"1"}`, `{"type":"n","channel":"second","message":"4"}`,
		`{"type":"n","message":"2"}`, `{"type":"n","message":"3"}`,
		`{"type":"unsubscribed","channel":"second","code":403,"message":"unsubscribed by the server"}`,
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	members, err := job.Members(ctx, "room", 0)
	if err != nil || len(members) != 1 || members[0].ConnID != client.ConnID {
		t.Fatal(members, err)
	}
	if online, err := job.Online(ctx, "ann"); !online || err != nil {
		t.Fatal(online, err)
	}
	if err := job.Send(ctx, "nobody", "x"); !errors.Is(err, core.ErrOffline) {
		t.Fatal(err)
	}
	if err := job.Health(ctx); err == nil {
		t.Fatal("it runs nothing and is healthy")
	}
	if err := job.Run(); err != nil { // and may become a node later
		t.Fatal(err)
	}
	bob, second := connect(t, job, "bob")
	sub(t, second, "room")
	push(t, node, "room", number(5))
	if got := ann.text(); numberIn(got) != 5 {
		t.Fatal(got)
	}
	bob.Expect("n")
	if err := job.Disconnect(ctx, "ann", 4000, "out"); err != nil {
		t.Fatal(err)
	}
	if texts, why := ann.rest(); len(texts) != 0 || why.Code != 4000 {
		t.Fatal(texts, why)
	}
	if err := job.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := job.Push([]string{"room"}, "x"); !errors.Is(err, core.ErrClosed) {
		t.Fatal(err)
	}
}

func TestTheOtherNodesSeeThoseOfANodeThatShutsDownLeave(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	stays := coretest.RunOn(t, driver, permissive(), events("room"))
	goes := start(t, driver, permissive(), events("room"))
	watcher, watching := connect(t, stays, "watcher")
	sub(t, watching, "room")
	for i := range 5 {
		_, c := connect(t, goes, strconv.Itoa(i))
		sub(t, c, "room")
		watcher.Expect("join")
	}
	if err := goes.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		watcher.Expect("leave")
	}
	members, err := stays.Members(t.Context(), "room", 0)
	if err != nil || len(members) != 1 {
		t.Fatal(members, err)
	}
	push(t, stays, "room", number(1))
	watcher.Expect("n")
}

func TestServicesStartAndStopInWhateverOrder(t *testing.T) {
	t.Parallel()
	leaktest.Check(t)
	driver := drivers.NewMemoryDriver()
	for range 30 {
		s := core.New(driver, permissive(), core.WithLogger(nil), events("*"))
		var stress sync.WaitGroup
		for range 3 {
			stress.Go(func() { _ = s.Run() })
		}
		for i := range 20 {
			stress.Go(func() { // somebody comes, and stays until the end
				h := coretest.Handshake()
				h.Identity = user(strconv.Itoa(i))
				ticket, err := s.Admit(t.Context(), h)
				if err != nil {
					return
				}
				server, client := tcpPair(t)
				s.Attach(server, nil, ticket)
				buf := make([]byte, 4<<10)
				for {
					if _, err := client.Read(buf); err != nil {
						_ = client.Close()
						return
					}
				}
			})
			stress.Go(func() {
				_ = s.Push([]string{"room"}, number(i))
				_ = s.Subscribe(t.Context(), strconv.Itoa(i), "room")
				_ = s.Broadcast(t.Context(), number(i))
				s.Stats()
			})
		}
		for range 2 {
			stress.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), coretest.Patience)
				defer cancel()
				if err := s.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		stress.Wait()
		if t.Failed() {
			t.Fatalf("%+v", s.Stats())
		}
	}
}

func TestWhatWasPushedBeforeShutdownIsWritten(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(s *core.Service) error{
		"a push":      func(s *core.Service) error { return s.Push([]string{"room"}, &core.Message{Type: "last words"}) },
		"a broadcast": func(s *core.Service) error { return s.Broadcast(t.Context(), &core.Message{Type: "last words"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 20 {
				s := start(t, drivers.NewMemoryDriver(), permissive(), core.WithLogger(nil))
				var conns []*coretest.Conn
				for i := range 50 {
					conn, client := connect(t, s, strconv.Itoa(i))
					sub(t, client, "room")
					conns = append(conns, conn)
				}
				for range 3 {
					if err := say(s); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
				for _, conn := range conns {
					for range 3 {
						conn.Expect("last words")
					}
					if why := conn.Closed(); why.Code != core.CloseRestart {
						t.Fatal(why)
					}
				}
			}
		})
	}
}

// The list of those that run is empty then, and still had it in its memory.
func TestAServiceThatHasEndedIsReferredToByNobody(t *testing.T) {
	t.Parallel()
	life := func() weak.Pointer[core.Service] {
		s := start(t, drivers.NewMemoryDriver(), permissive(), core.WithLogger(nil))
		p, c := wireTCP(t, s, "ann")
		sub(t, c, "room")
		p.send(core.Message{Type: "message", Channel: "room", ID: "1"})
		p.text()
		_ = p.nc.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		return weak.Make(s)
	}
	s := life()
	eventually(t, "the garbage collector", func() bool {
		runtime.GC()
		return s.Value() == nil
	})
}
