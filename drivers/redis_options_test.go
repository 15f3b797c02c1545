package drivers_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/redistest"
)

// comesTrue polls until it is so.
func comesTrue(t *testing.T, what string, so func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(coretest.Patience); !so(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", coretest.Patience, what)
		}
	}
}

// connectionsOf returns the ids of a server's connections, but for the one that asks.
func connectionsOf(t *testing.T, server *redistest.Server) []string {
	t.Helper()
	var ids []string
	for line := range strings.Lines(server.CLI("CLIENT", "LIST")) {
		id, rest, _ := strings.Cut(line, " ")
		if !strings.Contains(rest, " cmd=client|list ") {
			ids = append(ids, id)
		}
	}
	return ids
}

func shutDown(t *testing.T, services ...*core.Service) {
	t.Helper()
	for _, s := range services {
		must(t, s.Shutdown(t.Context()))
	}
}

// talk has two services on a driver speak to each other in every way that needs Redis, and ends them.
func talk(t *testing.T, driver core.Driver) {
	t.Helper()
	a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider())
	anna := in(t, b, "anna", "room")
	must(t, a.Push([]string{"room"}, core.Message{Type: "news"}))
	anna.Expect("news")
	must(t, a.Send(t.Context(), "anna", core.Message{Type: "letter"}))
	anna.Expect("letter")
	must(t, a.Subscribe(t.Context(), "anna", "hall"))
	if n, err := a.Count(t.Context(), "hall"); n != 1 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	shutDown(t, a, b)
}

func TestRedisNeedsNoOptions(t *testing.T) {
	t.Parallel()
	for _, options := range []*drivers.RedisOptions{nil, {}} {
		// Whether a server runs there is not for this test to say.
		if _, err := drivers.NewRedisDriver(options); err != nil && !strings.Contains(err.Error(), "localhost:6379") {
			t.Error(err)
		}
	}
}

func TestRedisOptionsOfTheServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	options := drivers.RedisOptions{Addr: server.Addr(), Password: "secret", DB: 3}
	driver := newRedis(t, options)
	service := coretest.RunOn(t, driver, provider())
	in(t, service, "anna", "room")
	if got := server.CLI("INFO", "keyspace"); !strings.Contains(got, "db3:") || strings.Contains(got, "db0:") {
		t.Errorf("the keys are in other DBs than 3: %s", got)
	}
	if got := server.CLI("-n", "3", "HGETALL", "ws:{0/3}:count::room"); got != "anna\n1" {
		t.Errorf("under the prefix ws: %q", got)
	}
	shutDown(t, service)
	talk(t, driver)
	comesTrue(t, "the driver has closed its connections", func() bool { return len(connectionsOf(t, server)) == 0 })
}

func TestRedisPoolSizeBoundsTheConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	options := drivers.RedisOptions{Addr: server.Addr(), PoolSize: 3, MinIdleConns: 1}
	service := coretest.RunOn(t, newRedis(t, options), provider())
	in(t, service, "anna", "room")
	var asking sync.WaitGroup
	var stop atomic.Bool
	for range 64 { // end with stop
		asking.Go(func() {
			for !stop.Load() {
				if _, err := service.Members(t.Context(), "room", 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	most := 0
	for range 20 {
		most = max(most, len(connectionsOf(t, server)))
	}
	stop.Store(true)
	asking.Wait()
	if most < 3+2 || most > 3+4 {
		t.Errorf("%d connections at most, want 3, and up to four of the driver's own", most)
	}
}

func TestRedisKeepsIdleConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ minIdle, want int }{{0, 5}, {9, 9}} {
		server := redistest.Start(t)
		driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr(), MinIdleConns: c.minIdle})
		service := coretest.RunOn(t, driver, provider())
		comesTrue(t, fmt.Sprintf("%d connections are kept, and the subscription", c.want), func() bool {
			n := len(connectionsOf(t, server)) - 1
			return c.want <= n && n <= c.want+2 // one that was in use may have come on top
		})
		shutDown(t, service)
	}
}

func TestRedisClientOfTheUserIsLeftAlone(t *testing.T) {
	t.Parallel()
	single := redistest.Start(t, "--requirepass", "secret")
	var held holder
	simple := &redis.Options{Addr: single.Addr(), Password: "secret", DB: 2, PoolSize: 1, ClientName: "mine", Dialer: held.dial}
	works := func(t *testing.T, client redis.UniversalClient, servers ...*redistest.Server) {
		t.Helper()
		defer client.Close()
		must(t, client.Set(t.Context(), "key", "value", 0).Err())
		// By name, which the driver's bear too: those of servers to one another come and go.
		var before []string
		more := func() (ids []string) {
			for _, server := range servers {
				for line := range strings.Lines(server.CLI("CLIENT", "LIST")) {
					number, rest, _ := strings.Cut(line, " ")
					id := server.Addr() + " " + number
					if strings.Contains(rest, " name=mine ") && !slices.Contains(before, id) {
						ids = append(ids, id)
					}
				}
			}
			return ids
		}
		before = more()
		var seen hook
		client.AddHook(&seen)
		driver := newRedis(t, drivers.RedisOptions{Client: client})
		running := coretest.RunOn(t, driver)
		if got := more(); len(before) == 0 || len(got) < 2 {
			t.Errorf("the driver's connections are %q, the user's %q", got, before)
		}
		talk(t, driver)
		shutDown(t, running)
		if n := seen.Load(); n != 0 {
			t.Errorf("the user's client was used %d times", n)
		}
		comesTrue(t, "the driver has closed its connections", func() bool { return len(more()) == 0 })
		runtime.KeepAlive(&held)
		if got, err := client.Get(t.Context(), "key").Result(); got != "value" || err != nil {
			t.Errorf("the user's client after Shutdown: %q, %v", got, err)
		}
	}
	t.Run("single", func(t *testing.T) { works(t, redis.NewClient(simple), single) }) //nolint:paralleltest // they count connections
	t.Run("universal", func(t *testing.T) {
		works(t, redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{single.Addr()}, Password: "secret", PoolSize: 1, ClientName: "mine", Dialer: held.dial}), single)
	})
	t.Run("dialer", func(t *testing.T) {
		o := *simple
		o.Addr = "elsewhere:1"
		o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return held.dial(ctx, network, single.Addr())
		}
		works(t, redis.NewClient(&o), single)
	})
	t.Run("failover", func(t *testing.T) {
		f := redistest.StartFailover(t)
		o := f.Options()
		o.PoolSize, o.ClientName, o.Dialer = 1, "mine", held.dial
		all := append(f.Sentinels(), f.Master(), f.Replica())
		works(t, redis.NewFailoverClient(o), all...)
		works(t, redis.NewUniversalClient(&redis.UniversalOptions{Addrs: o.SentinelAddrs, MasterName: o.MasterName, PoolSize: 1, ClientName: "mine", Dialer: held.dial}), all...)
	})
	t.Run("cluster", func(t *testing.T) {
		c := redistest.StartCluster(t, 3, 0)
		works(t, redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), PoolSize: 1, ClientName: "mine", Dialer: held.dial}), c.Servers()...)
		works(t, redis.NewUniversalClient(&redis.UniversalOptions{Addrs: c.Addrs(), PoolSize: 1, ClientName: "mine", Dialer: held.dial}), c.Servers()...)
		works(t, redis.NewUniversalClient(&redis.UniversalOptions{Addrs: c.Addrs()[:1], IsClusterMode: true, PoolSize: 1, ClientName: "mine", Dialer: held.dial}), c.Servers()...)
	})
}

// holder dials, and keeps connections that nobody has closed from the garbage collector, which would do it.
type holder struct {
	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func (h *holder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, conn)
	return conn, err
}

// hook counts what a client is used for.
type hook struct{ atomic.Int64 }

func (h *hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.Add(1)
		return next(ctx, network, addr)
	}
}

func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.Add(1)
		return next(ctx, cmd)
	}
}

func (h *hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.Add(1)
		return next(ctx, cmds)
	}
}

func TestRedisUserWhoMayNotAskForTheVersionIsEnough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.CLI("ACL", "SETUSER", "app", "on", ">word", "~ws:*", "&ws:*", "+@all", "-info", "-@admin", "-@dangerous")
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Username: "app", Password: "word"})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Info(t.Context()).Err(); err == nil {
		t.Fatal("the user may ask")
	}
	talk(t, newRedis(t, drivers.RedisOptions{Client: client}))
}

// wrapped is a client of a type that the driver does not know.
type wrapped struct{ redis.UniversalClient }

// A driver that cannot work is not made. The text says what to change, and comes soon.
func TestRedisSaysAtOnceWhatToChange(t *testing.T) {
	t.Parallel()
	open, locked := redistest.Start(t), redistest.Start(t, "--requirepass", "secret")
	stalled := redistest.NewProxy(t, open.Addr())
	stalled.Stall()
	cluster := redistest.StartCluster(t, 3, 0)
	dead := redistest.Start(t)
	dead.Kill()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": open.Addr()}})
	ofNoCluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{open.Addr()}})
	ofOldCluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{fakeRedis(t, "redis_version:6.2.0\r\nredis_mode:cluster\r\n")}})
	ofStalled := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{stalled.Addr()}})
	ofDead := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{dead.Addr()}})
	ofLocked := redis.NewClient(&redis.Options{Addr: locked.Addr(), Username: "nobody", Password: "secret"})
	noSentinel := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "gows", SentinelAddrs: []string{dead.Addr()}})
	for _, client := range []io.Closer{ring, ofNoCluster, ofOldCluster, ofStalled, ofDead, ofLocked, noSentinel} {
		t.Cleanup(func() { _ = client.Close() })
	}
	for name, c := range map[string]struct {
		options drivers.RedisOptions
		says    []string
	}{
		"nobody listens":            {drivers.RedisOptions{Addr: dead.Addr()}, []string{dead.Addr(), "does it run there? see RedisOptions.Addr"}},
		"no such host":              {drivers.RedisOptions{Addr: "nowhere.invalid:6379"}, []string{"nowhere.invalid:6379", "RedisOptions.Addr"}},
		"wrong password":            {drivers.RedisOptions{Addr: locked.Addr(), Password: "guess"}, []string{locked.Addr(), "RedisOptions.Password"}},
		"no password":               {drivers.RedisOptions{Addr: locked.Addr()}, []string{locked.Addr(), "RedisOptions.Password"}},
		"no such user":              {drivers.RedisOptions{Client: ofLocked}, []string{locked.Addr(), "WRONGPASS"}},
		"no such DB":                {drivers.RedisOptions{Addr: open.Addr(), DB: 99}, []string{open.Addr(), "there is no DB 99, see RedisOptions.DB"}},
		"no answer":                 {drivers.RedisOptions{Addr: stalled.Addr()}, []string{stalled.Addr(), "it does not answer"}},
		"too old":                   {drivers.RedisOptions{Addr: fakeRedis(t, "redis_version:5.0.7\r\n")}, []string{"version 5.0.7", "6.2 is needed"}},
		"a little too old":          {drivers.RedisOptions{Addr: fakeRedis(t, "redis_version:6.0.16\r\n")}, []string{"version 6.0.16", "6.2 is needed"}},
		"part of a Cluster":         {drivers.RedisOptions{Addr: cluster.Addrs()[1]}, []string{cluster.Addrs()[1], "redis.NewClusterClient"}},
		"a DB of a Cluster":         {drivers.RedisOptions{Addr: cluster.Addrs()[1], DB: 1}, []string{cluster.Addrs()[1], "give a redis.NewClusterClient"}},
		"an old Cluster":            {drivers.RedisOptions{Client: ofOldCluster}, []string{"version 6.2.0", "a Cluster needs 7.0"}},
		"no Cluster":                {drivers.RedisOptions{Client: ofNoCluster}, []string{open.Addr(), "the server is none"}},
		"no answer from a Cluster":  {drivers.RedisOptions{Client: ofStalled}, []string{stalled.Addr(), "it does not answer"}},
		"nobody listens in Cluster": {drivers.RedisOptions{Client: ofDead}, []string{dead.Addr(), "does it run there?"}},
		"no Sentinel":               {drivers.RedisOptions{Client: noSentinel}, []string{"sentinel"}},
		"a ring":                    {drivers.RedisOptions{Client: ring}, []string{"*redis.Ring", "give a *redis.Client or a *redis.ClusterClient"}},
		"a wrapped client":          {drivers.RedisOptions{Client: wrapped{ofLocked}}, []string{"drivers_test.wrapped", "give a *redis.Client"}},
		"an opening brace":          {drivers.RedisOptions{Addr: open.Addr(), Prefix: "a{b"}, []string{`"a{b"`, "leave out { and }"}},
		"a closing brace":           {drivers.RedisOptions{Addr: open.Addr(), Prefix: "a}b"}, []string{`"a}b"`, "leave out { and }"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			driver, err := drivers.NewRedisDriver(&c.options)
			if took := time.Since(begin); took > 6*time.Second {
				t.Errorf("it took %v", took)
			}
			if err == nil || driver != nil {
				t.Fatalf("a driver was made: %v, %v", driver, err)
			}
			t.Log(err)
			if !strings.HasPrefix(err.Error(), "gows: redis") {
				t.Errorf("%v does not begin with gows: redis", err)
			}
			for _, words := range c.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q does not say %q", err, words)
				}
			}
			var cause *net.OpError
			if strings.HasPrefix(name, "nobody listens") && !errors.As(err, &cause) {
				t.Errorf("the cause of %v is lost", err)
			}
		})
	}
}

func TestRedisVersionsThatAreNewEnough(t *testing.T) {
	t.Parallel()
	for _, info := range []string{
		"redis_version:6.2.0\r\nredis_mode:standalone\r\n", "redis_version:7.0.15\r\n", "redis_version:10.0.0\r\n",
		"redis_version:6.10.1\r\n", "something:else\r\n", "",
	} {
		if _, err := drivers.NewRedisDriver(&drivers.RedisOptions{Addr: fakeRedis(t, info)}); err != nil {
			t.Errorf("%q: %v", info, err)
		}
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{fakeRedis(t, "redis_version:7.0.0\r\nredis_mode:cluster\r\n")}})
	t.Cleanup(func() { _ = client.Close() })
	if _, err := drivers.NewRedisDriver(&drivers.RedisOptions{Client: client}); err != nil {
		t.Error(err)
	}
}

func TestRedisReplicaIsNoPlaceToRunOn(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	_, port, _ := net.SplitHostPort(master.Addr())
	replica := redistest.Start(t, "--replicaof", "127.0.0.1", port)
	_, err := drivers.NewRedisDriver(&drivers.RedisOptions{Addr: replica.Addr()})
	if err == nil || !strings.Contains(err.Error(), replica.Addr()) || !strings.Contains(err.Error(), "give the address of the master") {
		t.Error(err)
	}
}

// fakeRedis is a server that knows little more than its version, and returns its address.
func fakeRedis(t *testing.T, info string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	slots := fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$%d\r\n%s\r\n:%s\r\n$4\r\nself\r\n", len(host), host, port)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	serve := func(conn net.Conn) { // ends with the connection, which ends with the test
		defer conn.Close()
		defer context.AfterFunc(t.Context(), func() { _ = conn.Close() })()
		in := bufio.NewReader(conn)
		for {
			words, err := readCommand(in)
			if err != nil {
				return
			}
			answer := "+OK\r\n"
			switch strings.ToUpper(words[0]) {
			case "HELLO":
				answer = "-ERR unknown command\r\n"
			case "INFO":
				answer = fmt.Sprintf("$%d\r\n%s\r\n", len(info), info)
			case "CLUSTER":
				answer = slots
			case "COMMAND":
				answer = "*0\r\n"
			}
			_, _ = io.WriteString(conn, answer)
		}
	}
	serving.Go(func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	return listener.Addr().String()
}

func readCommand(in *bufio.Reader) (words []string, err error) {
	number := func(sign byte) (int, error) {
		line, err := in.ReadString('\n')
		if err != nil || line[0] != sign {
			return 0, errors.Join(io.ErrUnexpectedEOF, err)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number('*')
	for range n {
		size, err := number('$')
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(in, word); err != nil {
			return nil, err
		}
		words = append(words, string(word[:size]))
	}
	return words, err
}
