package core_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// events are the rules of a channel that is told of joins and leaves.
func events(pattern string) core.Option {
	return core.WithChannel(pattern, core.Rules{Presence: core.PresenceEvents})
}

// clientIDs returns the sorted client ids of members.
func clientIDs(members []core.Member) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.ClientID)
	}
	slices.Sort(ids)
	return ids
}

func TestMembersListsConnectionsAndCountClientIDs(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	s := coretest.RunOn(t, driver, permissive())
	other := coretest.RunOn(t, driver, permissive())
	begun := time.Now().Truncate(time.Millisecond)
	ann, tab1 := connect(t, s, "ann")
	_, tab2 := connect(t, s, "ann")
	_, bob := connect(t, other, "bob")
	_, absent := connect(t, s, "absent")
	for _, c := range []*core.Client{tab1, tab2, bob} {
		sub(t, c, "room", "second")
	}
	sub(t, absent, "elsewhere")
	for _, from := range []*core.Service{s, other} {
		members, err := from.Members(t.Context(), "room", 0)
		if err != nil || !slices.Equal(clientIDs(members), []string{"ann", "ann", "bob"}) {
			t.Fatal(members, err)
		}
		for _, m := range members {
			known := m.ConnID == tab1.ConnID || m.ConnID == tab2.ConnID || m.ConnID == bob.ConnID
			if !known || m.Since.Before(begun) || m.Since.After(time.Now()) || m.Data != nil {
				t.Fatalf("%+v", m)
			}
		}
		if n, err := from.Count(t.Context(), "room"); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if members, err := from.Members(t.Context(), "room", 2); len(members) != 2 || err != nil {
			t.Fatal(members, err)
		}
		if members, err := from.Members(t.Context(), "nobody", 0); len(members) != 0 || err != nil {
			t.Fatal(members, err)
		}
		if _, err := from.Members(t.Context(), "", 0); !errors.Is(err, core.ErrChannelName) {
			t.Fatal(err)
		}
	}
	var listed []core.Member
	answer := ann.Do(core.Message{Type: "presence", Channel: "room"})
	if err := answer.Bind(&listed); err != nil || !slices.Equal(clientIDs(listed), []string{"ann", "ann", "bob"}) {
		t.Fatal(answer.Raw, err)
	}
	ann.Error(403, core.Message{Type: "presence", Channel: "elsewhere"})
	ann.Error(400, core.Message{Type: "presence"})
	if err := tab1.Unsub("room"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Count(t.Context(), "room"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if err := tab2.Close(0, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leave", func() bool {
		n, err := other.Count(t.Context(), "room")
		return n == 1 && err == nil
	})
}

func TestPresenceOffKeepsNothing(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithChannel("quiet", core.Rules{Presence: core.PresenceOff}))
	ann, client := connect(t, s, "ann")
	sub(t, client, "quiet")
	if members, err := s.Members(t.Context(), "quiet", 0); len(members) != 0 || err != nil {
		t.Fatal(members, err)
	}
	if n, err := s.Count(t.Context(), "quiet"); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got := ann.Do(core.Message{Type: "presence", Channel: "quiet"}); string(got.Data.(json.RawMessage)) != "[]" { //nolint:errcheck // it would fail the test too
		t.Fatal(got.Raw)
	}
	push(t, s, "quiet", number(1))
	ann.Expect("n")
	if calls := d.since(0, "join"); calls != nil {
		t.Fatal(calls)
	}
}

func TestJoinsAndLeavesAreToldByClientID(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	s := coretest.RunOn(t, driver, permissive(), events("room:*"))
	other := coretest.RunOn(t, driver, permissive(), events("room:*"))
	watcher, watching := connect(t, other, "watcher")
	sub(t, watching, "room:1")
	watcher.Nothing() // its own join is not told to it

	first, tab1 := connect(t, s, "ann")
	sub(t, tab1, "room:1", "plain")
	if got := watcher.Expect("join"); got.Raw != `{"type":"join","channel":"room:1","client":"ann"}` {
		t.Fatal(got.Raw)
	}
	second, tab2 := connect(t, other, "ann") // another tab, on another node
	sub(t, tab2, "room:1")
	watcher.Nothing()
	first.Nothing()
	second.Nothing()
	if err := tab1.Unsub("room:1"); err != nil {
		t.Fatal(err)
	}
	watcher.Nothing()
	second.Close(1000, "")
	if got := watcher.Expect("leave"); got.Raw != `{"type":"leave","channel":"room:1","client":"ann"}` {
		t.Fatal(got.Raw)
	}
	sub(t, tab1, "room:1", "room:2")
	watcher.Expect("join")
	first.Cut()
	watcher.Expect("leave")
	watcher.Nothing()
}

// Each client of a channel sees another's join before its messages, and its leave behind them.
func TestJoinComesBeforeAClientsMessagesAndLeaveBehindThem(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), events("*"))
	watcher, watching := connect(t, s, "watcher")
	sub(t, watching, "room")
	for i := range 20 {
		conn, client := connect(t, s, strconv.Itoa(i))
		conn.Do(core.Message{Type: "subscribe", Channel: "room"})
		conn.Do(core.Message{Type: "message", Channel: "room"})
		if i%2 == 0 {
			conn.Do(core.Message{Type: "unsubscribe", Channel: "room"})
		} else {
			_ = client.Close(0, "")
		}
		for _, want := range []string{"join", "message", "leave"} {
			if got := watcher.Expect(want); got.ClientID != strconv.Itoa(i) {
				t.Fatal(got.Raw)
			}
		}
	}
}

func TestOthersSeeTheNamedKeysOfAnIdentityOnly(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive(), events("*"), core.WithPresenceData("name", "color", "missing"))
	watcher, watching := connect(t, s, "watcher")
	sub(t, watching, "room")
	conn := coretest.Connect(t, s, map[string]any{"client_id": "ann", "name": "Ann", "color": 7, "email": "ann@example.com"})
	conn.Do(core.Message{Type: "subscribe", Channel: "room"})
	const want = `{"color":7,"name":"Ann"}`
	if got := watcher.Expect("join"); string(got.Data.(json.RawMessage)) != want { //nolint:errcheck // it would fail the test too
		t.Fatal(got.Raw)
	}
	// What was encoded at admission stays, whatever the application does with its map.
	ann := core.FindClients(s, "", "ann")[0]
	ann.Data["name"] = "Mallory"
	members, err := s.Members(t.Context(), "room", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if data := string(m.Data); m.ClientID == "ann" && data != want || m.ClientID == "watcher" && data != "" {
			t.Fatalf("%s: %s", m.ClientID, m.Data)
		}
	}
	if len(members) != 2 {
		t.Fatal(members)
	}
}

// listener is a client without a peer that keeps what it is sent.
type listener struct {
	*core.Client
	mu    sync.Mutex
	heard []coretest.Message
}

func listen(t testing.TB, s *core.Service, id string, channels ...string) *listener {
	t.Helper()
	l := &listener{}
	l.Client = core.AttachStub(s, id, func(p []byte) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for frames := (&wire{in: bufio.NewReader(bytes.NewReader(p))}); ; {
			_, payload, err := frames.frame()
			if err != nil {
				return
			}
			var m coretest.Message
			if err := json.Unmarshal(payload, &m); err == nil {
				l.heard = append(l.heard, m)
			}
		}
	})
	sub(t, l.Client, channels...)
	return l
}

// take returns what has been heard since it was last asked.
func (l *listener) take() []coretest.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := l.heard
	l.heard = nil
	return heard
}

func TestACrowdIsToldItsCountOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive(), events("*"))
		watcher := listen(t, s, "watcher", "room")
		crowd := make([]*core.Client, 1100)
		for i := range crowd {
			crowd[i] = core.AttachStub(s, strconv.Itoa(i), func([]byte) {})
			sub(t, crowd[i], "room")
		}
		synctest.Wait()
		if heard := watcher.take(); len(heard) != 999 || heard[998].Type != "join" || heard[998].ClientID != "998" {
			t.Fatalf("%d messages, want the 999 joins up to 1,000 members", len(heard))
		}
		<-time.After(1500 * time.Millisecond)
		if heard := watcher.take(); len(heard) != 1 || heard[0].Raw != `{"type":"count","channel":"room","data":1101}` {
			t.Fatalf("%v, want one count", heard)
		}
		<-time.After(3 * time.Second)
		if heard := watcher.take(); len(heard) != 0 {
			t.Fatalf("%v without a change", heard)
		}

		for i := range 20 { // changes go on for 5 s
			if err := errors.Join(crowd[i].Unsub("room"), crowd[i].Sub("room"), crowd[i+20].Unsub("room")); err != nil {
				t.Fatal(err)
			}
			<-time.After(250 * time.Millisecond)
		}
		<-time.After(time.Second)
		heard := watcher.take()
		if len(heard) < 5 || len(heard) > 6 {
			t.Fatalf("%d messages in 6 s", len(heard))
		}
		for _, m := range heard {
			if m.Type != "count" {
				t.Fatal(m.Raw)
			}
		}
		if last := heard[len(heard)-1]; last.Raw != `{"type":"count","channel":"room","data":1081}` {
			t.Fatal(last.Raw)
		}

		for _, c := range crowd[100:281] { // below the border each one is told again
			if err := c.Unsub("room"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n, err := s.Count(t.Context(), "room"); n != 900 || err != nil {
			t.Fatal(n, err)
		}
		if heard := watcher.take(); len(heard) != 101 || heard[0].Type != "leave" {
			t.Fatalf("%d messages, want the leaves that left 1,000 to 900", len(heard))
		}
	})
}

// Who watches the channel would have gone on with the wrong people in it.
func TestAJoinOrLeaveThatCannotBeToldIsAGap(t *testing.T) {
	t.Parallel()
	d := newScripted(drivers.NewMemoryDriver())
	s := coretest.RunOn(t, d, permissive(), core.WithLogger(nil), events("room"))
	watcher, client := connect(t, s, "bob")
	sub(t, client, "room")
	_, other := connect(t, s, "ann")
	d.on(func(_ context.Context, c driverCall) error {
		if c.verb == "publish" {
			return errScripted
		}
		return nil
	})
	sub(t, other, "room")
	if got := watcher.Expect("gap"); got.Channel != "room" {
		t.Error(got.Raw)
	}
	if err := other.Unsub(); err != nil {
		t.Fatal(err)
	}
	watcher.Expect("gap")
	sub(t, other, "room")
	watcher.Expect("gap")
	d.node().Down(errScripted, nil) // then the gap is told when it is back
	if err := other.Close(1000, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ann to be gone", func() bool { return s.Stats().Connections == 1 })
	watcher.Nothing()
	d.node().Up(nil)
	watcher.Expect("gap")
}
