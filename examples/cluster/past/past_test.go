package past_test

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/examples/chat/rooms"
	"github.com/duxweb/go-ws/examples/cluster/past"
	"github.com/duxweb/go-ws/internal/leaktest"
	"github.com/duxweb/go-ws/internal/redistest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestTwoNodesRememberTheSame50MessagesEachAtATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	nodes := []rooms.Past{past.In(server.Client()), past.In(server.Client())}
	if list, err := nodes[0].Last(rooms.Lobby); err != nil || list == nil || len(list) > 0 {
		t.Errorf("in the beginning: %v, %v", list, err)
	}
	var talking sync.WaitGroup
	for _, node := range nodes {
		talking.Go(func() { // ends after 60 messages
			for i := range 60 {
				message := &core.Message{ID: strconv.Itoa(i), Type: "message", ClientID: "alice", Channel: rooms.Lobby, Message: "hello"}
				if err := node.Keep(message); err != nil {
					t.Error(err)
				}
			}
		})
	}
	talking.Wait()
	last := &core.Message{Type: "message", Channel: rooms.Lobby, Message: "bye"}
	if err := nodes[0].Keep(last); err != nil {
		t.Fatal(err)
	}
	if kept := server.CLI("XLEN", past.Prefix+":past:"+rooms.Lobby); kept != strconv.Itoa(rooms.Remembered) {
		t.Errorf("Redis keeps %s messages", kept)
	}
	one, err := nodes[0].Last(rooms.Lobby)
	other, failed := nodes[1].Last(rooms.Lobby)
	if err != nil || failed != nil || !reflect.DeepEqual(one, other) || len(one) != rooms.Remembered {
		t.Fatalf("%d messages here (%v), %d there (%v)", len(one), err, len(other), failed)
	}
	if !reflect.DeepEqual(one[len(one)-1], *last) || one[0].ClientID != "alice" || one[0].ID == "" {
		t.Errorf("from %+v to %+v, want the end to be %+v", one[0], one[len(one)-1], *last)
	}
	times := make([]float64, len(one))
	for i, message := range one {
		meta, _ := message.Meta.(rooms.Time)
		times[i] = meta.Time
	}
	if !slices.IsSorted(times) || len(slices.Compact(times)) != len(one) {
		t.Errorf("their times: %v", times)
	}
}

func TestWithoutRedisThePastIsUnavailable(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	memory := past.In(server.Client())
	server.Pause()
	if err := memory.Keep(&core.Message{Type: "message", Channel: rooms.Lobby, Message: "hello"}); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("keep: %v", err)
	}
	server.Kill()
	if _, err := memory.Last(rooms.Lobby); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("last: %v", err)
	}
}
