package docs

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/leaktest"
)

// These tests show what the README promises, each in as few lines as it takes. The tests of core look into the corners.

// open lets everybody listen and speak.
func open() *core.Provider {
	return &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	}
}

func connect(t *testing.T, service *core.Service, id string, channels ...string) *coretest.Conn {
	t.Helper()
	c := coretest.Connect(t, service, map[string]any{"client_id": id})
	for _, channel := range channels {
		c.Do(core.Message{Type: "subscribe", Channel: channel})
	}
	return c
}

func TestAMessageIsDeliveredAtMostOnce(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open())
	alice := connect(t, service, "alice", "room:1", "room:1") // subscribed twice: once is enough
	bob := connect(t, service, "bob", "room:1")
	for i := range 100 {
		if err := service.Push([]string{"room:1"}, core.Message{ID: strconv.Itoa(i), Type: "news"}); err != nil {
			t.Fatal(err)
		}
	}
	late := connect(t, service, "late", "room:1")
	for i := range 100 {
		for _, c := range []*coretest.Conn{alice, bob} {
			if got := c.Expect("news"); got.ID != strconv.Itoa(i) {
				t.Fatalf("got %s, want number %d", got.Raw, i)
			}
		}
	}
	alice.Nothing()
	bob.Nothing()
	late.Nothing()
}

func TestMessagesArriveInTheOrderOfTheirPublisher(t *testing.T) {
	t.Parallel()
	const each = 200
	service := coretest.Run(t, open())
	reader := connect(t, service, "reader", "room:1")
	publishers := []string{"alice", "bob", "carol"}
	var wg sync.WaitGroup
	for _, name := range publishers {
		wg.Go(func() {
			for i := range each {
				m := core.Message{ID: strconv.Itoa(i), Type: "news", ClientID: name}
				if err := service.Push([]string{"room:1"}, m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	next := map[string]int{}
	for range each * len(publishers) {
		got := reader.Expect("news")
		if got.ID != strconv.Itoa(next[got.ClientID]) {
			t.Fatalf("got %s, want number %d of %s", got.Raw, next[got.ClientID], got.ClientID)
		}
		next[got.ClientID]++
	}
	wg.Wait()
}

func TestSubAndUnsubTakeEffectWhenTheyReturn(t *testing.T) {
	t.Parallel()
	clients := make(chan *core.Client, 1)
	provider := open()
	provider.Event = func(name string, client *core.Client) error {
		if name == core.EventOnline {
			clients <- client
		}
		return nil
	}
	service := coretest.Run(t, provider)
	conn := connect(t, service, "alice")
	client := <-clients
	push := func(kind string) {
		if err := service.Push([]string{"room:1"}, core.Message{Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if err := client.Sub("room:1"); err != nil {
			t.Fatal(err)
		}
		push("heard")
		if err := client.Unsub("room:1"); err != nil {
			t.Fatal(err)
		}
		push("unheard")
	}
	for range 100 {
		conn.Expect("heard")
	}
	conn.Nothing()
}

func TestEachMessageWithAnIDGetsOneAnswer(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open())
	alice := connect(t, service, "alice")
	for range 50 {
		alice.Do(core.Message{Type: "subscribe", Channel: "room:1"})
		alice.Do(core.Message{Type: "presence", Channel: "room:1"})
		alice.Do(core.Message{Type: "unsubscribe", Channel: "room:1"})
		alice.Do(core.Message{Type: "message", Channel: "room:1"})
		alice.Do(core.Message{Type: "ping"})
		alice.Error(404, core.Message{Type: "dance"})
		alice.Send(core.Message{Type: "message", Channel: "room:1"}) // without an id: no answer
		alice.Nothing()
	}
}

func TestAHookThatPanicsOrHangsHarmsItsOwnConnectionOnly(t *testing.T) {
	t.Parallel()
	hangs, goOn := make(chan struct{}), make(chan struct{})
	provider := open()
	provider.Message = func(m *core.Message, _ *core.Client) error {
		switch m.Type {
		case "panic":
			panic("a mistake")
		case "hang":
			close(hangs)
			<-goOn
		}
		return nil
	}
	service := coretest.Run(t, provider, core.WithLogger(nil))
	alice := connect(t, service, "alice", "room:1")
	bob := connect(t, service, "bob", "room:1")
	carol := connect(t, service, "carol", "room:1")
	alice.Error(500, core.Message{Type: "panic"})
	bob.Send(core.Message{Type: "hang"})
	<-hangs
	carol.Do(core.Message{Type: "anything"})
	alice.Do(core.Message{Type: "message", Channel: "room:1", Message: "still here"})
	for _, c := range []*coretest.Conn{alice, bob, carol} { // bob hears, though his hook hangs
		c.Expect("message")
	}
	close(goOn)
	bob.Do(core.Message{Type: "anything"})
}

// deaf connects a client that never reads. It is in memory: not even the kernel takes anything for it.
func deaf(t *testing.T, service *core.Service, id, channel string) {
	t.Helper()
	h := coretest.Handshake()
	h.Identity = map[string]any{"client_id": id}
	ticket, err := service.Admit(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	server, client := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	service.Attach(server, nil, ticket)
	response, err := http.ReadResponse(bufio.NewReaderSize(client, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if err := untilThere(service, id, channel); err != nil {
		t.Fatal(err)
	}
}

// untilThere subscribes a client as soon as it is registered.
func untilThere(service *core.Service, id, channel string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := service.Subscribe(ctx, id, channel)
		if !errors.Is(err, core.ErrOffline) || ctx.Err() != nil {
			return err
		}
		runtime.Gosched()
	}
}

func TestAClientThatDoesNotReadDelaysNobody(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, open(), core.WithOutboxBytes(64<<10), core.WithLogger(nil))
	alice := connect(t, service, "alice", "room:1")
	deaf(t, service, "deaf", "room:1")
	text := strings.Repeat("x", 1000)
	for i := range 200 { // three times what its outbox holds
		if err := service.Push([]string{"room:1"}, core.Message{ID: strconv.Itoa(i), Type: "news", Message: text}); err != nil {
			t.Fatal(err)
		}
		if got := alice.Expect("news"); got.ID != strconv.Itoa(i) {
			t.Fatalf("got %s, want number %d", got.Raw, i)
		}
	}
	if slow := service.Stats().Slow; slow != 1 {
		t.Fatalf("%d clients were too slow, want the one", slow)
	}
}

func TestMemoryDoesNotGrowWithWhatNobodyReads(t *testing.T) {
	service := coretest.Run(t, open(), core.WithOutboxBytes(64<<10), core.WithLogger(nil),
		core.WithChannel("*", core.Rules{Slow: core.DropOldest}))
	for i := range 10 {
		deaf(t, service, "deaf "+strconv.Itoa(i), "room:1")
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // a sync.Pool keeps what it has for one of them
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	text := strings.Repeat("x", 10_000)
	for range 2000 { // 20 MB for each of ten
		if err := service.Push([]string{"room:1"}, core.Message{Type: "news", Message: text}); err != nil {
			t.Fatal(err)
		}
	}
	if now := heap(); now > before+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, now)
	}
	if dropped := service.Stats().Dropped; dropped < 10*1900 {
		t.Errorf("only %d messages were dropped, and counted", dropped)
	}
}

func TestOnlineComesFirstAndOfflineOnceAtTheEnd(t *testing.T) {
	t.Parallel()
	const people = 50
	var mu sync.Mutex
	heard := map[string][]string{}
	note := func(client *core.Client, what string) {
		mu.Lock()
		defer mu.Unlock()
		heard[client.ClientID] = append(heard[client.ClientID], what)
	}
	provider := &core.Provider{
		Event: func(name string, client *core.Client) error {
			note(client, name)
			return nil
		},
		Message: func(m *core.Message, client *core.Client) error {
			note(client, m.Type)
			return nil
		},
	}
	service := coretest.Run(t, provider)
	for i := range people {
		c := connect(t, service, strconv.Itoa(i))
		c.Do(core.Message{Type: "hello"})
		switch i % 3 {
		case 0:
			c.Close(1000, "")
		case 1:
			c.Cut() // as a lost network does
		}
	}
	if err := service.Shutdown(t.Context()); err != nil { // ends the others, and waits for every hook
		t.Fatal(err)
	}
	for i := range people {
		got := heard[strconv.Itoa(i)]
		if !slices.Equal(got, []string{core.EventOnline, "hello", core.EventOffline}) {
			t.Errorf("%d heard %v", i, got)
		}
	}
}

func TestAfterTheEndEverythingReturnsErrClosed(t *testing.T) {
	t.Parallel()
	clients := make(chan *core.Client, 1)
	provider := open()
	provider.Event = func(name string, client *core.Client) error {
		if name == core.EventOnline {
			clients <- client
		}
		return nil
	}
	service := coretest.Run(t, provider)
	connect(t, service, "alice").Close(1000, "")
	gone := <-clients
	<-gone.Context().Done()
	if err := service.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	calls := map[string]error{
		"Push":      service.Push([]string{"room:1"}, "x"),
		"Send":      service.Send(ctx, "alice", "x"),
		"Broadcast": service.Broadcast(ctx, "x"),
		"Subscribe": service.Subscribe(ctx, "alice", "room:1"),
		"Run":       service.Run(),
	}
	for name, client := range map[string]*core.Client{"gone": gone, "made by hand": {}} {
		calls["Client.Send, "+name] = client.Send("x")
		calls["Client.Push, "+name] = client.Push([]string{"room:1"}, "x")
		calls["Client.Sub, "+name] = client.Sub("room:1")
		calls["Client.Unsub, "+name] = client.Unsub()
		calls["Client.Close, "+name] = client.Close(1000, "")
	}
	for name, err := range calls {
		if !errors.Is(err, core.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAppsNeverSeeEachOther(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t)
	conns := map[string]*coretest.Conn{}
	for _, app := range []string{"shop", "forum"} {
		if err := service.RegisterProvider(app, open()); err != nil {
			t.Fatal(err)
		}
		conns[app] = coretest.Connect(t, service, map[string]any{"client_id": "alice", "app": app})
		conns[app].Do(core.Message{Type: "subscribe", Channel: "room:1"})
	}
	ctx := t.Context()
	for _, err := range []error{
		service.App("shop").Push([]string{"room:1"}, core.Message{Type: "news"}),
		service.App("shop").Send(ctx, "alice", core.Message{Type: "news"}),
		service.App("shop").Broadcast(ctx, core.Message{Type: "news"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		conns["shop"].Expect("news")
	}
	conns["shop"].Nothing()
	conns["forum"].Nothing()
	members, err := service.App("forum").Members(ctx, "room:1", 0)
	if err != nil || len(members) != 1 {
		t.Errorf("the forum's room has %v, %v", members, err)
	}
}

func TestShutdownLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	leaktest.Check(t)
	service := coretest.Run(t, open())
	var conns []*coretest.Conn
	for i := range 20 {
		conns = append(conns, connect(t, service, strconv.Itoa(i), "room:1"))
	}
	if err := service.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if why := c.Closed(); why.Code != core.CloseRestart {
			t.Error(why)
		}
	}
}
