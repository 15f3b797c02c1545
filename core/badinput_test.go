package core_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// What a bad handshake gets is in handshake_test.go, admit_test.go and origin_test.go; who vanishes or does not read is in
// liveness_test.go and outbox_test.go. Here is what bad frames, bad messages and bad calls get.

func TestBadFramesCloseTheConnectionWithAReason(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	with := func(b []byte, change func(b []byte)) []byte {
		change(b)
		return b
	}
	text := func() []byte { return masked(frame.Text, `{"type":"x"}`) }
	for _, c := range []struct {
		name   string
		sent   []byte
		code   int
		reason string
	}{
		{"a frame that is not masked", frame.AppendText(nil, []byte(`{"type":"x"}`)), 1002, "frame from a client is not masked"},
		{"a reserved bit", with(text(), func(b []byte) { b[0] |= 0x40 }), 1002, "reserved bit set without an extension"},
		{"a reserved opcode", masked(3, "x"), 1002, "reserved opcode 3"},
		{"a reserved control opcode", masked(11, "x"), 1002, "reserved opcode 11"},
		{"a fragmented ping", frame.AppendMasked(nil, frame.Ping, false, [4]byte{}, []byte("x")), 1002, "fragmented control frame"},
		{"a long ping", masked(frame.Ping, long), 1002, "control frame larger than 125 bytes"},
		{"a long close", masked(frame.Close, "\x03\xe8"+long), 1002, "control frame larger than 125 bytes"},
		{"half a close code", masked(frame.Close, "\x03"), 1002, "close frame with half a code"},
		{"a close code that may not be sent", masked(frame.Close, "\x03\xed"), 1002, "close code 1005 may not be sent"},
		{"a close code that does not exist", masked(frame.Close, "\x00\x07"), 1002, "close code 7 may not be sent"},
		{"a close reason that is not UTF-8", masked(frame.Close, "\x03\xe8\xff"), 1007, "close reason is not UTF-8"},
		{"a continuation of nothing", masked(frame.Continuation, "x"), 1002, "continuation frame without a message to continue"},
		{"a message inside another", append(frame.AppendMasked(nil, frame.Text, false, [4]byte{}, []byte("x")), text()...), 1002, "new message inside a fragmented one"},
		{"a length in too many bytes", []byte{0x81, 0x80 | 126, 0, 1, 0, 0, 0, 0, 'x'}, 1002, "length not in its shortest form"},
		{"text that is not UTF-8", masked(frame.Text, "{\"type\":\"\xff\"}"), 1007, "text message is not UTF-8"},
		{"half a character at the end", masked(frame.Text, "\xe4\xbd"), 1007, "text message is not UTF-8"},
		{"a binary message", masked(frame.Binary, "x"), 1003, "binary messages are not supported: send JSON as text"},
		{"a message over the limit", masked(frame.Text, `{"type":"`+strings.Repeat("x", 1000)+`"}`), 1009, "message larger than 1000 bytes"},
		{"a header that announces too much", []byte{0x81, 0x80 | 127, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4}, 1009, "message larger than 1000 bytes"},
		{
			"fragments that are too much together",
			append(
				frame.AppendMasked(nil, frame.Text, false, [4]byte{}, []byte(strings.Repeat("x", 600))),
				frame.AppendMasked(nil, frame.Continuation, false, [4]byte{}, []byte(strings.Repeat("x", 600)))...,
			),
			1009, "message larger than 1000 bytes",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var heard sync.Map
			_, logged := keepJournal(t)
			service := coretest.Run(t, logged, core.WithMessageBytes(1000), &core.Provider{
				Auth: core.Anonymous,
				Event: func(name string, client *core.Client) error {
					if name == core.EventOffline {
						heard.Store(client.ConnID, context.Cause(client.Context()))
					}
					return nil
				},
				Message: func(m *core.Message, _ *core.Client) error {
					if m.Type != "before" {
						t.Error("the hook got", m.Type)
					}
					return nil
				},
			})
			for name, server := range map[string]*httptest.Server{"tcp": mount(t, service), "tls": mountTLS(t, service)} {
				p := call(t, server, openingRequest(server, "/"))
				p.enter()
				// A good message before it is answered, one behind it is not handled.
				p.say(masked(frame.Text, `{"id":"1","type":"before"}`))
				p.say(append(c.sent, masked(frame.Text, `{"id":"2","type":"behind"}`)...))
				if got := string(p.hear().Payload); !strings.Contains(got, `"id":"1"`) {
					t.Errorf("%s: got %s, want the answer to the message before", name, got)
				}
				if code, reason := p.closed(); code != c.code || reason != c.reason {
					t.Errorf("%s: closed with %d %q, want %d %q", name, code, reason, c.code, c.reason)
				}
			}
			eventually(t, "the end", func() bool { return service.Stats().Connections == 0 })
			heard.Range(func(_, cause any) bool {
				if why, ok := cause.(*core.CloseError); !ok || why.Code != c.code || why.Reason != c.reason {
					t.Error("the application is told:", cause)
				}
				return true
			})
		})
	}
}

func TestAClientThatClosesIsAnsweredAndItsCodeKnown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		payload string
		code    int
		reason  string
		answer  string
	}{
		{"", 1005, "", ""},
		{"\x03\xe8", 1000, "", "\x03\xe8"},
		{"\x0f\xa0bye", 4000, "bye", "\x0f\xa0"},
	} {
		ended := make(chan error, 1)
		service := coretest.Run(t, &core.Provider{Auth: core.Anonymous, Event: func(name string, client *core.Client) error {
			if name == core.EventOffline {
				ended <- context.Cause(client.Context())
			}
			return nil
		}})
		server := mount(t, service)
		p := call(t, server, openingRequest(server, "/"))
		p.enter()
		p.say(masked(frame.Close, c.payload))
		if m := p.hear(); m.Op != frame.Close || string(m.Payload) != c.answer {
			t.Errorf("%q is answered by %v %q", c.payload, m.Op, m.Payload)
		}
		var why *core.CloseError
		if err := <-ended; !errors.As(err, &why) || why.Code != c.code || why.Reason != c.reason {
			t.Errorf("%q: the application is told %v", c.payload, err)
		}
	}
}

// hooked is a provider whose hooks say what their name says.
func hooked() *core.Provider {
	return &core.Provider{
		Auth: core.Anonymous,
		Subscribe: func(_ *core.Client, channel string) error {
			switch channel {
			case "private":
				return core.Errorf(403, "members only")
			case "teapot":
				return core.Errorf(418, "no coffee")
			case "wrapped":
				return fmt.Errorf("look up: %w", core.Errorf(402, "pay first"))
			case "broken":
				return errors.New(secret)
			case "panics":
				panic("no such room")
			}
			return nil
		},
		Publish: func(_ *core.Client, m *core.Message) error {
			switch m.Channel {
			case "read-only":
				return core.Errorf(403, "read only")
			case "broken":
				return errors.New("table messages is gone")
			case "panics":
				panic("no such room")
			case "function":
				m.Data = func() {}
			case "boom":
				m.Data = bomb{}
			case "nowhere":
				m.Channel = ""
			case "large":
				m.Data = strings.Repeat("x", 2000)
			}
			return nil
		},
		Message: func(m *core.Message, client *core.Client) error {
			switch m.Type {
			case "bind":
				var n struct{ N int }
				return m.Bind(&n)
			case "broken":
				return errors.New("table users is gone")
			case "wrapped":
				return fmt.Errorf("load: %w", context.DeadlineExceeded)
			case "panics":
				panic("out of range")
			case "sub":
				return client.Sub(m.Channel)
			case "push":
				return client.Push([]string{"room"}, strings.Repeat("x", 2000))
			case "ok":
				return nil
			}
			return core.Errorf(404, "no handler for type %q", m.Type)
		},
	}
}

type bomb struct{}

func (bomb) MarshalJSON() ([]byte, error) { panic("boom") }

func TestBadMessagesAreAnsweredAndTheConnectionStays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sent string
		answer     string // whole, but for the time
		inLog      string // "" means that nothing is logged
	}{
		{"not JSON", `{"id":"1",`, `{"type":"error","code":400,"message":"not JSON: unexpected end of JSON input","meta":{"type":""}}`, ""},
		{"nothing at all", ``, `{"type":"error","code":400,"message":"not JSON: unexpected end of JSON input","meta":{"type":""}}`, ""},
		{"text behind it", `{"type":"ok"} {}`, `{"type":"error","code":400,"message":"not JSON: invalid character '{' after top-level value","meta":{"type":""}}`, ""},
		{"an array", `[{"type":"ok"}]`, `{"type":"error","code":400,"message":"not a JSON object but an array","meta":{"type":""}}`, ""},
		{"a string", `"ok"`, `{"type":"error","code":400,"message":"not a JSON object but a string","meta":{"type":""}}`, ""},
		{"null", `null`, `{"type":"error","code":400,"message":"not a JSON object but null","meta":{"type":""}}`, ""},
		{"no type", `{"id":"1"}`, `{"id":"1","type":"error","code":400,"message":"\"type\" is missing","meta":{"type":""}}`, ""},
		{"a type that is a number", `{"id":"1","type":7}`, `{"id":"1","type":"error","code":400,"message":"\"type\" must be a string, not a number","meta":{"type":""}}`, ""},
		{"an id that is a number", `{"id":1,"type":"ok"}`, `{"type":"error","code":400,"message":"\"id\" must be a string, not a number","meta":{"type":"ok"}}`, ""},
		{"a channel that is an array", `{"id":"1","type":"ok","channel":["a"]}`, `{"id":"1","type":"error","code":400,"message":"\"channel\" must be a string, not an array","meta":{"type":"ok"}}`, ""},
		{"a message that is an object", `{"id":"1","type":"ok","message":{}}`, `{"id":"1","type":"error","code":400,"message":"\"message\" must be a string, not an object","meta":{"type":"ok"}}`, ""},
		{"a hook that cannot bind", `{"id":"1","type":"bind","data":{"n":"x"}}`, `{"id":"1","type":"error","code":400,"message":"data: json: cannot unmarshal string into Go struct field .N of type int","meta":{"type":"bind"}}`, ""},
		{"no handler for the type", `{"id":"1","type":"dance","channel":"room"}`, `{"id":"1","type":"error","code":404,"message":"no handler for type \"dance\"","channel":"room","meta":{"type":"dance"}}`, ""},
		{"no id", `{"type":"dance"}`, `{"type":"error","code":404,"message":"no handler for type \"dance\"","meta":{"type":"dance"}}`, ""},
		{"an empty channel name", `{"id":"1","type":"subscribe"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: it is empty","meta":{"type":"subscribe"}}`, ""},
		{"an empty channel name, published to", `{"id":"1","type":"message"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: it is empty","meta":{"type":"message"}}`, ""},
		{"an empty channel name, left", `{"id":"1","type":"unsubscribe"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: it is empty","meta":{"type":"unsubscribe"}}`, ""},
		{"an empty channel name, looked at", `{"id":"1","type":"presence"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: it is empty","meta":{"type":"presence"}}`, ""},
		{"a long channel name", `{"id":"1","type":"subscribe","channel":"12345678901"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: 11 bytes, 10 at most (core.WithChannelBytes)","channel":"12345678901","meta":{"type":"subscribe"}}`, ""},
		{"a control character in a channel name", `{"id":"1","type":"subscribe","channel":"a\nb"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: \"a\\nb\" is not UTF-8 without control characters","channel":"a\nb","meta":{"type":"subscribe"}}`, ""},
		{"a bad channel name from a hook", `{"id":"1","type":"sub"}`, `{"id":"1","type":"error","code":400,"message":"bad channel name: it is empty","meta":{"type":"sub"}}`, "sub failed in a hook"},
		{"too many channels", `{"id":"1","type":"subscribe","channel":"third"}`, `{"id":"1","type":"error","code":429,"message":"too many channels: 2 channels at most (core.WithMaxChannels)","channel":"third","meta":{"type":"subscribe"}}`, ""},
		{"refused by the Subscribe hook", `{"id":"1","type":"subscribe","channel":"private"}`, `{"id":"1","type":"error","code":403,"message":"members only","channel":"private","meta":{"type":"subscribe"}}`, ""},
		{"refused with any code", `{"id":"1","type":"subscribe","channel":"teapot"}`, `{"id":"1","type":"error","code":418,"message":"no coffee","channel":"teapot","meta":{"type":"subscribe"}}`, ""},
		{"refused down a chain", `{"id":"1","type":"subscribe","channel":"wrapped"}`, `{"id":"1","type":"error","code":402,"message":"pay first","channel":"wrapped","meta":{"type":"subscribe"}}`, ""},
		{"refused by the Publish hook", `{"id":"1","type":"message","channel":"read-only"}`, `{"id":"1","type":"error","code":403,"message":"read only","channel":"read-only","meta":{"type":"message"}}`, ""},
		{"presence from outside", `{"id":"1","type":"presence","channel":"room"}`, `{"id":"1","type":"error","code":403,"message":"presence is answered for channels you are in","channel":"room","meta":{"type":"presence"}}`, ""},
		{"a plain error of Publish", `{"id":"1","type":"message","channel":"broken"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"broken","meta":{"type":"message"}}`, "table messages is gone"},
		{"a plain error of Message", `{"id":"1","type":"broken"}`, `{"id":"1","type":"error","code":500,"message":"internal error","meta":{"type":"broken"}}`, "table users is gone"},
		{"a deadline in Message", `{"id":"1","type":"wrapped"}`, `{"id":"1","type":"error","code":503,"message":"unavailable, try again","meta":{"type":"wrapped"}}`, "context deadline exceeded"},
		{"a panic in Message", `{"id":"1","type":"panics"}`, `{"id":"1","type":"error","code":500,"message":"internal error","meta":{"type":"panics"}}`, "badinput_test.go"},
		{"a panic in Subscribe", `{"id":"1","type":"subscribe","channel":"panics"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"panics","meta":{"type":"subscribe"}}`, "badinput_test.go"},
		{"a panic in Publish", `{"id":"1","type":"message","channel":"panics"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"panics","meta":{"type":"message"}}`, "badinput_test.go"},
		{"a panic when what Publish left is encoded", `{"id":"1","type":"message","channel":"boom"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"boom","meta":{"type":"message"}}`, "badinput_test.go"},
		{"what Publish left cannot be encoded", `{"id":"1","type":"message","channel":"function"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"function","meta":{"type":"message"}}`, "unsupported type: func()"},
		{"what Publish left has no channel", `{"id":"1","type":"message","channel":"nowhere"}`, `{"id":"1","type":"error","code":500,"message":"internal error","channel":"nowhere","meta":{"type":"message"}}`, "it is empty"},
		{"what Publish left is too large", `{"id":"1","type":"message","channel":"large"}`, `{"id":"1","type":"error","code":413,"message":"the payload is too large: 2054 bytes, 1000 at most (core.WithPushBytes)","channel":"large","meta":{"type":"message"}}`, ""},
		{"a push of a hook that is too large", `{"id":"1","type":"push"}`, `{"id":"1","type":"error","code":413,"message":"the payload is too large: 2045 bytes, 1000 at most (core.WithPushBytes)","meta":{"type":"push"}}`, "push failed in a hook"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			service := coretest.Run(t, logged, core.WithChannelBytes(10), core.WithMaxChannels(2), core.WithPushBytes(1000), hooked())
			conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
			conn.Do(core.Message{Type: "subscribe", Channel: "first"})
			conn.Do(core.Message{Type: "subscribe", Channel: "second"})
			conn.SendText(c.sent)
			if got := conn.Expect("error"); got.Raw != c.answer {
				t.Errorf("got  %s\nwant %s", got.Raw, c.answer)
			}
			conn.Do(core.Message{Type: "ok", ID: "2"}) // the connection lives on
			conn.Nothing()
			problems := append(log.with("level=ERROR"), log.with("level=WARN")...)
			switch {
			case c.inLog == "" && len(problems) > 0:
				t.Errorf("logged: %s", problems)
			case c.inLog != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.inLog) || !strings.Contains(problems[0], "client=alice")):
				t.Errorf("logged: %s, want one line with %q", problems, c.inLog)
			}
		})
	}
}

func TestTwentyBadMessagesInTenSecondsCloseTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := coretest.Run(t, core.WithLogger(nil), hooked())
		conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		for range 19 {
			conn.SendText("bad")
			conn.Expect("error")
			<-time.After(400 * time.Millisecond)
		}
		conn.Nothing()
		conn.SendText("bad")
		conn.Expect("error")
		if why := conn.Closed(); why.Code != core.CloseTooManyBad || why.Reason != "too many bad messages" {
			t.Error(why)
		}
	})
}

func TestBadMessagesOverALongerTimeAreForgiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := coretest.Run(t, core.WithLogger(nil), hooked())
		conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		for range 100 {
			conn.SendText("bad")
			conn.Expect("error")
			<-time.After(600 * time.Millisecond)
		}
		conn.Nothing()
	})
}

func TestOnlyBadMessagesAreCounted(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), hooked())
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	for range 15 { // refused, unknown and failing ones are no bad messages
		conn.Error(403, core.Message{Type: "subscribe", Channel: "private"})
		conn.Error(404, core.Message{Type: "dance"})
		conn.Error(500, core.Message{Type: "broken"})
		conn.Error(500, core.Message{Type: "message", Channel: "nowhere"})
		conn.Error(400, core.Message{Type: "subscribe"})
	}
	conn.Do(core.Message{Type: "ok"})
	for range 4 {
		conn.Error(400, core.Message{Type: "subscribe"})
	}
	conn.SendText("bad")
	conn.Expect("error")
	if why := conn.Closed(); why.Code != core.CloseTooManyBad {
		t.Error(why)
	}
}

func TestNothingIsHandledBehindAClose(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.Run(t, logged, &core.Provider{Auth: core.Anonymous, Message: func(m *core.Message, client *core.Client) error {
		if m.Type != "close" {
			t.Error("the hook got", m.Type)
		}
		return client.Close(4000, "as you wish")
	}})
	server := mount(t, service)
	p := call(t, server, openingRequest(server, "/"))
	p.enter()
	p.say(append(masked(frame.Text, `{"type":"close"}`), masked(frame.Text, `{"type":"behind","id":"1"}`)...))
	if code, reason := p.closed(); code != 4000 || reason != "as you wish" {
		t.Error(code, reason)
	}
	if problems := append(log.with("level=ERROR"), log.with("level=WARN")...); len(problems) > 0 {
		t.Error(problems)
	}
}

func TestWithoutAMessageHookThereIsNoHandler(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t)
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	for _, verb := range []string{"subscribe", "unsubscribe", "presence", "message", "dance"} {
		got := conn.Error(404, core.Message{Type: verb, Channel: "room"})
		if got.Message.Message != `no handler for type "`+verb+`"` {
			t.Error(got.Raw)
		}
	}
	conn.Do(core.Message{Type: "ping"})
}

func TestAHookOfOneVerbDoesNotAllowAnother(t *testing.T) {
	t.Parallel()
	subscribe := func(*core.Client, string) error { return nil }
	publish := func(*core.Client, *core.Message) error { return nil }
	listening := coretest.Connect(t, coretest.Run(t, &core.Provider{Subscribe: subscribe}), map[string]any{"client_id": "alice"})
	listening.Do(core.Message{Type: "subscribe", Channel: "room"})
	listening.Do(core.Message{Type: "presence", Channel: "room"})
	listening.Error(404, core.Message{Type: "message", Channel: "room"})
	listening.Do(core.Message{Type: "unsubscribe", Channel: "room"})
	talking := coretest.Connect(t, coretest.Run(t, &core.Provider{Publish: publish}), map[string]any{"client_id": "alice"})
	talking.Do(core.Message{Type: "message", Channel: "room"})
	for _, verb := range []string{"subscribe", "unsubscribe", "presence"} {
		talking.Error(404, core.Message{Type: verb, Channel: "room"})
	}
}

func TestADriverThatFailsIsUnavailable(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.RunOn(t, brokenDriver{drivers.NewMemoryDriver()}, logged, hooked())
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	for _, verb := range []string{"subscribe", "message"} {
		got := conn.Error(503, core.Message{Type: verb, Channel: "room"})
		if got.Message.Message != "unavailable, try again" {
			t.Error(got.Raw)
		}
	}
	conn.Error(503, core.Message{Type: "sub", Channel: "room"})
	conn.Nothing()
	if n := len(log.with("level=ERROR", errBroken.Error())); n != 3 {
		t.Error(log.with())
	}
	for name, err := range map[string]error{
		"Push":      service.Push([]string{"room"}, "x"),
		"Broadcast": service.Broadcast(context.Background(), "x"),
	} {
		if !errors.Is(err, core.ErrUnavailable) || !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// brokenDriver lets clients in, but carries nothing.
type brokenDriver struct{ core.Driver }

func (d brokenDriver) Open(ctx context.Context, n core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, n)
	return brokenLink{link}, err
}

type brokenLink struct{ core.Link }

var errBroken = errors.New("redis: OOM")

func (l brokenLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	if topics[0].Channel == "" {
		return l.Link.Subscribe(ctx, topics...)
	}
	return errBroken
}

func (brokenLink) Publish(context.Context, core.Publication, func(error)) error { return errBroken }

// verbs are all verbs of a client that may fail.
func verbs(c *core.Client) map[string]func() error {
	return map[string]func() error{
		"Send":        func() error { return c.Send("x") },
		"Push":        func() error { return c.Push([]string{"room"}, "x") },
		"Push/none":   func() error { return c.Push(nil, "x") },
		"Sub":         func() error { return c.Sub("room", "hall") },
		"Sub/none":    func() error { return c.Sub() },
		"Unsub":       func() error { return c.Unsub("room") },
		"Unsub/none":  func() error { return c.Unsub() },
		"Close":       func() error { return c.Close(4000, "again") },
		"Close/again": func() error { return c.Close(0, "") },
	}
}

// isOver fails the test unless c says of everything that it has ended.
func isOver(t *testing.T, c *core.Client) {
	t.Helper()
	for name, verb := range verbs(c) {
		if err := verb(); !errors.Is(err, core.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
	if channels := c.Channels(); channels != nil {
		t.Error("channels:", channels)
	}
	if !c.Closed() {
		t.Error("not closed")
	}
	if c.Context().Err() == nil {
		t.Error("its context has not ended")
	}
	c.Set("key", "value")
	if c.Get("key") != "value" || c.Get("other") != nil {
		t.Error("Set and Get")
	}
	_ = c.RemoteAddr()
	_ = c.Scope()
}

func TestEverythingReturnsErrClosedOnAClientThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(service *core.Service, conn *coretest.Conn, client *core.Client) error{
		"closed by the service": func(_ *core.Service, _ *coretest.Conn, client *core.Client) error { return client.Close(4000, "bye") },
		"kicked": func(service *core.Service, _ *coretest.Conn, _ *core.Client) error {
			return service.Disconnect(context.Background(), "alice", 0, "")
		},
		"closed by the peer": func(_ *core.Service, conn *coretest.Conn, _ *core.Client) error {
			conn.Close(1000, "")
			return nil
		},
		"cut": func(_ *core.Service, conn *coretest.Conn, client *core.Client) error {
			conn.Cut()
			<-client.Context().Done()
			return nil
		},
		"after Shutdown": func(service *core.Service, _ *coretest.Conn, _ *core.Client) error {
			return service.Shutdown(context.Background())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			online, offline := make(chan *core.Client, 1), make(chan *core.Client, 1)
			service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Event: func(name string, client *core.Client) error {
				switch name {
				case core.EventOnline:
					online <- client
				case core.EventOffline:
					isOver(t, client)
					offline <- client
				}
				return nil
			}})
			conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
			client := <-online
			if err := client.Sub("room", "hall"); err != nil {
				t.Fatal(err)
			}
			if err := end(service, conn, client); err != nil {
				t.Fatal(err)
			}
			isOver(t, client)
			<-offline
			isOver(t, client)
			var why *core.CloseError
			if !errors.As(context.Cause(client.Context()), &why) {
				t.Error("the cause of its context is", context.Cause(client.Context()))
			}
		})
	}
}

func TestAClientMadeByHandAnswersErrClosed(t *testing.T) {
	t.Parallel()
	isOver(t, &core.Client{})
	byHand := &core.Client{ClientID: "alice", App: "shop", Data: map[string]any{}}
	isOver(t, byHand)
	if !errors.Is(context.Cause(byHand.Context()), core.ErrClosed) {
		t.Error(context.Cause(byHand.Context()))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { isOver(t, byHand) })
	}
	wg.Wait()
	if byHand.Scope() != nil {
		t.Error("it has a scope")
	}
}

func TestVerbsFromManyGoroutinesWhileTheClientEnds(t *testing.T) {
	t.Parallel()
	online := make(chan *core.Client, 1)
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Event: func(name string, client *core.Client) error {
		if name == core.EventOnline {
			online <- client
		}
		return nil
	}})
	for range 20 {
		coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		client := <-online
		var wg sync.WaitGroup
		for range 4 {
			for name, verb := range verbs(client) {
				wg.Go(func() {
					if err := verb(); err != nil && !errors.Is(err, core.ErrClosed) {
						t.Errorf("%s: %v, want nil or ErrClosed", name, err)
					}
				})
			}
			wg.Go(func() {
				_ = client.Channels()
				_ = client.Context()
				client.Set("key", client.Get("key"))
			})
		}
		wg.Wait()
		isOver(t, client)
	}
}

// serviceVerbs are all verbs of a service that may fail.
func serviceVerbs(s *core.Service) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"Push":        func() error { return s.Push([]string{"room"}, "x") },
		"PushContext": func() error { return s.PushContext(ctx, []string{"room"}, "x") },
		"Broadcast":   func() error { return s.Broadcast(ctx, "x") },
		"Send":        func() error { return s.Send(ctx, "alice", "x") },
		"Subscribe":   func() error { return s.Subscribe(ctx, "alice", "room") },
		"Unsubscribe": func() error { return s.Unsubscribe(ctx, "alice", "room") },
		"Disconnect":  func() error { return s.Disconnect(ctx, "alice", 0, "") },
		"Online": func() error {
			_, err := s.Online(ctx, "alice")
			return err
		},
		"Members": func() error {
			_, err := s.Members(ctx, "room", 0)
			return err
		},
		"Count": func() error {
			_, err := s.Count(ctx, "room")
			return err
		},
		"App": func() error { return s.App("shop").Push([]string{"room"}, "x") },
	}
}

func TestEverythingReturnsErrClosedOnAServiceThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]bool{"that ran": true, "that never ran": false, "that only pushed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil))
			if run {
				if err := service.Run(); err != nil {
					t.Fatal(err)
				}
			}
			if name == "that only pushed" {
				if err := service.Push([]string{"room"}, "x"); err != nil {
					t.Fatal(err)
				}
			}
			if err := service.Shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			over := serviceVerbs(service)
			over["Run"] = service.Run
			over["RegisterProvider"] = func() error { return service.RegisterProvider("shop", &core.Provider{}) }
			over["Health"] = func() error { return service.Health(context.Background()) }
			for range 4 {
				for name, verb := range over {
					wg.Go(func() {
						if err := verb(); !errors.Is(err, core.ErrClosed) {
							t.Errorf("%s: %v, want ErrClosed", name, err)
						}
					})
				}
			}
			wg.Wait()
			if err := service.Shutdown(context.Background()); err != nil {
				t.Error("again:", err)
			}
			_ = service.Stats()
		})
	}
}

func TestVerbsFromManyGoroutinesWhileTheServiceEnds(t *testing.T) {
	t.Parallel()
	for range 10 {
		service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil))
		if err := service.Run(); err != nil {
			t.Fatal(err)
		}
		coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		var wg sync.WaitGroup
		for range 4 {
			for name, verb := range serviceVerbs(service) {
				wg.Go(func() {
					err := verb()
					if err != nil && !errors.Is(err, core.ErrClosed) && !errors.Is(err, core.ErrOffline) && !errors.Is(err, core.ErrUnavailable) {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		}
		if err := service.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

func TestAServiceThatNeverRanMayPush(t *testing.T) {
	t.Parallel()
	service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil))
	for name, verb := range serviceVerbs(service) {
		if err := verb(); err != nil && !errors.Is(err, core.ErrOffline) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := service.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestLogsNeverHoldATokenAQueryOrAPayload(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	coded := base64.RawURLEncoding.EncodeToString([]byte(secret))
	provider := hooked()
	provider.Auth = func(token string) (map[string]any, error) {
		switch {
		case strings.HasSuffix(token, "refused"):
			return nil, errors.New("wrong password")
		case strings.HasSuffix(token, "broken"):
			return nil, fmt.Errorf("query: %w", context.DeadlineExceeded)
		case strings.HasSuffix(token, "panics"):
			panic("no database")
		case strings.HasSuffix(token, "nobody"):
			return map[string]any{"password": secret}, nil
		case strings.HasSuffix(token, "expired"):
			return map[string]any{"client_id": "alice", "exp": 1}, nil
		}
		return map[string]any{"client_id": "alice", "password": secret}, nil
	}
	message := provider.Message
	provider.Message = func(m *core.Message, client *core.Client) error {
		if m.Type == "sum" {
			return m.Reply(secret)
		}
		return message(m, client)
	}
	service := coretest.Run(t, logged, core.WithPushBytes(1000), core.WithMessageBytes(2000), provider)
	server := mount(t, service)
	for _, outcome := range []string{"", "refused", "broken", "panics", "nobody", "expired"} {
		for _, place := range []string{"Token: ", "Authorization: Bearer ", "Cookie: session="} {
			call(t, server, openingRequest(server, "/?room="+secret+"&token="+secret+outcome, place+secret+outcome)).awaitAnswer()
			call(t, server, openingRequest(server, "/?token="+secret+outcome, "Origin: "+server.URL)).awaitAnswer()
			call(t, server, openingRequest(server, "/?token="+secret+outcome, "Origin: https://evil.com")).awaitAnswer()
		}
		p := call(t, server, openingRequest(server, "/?room="+secret, "Sec-WebSocket-Protocol: gows, gows.bearer."+base64.RawURLEncoding.EncodeToString([]byte(secret+outcome))))
		p.awaitAnswer()
		if outcome != "" {
			continue
		}
		p.enter()
		for _, text := range []string{
			secret, `{"type":` + secret, `{"type":"` + secret + `"}`, `{"type":"ok","data":"` + secret + `"}`,
			`{"type":"broken","message":"` + secret + `","data":"` + secret + `","meta":"` + secret + `","id":"` + secret + `"}`,
			`{"type":"panics","message":"` + secret + `","data":"` + secret + `"}`,
			`{"type":"bind","data":"` + secret + `"}`,
			`{"type":"push","data":"` + secret + `"}`,
			`{"type":"sum","id":"1"}`,
			`{"type":"message","channel":"function","data":"` + secret + `"}`,
			`{"type":"message","channel":"broken","data":"` + secret + `"}`,
			`{"type":"message","channel":"panics","message":"` + secret + `"}`,
			`{"type":"subscribe","channel":"panics","message":"` + secret + `"}`,
			`{"type":"subscribe","channel":"room","message":"` + secret + `"}`,
			`{"type":"message","channel":"room","message":"` + secret + `"}`,
		} {
			p.say(masked(frame.Text, text))
		}
		p.say(masked(frame.Text, strings.Repeat(secret, 1000)))
		if code, _ := p.closed(); code != 1009 {
			t.Error(code)
		}
	}
	request := httptest.NewRequest("GET", "/?token="+secret, nil)
	service.ServeHTTP(httptest.NewRecorder(), request)
	service.Refuse(httptest.NewRecorder(), request, 401, "no")
	if err := service.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	// The journal fails the test by itself. Here: there was something to fail on.
	for _, what := range []string{
		"gows: connected", "gows: disconnected", "gows: refused", "foreign origin", "Auth panicked", "unusable identity",
		"Message panicked", "Publish panicked", "Subscribe panicked", "table users is gone", "push failed in a hook",
	} {
		if len(log.with(what)) == 0 {
			t.Errorf("nothing was logged of %q", what)
		}
	}
	if lines := log.with(coded[:8]); len(lines) > 0 {
		t.Error("a coded token was logged:", lines)
	}
}
