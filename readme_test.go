package websocket_test

import (
	"testing"

	websocket "github.com/duxweb/go-ws"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// Not parallel: the service that runs is the process's.
func TestPushUsesTheServiceThatHasBeenRunningLongest(t *testing.T) {
	payload := map[string]any{"type": "news", "message": "rain"}
	if err := websocket.Push([]string{"room:1"}, payload); err == nil {
		t.Fatal("pushed, though no service runs")
	}
	websocket.New(drivers.NewMemoryDriver()) // one that was never run does not count
	if err := websocket.Push([]string{"room:1"}, payload); err == nil {
		t.Fatal("pushed, though no service runs")
	}
	provider := &websocket.Provider{
		Message: func(message *websocket.Message, client *websocket.Client) error { return client.Sub(message.Channel) },
	}
	var conns []*coretest.Conn
	var services []*websocket.Service
	for range 2 {
		service := coretest.Run(t, provider)
		c := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		c.Do(websocket.Message{Type: "subscribe", Channel: "room:1"})
		services, conns = append(services, service), append(conns, c)
	}
	for i, c := range conns {
		if err := websocket.Push([]string{"room:1"}, payload); err != nil {
			t.Fatal(err)
		}
		if got := c.Expect("news"); got.Raw != `{"type":"news","channel":"room:1","message":"rain"}` {
			t.Fatal(got.Raw)
		}
		for _, other := range conns[i+1:] {
			other.Nothing()
		}
		if err := services[i].Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := websocket.Push([]string{"room:1"}, payload); err == nil {
		t.Fatal("pushed, though no service runs any more")
	}
}
