package drivers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// FuzzPublication: what a node has written is the same behind Redis, and what anybody else writes is a JSON object.
func FuzzPublication(f *testing.F) {
	f.Add([]byte(`{"type":"message"}`))
	f.Add([]byte("{\"type\":\"\xff\"}"))
	f.Add(drivers.EncodePublication(core.Publication{Payload: []byte("x"), Except: []string{"one", "two"}}))
	f.Add(drivers.EncodePublication(core.Publication{Payload: []byte("\xff"), Except: []string{"", "\xff", strings.Repeat("x", 200)}}))
	f.Add([]byte("{\"a\":[{\"b\":\"\\ud800\"},1e999]}\n"))
	f.Add([]byte("\x01\x03\x01a\x00"))
	f.Add([]byte("\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, except, err := drivers.DecodePublication(data)
		switch {
		case err != nil:
		case data[0] == '{':
			if !isObject(payload) || except != nil {
				t.Fatalf("%q is let in as %q without %q", data, payload, except)
			}
		default:
			again, without, err := drivers.DecodePublication(drivers.EncodePublication(core.Publication{Payload: payload, Except: except}))
			if err != nil || !bytes.Equal(again, payload) || !slices.Equal(without, except) {
				t.Fatalf("%q: %q without %q became %q without %q, %v", data, payload, except, again, without, err)
			}
		}
	})
}

func isObject(text []byte) bool {
	var object map[string]json.RawMessage
	return utf8.Valid(text) && json.Unmarshal(text, &object) == nil && object != nil
}

func FuzzScopedNamesAreUndone(f *testing.F) {
	f.Add("", "room:1")
	f.Add("a:b%3A", ":c%")
	f.Add("%253A", "")
	f.Fuzz(func(t *testing.T, app, name string) {
		gotApp, gotName, ok := drivers.Unscoped(drivers.Scoped(app, name))
		if !ok || gotApp != app || gotName != name {
			t.Fatalf("%q, %q became %q, %q, %v", app, name, gotApp, gotName, ok)
		}
	})
}

// FuzzMember: whatever stands in a key of presence, reading it does no more than fail, and what a node writes it reads.
func FuzzMember(f *testing.F) {
	f.Add("anna", "conn", `{"name":"Anna"}`, int64(1_700_000_000_000), `4:anna{"c":"conn","n":"node","s":1}`)
	f.Add("5:anna", "", "", int64(-1), `-1:`)
	f.Add("\xff", "\x00", "null", int64(0), `99999999999999999999:{}`)
	f.Add("a b", "c", "{", int64(1<<60), `reg 18446744073709551616 {}`)
	f.Add("bert", "\u2028<&>", `[{"a":"<&\u2028\ud800"},null]`, int64(-1<<60), `reg.1 18446744073709551615 {"c":"conn","n":"node","d":{"a":[1]},"s":-1}`)
	f.Add("", "c", " null ", int64(1), `0:{"c":7}`)
	f.Add("12:3", "c", "1e999", int64(1), "1:\u00e9{\"d\":null,\"s\":1.5}")
	f.Fuzz(func(t *testing.T, id, conn, data string, since int64, stored string) {
		_, _ = drivers.TopicMember(stored)
		_, _ = drivers.ClientMember(id, stored)
		m := core.Member{ClientID: id, ConnID: strings.ToValidUTF8(conn, ""), Since: time.UnixMilli(since)}
		if data != "" {
			m.Data = json.RawMessage(data)
		}
		text := drivers.EncodeMember(m)
		got, err := drivers.TopicMember(strconv.Itoa(len(id)) + ":" + id + text)
		same(t, got, m, err)
		got, err = drivers.ClientMember(id, "reg.1 7 "+text)
		if got.Number != 7 {
			t.Errorf("number %d", got.Number)
		}
		same(t, got, m, err)
	})
}

func same(t *testing.T, got, want core.Member, err error) {
	t.Helper()
	var data bytes.Buffer
	if json.Compact(&data, want.Data) != nil { // no JSON is left out
		data.Reset()
	}
	var kept bytes.Buffer
	_ = json.Compact(&kept, got.Data)
	if err != nil || got.ClientID != want.ClientID || got.ConnID != want.ConnID || !got.Since.Equal(want.Since) ||
		unescaped(data.Bytes()) != unescaped(kept.Bytes()) {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
}

// unescaped undoes what encoding/json does to raw JSON for the sake of HTML, and null, which is absence.
func unescaped(text []byte) string {
	if string(text) == "null" {
		return ""
	}
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(string(text))
}

// tapped is a driver that lets a test call the node as Redis would.
type tapped struct {
	core.Driver
	node core.Node
}

func (d *tapped) Open(ctx context.Context, node core.Node) (core.Link, error) {
	d.node = node
	return d.Driver.Open(ctx, node)
}

// FuzzArrivals: whatever any program writes into the channels of a node, it does not panic, and nothing but a JSON object in
// UTF-8 reaches a client. Only a publication that begins with the byte 1, as nodes write them, is taken at its word: not
// every node is to read each message.
func FuzzArrivals(f *testing.F) {
	for _, text := range []string{
		`{"type":"news","channel":"room"}`, "{\"type\":\"\xff\"}", "\x01\x00{}", "\x01\x01\x04conn{}", "", "beat", "[]",
		`{"action":"send","client":"bert","payload":{"type":"letter"}}`, "{\"action\":\"send\",\"client\":\"bert\",\"payload\":{\"type\":\"\xff\"}}",
		`{"action":"close","client":"bert","code":70000,"reason":"\ud800"}`, `{"action":"close","client":"bert","code":-1,"except":[null]}`,
		`{"action":"subscribe","client":"bert","channels":["\u0000",""],"id":1,"from":"x"}`, `{"action":"subscribe","client":"bert","channels":["hall"]}`,
		`{"action":"unsubscribe","client":"bert","channels":["room","room","\ud800"]}`, `{"action":"replace","client":"bert","number":18446744073709551615}`,
		`{"answer":1,"error":"x","outcome":"closed"}`, `{"action":"dance","app":"shop","client":"bert"}`,
	} {
		f.Add(uint8(0), text)
		f.Add(uint8(2), text)
	}
	for to := range 7 {
		f.Add(uint8(to), `{"action":"send","client":"bert","payload":{"type":"letter","channel":"room"},"except":["x"]}`)
	}
	names := []string{"ws:{0}:pub::room", "ws:{0}:pub::", "ws:{0}:node:x", "ws:{0}:all", "ws:{0}:pub:", "", "ws:{0}:pub:%3A:room"}
	inbox := drivers.NewInbox()
	f.Fuzz(func(t *testing.T, to uint8, text string) {
		name := names[int(to)%len(names)]
		ours := strings.HasPrefix(text, "\x01")
		synctest.Test(t, func(t *testing.T) {
			driver := &tapped{Driver: drivers.NewMemoryDriver()}
			service := coretest.RunOn(t, driver, provider(), core.WithLogger(nil))
			heard, hangUp := listen(t, service)
			inbox.Take(driver.node, name, text)
			must(t, service.Broadcast(t.Context(), core.Message{Type: "alive"}))
			synctest.Wait()
			hangUp()
			for _, frame := range heard() {
				if !ours && !isObject(frame) {
					t.Errorf("%q in %q reached a client as %q", text, name, frame)
				}
			}
		})
	})
}

// listen connects bert, who is in the room, and returns what he hears. A close frame is told as an object.
func listen(t *testing.T, service *core.Service) (heard func() [][]byte, hangUp func()) {
	t.Helper()
	h := coretest.Handshake()
	h.Identity = map[string]any{"client_id": "bert"}
	ticket, err := service.Admit(t.Context(), h)
	must(t, err)
	server, client := net.Pipe()
	service.Attach(server, nil, ticket)
	var all []byte
	ended := make(chan struct{})
	go func() { // ends with the pipe
		defer close(ended)
		buf := make([]byte, 1<<10)
		for {
			n, err := client.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				return
			}
		}
	}()
	synctest.Wait()
	must(t, service.Subscribe(t.Context(), "bert", "room"))
	return func() [][]byte {
			<-ended
			_, stream, _ := bytes.Cut(all, []byte("\r\n\r\n"))
			return texts(t, stream)
		}, func() {
			_ = client.Close()
			<-ended
		}
}

// texts returns the payloads of the text frames in a stream.
func texts(t *testing.T, stream []byte) (payloads [][]byte) {
	t.Helper()
	for len(stream) >= 2 {
		op, size, head := stream[0], int(stream[1]), 2
		if size == 126 {
			size, head = int(stream[2])<<8|int(stream[3]), 4
		}
		if size == 127 || head+size > len(stream) {
			t.Fatalf("no frame: %.40q", stream)
		}
		if op == 0x81 {
			payloads = append(payloads, stream[head:head+size])
		}
		stream = stream[head+size:]
	}
	return payloads
}

// One byte that is not UTF-8 in a letter, and every browser that gets it must close its connection.
func TestRedisCommandThatIsNotUTF8ReachesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver := &tapped{Driver: drivers.NewMemoryDriver()}
		service := coretest.RunOn(t, driver, provider(), core.WithLogger(nil))
		heard, hangUp := listen(t, service)
		inbox := drivers.NewInbox()
		inbox.Take(driver.node, "ws:{0}:node:x", "{\"action\":\"send\",\"client\":\"bert\",\"payload\":{\"type\":\"Gr\xfc\xdfe\"}}")
		inbox.Take(driver.node, "ws:{0}:node:x", `{"action":"send","client":"bert","payload":{"type":"letter"}}`)
		synctest.Wait()
		hangUp()
		if got := heard(); len(got) != 1 || string(got[0]) != `{"type":"letter"}` || service.Stats().Faults != 1 {
			t.Errorf("heard %q, %d faults", got, service.Stats().Faults)
		}
	})
}

func TestRedisCommandToSendWhatIsNoObjectReachesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver := &tapped{Driver: drivers.NewMemoryDriver()}
		service := coretest.RunOn(t, driver, provider(), core.WithLogger(nil))
		heard, hangUp := listen(t, service)
		inbox := drivers.NewInbox()
		inbox.Take(driver.node, "ws:{0}:node:x", `{"action":"send","client":"bert"}`)
		inbox.Take(driver.node, "ws:{0}:node:x", `{"action":"send","client":"bert","payload":[1]}`)
		inbox.Take(driver.node, "ws:{0}:node:x", `{"action":"send","client":"bert","payload":null}`)
		synctest.Wait()
		hangUp()
		if got := heard(); len(got) > 0 || service.Stats().Faults != 3 {
			t.Errorf("heard %q, %d faults", got, service.Stats().Faults)
		}
	})
}
