package drivers_test

import (
	"bytes"
	"errors"
	"log/slog"
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
	"github.com/duxweb/go-ws/internal/redistest"
)

// logbook keeps what a service logs.
type logbook struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// option has a service log here.
func (l *logbook) option() core.Option { return core.WithLogger(slog.New(slog.NewTextHandler(l, nil))) }

// lines returns those lines that hold words.
func (l *logbook) lines(words string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.text.String(), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, words) })
}

func TestRedisChannelsOfAnyName(t *testing.T) {
	t.Parallel()
	all := []string{
		"with a space", " ", "Grüße 漢字 🎈", "*", "?", "[a-z]*", `\`, `\*`, "{", "}", "{0}", "{}", "a:b:c", ":", "::", "%", "%3A", "%25",
		`"quoted"`, "'single'", "$", "pub", "pub:x", "ws:{0}:all", strings.Repeat("x", 200), strings.Repeat("ü", 100), "\u2028", "\ufffd",
	}
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		names := slices.Sorted(slices.Values(all))
		driver := newRedis(t, options)
		events := core.WithChannel("*", core.Rules{Presence: core.PresenceEvents})
		a, b := coretest.RunOn(t, driver, provider(), events), coretest.RunOn(t, driver, provider(), events)
		anna, bert := in(t, a, "anna", names...), in(t, b, "bert", names...)
		told := func(kind string) {
			t.Helper()
			var of []string // on a Cluster in any order
			for range names {
				of = append(of, anna.Expect(kind).Channel)
			}
			if slices.Sort(of); !slices.Equal(of, names) {
				t.Errorf("%s in %q, want %q", kind, of, names)
			}
		}
		told("join")
		for _, name := range names {
			must(t, a.Push([]string{name}, core.Message{Type: "news"}))
			for _, c := range []*coretest.Conn{anna, bert} {
				if got := c.Expect("news"); got.Channel != name {
					t.Errorf("%q: %s", name, got.Raw)
				}
			}
			if n, err := b.Count(t.Context(), name); n != 2 || err != nil {
				t.Errorf("%q: Count: %d, %v", name, n, err)
			}
			if members, err := a.Members(t.Context(), name, 0); len(members) != 2 || err != nil {
				t.Errorf("%q: Members: %v, %v", name, members, err)
			}
		}
		must(t, a.Unsubscribe(t.Context(), "bert", names...))
		for _, name := range names {
			if got := bert.Expect("unsubscribed"); got.Channel != name {
				t.Errorf("%q: %s", name, got.Raw)
			}
			if n, err := b.Count(t.Context(), name); n != 1 || err != nil {
				t.Errorf("%q: Count: %d, %v", name, n, err)
			}
		}
		told("leave")
	})
}

func TestRedisClientIDsOfAnyName(t *testing.T) {
	t.Parallel()
	driver := newRedis(t, drivers.RedisOptions{Addr: redistest.Start(t).Addr()})
	a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider())
	ids := []string{"with a space", " ", " around ", "Grüße 漢字", "*", ":", "5:anna", "{0}", "a\nb", "a\x00b", "%3A", `"`, strings.Repeat("x", 1000), "1"}
	for i, id := range ids {
		c := in(t, a, id, "room")
		must(t, b.Send(t.Context(), id, core.Message{Type: "letter"}))
		c.Expect("letter")
		if n, err := b.Count(t.Context(), "room"); n != i+1 || err != nil {
			t.Errorf("%q: Count: %d, %v", id, n, err)
		}
	}
	members, err := b.Members(t.Context(), "room", 0)
	must(t, err)
	var got []string
	for _, m := range members {
		got = append(got, m.ClientID)
	}
	slices.Sort(got)
	if slices.Sort(ids); !slices.Equal(got, ids) {
		t.Errorf("Members: %q, want %q", got, ids)
	}
}

func TestRedisCarriesPayloadsUpToTheLimit(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options drivers.RedisOptions) {
		t.Helper()
		driver := newRedis(t, options)
		a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider())
		conns := []*coretest.Conn{in(t, a, "anna", "room"), in(t, b, "bert", "room")}
		const limit = 1 << 20
		frame := len(`{"type":"big","message":""}`)
		for _, text := range []string{"", "a\x00b\x01\x7f", "<>&\u2028", strings.Repeat("x", limit-frame)} {
			m := core.Message{Type: "big", Message: text}
			must(t, a.Push([]string{"room"}, m))
			for _, c := range conns {
				if got := c.Expect("big"); got.Message.Message != text {
					t.Errorf("got %d bytes, want %d", len(got.Message.Message), len(text))
				}
			}
			must(t, a.Send(t.Context(), "bert", m))
			if got := conns[1].Expect("big"); got.Message.Message != text {
				t.Errorf("Send: got %d bytes, want %d", len(got.Message.Message), len(text))
			}
			must(t, b.Broadcast(t.Context(), m))
			for _, c := range conns {
				if got := c.Expect("big"); got.Message.Message != text {
					t.Errorf("Broadcast: got %d bytes, want %d", len(got.Message.Message), len(text))
				}
			}
		}
		over := core.Message{Type: "big", Message: strings.Repeat("x", limit-frame+1)}
		for what, err := range map[string]error{
			"Push": a.Push([]string{"room"}, over), "Send": a.Send(t.Context(), "bert", over), "Broadcast": a.Broadcast(t.Context(), over),
		} {
			if !errors.Is(err, core.ErrTooLarge) {
				t.Errorf("%s: got %v, want ErrTooLarge", what, err)
			}
		}
		for _, c := range conns {
			c.Nothing()
		}
	})
}

// livesOn checks that two nodes still do everything for each other.
func livesOn(t *testing.T, a, b *core.Service, bert *coretest.Conn) {
	t.Helper()
	must(t, a.Push([]string{"room"}, core.Message{Type: "news"}))
	bert.Expect("news")
	must(t, a.Send(t.Context(), "bert", core.Message{Type: "letter"}))
	bert.Expect("letter")
	must(t, a.Subscribe(t.Context(), "bert", "hall"))
	must(t, a.Broadcast(t.Context(), core.Message{Type: "all"}))
	bert.Expect("all")
	must(t, a.Unsubscribe(t.Context(), "bert", "hall"))
	bert.Expect("unsubscribed")
	bert.Nothing()
	for _, s := range []*core.Service{a, b} {
		must(t, s.Health(t.Context()))
	}
}

func TestRedisGarbageOfOtherProgramsIsIgnored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr()})
	var log logbook
	a, b := coretest.RunOn(t, driver, provider(), core.WithLogger(nil)), coretest.RunOn(t, driver, provider(), log.option())
	bert := in(t, b, "bert", "room")
	inPub := []string{
		"", " ", "hello", "\x00", "\x02{}", "\xff\xfe\xfd", "{", `{"type":"message"`, `{"type":"message"}}`, `{"a":1} {"b":2}`, `{a:1}`,
		"[1,2]", `"text"`, "null", "12", ` {"type":"message"}`, "\ufeff{}",
		"\x01", "\x01\xff", "\x01\x01", "\x01\x05abc", "\x01\x01\x05abc", "\x01\x02\x01a\x09b{}",
		"\x01" + strings.Repeat("\xff", 20), "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01{}", "\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01{}",
		"\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80{}",
		strings.Repeat("{", 100_000), strings.Repeat("[", 1<<20), "\x01\xff\xff\x3f" + strings.Repeat("\x01a", 1<<15),
	}
	inNode := []string{
		"", " ", "hello", "\x00\xff", "{", "{}", "null", "[]", `"text"`, "12", "beats", `{"action":5}`, `{"action":"send"`, `{"id":1}`,
		`{"answer":"x"}`, `{"answer":-1}`, `{"client":"bert","payload":{}}`, strings.Repeat("[", 1<<20), "\x01\x00{}",
	}
	want := int64(0)
	garbage := func(name string, all []string) {
		t.Helper()
		for _, data := range all {
			n, err := client.Publish(t.Context(), name, data).Result()
			if err != nil || n < 1 {
				t.Fatalf("%q has %d receivers, %v", name, n, err)
			}
			want++
			comesTrue(t, "the fault of "+strconv.Quote(data[:min(len(data), 40)])+" in "+name, func() bool { return b.Stats().Faults == want })
		}
		livesOn(t, a, b, bert)
	}
	garbage("ws:{0}:pub::room", inPub)
	garbage("ws:{0}:pub::", inPub)
	garbage("ws:{0}:node:"+b.Stats().Node, inNode)
	garbage("ws:{0}:all", inNode)
	if got := log.lines("gows: driver"); len(got) != 1 || !strings.Contains(got[0], "ws:{0}:pub::room") {
		t.Errorf("logged: %q, want one line about the first in the room", got)
	}
	// Well-formed, but nobody's: no fault and no harm.
	for _, data := range []string{
		`{"action":"dance","client":"bert"}`, `{"action":"dance"}`, `{"action":"send","client":"nobody","payload":{}}`, `{"answer":12345}`,
		`{"action":"close","client":"nobody","code":1,"id":7,"from":"nowhere"}`, `{"action":"subscribe","client":"bert","id":8}`, "beat",
	} {
		must(t, client.Publish(t.Context(), "ws:{0}:node:"+b.Stats().Node, data).Err())
	}
	livesOn(t, a, b, bert)
	if got := b.Stats().Faults; got != want {
		t.Errorf("%d faults, want %d", got, want)
	}
}

// One byte that is not UTF-8 in a text frame, and every browser that gets it must close its connection.
func TestRedisTextThatIsNotUTF8ReachesNobody(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	service := coretest.RunOn(t, newRedis(t, drivers.RedisOptions{Addr: server.Addr()}), provider(), core.WithLogger(nil))
	anna := in(t, service, "anna", "room")
	for _, name := range []string{"ws:{0}:pub::room", "ws:{0}:pub::"} {
		must(t, client.Publish(t.Context(), name, "{\"type\":\"message\",\"message\":\"Gr\xfc\xdfe\"}").Err())
	}
	must(t, service.Push([]string{"room"}, core.Message{Type: "news"}))
	anna.Expect("news")
	must(t, service.Broadcast(t.Context(), core.Message{Type: "news"}))
	anna.Expect("news")
	if n := service.Stats().Faults; n != 2 {
		t.Errorf("%d faults, want 2", n)
	}
}

// Each key of another type is named by what needs it, and when it is gone everything works again.
func TestRedisKeyOfAnotherTypeIsNamed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr()})
	var log logbook
	a, b := coretest.RunOn(t, driver, provider()), coretest.RunOn(t, driver, provider(), log.option())
	bert := in(t, b, "bert", "room")
	in(t, a, "other", "hall")
	reg := b.Stats().Node + ".1"
	sub := func() error { return a.Subscribe(t.Context(), "bert", "party") }
	members := func(channel string) func() error {
		return func() error {
			_, err := a.Members(t.Context(), channel, 0)
			return err
		}
	}
	count := func() error {
		_, err := a.Count(t.Context(), "party")
		return err
	}
	send := func(id string) func() error { return func() error { return a.Send(t.Context(), id, "letter") } }
	connect := func() error {
		before := len(log.lines("gows: refused"))
		c := coretest.Connect(t, b, map[string]any{"client_id": "carl"})
		if why := c.Closed(); why.Code != core.CloseInternal {
			t.Errorf("carl: %v, want try again", why)
		}
		comesTrue(t, "the refusal is logged", func() bool { return len(log.lines("gows: refused")) > before })
		return errors.New(strings.ReplaceAll(log.lines("gows: refused")[before], `\"`, `"`))
	}
	for _, c := range []struct {
		key  string
		list bool // else it is a string
		asks map[string]func() error
	}{
		{key: "members:" + reg + "::party", asks: map[string]func() error{"Sub": sub}},
		{key: "count::party", asks: map[string]func() error{"Sub": sub, "Count": count}},
		{key: "in::party", asks: map[string]func() error{"Sub": sub, "Members": members("party")}},
		{key: "topics:" + reg, asks: map[string]func() error{"Sub": sub}},
		{key: "client::bert", asks: map[string]func() error{"Send": send("bert"), "Sub": sub}},
		{key: "client::carl", asks: map[string]func() error{"connect": connect, "Send": send("carl")}},
		{key: "conns:" + reg, asks: map[string]func() error{"connect": connect}},
		{key: "number", list: true, asks: map[string]func() error{"connect": connect}},
		{key: "number", asks: map[string]func() error{"connect": connect}}, // a string, but no number
		{key: "nodes", asks: map[string]func() error{"Sub": sub, "connect": connect}},
	} {
		key := "ws:{0}:" + c.key
		// At once, or what the node writes in between is lost.
		atOnce := func(change func(tx redis.Pipeliner)) {
			t.Helper()
			_, err := client.TxPipelined(t.Context(), func(tx redis.Pipeliner) error {
				change(tx)
				return nil
			})
			if err != nil && !errors.Is(err, redis.Nil) {
				t.Fatal(err)
			}
		}
		var kept *redis.StringCmd
		atOnce(func(tx redis.Pipeliner) {
			kept = tx.Dump(t.Context(), key)
			tx.Del(t.Context(), key)
			if c.list {
				tx.RPush(t.Context(), key, "mine")
			} else {
				tx.Set(t.Context(), key, "mine", 0)
			}
		})
		for what, ask := range c.asks {
			if err := ask(); err == nil || !strings.Contains(err.Error(), "redis key "+strconv.Quote(key)) {
				t.Errorf("%s does not name %s: %v", what, key, err)
			}
		}
		atOnce(func(tx redis.Pipeliner) {
			tx.Del(t.Context(), key)
			if kept.Val() != "" {
				tx.Restore(t.Context(), key, 0, kept.Val())
			}
		})
		livesOn(t, a, b, bert)
		if err := sub(); err != nil {
			t.Errorf("%s is gone, and yet: %v", key, err)
		}
		if n, err := a.Count(t.Context(), "party"); n != 1 || err != nil {
			t.Errorf("%s is gone: Count: %d, %v", key, n, err)
		}
		if got, err := a.Members(t.Context(), "party", 0); len(got) != 1 || err != nil {
			t.Errorf("%s is gone: Members: %v, %v", key, got, err)
		}
		bert.Nothing()
		must(t, a.Unsubscribe(t.Context(), "bert", "party"))
		bert.Expect("unsubscribed")
		in(t, b, "dora").Close(1000, "")
	}
}

func TestRedisKeyOfAnotherTypeIsNamedByRun(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.CLI("SET", "ws:{0}:nodes", "mine")
	err := core.New(newRedis(t, drivers.RedisOptions{Addr: server.Addr()}), provider(), core.WithLogger(nil)).Run()
	if err == nil || !strings.Contains(err.Error(), `"ws:{0}:nodes"`) {
		t.Errorf("Run: %v", err)
	}
}

// No clock is compared: not with one that is ahead, nor with one that was set back.
func TestRedisNumbersGrowWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	driver := newRedis(t, drivers.RedisOptions{Addr: server.Addr()})
	sessions := core.WithSessions(core.ReplaceOld)
	a, b := coretest.RunOn(t, driver, provider(), sessions), coretest.RunOn(t, driver, provider(), sessions)
	number := func() int64 {
		n, err := strconv.ParseInt(server.CLI("GET", "ws:{0}:number"), 10, 64)
		must(t, err)
		return n
	}
	last := in(t, a, "anna")
	if skew := time.Since(time.UnixMicro(number())).Abs(); skew > time.Minute {
		t.Errorf("the first number is not the time: it is %v off", skew)
	}
	ahead := time.Now().Add(time.Hour).UnixMicro()
	server.CLI("SET", "ws:{0}:number", strconv.FormatInt(ahead, 10))
	for i, s := range []*core.Service{b, a, a, b} {
		next := in(t, s, "anna")
		if got, want := number(), ahead+int64(i)+1; got != want {
			t.Errorf("the number is %d, want %d", got, want)
		}
		if why := last.Closed(); why.Code != core.CloseReplaced {
			t.Errorf("the older connection: %v", why)
		}
		must(t, a.Send(t.Context(), "anna", core.Message{Type: "letter"}))
		next.Expect("letter")
		last = next
	}
	// Members are dated by the node's own clock, which nobody compares with another.
	server.CLI("DEL", "ws:{0}:number")
	bert, next := in(t, a, "bert"), in(t, b, "bert")
	if why := bert.Closed(); why.Code != core.CloseReplaced {
		t.Errorf("after the number was lost: %v", why)
	}
	next.Nothing()
}
