package core_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core"
)

// FuzzDecode holds decode against encoding/json and a struct of the same members. They differ in this:
//
//   - names are compared as they are written: not in either case, and no escape is undone in them;
//   - null is like absence, also for data and meta.
//
// What decode takes can be sent on.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"id":"1","type":"x","client":"c","channel":"room","message":"hi","data":{"n":1},"meta":[1,"]"]}`,
		` { "type" : "x" , "data" : "\\\"" } `, `{"type":null}`, `{"type":7,"id":{}}`, `[]`, `null`, `"\ud800"`, `{"a":-1.5e+3}`, `{`, ``,
		`{"type":"x","id":null,"data":null,"meta":null}`,
		`{"":{},"type":"\u0000\ud83d\ude00"}`, `{"type":"x","type":true}`, `{"type":"x","data":1,"data":null,"id":"a","id":"b"}`,
		`{"type":"x","data":[[{"a":[{}]}],"\"]}",-0.0e-1,true,false,null]}`, `{"type":"x","id":"\"\\\/\b\f\n\r\t\u00e9","message":"\ud800\udc00\udc00"}`,
		`{"meta":{"type":"y","data":{"type":"z"}},"data":"\u2028<&>","type":"x"}`, `{"type":"x","id":1,"channel":false,"message":[],"data":12345678901234567890.5}`,
		`{"type":"","id":"1"}`, `{"type":["x"],"id":"1"}`, `{"type":"x"}}`, `{"type":"x"}{"type":"y"}`, `{"type":"x",}`, `{"type":"x","message":"` + "\n" + `"}`, "\ufeff{}", `true`, `-0`,
		`{"type":"x","Data":1,"\u0069d":"y"}`, "{\"type\":\"x\",\"data\":{\"a\\\"}\":[\"]\\\\\",{}]}\r\n,\t\"meta\":1e5}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !utf8.Valid(text) {
			text = bytes.ToValidUTF8(text, []byte("?")) // what the frame parser lets through
		}
		before := bytes.Clone(text)
		m, err := core.Decode(text)
		if m == nil || !bytes.Equal(text, before) {
			t.Fatal(m, err)
		}
		var failed *core.Error
		if err != nil && (!errors.As(err, &failed) || failed.Code != 400) {
			t.Fatal(err)
		}
		if unlikeJSON(text) {
			return
		}
		var want struct {
			ID, Type, Channel, Message string
			Data, Meta                 json.RawMessage
		}
		wrong := json.Unmarshal(text, &want)
		if (err == nil) != (wrong == nil && want.Type != "") {
			t.Fatalf("%q: %v; encoding/json: %v", text, err, wrong)
		}
		if m.ID != want.ID || m.Type != want.Type || m.Channel != want.Channel || m.Message != want.Message || m.ClientID != "" {
			t.Fatalf("%q: %+v, want %+v", text, m, want)
		}
		sameRaw(t, "data", m.Data, present(want.Data))
		sameRaw(t, "meta", m.Meta, present(want.Meta))
		clear(text)
		if err == nil {
			sentOn(t, m)
		}
	})
}

// present returns nil for null.
func present(raw json.RawMessage) any {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	return raw
}

// unlikeJSON reports whether text is an object with a name that encoding/json takes for another, or with one that comes
// twice, once as null.
func unlikeJSON(text []byte) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return string(bytes.TrimSpace(text)) == "null"
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		name, _ := token.(string)
		if err != nil {
			return false
		}
		for _, ours := range []string{"id", "type", "channel", "message", "data", "meta"} {
			if strings.EqualFold(name, ours) && !bytes.HasSuffix(text[:d.InputOffset()], []byte(`"`+ours+`"`)) {
				return true
			}
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return false
		}
		if string(value) == "null" && seen[name] {
			return true
		}
		seen[name] = true
	}
	return false
}

// sentOn: what was taken from a client reaches another as it was.
func sentOn(t *testing.T, m *core.Message) {
	t.Helper()
	out, err := core.Encode(m, "alice", "room")
	if err != nil || !json.Valid(out) || !utf8.Valid(out) {
		t.Fatalf("%+v became %q: %v", m, out, err)
	}
	again, err := core.Decode(out)
	if err != nil || again.ID != m.ID || again.Type != m.Type || again.Message != m.Message || again.Channel != "room" {
		t.Fatalf("%+v became %q: %+v, %v", m, out, again, err)
	}
	sameRaw(t, "data", again.Data, m.Data)
	sameRaw(t, "meta", again.Meta, m.Meta)
}

// FuzzEncode: any object with a type is an envelope, whose unknown members are kept; anything else is data.
func FuzzEncode(f *testing.F) {
	f.Add([]byte(`{"type":"x","channel":"own","client":"me","price":12345678901234567890,"data":null,"":[]}`), "alice", "room")
	f.Add([]byte(`{"type":"x"}`), "", "")
	f.Add([]byte(`{"type":7,"id":"1"}`), "a\xffb", "c\"\u2028")
	f.Add([]byte(`[1,"\ud800",{"<":"&"}]`), "", "room")
	f.Fuzz(func(t *testing.T, text []byte, stamp, channel string) {
		var payload any
		if json.Unmarshal(text, &payload) != nil || payload == nil {
			return
		}
		out, err := core.Encode(payload, stamp, channel)
		if err != nil || !json.Valid(out) || !utf8.Valid(out) {
			t.Fatalf("%q became %q, %v", text, out, err)
		}
		want := map[string]any{"type": "message", "data": payload}
		if fields, ok := payload.(map[string]any); ok {
			if _, ok := fields["type"].(string); ok {
				want = maps.Clone(fields)
			}
		}
		if own, ok := want["channel"].(string); !ok || own == "" {
			delete(want, "channel")
		}
		for name, value := range map[string]string{"client": stamp, "channel": channel} {
			if value != "" {
				want[name] = strings.ToValidUTF8(value, "\ufffd")
			}
		}
		var got map[string]any
		if err := json.Unmarshal(out, &got); err != nil || spelled(got) != spelled(want) {
			t.Fatalf("%q became %q", text, out)
		}
		raw := json.RawMessage(text)
		if out, err = core.Encode(raw, stamp, channel); err == nil && (!json.Valid(out) || !utf8.Valid(out)) {
			t.Fatalf("raw %q became %q", text, out)
		}
	})
}

// spelled is v as encoding/json writes it: one byte that is no UTF-8 is one U+FFFD to it, and a run of them is one to others.
func spelled(v any) string {
	text, _ := json.Marshal(v)
	s := string(text)
	for strings.Contains(s, "\ufffd\ufffd") {
		s = strings.ReplaceAll(s, "\ufffd\ufffd", "\ufffd")
	}
	return s
}

// read decodes JSON with numbers of any size.
func read(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// FuzzAnswers: answers are JSON in UTF-8 that says what was to be said, whatever strings a client or a hook has chosen.
func FuzzAnswers(f *testing.F) {
	f.Add("1", "subscribe", "room", 403, "no", []byte(`{"a":1}`))
	f.Add("", "", "", -1, "", []byte(`null`))
	f.Add("a\"\\\n\x00\x7f", "\xff\xfe", "\u2028<&>", 1<<40, "\ud7ff\U0010ffff\xed\xa0\x80", []byte("\"\xff\""))
	f.Fuzz(func(t *testing.T, id, kind, channel string, code int, text string, data []byte) {
		reads(t, core.AppendError(id, kind, channel, code, text), map[string]any{
			"id": id, "type": "error", "code": code, "message": text, "channel": channel, "meta": map[string]any{"type": kind},
		}, "id", "channel")
		reads(t, core.AppendPong(id), map[string]any{"type": "pong", "id": id}, "id")
		reads(t, core.GapText(channel), map[string]any{"type": "gap", "channel": channel}, "channel")
		reads(t, []byte(`{"s":`+string(core.AppendString(text))+"}"), map[string]any{"s": text})
		want := map[string]any{"id": id, "type": "receive", "meta": map[string]any{"time": 1}}
		reads(t, core.AppendReceive(id, nil), want)
		reply, err := core.Marshal(json.RawMessage(data)) // as Reply does
		if err != nil {
			return
		}
		want["data"] = json.RawMessage(bytes.ToValidUTF8(data, []byte("\ufffd")))
		if len(bytes.TrimSpace(data)) > 0 {
			reads(t, core.AppendReceive(id, reply), want)
		}
	})
}

// reads holds an answer against its members, of which those in optional are left out when they are empty.
func reads(t *testing.T, text []byte, want map[string]any, optional ...string) {
	t.Helper()
	for _, name := range optional {
		if want[name] == "" {
			delete(want, name)
		}
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(text, &got); err != nil || !utf8.Valid(text) {
		t.Fatalf("%q: %v", text, err)
	}
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(slices.Sorted(maps.Keys(got)), names) {
		t.Fatalf("%q has not %q", text, names)
	}
	for name, raw := range got {
		wanted, err := json.Marshal(want[name])
		if err != nil {
			t.Fatal(err)
		}
		if spelled(read(t, raw)) != spelled(read(t, wanted)) {
			t.Fatalf("%q: %s is not %s", text, name, wanted)
		}
	}
}
