package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9" //nolint:depguard // a user of the docs has a client, too

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// on makes a Redis driver.
func on(t testing.TB, options drivers.RedisOptions) core.Driver {
	t.Helper()
	driver, err := drivers.NewRedisDriver(&options)
	if err != nil {
		t.Fatal(err)
	}
	return driver
}

// comes waits until what is true.
func comes(t *testing.T, what string, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for late := time.Now().Add(patience); !is(); <-ticker.C {
		if time.Now().After(late) {
			t.Fatal("it does not come true that", what)
		}
	}
}

// run runs a redis-cli line of the docs against a server and returns what it prints.
func run(t *testing.T, b block, server *redistest.Server) string {
	t.Helper()
	line, ok := strings.CutPrefix(b.code, "redis-cli ")
	if !ok || strings.Count(b.code, "\n") != 1 {
		t.Fatalf("%s:%d: not one line of redis-cli: %s", b.file, b.line, b.code)
	}
	host, port, _ := strings.Cut(server.Addr(), ":")
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "redis-cli -e -h "+host+" -p "+port+" "+line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s:%d: %v\n%s", b.file, b.line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// lines returns the redis-cli lines of the docs for a "single" server or a "cluster" that have a word in them.
func lines(t *testing.T, kind, word string) []block {
	t.Helper()
	var found []block
	for _, b := range read(t, deployment).blocks {
		if b.lang == "bash" && b.note == "check: "+kind && strings.Contains(b.code, word) {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s: no line with %s for a %s", deployment, word, kind)
	}
	return found
}

var message = regexp.MustCompile(`'(\{"type":"(\w+)".*\})'`)

func TestRedisCLI(t *testing.T) {
	t.Parallel()
	server, cluster := redistest.Start(t), redistest.StartCluster(t, 3, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs()})
	t.Cleanup(func() { _ = client.Close() })
	for _, c := range []struct {
		kind, verb string
		server     *redistest.Server
		options    drivers.RedisOptions
	}{
		{"single", " PUBLISH ", server, drivers.RedisOptions{Addr: server.Addr()}},
		{"cluster", " SPUBLISH ", cluster.Servers()[0], drivers.RedisOptions{Client: client}},
	} {
		driver := on(t, c.options)
		var conns []*coretest.Conn
		for _, id := range []string{"alice", "bob"} { // each on a node
			conns = append(conns, connect(t, coretest.RunOn(t, driver, open()), id, "room:1"))
		}
		for _, b := range lines(t, c.kind, c.verb) {
			if got := run(t, b, c.server); got != "2" {
				t.Errorf("%s:%d prints %s, want the number of nodes", b.file, b.line, got)
			}
			sent := message.FindStringSubmatch(b.code)
			for _, conn := range conns {
				if got := conn.Expect(sent[2]); got.Raw != sent[1] {
					t.Errorf("%s:%d: got %s, want %s", b.file, b.line, got.Raw, sent[1])
				}
			}
		}
		for _, conn := range conns {
			conn.Nothing()
		}
	}
}

// names turns the first column of a table into regular expressions, by name.
func names(t *testing.T, what string) (patterns map[string]*regexp.Regexp, rows map[string][]string) {
	t.Helper()
	parts := strings.NewReplacer("<app>", "[^:]*", "<channel>", ".+", "<client>", ".+", "<registration>", `[A-Z2-7]{16}\.\d+`, "<node>", "[A-Z2-7]{16}")
	patterns, rows = map[string]*regexp.Regexp{}, map[string][]string{}
	for _, row := range read(t, deployment).checked(t, what).rows {
		name := strings.Trim(row[0], "`")
		patterns[name] = regexp.MustCompile("^" + parts.Replace(regexp.QuoteMeta(name)) + "$")
		rows[name] = row
	}
	return patterns, rows
}

// sort puts names that are on the server under those of a table: each belongs to one, and each has some.
func sort(t *testing.T, found []string, patterns map[string]*regexp.Regexp) map[string][]string {
	t.Helper()
	sorted := map[string][]string{}
	for _, name := range found {
		var of []string
		for row, pattern := range patterns {
			if pattern.MatchString(name) {
				of = append(of, row)
				sorted[row] = append(sorted[row], name)
			}
		}
		if len(of) != 1 {
			t.Errorf("%q is on the server, and belongs to %q of the table", name, of)
		}
	}
	for row := range patterns {
		if sorted[row] == nil {
			t.Errorf("%s: nothing like that is on the server, which has %q", row, found)
		}
	}
	return sorted
}

func TestTheTablesOfKeysAndChannelsAreWhatIsOnTheServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	driver := on(t, drivers.RedisOptions{Addr: server.Addr()})
	var services []*core.Service
	for _, id := range []string{"alice", "bob"} { // each on a node
		service := coretest.RunOn(t, driver, open(), core.WithChannel("silent", core.Rules{Presence: core.PresenceOff}))
		services = append(services, service)
		connect(t, service, id, "room:1", "silent")
		if err := service.RegisterProvider("shop:50%", open()); err != nil {
			t.Fatal(err)
		}
		shopper := coretest.Connect(t, service, map[string]any{"client_id": id, "app": "shop:50%"})
		shopper.Do(core.Message{Type: "subscribe", Channel: "sale"})
	}
	patterns, rows := names(t, "keys")
	for row, keys := range sort(t, strings.Split(server.CLI("KEYS", "*"), "\n"), patterns) {
		for _, key := range keys {
			if is := server.CLI("TYPE", key); is != rows[row][1] {
				t.Errorf("%s is a %s, not a %s", key, is, rows[row][1])
			}
			if ttl := server.CLI("TTL", key); ttl != "-1" {
				t.Errorf("%s expires: %s", key, ttl)
			}
		}
		if n := len(keys); strings.Contains(row, "<app>") && n < 2 || strings.Contains(row, "<registration>") && n < 2 {
			t.Errorf("%s: only %q", row, keys)
		}
	}
	patterns, _ = names(t, "channels")
	channels := strings.Split(server.CLI("PUBSUB", "CHANNELS", "*"), "\n")
	sort(t, channels, patterns)
	if escaped := "ws:{0}:pub:shop%3A50%25:sale"; !slices.Contains(channels, escaped) {
		t.Errorf("%s is not among %q", escaped, channels)
	}
	for _, service := range services {
		if err := service.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if left := strings.Fields(server.CLI("KEYS", "*")); !slices.Contains(left, "ws:{0}:number") || !slices.Contains(left, "ws:{0}:epoch") || len(left) != 2 {
		t.Errorf("when all nodes have shut down there is still %q", left)
	}
}

// asked returns the commands that servers have carried out, but for those of these tests.
func asked(servers []*redistest.Server) map[string]bool {
	commands := map[string]bool{}
	for _, server := range servers {
		for line := range strings.Lines(server.CLI("INFO", "commandstats")) {
			name, _, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
			if ok && !slices.Contains([]string{"acl|setuser", "acl|log", "config|resetstat", "hello", "client|setinfo", "del"}, name) {
				commands[name] = true
			}
		}
	}
	return commands
}

func TestTheDocumentedPermissionsAreEnoughAndNoneIsMore(t *testing.T) {
	t.Parallel()
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		permitted(t, "single", []*redistest.Server{server}, func() redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: server.Addr(), Username: "gows", Password: "secret"})
		})
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, 3, 0)
		permitted(t, "cluster", cluster.Servers(), func() redis.UniversalClient {
			return redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "gows", Password: "secret"})
		})
	})
}

func permitted(t *testing.T, kind string, servers []*redistest.Server, makeClient func() redis.UniversalClient) {
	t.Helper()
	granted := map[string]bool{}
	for _, b := range lines(t, kind, "ACL SETUSER") {
		for _, server := range servers {
			run(t, b, server)
			server.CLI("CONFIG", "RESETSTAT")
		}
		for word := range strings.FieldsSeq(b.code) {
			if name, ok := strings.CutPrefix(strings.Trim(word, "'"), "+"); ok {
				granted[name] = true
			}
		}
	}
	var lane uint32
	if len(servers) > 1 {
		lane = crc32.ChecksumIEEE([]byte(":room:7")) % 16
	}
	client := makeClient()
	t.Cleanup(func() { _ = client.Close() })
	driver := on(t, drivers.RedisOptions{Client: client})
	a, b := coretest.RunOn(t, driver, open()), coretest.RunOn(t, driver, open())
	alice, bob := connect(t, a, "alice", "room:1"), connect(t, b, "bob", "room:1")
	ctx := t.Context()
	for _, err := range []error{
		a.Push([]string{"room:1"}, "x"), a.Send(ctx, "bob", "x"), a.Subscribe(ctx, "bob", "room:2"), b.Broadcast(ctx, "x"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	alice.Expect("message")
	bob.Expect("message")
	if members, err := b.Members(ctx, "room:1", 0); len(members) != 2 || err != nil {
		t.Error(members, err)
	}
	bob.Do(core.Message{Type: "unsubscribe", Channel: "room:1"})
	taken := fmt.Sprintf("ws:{%d}:count::room:7", lane)
	owner := servers[0]
	for _, server := range servers {
		if server.Client().Set(ctx, taken, "no hash", 0).Err() == nil {
			owner = server
		}
	}
	if _, err := a.Count(ctx, "room:7"); err == nil || !strings.Contains(err.Error(), taken) {
		t.Error("the key that is in the way is not named:", err)
	}
	owner.CLI("DEL", taken)
	comes(t, "a node has raised its counter and left a channel", func() bool {
		done := asked(servers)
		return done["hgetall"] && (done["unsubscribe"] || done["sunsubscribe"])
	})
	for _, service := range []*core.Service{a, b} {
		if err := service.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, server := range servers {
		if log := server.CLI("ACL", "LOG"); log != "" {
			t.Errorf("refused: %s", log)
		}
	}
	used := asked(servers)
	for name := range granted {
		if !used[name] {
			t.Errorf("+%s is granted and not used", name)
		}
	}
	for name := range used {
		if !granted[name] {
			t.Errorf("%s is used and not granted", name)
		}
	}
}

func TestTheTableOfFiguresHasTheNamesOfStats(t *testing.T) {
	t.Parallel()
	var fields map[string]any
	text, err := json.Marshal(core.Stats{DriverAway: time.Second})
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range read(t, deployment).checked(t, "stats").rows {
		for _, m := range inline.FindAllString(row[0], -1) {
			if _, ok := fields[strings.Trim(m, "`")]; !ok {
				t.Errorf("%s is none of %v", m, reflect.ValueOf(fields).MapKeys())
			}
		}
	}
	if fields["driver_away"] != 1e9 {
		t.Errorf("driver_away is not in nanoseconds: %v", fields["driver_away"])
	}
}

// A server that is dead, and one that hangs, have taken nothing.
func TestAPushThatRedisHasNotTakenReturnsAnError(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*redistest.Server){"dead": (*redistest.Server).Kill, "hanging": (*redistest.Server).Pause} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			service := coretest.RunOn(t, on(t, drivers.RedisOptions{Addr: server.Addr()}), open(), core.WithLogger(nil))
			t.Cleanup(server.Kill) // Shutdown need not wait for one that hangs
			end(server)
			for i := range 3 {
				before := time.Now()
				if err := service.Push([]string{"room:1"}, "x"); err == nil {
					t.Errorf("push %d returns nil", i)
				}
				if took := time.Since(before); took > 6*time.Second {
					t.Errorf("push %d took %v", i, took)
				}
			}
		})
	}
}

// BenchmarkRedisMember measures what a connection and its channels need in the memory of Redis.
func BenchmarkRedisMember(b *testing.B) {
	const people = 10_000
	for name, data := range map[string]string{"no data": "", "27 bytes of data": `{"name":"Name of somebody"}`} {
		b.Run(name, func(b *testing.B) {
			server := redistest.Start(b)
			node := drivertest.NewNode()
			link, err := on(b, drivers.RedisOptions{Addr: server.Addr()}).Open(b.Context(), node)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = link.Close(context.Background()) })
			used := func() (n int) {
				for line := range strings.Lines(server.CLI("INFO", "memory")) {
					if _, err := fmt.Sscanf(line, "used_memory:%d", &n); err == nil {
						return n
					}
				}
				b.Fatal("Redis does not say")
				return 0
			}
			all := func(do func(i int, m core.Member) error) float64 {
				before := used()
				var wg sync.WaitGroup
				for worker := range 100 { // ends with its share
					wg.Go(func() {
						for i := worker; i < people; i += 100 {
							m := core.Member{
								ClientID: fmt.Sprintf("user-%06d", i), ConnID: fmt.Sprintf("4WUIF7TQQS%06d", i), Node: node.ID(),
								Since: time.Unix(1_800_000_000, 0), Data: json.RawMessage(data),
							}
							if err := do(i, m); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				return float64(used()-before) / people
			}
			ctx := context.Background()
			connection := all(func(_ int, m core.Member) error { return link.Register(ctx, "", m, func(uint64) {}) })
			join := func(channel func(i int) string) float64 {
				return all(func(i int, m core.Member) error {
					_, err := link.Join(ctx, m, core.Topic{Channel: channel(i)})
					return err
				})
			}
			member := join(func(int) string { return "room:1" })
			channel := join(func(i int) string { return fmt.Sprint("own:", i) })
			for b.Loop() {
				used()
			}
			b.ReportMetric(connection, "B/connection")
			b.ReportMetric(member, "B/member")
			b.ReportMetric(channel, "B/channel")
			b.ReportMetric(0, "ns/op")
		})
	}
}
