package coretest_test

import (
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

func TestTwoClientsTalkAndAThirdHearsNothing(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{
		Subscribe: func(*core.Client, string) error { return nil },
		Publish:   func(*core.Client, *core.Message) error { return nil },
	})
	alice := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	bob := coretest.Connect(t, service, map[string]any{"client_id": "bob"})
	carol := coretest.Connect(t, service, map[string]any{"client_id": "carol"})
	alice.Do(core.Message{Type: "subscribe", Channel: "room:1"})
	bob.Do(core.Message{Type: "subscribe", Channel: "room:1"})
	carol.Do(core.Message{Type: "subscribe", Channel: "room:2"})
	alice.Do(core.Message{Type: "message", Channel: "room:1", Message: "hi"})
	if got := bob.Expect("message"); got.ClientID != "alice" || got.Message.Message != "hi" || got.Channel != "room:1" {
		t.Fatal(got.Raw)
	}
	alice.Expect("message")
	carol.Nothing()
	alice.Error(404, core.Message{Type: "dance"})
}
