package core_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// Here is what is meant to cost the server more than it costs the peer.

func TestJSONThatIsHardOnParsersIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	const most = 60_000 // of the 64 KiB that a message may have
	var keys strings.Builder
	for i := range most / 12 {
		fmt.Fprintf(&keys, `"%07d":0,`, i)
	}
	kept := func(m *core.Message, _ *core.Client) error { return m.Reply(m.Data) }
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: core.Anonymous, Message: kept})
	server := mount(t, service)
	for name, c := range map[string]struct {
		text string
		code int // of an error
	}{
		"deep arrays":           {`{"id":"1","type":"x","data":` + strings.Repeat("[", most/2) + strings.Repeat("]", most/2) + `}`, 400},
		"deep objects":          {`{"id":"1","type":"x","data":` + strings.Repeat(`{"a":`, most/6) + "1" + strings.Repeat("}", most/6) + `}`, 400},
		"as deep as may be":     {`{"id":"1","type":"x","data":` + strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999) + `}`, 0},
		"depth without an end":  {strings.Repeat(`{"a":`, most/5), 400},
		"many keys":             {`{` + keys.String() + `"id":"1","type":"x"}`, 0},
		"many times one key":    {`{` + strings.Repeat(`"data":"12345",`, most/15) + `"id":"1","type":"x"}`, 0},
		"a number of 60,000":    {`{"id":"1","type":"x","data":` + strings.Repeat("9", most) + `}`, 0},
		"an exponent of 60,000": {`{"id":"1","type":"x","data":1e` + strings.Repeat("9", most) + `}`, 0},
		"escapes":               {`{"id":"1","type":"x","data":"` + strings.Repeat(`\u0000`, most/6) + `"}`, 0},
		"half surrogates":       {`{"id":"1","type":"x","message":"` + strings.Repeat(`\ud800`, most/6) + `"}`, 0},
		"a long type":           {`{"id":"1","type":"` + strings.Repeat("<", most) + `"}`, 0},
		"a long id":             {`{"id":"` + strings.Repeat(`\u0001`, most/6) + `","type":"x"}`, 0},
		"space":                 {`{"id":"1",` + strings.Repeat(" ", most) + `"type":"x"}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := call(t, server, openingRequest(server, "/"))
			p.enter()
			p.say(masked(frame.Text, c.text))
			answered := p.hear().Payload
			var got struct {
				Type string
				Code int
			}
			if err := json.Unmarshal(answered, &got); err != nil || got.Code != c.code || (got.Type == "error") != (c.code != 0) {
				t.Errorf("answered by %.200s, %v", answered, err)
			}
			if len(answered) > 2*len(c.text)+200 {
				t.Errorf("%d bytes are answered by %d", len(c.text), len(answered))
			}
			p.say(masked(frame.Text, `{"id":"2","type":"ping"}`)) // it lives on
			if got := string(p.hear().Payload); got != `{"type":"pong","id":"2"}` {
				t.Error(got)
			}
		})
	}
}

// What a hook is asked about is what is done: of members that come twice both see the last, and names are compared as they are.
func TestAHookIsAskedAboutWhatIsDone(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	service := coretest.Run(t, &core.Provider{
		Subscribe: func(_ *core.Client, channel string) error {
			asked <- channel
			if channel == "staff" {
				return core.Errorf(http.StatusForbidden, "staff only")
			}
			return nil
		},
		Publish: func(_ *core.Client, m *core.Message) error {
			asked <- m.Channel
			return nil
		},
	})
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	for _, text := range []string{
		`{"id":"1","type":"subscribe","channel":"staff","channel":"room"}`,
		`{"id":"1","type":"message","type":"subscribe","Channel":"staff","channel":"room","CHANNEL":"staff"}`,
		`{"id":"1","type":"subscribe","channel":"room","chann\u0065l":"staff","\u0063hannel":"staff"}`,
		`{"id":"1","type":"subscribe","data":{"channel":"staff"},"channel":"r\u006fom"}`,
	} {
		conn.SendText(text)
		conn.Expect("receive")
		if channel := <-asked; channel != "room" {
			t.Errorf("%s: the hook is asked about %q", text, channel)
		}
		members, err := service.Members(t.Context(), "staff", 0)
		if err != nil || len(members) > 0 {
			t.Errorf("%s: in staff are %v, %v", text, members, err)
		}
	}
	conn.SendText(`{"id":"2","type":"message","channel":"room","client":"root","client":"admin","data":{"client":"x"}}`)
	if got := conn.Expect("message"); got.ClientID != "alice" || strings.Count(got.Raw, "alice") != 1 || strings.Contains(got.Raw, "root") || strings.Contains(got.Raw, "admin") {
		t.Error("who speaks is not stamped:", got.Raw)
	}
}

// TestWhoDribblesStaysAndWhoStopsIsClosed: a byte now and then is a sign of life. Such a peer costs what an idle one does, and
// the piece of a message that it has sent; what bounds it are the bounds on connections.
func TestWhoDribblesStaysAndWhoStopsIsClosed(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string][]byte{
		"a header":             {},
		"a frame":              masked(frame.Text, strings.Repeat("x", 60_000))[:8], // the header
		"fragments of nothing": frame.AppendMasked(nil, frame.Text, false, [4]byte{}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				service := coretest.Run(t, &core.Provider{Auth: core.Anonymous})
				ticket, err := service.Admit(t.Context(), coretest.Handshake())
				if err != nil {
					t.Fatal(err)
				}
				p := attach(t, service, ticket)
				_ = p.SetDeadline(time.Time{})
				p.say(begun)
				next := []byte{'x' ^ 1}
				switch name {
				case "fragments of nothing":
					next = frame.AppendMasked(nil, frame.Continuation, false, [4]byte{}, nil)
				case "a header":
					next = masked(frame.Pong, "")
				}
				for range 3 * 60 { // an hour
					<-time.After(20 * time.Second)
					if p.say(next); service.Stats().Connections != 1 {
						t.Fatal("it is closed")
					}
				}
				if name == "a header" {
					p.say([]byte{0x81}) // half of one
				}
				began := time.Now()
				if m := p.hear(); m.Op != frame.Ping {
					t.Fatal(m)
				}
				if code, reason, err := frame.ParseClose(p.hear().Payload); code != core.CloseNoPong {
					t.Errorf("closed with %d %q, %v", code, reason, err)
				}
				if silent := time.Since(began); silent > 36*time.Second {
					t.Errorf("closed after %v", silent)
				}
			})
		})
	}
}

// TestNobodyLearnsWhetherAChannelExists: one channel has somebody in it, the other never had, and no answer tells which.
func TestNobodyLearnsWhetherAChannelExists(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{
		Subscribe: func(client *core.Client, _ string) error {
			if client.ClientID != "alice" {
				return core.Errorf(http.StatusForbidden, "not yours")
			}
			return nil
		},
		Publish: func(*core.Client, *core.Message) error { return nil },
	})
	alice := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	alice.Do(core.Message{Type: "subscribe", Channel: "there"})
	mallory := coretest.Connect(t, service, map[string]any{"client_id": "mallory"})
	for _, verb := range []string{"subscribe", "unsubscribe", "presence", "message"} {
		answers := map[string]string{}
		for _, channel := range []string{"there", "never"} {
			mallory.Send(core.Message{ID: "1", Type: verb, Channel: channel})
			kind := "error"
			if verb == "unsubscribe" || verb == "message" {
				kind = "receive"
			}
			m := mallory.Expect(kind)
			answers[channel] = fmt.Sprint(m.ID, m.Type, m.Code, m.Message.Message, m.Data)
		}
		if answers["there"] != answers["never"] {
			t.Errorf("%s: %q", verb, answers)
		}
	}
}
