package rooms_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/examples/chat/rooms"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func open(t *testing.T) (*rooms.Rooms, *core.Service) {
	t.Helper()
	chat := rooms.New()
	return chat, coretest.Run(t, &core.Provider{Subscribe: chat.Subscribe, Publish: chat.Publish, Message: chat.Message})
}

func enter(t *testing.T, service *core.Service, name string) *coretest.Conn {
	t.Helper()
	client := coretest.Connect(t, service, map[string]any{"client_id": name})
	client.Do(core.Message{Type: "subscribe", Channel: rooms.Lobby})
	return client
}

func TestARoomRemembersTheLast50MessagesEachAtATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	chat, service := open(t)
	alice := enter(t, service, "alice")
	alice.Do(core.Message{Type: "message", Channel: rooms.Lobby, Message: "first", Data: "not kept"})
	for i := range 50 {
		if err := chat.Push(service, "lobby", strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	var past []struct {
		Message string
		Data    any
		Meta    struct{ Time int64 }
	}
	answer := alice.Do(core.Message{Type: "history", Channel: rooms.Lobby})
	if err := answer.Bind(&past); err != nil {
		t.Fatal(err)
	}
	if len(past) != 50 || past[0].Message != "0" || past[49].Message != "49" {
		t.Fatalf("%d messages: %s", len(past), answer.Raw)
	}
	for i := range past[1:] {
		if past[i].Meta.Time >= past[i+1].Meta.Time || past[i].Data != nil {
			t.Errorf("%+v, then %+v", past[i], past[i+1])
		}
	}
}

func TestWhatCannotBeSaid(t *testing.T) {
	t.Parallel()
	chat, service := open(t)
	alice := enter(t, service, "alice")
	alice.Error(http.StatusForbidden, core.Message{Type: "subscribe", Channel: "room:private"})
	alice.Error(http.StatusNotFound, core.Message{Type: "dance"})
	for room, text := range map[string]string{"private": "hello", "lobby": " ", "go": strings.Repeat("x", 8<<10+1), "": "hello"} {
		alice.Error(http.StatusBadRequest, core.Message{Type: "message", Channel: "room:" + room, Message: text})
		if status, _ := rooms.Outcome(chat.Push(service, room, text)); status != http.StatusBadRequest {
			t.Errorf("a push of %d bytes into %q: %d", len(text), room, status)
		}
	}
	alice.Nothing()
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ entered, want string }{
		{"alice", "alice"},
		{" 李 雷 ", "李 雷"},
		{"7", "7"},
		{strings.Repeat("x", 24), strings.Repeat("x", 24)},
		{"", ""},
		{"-", ""},
		{"<b>", ""},
		{"a\nb", ""},
		{strings.Repeat("x", 25), ""},
	} {
		name, err := rooms.Name(c.entered)
		if name != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v, want %q", c.entered, name, err, c.want)
		}
	}
	got := rooms.Names([]core.Member{{ClientID: "bob"}, {ClientID: "alice"}, {ClientID: "bob"}})
	if !slices.Equal(got, []string{"alice", "bob"}) || rooms.Names(nil) == nil {
		t.Error(got)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{nil, http.StatusOK, "done"},
		{core.Errorf(http.StatusForbidden, "no"), http.StatusForbidden, "no"},
		{fmt.Errorf("gows: send: %w", core.ErrOffline), http.StatusNotFound, "nobody of this name is online"},
		{core.ErrTooLarge, http.StatusRequestEntityTooLarge, "gows: the payload is too large"},
		{errors.New("away"), http.StatusServiceUnavailable, "away"},
	} {
		if status, text := rooms.Outcome(c.err); status != c.status || text != c.text {
			t.Errorf("%v: %d %q, want %d %q", c.err, status, text, c.status, c.text)
		}
	}
}
