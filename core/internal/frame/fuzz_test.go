package frame_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// FuzzParser holds the parser to what does not depend on the stream: pieces make no difference, memory is bounded by
// what arrived (parse checks that), and text is UTF-8.
func FuzzParser(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, stream []byte, limit uint16, unmasked bool, pieces uint64) {
		fresh := frame.Parser{MaxMessage: int(limit), Unmasked: unmasked}
		p := fresh
		want, _, wantErr := parse(t, &p, stream, whole)
		for _, e := range want {
			if e.op == frame.Text && strings.ToValidUTF8(e.payload, "") != e.payload {
				t.Errorf("text %q", e.payload)
			}
			if (e.op == frame.Text || e.op == frame.Binary) && limit > 0 && len(e.payload) > int(limit) {
				t.Errorf("message of %d bytes, limit %d", len(e.payload), limit)
			}
		}
		code(t, wantErr)

		for _, next := range []func(int) int{single, random(rand.New(rand.NewPCG(pieces, 1)))} {
			q := fresh
			got, _, err := parse(t, &q, stream, next)
			if text(err) != text(wantErr) || !slices.Equal(got, want) || q.Idle() != p.Idle() {
				t.Errorf("in pieces %q %v, idle %v; in one %q %v, idle %v", got, err, q.Idle(), want, wantErr, p.Idle())
			}
		}
	})
}

func FuzzAppendClose(f *testing.F) {
	f.Add(1000, "bye")
	f.Add(1005, strings.Repeat("é", 100))
	f.Add(4000, strings.Repeat("\xff", 200))
	f.Fuzz(func(t *testing.T, code int, reason string) {
		p := frame.Parser{Unmasked: true}
		m, rest, err := p.Next(frame.AppendClose(nil, code, reason))
		if err != nil || m.Op != frame.Close || len(rest) > 0 {
			t.Fatal(m, rest, err)
		}
		if _, _, err := frame.ParseClose(m.Payload); err != nil {
			t.Error(err)
		}
	})
}

func seed(f *testing.F) {
	f.Helper()
	add := func(stream []byte, limit uint16, unmasked bool) { f.Add(stream, limit, unmasked, uint64(len(stream))) }
	add(masked(frame.Text, final, "héllo"), 0, false)
	add(masked(frame.Text, final, "a\xffb"), 0, false)
	add(join(masked(frame.Text, part, "\xf0\x9f"), masked(frame.Ping, final, "p"), masked(frame.Continuation, final, "\x98\x80")), 0, false)
	add(join(masked(frame.Binary, final, strings.Repeat("b", 126)), masked(frame.Text, final, "over")), 126, false)
	add(join(masked(frame.Text, part, "123"), masked(frame.Continuation, final, "456")), 5, false)
	add(masked(frame.Close, final, "\x03\xe8bye"), 0, false)
	add(masked(11, final, ""), 0, false)
	add([]byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 'x'}, 0, false)
	add([]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 0, false)
	add([]byte{0x81, 0xfe, 0, 3, 0, 0, 0, 0, 'a', 'b', 'c'}, 0, false)
	add(frame.AppendClose(frame.AppendControl(frame.AppendText(nil, []byte("hi")), frame.Pong, nil), 1001, "away"), 0, true)
	add(masked(frame.Text, final, "masked"), 0, true)
	for n := range uint64(8) {
		g := generator{rng: rand.New(rand.NewPCG(n, 1)), unmasked: n%2 == 0, corrupt: n%4 < 2}
		if stream := g.stream(); len(stream) < 4096 {
			add(stream, 0, g.unmasked)
		}
	}
}
