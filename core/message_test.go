package core_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// Maps as the frameworks have them.
type (
	ginH   map[string]any
	key    string
	keyMap map[key]any
	kind   string
)

type order struct {
	ID    int    `json:"id"`
	Type  string `json:"type"`
	Price string `json:"price"`
}

const digits = "12345678901234567890.10"

func TestPayloads(t *testing.T) {
	t.Parallel()
	var nobody *order
	for _, c := range []struct {
		name    string
		payload any
		stamp   string
		channel string
		want    string
	}{
		// Envelopes.
		{"a Message", core.Message{Type: "greet", Message: "hi"}, "", "room", `{"type":"greet","channel":"room","message":"hi"}`},
		{"a *Message", &core.Message{Type: "greet", Message: "hi"}, "", "room", `{"type":"greet","channel":"room","message":"hi"}`},
		{
			"every field",
			core.Message{ID: "1", Type: "greet", ClientID: "alice", Message: "hi", Data: 1, Meta: []int{2}},
			"", "room",
			`{"id":"1","type":"greet","client":"alice","channel":"room","message":"hi","data":1,"meta":[2]}`,
		},
		{"empty fields are absent", core.Message{Type: "greet"}, "", "", `{"type":"greet"}`},
		{"a stamp", core.Message{Type: "greet", ClientID: "mallory"}, "alice", "room", `{"type":"greet","client":"alice","channel":"room"}`},
		{"a channel of its own is replaced", core.Message{Type: "greet", Channel: "hall"}, "", "room", `{"type":"greet","channel":"room"}`},
		{"a channel of its own is kept where none is set", core.Message{Type: "greet", Channel: "hall"}, "", "", `{"type":"greet","channel":"hall"}`},
		{"a map", map[string]any{"type": "greet", "message": "hi", "extra": []any{1, nil}}, "", "room", `{"type":"greet","channel":"room","extra":[1,null],"message":"hi"}`},
		{"a map with nothing else", map[string]any{"type": "greet"}, "", "room", `{"type":"greet","channel":"room"}`},
		{"a map with nothing else, to one", map[string]any{"type": "greet"}, "", "", `{"type":"greet"}`},
		{"gin.H", ginH{"type": "greet", "id": "1"}, "", "room", `{"type":"greet","channel":"room","id":"1"}`},
		{"a number is no type", ginH{"type": json.Number("7")}, "", "room", `{"type":"message","channel":"room","data":{"type":7}}`},
		{"nor a channel", ginH{"type": "greet", "channel": json.Number("7")}, "", "", `{"type":"greet"}`},
		{"a map with keys of a string type", keyMap{"type": "greet", "n": 1}, "", "room", `{"type":"greet","channel":"room","n":1}`},
		{"a map of strings", map[string]string{"type": "greet", "message": "hi"}, "", "room", `{"type":"greet","channel":"room","message":"hi"}`},
		{"a map with a type of a string type", map[string]any{"type": kind("greet")}, "", "room", `{"type":"greet","channel":"room"}`},
		{"a map of a string type", map[string]kind{"type": "greet"}, "", "room", `{"type":"greet","channel":"room"}`},
		{"a stamp on a map", map[string]any{"type": "greet", "client": "mallory"}, "alice", "room", `{"type":"greet","channel":"room","client":"alice"}`},
		{"a client that a map names", map[string]any{"type": "greet", "client": "alice"}, "", "room", `{"type":"greet","channel":"room","client":"alice"}`},
		{"a channel of a map is replaced", map[string]any{"type": "greet", "channel": "hall"}, "", "room", `{"type":"greet","channel":"room"}`},
		{"a channel of a map is kept where none is set", map[string]any{"type": "greet", "channel": "hall"}, "", "", `{"type":"greet","channel":"hall"}`},
		{"raw JSON in a map", map[string]any{"type": "greet", "n": json.RawMessage(digits)}, "", "", `{"type":"greet","n":` + digits + `}`},

		// Data.
		{"a map without a type", map[string]any{"n": 1}, "", "room", `{"type":"message","channel":"room","data":{"n":1}}`},
		{"a map whose type is no string", map[string]any{"type": 7}, "", "room", `{"type":"message","channel":"room","data":{"type":7}}`},
		{"a map with number keys", map[int]string{1: "a"}, "", "room", `{"type":"message","channel":"room","data":{"1":"a"}}`},
		{"a nil map", map[string]any(nil), "", "room", `{"type":"message","channel":"room","data":null}`},
		{"a struct", order{7, "book", "9.90"}, "", "room", `{"type":"message","channel":"room","data":{"id":7,"type":"book","price":"9.90"}}`},
		{"a pointer to a struct", &order{7, "book", "9.90"}, "alice", "room", `{"type":"message","client":"alice","channel":"room","data":{"id":7,"type":"book","price":"9.90"}}`},
		{"a nil pointer", nobody, "", "room", `{"type":"message","channel":"room","data":null}`},
		{"a string", `say "hi"`, "", "room", `{"type":"message","channel":"room","data":"say \"hi\""}`},
		{"a number", 7, "", "room", `{"type":"message","channel":"room","data":7}`},
		{"a slice", []string{"a"}, "", "room", `{"type":"message","channel":"room","data":["a"]}`},
		{"nil", nil, "", "room", `{"type":"message","channel":"room"}`},
		{"bytes are JSON", []byte(`{"n":` + digits + `}`), "", "room", `{"type":"message","channel":"room","data":{"n":` + digits + `}}`},
		{"raw JSON", json.RawMessage(`{"type":"greet"}`), "", "room", `{"type":"message","channel":"room","data":{"type":"greet"}}`},
		{"nil bytes", []byte(nil), "", "room", `{"type":"message","channel":"room","data":null}`},
		{"raw JSON in data", core.Message{Type: "greet", Data: json.RawMessage(digits)}, "", "", `{"type":"greet","data":` + digits + `}`},
		{"json.Number in data", core.Message{Type: "greet", Data: json.Number(digits)}, "", "", `{"type":"greet","data":` + digits + `}`},

		// Text that needs care.
		{"HTML", core.Message{Type: "<b>", Message: "<i>&amp;</i>", Data: "</script>"}, "", "a&b", `{"type":"<b>","channel":"a&b","message":"<i>&amp;</i>","data":"</script>"}`},
		{"quotes and control characters", core.Message{Type: "a\"\\\n\x01", ID: "\t"}, "", "\u2028", `{"id":"\t","type":"a\"\\\n\u0001","channel":"\u2028"}`},
		{"other alphabets", core.Message{Type: "消息", Message: "😀"}, "张三", "房间", `{"type":"消息","client":"张三","channel":"房间","message":"😀"}`},
		{"not UTF-8", core.Message{Type: "a\xff", Message: "\xc3(", Data: "\xff"}, "\xff", "\xff", `{"type":"a�","client":"�","channel":"�","message":"�(","data":"�"}`},
		{"not UTF-8 in a map", map[string]any{"type": "a\xff", "k\xff": "\xff"}, "", "", `{"type":"a�","k�":"�"}`},
		{"not UTF-8 in bytes", []byte("\"a\xffb\""), "", "", `{"type":"message","data":"a�b"}`},
		{"not UTF-8 in raw JSON in a struct", struct{ V json.RawMessage }{json.RawMessage("\"a\xffb\"")}, "", "", `{"type":"message","data":{"V":"a�b"}}`},
		{"not UTF-8 in raw JSON in a map", map[string]any{"type": "x", "v": json.RawMessage("\"a\xffb\"")}, "", "", `{"type":"x","v":"a�b"}`},
		{"not UTF-8 in raw meta", core.Message{Type: "x", Meta: json.RawMessage("\"a\xffb\"")}, "", "", `{"type":"x","meta":"a�b"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := core.Encode(c.payload, c.stamp, c.channel)
			if err != nil {
				t.Fatal(err)
			}
			if !utf8.Valid(got) || !sameJSON(t, string(got), c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// sameJSON compares two objects, numbers by their digits.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	canonical := func(text string) string {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v map[string]any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	return canonical(a) == canonical(b)
}

func TestPayloadsThatCannotBeEncodedAreErrors(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]any{
		"a nil *Message":         (*core.Message)(nil),
		"bytes that are no JSON": []byte("hello"),
		"empty bytes":            []byte{},
		"raw JSON that is none":  json.RawMessage(`{"a":`),
		"two values":             []byte("1 2"),
		"a function":             func() {},
		"a channel in a map":     map[string]any{"type": "x", "c": make(chan int)},
		"data that is no JSON":   core.Message{Type: "x", Data: json.RawMessage("{")},
		"meta that is no JSON":   core.Message{Type: "x", Meta: json.RawMessage("{")},
		"infinity":               math.Inf(1),
	} {
		if got, err := core.Encode(payload, "", "room"); err == nil {
			t.Errorf("%s: %s", name, got)
		} else if !strings.HasPrefix(err.Error(), "gows: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPayloadIsNotChanged(t *testing.T) {
	t.Parallel()
	service, client := serveOne(t)
	message := &core.Message{ID: "1", Type: "greet", ClientID: "mallory", Channel: "hall", Data: map[string]any{"n": 1}}
	before := *message
	fields := map[string]any{"type": "greet", "client": "mallory", "channel": "hall"}
	for _, push := range []error{
		client.Push([]string{"room", "lobby"}, message), client.Push([]string{"room", "lobby"}, fields),
		service.Push([]string{"room"}, message), service.Push([]string{"room"}, fields),
		client.Send(message), client.Send(fields), service.Broadcast(context.Background(), fields),
	} {
		if push != nil {
			t.Fatal(push)
		}
	}
	if message.ID != before.ID || message.Type != before.Type || message.ClientID != before.ClientID || message.Channel != before.Channel {
		t.Error(message)
	}
	if want := (map[string]any{"type": "greet", "client": "mallory", "channel": "hall"}); !maps.Equal(fields, want) {
		t.Error(fields)
	}
}

// serveOne runs a service with one client, whose end is read by nobody.
func serveOne(t *testing.T, opts ...core.Option) (*core.Service, *core.Client) {
	t.Helper()
	online := make(chan *core.Client, 1)
	service := coretest.Run(t, append(opts, &core.Provider{Event: func(name string, client *core.Client) error {
		if name == core.EventOnline {
			online <- client
		}
		return nil
	}})...)
	coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	return service, <-online
}

func TestTooLargePayloadsAreRefusedByEveryVerb(t *testing.T) {
	t.Parallel()
	service, client := serveOne(t, core.WithPushBytes(100))
	ctx := context.Background()
	fits := strings.Repeat("x", 100-len(`{"type":"message","client":"alice","data":""}`))
	for name, verb := range map[string]func(payload any) error{
		"client.Send": client.Send,
		"client.Push": func(payload any) error { return client.Push([]string{"room"}, payload) },
		"Push":        func(payload any) error { return service.Push([]string{"room"}, payload) },
		"Broadcast":   func(payload any) error { return service.Broadcast(ctx, payload) },
		"Send":        func(payload any) error { return service.Send(ctx, "alice", payload) },
	} {
		if err := verb(fits); err != nil {
			t.Errorf("%s of 100 bytes: %v", name, err)
		}
		err := verb(fits + strings.Repeat("x", len(`,"client":"alice"`)+1))
		if !errors.Is(err, core.ErrTooLarge) || !strings.Contains(err.Error(), "100 at most (core.WithPushBytes)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatAHookGets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sent string
		want       core.Message
	}{
		{"nothing but a type", `{"type":"x"}`, core.Message{Type: "x"}},
		{
			"everything", `{"id":"1","type":"x","channel":"room","message":"hi","data":{"n":` + digits + `},"meta":[1, 2]}`,
			core.Message{ID: "1", Type: "x", Channel: "room", Message: "hi", Data: json.RawMessage(`{"n":` + digits + `}`), Meta: json.RawMessage(`[1, 2]`)},
		},
		{"spaces", " \t\r\n{ \"type\" : \"x\" , \"data\" : [ ] } \n", core.Message{Type: "x", Data: json.RawMessage(`[ ]`)}},
		{"null is absence", `{"type":"x","id":null,"channel":null,"message":null,"data":null,"meta":null}`, core.Message{Type: "x"}},
		{"the sender is the server's to say", `{"type":"x","client":"mallory","ClientID":"mallory"}`, core.Message{Type: "x"}},
		{"unknown keys", `{"a":{"type":"y"},"type":"x","b":[{}],"c":"}","d":1.5e3,"e":true}`, core.Message{Type: "x"}},
		{"escapes", `{"type":"x","message":"a\"b\\c\u0041\n\ud83d\ude00\/","id":"\u00e9"}`, core.Message{Type: "x", Message: "a\"b\\cA\n😀/", ID: "é"}},
		{"half a surrogate", `{"type":"x","message":"\ud83d!"}`, core.Message{Type: "x", Message: "�!"}},
		{"brackets in strings", `{"data":{"a":"}]\"{","b":["]"]},"type":"x"}`, core.Message{Type: "x", Data: json.RawMessage(`{"a":"}]\"{","b":["]"]}`)}},
		{"a string that ends in a backslash", `{"data":"\\","type":"x"}`, core.Message{Type: "x", Data: json.RawMessage(`"\\"`)}},
		{"scalar data", `{"type":"x","data":7,"meta":false}`, core.Message{Type: "x", Data: json.RawMessage(`7`), Meta: json.RawMessage(`false`)}},
		{"the last of two", `{"type":"x","type":"y","data":1,"data":2}`, core.Message{Type: "y", Data: json.RawMessage(`2`)}},
		{"other alphabets", `{"type":"消息","channel":"房间"}`, core.Message{Type: "消息", Channel: "房间"}},
		{"an empty object", `{"type":"x","data":{}}`, core.Message{Type: "x", Data: json.RawMessage(`{}`)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan *core.Message, 1)
			service := coretest.Run(t, &core.Provider{Message: func(m *core.Message, _ *core.Client) error {
				got <- m
				return nil
			}})
			coretest.Connect(t, service, map[string]any{"client_id": "alice"}).SendText(c.sent)
			m := <-got
			c.want.ClientID = "alice"
			if m.ID != c.want.ID || m.Type != c.want.Type || m.ClientID != c.want.ClientID || m.Channel != c.want.Channel || m.Message != c.want.Message {
				t.Errorf("%+v, want %+v", m, c.want)
			}
			sameRaw(t, "data", m.Data, c.want.Data)
			sameRaw(t, "meta", m.Meta, c.want.Meta)
		})
	}
}

func TestAHookMayKeepItsMessage(t *testing.T) {
	t.Parallel()
	const kept = 10
	got := make(chan *core.Message, kept)
	service := coretest.Run(t, &core.Provider{Auth: core.Anonymous, Message: func(m *core.Message, _ *core.Client) error {
		got <- m
		return nil
	}})
	server := mount(t, service)
	p := call(t, server, openingRequest(server, "/"))
	p.enter()
	text := func(i int) string { return fmt.Sprintf(`{"id":"%d","type":"x","data":[%d],"meta":{"n":%d}}`, i, i, i) }
	for i := range kept {
		p.say(masked(frame.Text, text(i)))
		p.hear()
	}
	for i := range kept {
		m := <-got
		again, err := json.Marshal(m)
		if want := strings.Replace(text(i), `"data"`, fmt.Sprintf(`"client":%q,"data"`, m.ClientID), 1); err != nil || string(again) != want {
			t.Errorf("%s, want %s", again, want)
		}
	}
}

func sameRaw(t *testing.T, name string, got, want any) {
	t.Helper()
	if want == nil {
		if got != nil {
			t.Errorf("%s: %v, want nil", name, got)
		}
		return
	}
	raw, ok := got.(json.RawMessage)
	if wanted, _ := want.(json.RawMessage); !ok || !bytes.Equal(raw, wanted) {
		t.Errorf("%s: %T %s, want %s", name, got, got, want)
	}
}

func TestNumbersKeepTheirDigitsThroughAFanOut(t *testing.T) {
	t.Parallel()
	allow := func(*core.Client, string) error { return nil }
	byVerb := coretest.Run(t, &core.Provider{Subscribe: allow, Publish: func(*core.Client, *core.Message) error { return nil }})
	byHook := coretest.Run(t, &core.Provider{Subscribe: allow, Message: func(m *core.Message, client *core.Client) error {
		return client.Push([]string{m.Channel}, m)
	}})
	for _, service := range []*core.Service{byVerb, byHook} {
		alice := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
		bob := coretest.Connect(t, service, map[string]any{"client_id": "bob"})
		bob.Do(core.Message{Type: "subscribe", Channel: "room"})
		alice.SendText(`{"id":"1","type":"message","client":"mallory","channel":"room","data":{"n":` + digits + `,"z":1.0},"meta":1e2}`)
		got := bob.Expect("message")
		if want := `{"id":"1","type":"message","client":"alice","channel":"room","data":{"n":` + digits + `,"z":1.0},"meta":1e2}`; got.Raw != want {
			t.Errorf("got  %s\nwant %s", got.Raw, want)
		}
	}
}

func TestBind(t *testing.T) {
	t.Parallel()
	type point struct{ X, Y int }
	for _, c := range []struct {
		name string
		data any
		want point
		code int
	}{
		{"what a client sent", json.RawMessage(`{"x":1,"y":2}`), point{1, 2}, 0},
		{"what a hook put in", map[string]any{"x": 1, "y": 2}, point{1, 2}, 0},
		{"null", json.RawMessage(`null`), point{}, 0},
		{"nothing", nil, point{}, 0},
		{"the wrong type", json.RawMessage(`{"x":"one"}`), point{}, 400},
		{"no object", json.RawMessage(`[]`), point{}, 400},
	} {
		var got point
		err := (&core.Message{Data: c.data}).Bind(&got)
		var failed *core.Error
		switch {
		case c.code == 0 && (err != nil || got != c.want):
			t.Errorf("%s: %v, %v", c.name, got, err)
		case c.code != 0 && (!errors.As(err, &failed) || failed.Code != c.code):
			t.Errorf("%s: %v, want code %d", c.name, err, c.code)
		}
	}
	if err := (&core.Message{Data: func() {}}).Bind(new(point)); err == nil {
		t.Error("a function was bound")
	}
	var typeError *json.UnmarshalTypeError
	if err := (&core.Message{Data: json.RawMessage(`"x"`)}).Bind(new(int)); !errors.As(err, &typeError) {
		t.Errorf("%v does not wrap what encoding/json said", err)
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Message: func(m *core.Message, _ *core.Client) error {
		switch m.Type {
		case "sum":
			var n []int
			if err := m.Bind(&n); err != nil {
				return err
			}
			return m.Reply(map[string]int{"sum": n[0] + n[1]})
		case "twice":
			if err := m.Reply(1); err != nil {
				return err
			}
			return m.Reply(2)
		case "null":
			return m.Reply(nil)
		case "not UTF-8":
			return m.Reply(json.RawMessage("\"a\xffb\""))
		case "function":
			return m.Reply(func() {})
		case "then fails":
			if err := m.Reply(1); err != nil {
				return err
			}
			return core.Errorf(409, "taken")
		case "changed":
			m.ID, m.Type, m.Channel = "other", "other", "other"
			return m.Reply("changed")
		}
		return nil
	}})
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	for kind, want := range map[string]any{
		"sum": json.RawMessage(`{"sum":3}`), "twice": json.RawMessage(`2`), "null": nil, "not UTF-8": json.RawMessage(`"a�b"`),
		"nothing": nil, "changed": json.RawMessage(`"changed"`),
	} {
		got := conn.Do(core.Message{Type: kind, Data: []int{1, 2}})
		if kind == "null" { // which the envelope's reader cannot tell from absence
			if !strings.Contains(got.Raw, `"data":null`) {
				t.Error(got.Raw)
			}
			continue
		}
		sameRaw(t, kind, got.Data, want)
	}
	conn.Error(409, core.Message{Type: "then fails"})
	conn.Error(500, core.Message{Type: "function"})
	conn.Send(core.Message{Type: "sum", Data: []int{1, 2}}) // without an id there is no answer
	conn.Nothing()
}

func TestTheAnswerHasTheServersTimeAndNothingElse(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, &core.Provider{Message: func(*core.Message, *core.Client) error { return nil }})
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	got := conn.Do(core.Message{ID: `a"1`, Type: "x", Channel: "room", Data: 1})
	var answer map[string]json.RawMessage
	var meta map[string]int64
	if err := json.Unmarshal([]byte(got.Raw), &answer); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer["meta"], &meta); err != nil {
		t.Fatal(err)
	}
	if len(answer) != 3 || string(answer["id"]) != `"a\"1"` || len(meta) != 1 || meta["time"] < 1_500_000_000_000 {
		t.Error(got.Raw)
	}
}

func TestPingIsAnsweredByPongWithTheSameID(t *testing.T) {
	t.Parallel()
	pings := make(chan struct{}, 10)
	service := coretest.Run(t, &core.Provider{Event: func(name string, _ *core.Client) error {
		if name == core.EventPing {
			pings <- struct{}{}
		}
		return nil
	}})
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	conn.SendText(`{"type":"ping","id":"7\n"}`)
	if got := conn.Expect("pong"); got.Raw != `{"type":"pong","id":"7\n"}` {
		t.Error(got.Raw)
	}
	conn.SendText(`{"type":"ping"}`)
	if got := conn.Expect("pong"); got.Raw != `{"type":"pong"}` {
		t.Error(got.Raw)
	}
	<-pings
	<-pings
}
