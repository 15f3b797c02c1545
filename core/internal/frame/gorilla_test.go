package frame_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// These tests ask gorilla/websocket what it makes of the same bytes. It differs from RFC 6455, and so from the parser,
// in the following and in nothing else; compare makes exactly these exceptions:
//
//   - it accepts lengths that are not in their shortest form;
//   - it calls a length with its highest bit set a message over the limit;
//   - it does not check that text is UTF-8;
//   - to a close reason that is not UTF-8 it answers 1002 instead of 1007;
//   - half a close code counts as none;
//   - it does not know close code 1014, which was registered later.

func TestParserAgreesWithGorilla(t *testing.T) {
	t.Parallel()
	streams := 4_000
	if testing.Short() {
		streams = 500
	}
	codes := make(map[string]int)
	for seed := range streams {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		g := generator{rng: rng, unmasked: rng.IntN(2) == 0, corrupt: rng.IntN(2) == 0}
		stream := g.stream()
		limit := 0
		if rng.IntN(4) == 0 {
			limit = 1 + rng.IntN(1<<rng.IntN(18))
		}
		err := compare(t, stream, limit, g.unmasked, rng)
		if t.Failed() {
			t.Fatalf("seed %d, limit %d, unmasked %v, corrupt %v, % .200x", seed, limit, g.unmasked, g.corrupt, stream)
		}
		if err != nil && !g.corrupt && code(t, err) != 1009 {
			t.Fatalf("seed %d: a valid stream failed: %v", seed, err)
		}
		if strings.Contains(text(err), "message larger") {
			codes["limit"]++
		} else {
			codes[text(err)]++
		}
	}
	t.Logf("outcomes: %v", codes)
	if !testing.Short() && len(codes) < 20 {
		t.Errorf("the streams led to %d different outcomes only", len(codes))
	}
}

func FuzzAgainstGorilla(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, stream []byte, limit uint16, unmasked bool, pieces uint64) {
		_ = compare(t, stream, int(limit), unmasked, rand.New(rand.NewPCG(pieces, 0)))
	})
}

// compare parses stream as one would a connection, up to a violation or a close frame, and holds the result against
// gorilla's. It returns the violation.
func compare(t *testing.T, stream []byte, limit int, unmasked bool, rng *rand.Rand) error {
	t.Helper()
	got, _, err := parse(t, &frame.Parser{MaxMessage: limit, Unmasked: unmasked}, stream, random(rng))
	closed := false
	for i, e := range got {
		if e.op == frame.Close {
			got, closed = got[:i+1], true
			break
		}
	}
	reference := readWithGorilla(t, stream, limit, unmasked)

	if closed {
		compareClose(t, got, reference)
		return nil
	}
	switch code(t, err) {
	case 0:
		// 1006 cannot come from the peer: gorilla says with it that the stream ended, in or behind a frame.
		if !websocket.IsCloseError(reference.end, websocket.CloseAbnormalClosure) {
			t.Errorf("gorilla found %v, the parser nothing", reference.end)
		}
		reference.is(t, got)
		for _, e := range append(reference.events, reference.partial) {
			if e.op == frame.Text && !startsText(e.payload) {
				t.Errorf("text %.100q passed", e.payload)
			}
		}
	case 1009:
		if !errors.Is(reference.end, websocket.ErrReadLimit) {
			t.Errorf("gorilla ended with %v, the parser with %v", reference.end, err)
		}
		reference.is(t, got)
	case 1007:
		compareInvalidText(t, got, reference)
	case 1002:
		compareViolation(t, got, err, reference)
	}
	return err
}

func compareClose(t *testing.T, got []event, reference outcome) {
	t.Helper()
	last := len(got) - 1
	payload := got[last].payload
	code, reason, err := frame.ParseClose([]byte(payload))
	rejects := err != nil || code == 1014
	if len(payload) == 1 {
		code, rejects = 1005, false
	}
	if rejects {
		if !reference.says("bad close code") && !reference.says("invalid utf8 payload in close frame") {
			t.Errorf("close frame %q: gorilla ended with %v", payload, reference.end)
		}
		reference.is(t, got[:last])
		return
	}
	reference.is(t, append(got[:last:last], event{frame.Close, fmt.Sprint(code, reason)}))
}

// compareInvalidText looks for the text that the parser rejects in what gorilla read. Control frames may come before it.
func compareInvalidText(t *testing.T, got []event, reference outcome) {
	t.Helper()
	if len(reference.events) < len(got) {
		t.Errorf("gorilla read %d messages, the parser %d", len(reference.events), len(got))
		return
	}
	rejected := reference.partial
	for _, e := range reference.events[len(got):] {
		if e.op == frame.Text || e.op == frame.Binary {
			rejected = e
			break
		}
	}
	if rejected.op != frame.Text || utf8.ValidString(rejected.payload) {
		t.Errorf("opcode %d, %.100q was rejected as text", rejected.op, rejected.payload)
	}
	if rejected == reference.partial && startsText(rejected.payload) {
		t.Errorf("the beginning of a text was rejected: %.100q", rejected.payload)
	}
	reference.events = reference.events[:len(got)]
	reference.is(t, got)
}

func compareViolation(t *testing.T, got []event, err error, reference outcome) {
	t.Helper()
	switch reason := text(err); {
	case strings.Contains(reason, "shortest form"):
		reference.events = reference.events[:min(len(reference.events), len(got))]
	case strings.Contains(reason, "highest bit"):
		if !errors.Is(reference.end, websocket.ErrReadLimit) {
			t.Errorf("%v: gorilla ended with %v", err, reference.end)
		}
	default:
		names := map[string]string{
			"reserved bit": "RSV", "reserved opcode": "bad opcode", "masked": "bad MASK", "fragmented control": "FIN not set on control",
			"control frame larger": "len > 125", "without a message": "continuation after FIN", "inside a fragmented": "data before FIN",
		}
		known := false
		for ours, theirs := range names {
			known = known || strings.Contains(reason, ours) && reference.says(theirs)
		}
		if !known {
			t.Errorf("%v: gorilla ended with %v", err, reference.end)
		}
	}
	reference.is(t, got)
}

// startsText reports whether more bytes can make s valid UTF-8, by trying.
func startsText(s string) bool {
	for _, end := range []string{"", "\x80", "\x90", "\xa0", "\x80\x80", "\x90\x80", "\xa0\x80", "\x80\x80\x80", "\x90\x80\x80"} {
		if utf8.ValidString(s + end) {
			return true
		}
	}
	return false
}

// outcome is what gorilla made of a stream. The payload of a close is its code and reason.
type outcome struct {
	events  []event
	partial event // the data message that was being read at the end
	end     error
}

func (o outcome) says(what string) bool { return strings.Contains(o.end.Error(), what) }

func (o outcome) is(t *testing.T, got []event) {
	t.Helper()
	if len(got) != len(o.events) {
		t.Errorf("%d messages, gorilla read %d and ended with %v", len(got), len(o.events), o.end)
		return
	}
	for i := range got {
		if got[i] != o.events[i] {
			t.Errorf("message %d is %d %.100q, gorilla's %d %.100q", i, got[i].op, got[i].payload, o.events[i].op, o.events[i].payload)
		}
	}
}

func readWithGorilla(t *testing.T, stream []byte, limit int, unmasked bool) (o outcome) {
	t.Helper()
	open := upgradeGorilla
	if unmasked {
		open = dialGorilla
	}
	conn := open(t, stream)
	conn.SetReadLimit(int64(limit))
	note := func(op frame.Op) func(string) error {
		return func(payload string) error {
			o.events = append(o.events, event{op, payload})
			return nil
		}
	}
	conn.SetPingHandler(note(frame.Ping))
	conn.SetPongHandler(note(frame.Pong))
	conn.SetCloseHandler(func(code int, reason string) error { return note(frame.Close)(fmt.Sprint(code, reason)) })
	for {
		op, r, err := conn.NextReader()
		if err != nil {
			o.end = err
			return o
		}
		payload, err := io.ReadAll(r)
		e := event{frame.Op(op), string(payload)}
		if err != nil {
			o.partial, o.end = e, err
			return o
		}
		o.events = append(o.events, e)
	}
}

// streamConn is a connection whose peer sends a stream, ends it and ignores all answers.
type streamConn struct {
	net.Conn
	io.Reader
	handshake func(request []byte)
}

func (c *streamConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

func (c *streamConn) Write(b []byte) (int, error) {
	if c.handshake != nil {
		c.handshake(b)
	}
	return len(b), nil
}
func (*streamConn) Close() error                     { return nil }
func (*streamConn) SetDeadline(time.Time) error      { return nil }
func (*streamConn) SetReadDeadline(time.Time) error  { return nil }
func (*streamConn) SetWriteDeadline(time.Time) error { return nil }

type hijacker struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// upgradeGorilla returns the server's end of a connection.
func upgradeGorilla(t *testing.T, stream []byte) *websocket.Conn {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}
	var upgrader websocket.Upgrader
	conn, err := upgrader.Upgrade(hijacker{httptest.NewRecorder(), &streamConn{Reader: strings.NewReader(string(stream))}}, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialGorilla returns the client's end of a connection.
func dialGorilla(t *testing.T, stream []byte) *websocket.Conn {
	t.Helper()
	peer := new(streamConn)
	peer.handshake = func(request []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(request))))
		if err != nil {
			return
		}
		hash := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		peer.Reader = strings.NewReader("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
			base64.StdEncoding.EncodeToString(hash[:]) + "\r\n\r\n" + string(stream))
		peer.handshake = nil
	}
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return peer, nil }}
	conn, _, err := dialer.Dial("ws://peer/", nil) //nolint:bodyclose // the body of a 101 is the connection
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// generator makes streams of messages, fragmented at random, with control frames in between.
type generator struct {
	rng      *rand.Rand
	unmasked bool
	corrupt  bool
	out      []byte
}

func (g *generator) stream() []byte {
	for range 1 + g.rng.IntN(12) {
		g.message()
		g.control()
		if g.corrupt && g.rng.IntN(4) == 0 {
			g.violation()
		}
	}
	if g.rng.IntN(3) == 0 {
		g.close()
	}
	if g.corrupt && g.rng.IntN(4) == 0 {
		for range 1 + g.rng.IntN(3) {
			g.out[g.rng.IntN(len(g.out))] ^= byte(1 << g.rng.IntN(8))
		}
	}
	if g.rng.IntN(4) == 0 {
		g.out = g.out[:g.rng.IntN(len(g.out))]
	}
	return g.out
}

func (g *generator) frame(op frame.Op, fin bool, payload []byte) {
	if !g.unmasked {
		var key [4]byte
		binary.LittleEndian.PutUint32(key[:], g.rng.Uint32())
		g.out = frame.AppendMasked(g.out, op, fin, key, payload)
		return
	}
	start := len(g.out)
	g.out = append(frame.AppendHeader(g.out, op, len(payload)), payload...)
	if !fin {
		g.out[start] &^= 0x80
	}
}

func (g *generator) message() {
	op := frame.Text
	payload := []byte(g.text())
	if g.rng.IntN(3) == 0 {
		op = frame.Binary
	}
	if g.corrupt && len(payload) > 0 && g.rng.IntN(4) == 0 {
		payload[g.rng.IntN(len(payload))] = byte(g.rng.Uint32())
	}
	for g.rng.IntN(2) == 0 {
		n := g.rng.IntN(len(payload) + 1)
		g.frame(op, false, payload[:n])
		op, payload = frame.Continuation, payload[n:]
		g.control()
	}
	g.frame(op, true, payload)
}

func (g *generator) text() string {
	lengths := []int{0, 1, 125, 126, 127, 200, 4090, 65535, 65536, 70000}
	size := g.rng.IntN(40)
	if g.rng.IntN(4) == 0 {
		size = lengths[g.rng.IntN(len(lengths))]
	}
	alphabet := []rune([]string{"abc", "aé€😀\x00", "\U0010ffff\ud7ff\ue000"}[g.rng.IntN(3)])
	var word []rune
	for range 1 + min(size, 30) {
		word = append(word, alphabet[g.rng.IntN(len(alphabet))])
	}
	// Rounded up to a whole character.
	text := strings.Repeat(string(word), 1+size/len(word))
	for size < len(text) && !utf8.RuneStart(text[size]) {
		size++
	}
	return text[:min(size, len(text))]
}

func (g *generator) control() {
	for g.rng.IntN(3) == 0 {
		payload := strings.Repeat("\xff", []int{0, 1, 5, 125}[g.rng.IntN(4)])
		g.frame(frame.Ping+frame.Op(g.rng.IntN(2)), true, []byte(payload))
	}
}

func (g *generator) close() {
	code := []int{1000, 1001, 1005, 1006, 1013, 1014, 1015, 3000, 4999, 5000}[g.rng.IntN(10)]
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	payload = append(payload, []string{"", "bye", "é", "\xff"}[g.rng.IntN(4)]...)
	if g.rng.IntN(3) == 0 {
		payload = payload[:g.rng.IntN(2)]
	}
	g.frame(frame.Close, true, payload)
}

// violation appends the header of a frame that is often wrong: any bits, any opcode at any place, any length in any form.
func (g *generator) violation() {
	ops := []byte{0, 1, 2, 8, 9, 10, byte(g.rng.IntN(16))}
	b0 := ops[g.rng.IntN(len(ops))] | byte(g.rng.IntN(2))<<7
	if g.rng.IntN(8) == 0 {
		b0 |= byte(g.rng.IntN(8)) << 4
	}
	b1 := []byte{0, 125, 126, 127}[g.rng.IntN(4)]
	if !g.unmasked != (g.rng.IntN(8) == 0) {
		b1 |= 0x80
	}
	length := g.rng.Uint64() >> []int{0, 50, g.rng.IntN(64)}[g.rng.IntN(3)]
	g.out = append(g.out, b0, b1)
	switch b1 & 0x7f {
	case 126:
		g.out = binary.BigEndian.AppendUint16(g.out, uint16(length))
	case 127:
		g.out = binary.BigEndian.AppendUint64(g.out, length)
	}
}
