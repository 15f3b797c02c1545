package frame_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/duxweb/go-ws/core/internal/frame"
)

const (
	part  = false
	final = true
)

func TestMessagesComeOutAsTheyWereSent(t *testing.T) {
	t.Parallel()
	long, longer := strings.Repeat("a", 126), strings.Repeat("b", 65536)
	tests := []struct {
		name   string
		stream []byte
		want   []event
	}{
		{"nothing", nil, nil},
		{"an empty text", masked(frame.Text, final, ""), []event{{frame.Text, ""}}},
		{"a text", masked(frame.Text, final, "héllo"), []event{{frame.Text, "héllo"}}},
		{"binary bytes that are not UTF-8", masked(frame.Binary, final, "\x00\xff"), []event{{frame.Binary, "\x00\xff"}}},
		{"a 16-bit length", masked(frame.Text, final, long), []event{{frame.Text, long}}},
		{"the largest 16-bit length", masked(frame.Text, final, longer[1:]), []event{{frame.Text, longer[1:]}}},
		{"a 64-bit length", masked(frame.Text, final, longer), []event{{frame.Text, longer}}},
		{"a mask of zeros", frame.AppendMasked(nil, frame.Text, true, [4]byte{}, []byte("plain")), []event{{frame.Text, "plain"}}},
		{
			"two messages in one piece",
			join(masked(frame.Text, final, "one"), masked(frame.Binary, final, "two")),
			[]event{{frame.Text, "one"}, {frame.Binary, "two"}},
		},
		{
			"fragments",
			join(masked(frame.Text, part, "one "), masked(frame.Continuation, part, "and "), masked(frame.Continuation, final, "two")),
			[]event{{frame.Text, "one and two"}},
		},
		{
			"empty fragments",
			join(masked(frame.Binary, part, ""), masked(frame.Continuation, part, ""), masked(frame.Continuation, final, "")),
			[]event{{frame.Binary, ""}},
		},
		{
			"a message after a fragmented one",
			join(masked(frame.Text, part, "é"), masked(frame.Continuation, final, "é"), masked(frame.Text, part, "a"), masked(frame.Continuation, final, "b"), masked(frame.Binary, final, "c")),
			[]event{{frame.Text, "éé"}, {frame.Text, "ab"}, {frame.Binary, "c"}},
		},
		{
			"a character cut by a border between fragments",
			join(masked(frame.Text, part, "\xf0"), masked(frame.Continuation, part, "\x9f\x98"), masked(frame.Continuation, part, ""), masked(frame.Continuation, final, "\x80!")),
			[]event{{frame.Text, "😀!"}},
		},
		{
			"control frames",
			join(masked(frame.Ping, final, "\xff"), masked(frame.Pong, final, ""), masked(frame.Close, final, "\x03\xe8bye")),
			[]event{{frame.Ping, "\xff"}, {frame.Pong, ""}, {frame.Close, "\x03\xe8bye"}},
		},
		{
			"control frames of 125 bytes between fragments",
			join(masked(frame.Text, part, "on"), masked(frame.Ping, final, long[:125]), masked(frame.Continuation, part, "e "), masked(frame.Pong, final, "x"), masked(frame.Ping, final, ""), masked(frame.Continuation, final, "two")),
			[]event{{frame.Ping, long[:125]}, {frame.Pong, "x"}, {frame.Ping, ""}, {frame.Text, "one two"}},
		},
	}
	pieces := map[string]func(int) int{"in one piece": whole, "byte by byte": single}
	for _, tt := range tests {
		for how, next := range pieces {
			t.Run(tt.name+" "+how, func(t *testing.T) {
				t.Parallel()
				var p frame.Parser
				got, _, err := parse(t, &p, tt.stream, next)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got %.200q, want %.200q", got, tt.want)
				}
				if !p.Idle() {
					t.Error("parser is not idle behind the last message")
				}
			})
		}
	}
}

// A violation is reported at the first byte that makes it certain; in one piece, after the messages before it.
func TestViolations(t *testing.T) {
	t.Parallel()
	ok := masked(frame.Text, final, "ok")
	started := masked(frame.Text, part, "st")
	size16 := func(op byte, length uint16) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{op, 0x80 | 126}, length), key[:]...)
	}
	size64 := func(op byte, length uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{op, 0x80 | 127}, length), key[:]...)
	}
	tests := []struct {
		name   string
		p      frame.Parser
		before []byte // all of it valid
		stream []byte
		at     int // bytes of stream when the violation is certain
		code   int
		reason string
	}{
		{"a frame of a client that is not masked", frame.Parser{}, ok, []byte{0x81, 0x02, 'h', 'i'}, 2, 1002, "from a client is not masked"},
		{"a frame of a server that is masked", frame.Parser{Unmasked: true}, frame.AppendText(nil, []byte("ok")), ok, 2, 1002, "from a server is masked"},
		{"reserved bit 1", frame.Parser{}, ok, []byte{0xc1, 0x80, 0, 0, 0, 0}, 2, 1002, "reserved bit"},
		{"reserved bit 2", frame.Parser{}, ok, []byte{0xa1, 0x80, 0, 0, 0, 0}, 2, 1002, "reserved bit"},
		{"reserved bit 3", frame.Parser{}, ok, []byte{0x91, 0x80, 0, 0, 0, 0}, 2, 1002, "reserved bit"},
		{"a reserved bit on a control frame", frame.Parser{}, ok, []byte{0xc9, 0x80, 0, 0, 0, 0}, 2, 1002, "reserved bit"},
		{"opcode 3", frame.Parser{}, ok, masked(3, final, ""), 2, 1002, "opcode 3"},
		{"opcode 7", frame.Parser{}, ok, masked(7, final, "x"), 2, 1002, "opcode 7"},
		{"opcode 11", frame.Parser{}, ok, masked(11, final, "x"), 2, 1002, "opcode 11"},
		{"opcode 15 between fragments", frame.Parser{}, started, masked(15, final, ""), 2, 1002, "opcode 15"},
		{"a fragmented ping", frame.Parser{}, ok, masked(frame.Ping, part, ""), 2, 1002, "fragmented control"},
		{"a fragmented close", frame.Parser{}, ok, masked(frame.Close, part, ""), 2, 1002, "fragmented control"},
		{"a ping of 126 bytes", frame.Parser{}, ok, masked(frame.Ping, final, strings.Repeat("x", 126)), 2, 1002, "larger than 125"},
		{"a pong of 70000 bytes", frame.Parser{}, ok, masked(frame.Pong, final, strings.Repeat("x", 70000)), 2, 1002, "larger than 125"},
		{"a close of 126 bytes between fragments", frame.Parser{}, started, masked(frame.Close, final, strings.Repeat("x", 126)), 2, 1002, "larger than 125"},
		{"a continuation of nothing", frame.Parser{}, nil, masked(frame.Continuation, final, "x"), 2, 1002, "without a message"},
		{"a continuation of a message that is over", frame.Parser{}, join(started, masked(frame.Continuation, final, "")), masked(frame.Continuation, part, ""), 2, 1002, "without a message"},
		{"a continuation behind a control frame", frame.Parser{}, masked(frame.Ping, final, ""), masked(frame.Continuation, part, ""), 2, 1002, "without a message"},
		{"a text inside a message", frame.Parser{}, started, masked(frame.Text, final, "x"), 2, 1002, "inside a fragmented"},
		{"a binary fragment inside a message", frame.Parser{}, join(started, masked(frame.Ping, final, "")), masked(frame.Binary, part, "x"), 2, 1002, "inside a fragmented"},

		{"a length below 126 in 16 bits", frame.Parser{}, ok, size16(0x81, 125), 4, 1002, "shortest form"},
		{"a length of 0 in 16 bits", frame.Parser{}, ok, size16(0x82, 0), 4, 1002, "shortest form"},
		{"a length below 65536 in 64 bits", frame.Parser{}, ok, size64(0x81, 65535), 10, 1002, "shortest form"},
		{"a small length in 64 bits from a server", frame.Parser{Unmasked: true}, nil, []byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'}, 10, 1002, "shortest form"},
		{"the highest bit of a length", frame.Parser{MaxMessage: 10}, ok, size64(0x81, 1<<63|5), 10, 1002, "highest bit"},

		{"a text above the limit", frame.Parser{MaxMessage: 5}, ok, masked(frame.Text, final, "123456"), 6, 1009, "message larger than 5 bytes"},
		{"a binary message above the limit", frame.Parser{MaxMessage: 5}, ok, masked(frame.Binary, final, "123456"), 6, 1009, "message larger than 5 bytes"},
		{"a 16-bit length above the limit", frame.Parser{MaxMessage: 1000}, ok, size16(0x81, 1001), 8, 1009, "message larger than 1000 bytes"},
		{"the largest length", frame.Parser{MaxMessage: 65536}, ok, size64(0x81, 1<<63-1), 14, 1009, "message larger than 65536 bytes"},
		{"a fragment that leads above the limit", frame.Parser{MaxMessage: 5}, started, masked(frame.Continuation, part, "1234"), 6, 1009, "message larger than 5 bytes"},
		{"the largest length behind a fragment", frame.Parser{MaxMessage: 5}, started, size64(0x80, 1<<63-1), 14, 1009, "message larger than 5 bytes"},

		{"a text that is not UTF-8", frame.Parser{}, ok, masked(frame.Text, final, "a\xffb"), 6 + 2, 1007, "text message"},
		{"an unfinished text that is not UTF-8", frame.Parser{}, ok, append(size16(0x81, 500), 'a'^key[0], 0x80^key[1]), 8 + 2, 1007, "text message"},
		{"a text that ends within a character", frame.Parser{}, ok, masked(frame.Text, final, "a\xc3"), 6 + 2, 1007, "text message"},
		{"an overlong encoding", frame.Parser{}, ok, masked(frame.Text, part, "\xc0\xaf"), 6 + 1, 1007, "text message"},
		{"a longer overlong encoding", frame.Parser{}, ok, masked(frame.Text, part, "\xe0\x80\xaf"), 6 + 2, 1007, "text message"},
		{"a surrogate", frame.Parser{}, ok, masked(frame.Text, part, "\xed\xa0\x80"), 6 + 2, 1007, "text message"},
		{"a code point above U+10FFFF", frame.Parser{}, ok, masked(frame.Text, part, "\xf4\x90\x80\x80"), 6 + 2, 1007, "text message"},
		{"a character that is not continued", frame.Parser{}, masked(frame.Text, part, "\xe2\x82"), masked(frame.Continuation, part, "a"), 6 + 1, 1007, "text message"},
		{"a character that is continued too long", frame.Parser{}, masked(frame.Text, part, "é"), masked(frame.Continuation, part, "\xa9"), 6 + 1, 1007, "text message"},
		{"a text cut within a character by an empty last fragment", frame.Parser{}, masked(frame.Text, part, "\xe2\x82"), masked(frame.Continuation, final, ""), 6, 1007, "text message"},
		{"a character cut by a ping and never continued", frame.Parser{}, join(masked(frame.Text, part, "\xe2"), masked(frame.Ping, final, "")), masked(frame.Continuation, final, "\x82"), 6 + 1, 1007, "text message"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stream := join(tt.before, tt.stream)

			p := tt.p
			before, _, err := parse(t, &p, stream, whole)
			check := func(err error) {
				t.Helper()
				if got := code(t, err); got != tt.code || !strings.Contains(text(err), tt.reason) {
					t.Errorf("got %d %q, want %d %q", got, text(err), tt.code, tt.reason)
				}
				if !strings.HasPrefix(text(err), "gows: ") {
					t.Errorf("%q does not start with the name of the library", text(err))
				}
			}
			check(err)

			p = tt.p
			singly, at, err := parse(t, &p, stream, single)
			check(err)
			if at -= len(tt.before); at != tt.at {
				t.Errorf("reported at byte %d, want %d", at, tt.at)
			}
			if !slices.Equal(before, singly) {
				t.Errorf("messages before: %q in one piece, %q byte by byte", before, singly)
			}

			if _, _, again := p.Next(masked(frame.Text, final, "later")); !errors.Is(again, err) {
				t.Errorf("the next call returned %v", again)
			}
			if p.Held() != 0 {
				t.Errorf("parser still holds %d bytes", p.Held())
			}
		})
	}
}

func TestMessagesUpToTheLimitPass(t *testing.T) {
	t.Parallel()
	streams := map[string][]byte{
		"whole":                           masked(frame.Text, final, "12345"),
		"fragmented":                      join(masked(frame.Text, part, "123"), masked(frame.Continuation, part, "45"), masked(frame.Continuation, final, "")),
		"one after the other":             join(masked(frame.Text, final, "12345"), masked(frame.Text, final, "12345")),
		"beside control frames above it":  join(masked(frame.Ping, final, "1234567"), masked(frame.Text, part, "123"), masked(frame.Ping, final, "1234567"), masked(frame.Continuation, final, "45")),
		"fragmented, one after the other": join(masked(frame.Text, part, "123"), masked(frame.Continuation, final, "45"), masked(frame.Text, part, "123"), masked(frame.Continuation, final, "45")),
	}
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, next := range []func(int) int{whole, single} {
				if _, _, err := parse(t, &frame.Parser{MaxMessage: 5}, stream, next); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestParserIsIdleOnlyBetweenMessages(t *testing.T) {
	t.Parallel()
	stream := join(masked(frame.Text, part, "a"), masked(frame.Ping, final, "b"), masked(frame.Continuation, final, "c"))
	var p frame.Parser
	if !p.Idle() {
		t.Error("a new parser is not idle")
	}
	for i, b := range stream {
		if _, _, err := p.Next([]byte{b}); err != nil {
			t.Fatal(err)
		}
		if last := i == len(stream)-1; p.Idle() != last {
			t.Errorf("after byte %d of %d: Idle() = %v", i+1, len(stream), p.Idle())
		}
	}
	if p.Held() != 0 {
		t.Errorf("idle parser holds %d bytes", p.Held())
	}
}

func TestParserIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(frame.Parser{}); size > 32 {
		t.Errorf("an idle connection pays %d bytes for its parser", size)
	}
}

func TestPayloadAliasesItsInput(t *testing.T) {
	t.Parallel()
	in := join(masked(frame.Text, final, "first"), masked(frame.Text, final, "second"))
	var p frame.Parser
	m, rest, err := p.Next(in)
	if err != nil {
		t.Fatal(err)
	}
	if &m.Payload[0] != &in[6] {
		t.Error("payload was copied")
	}
	_ = append(m.Payload, "overwritten"...)
	if m, _, err := p.Next(rest); err != nil || string(m.Payload) != "second" {
		t.Errorf("appending to the first payload reached the second message: %q, %v", m.Payload, err)
	}
}

func TestWholeMessagesAllocateNothing(t *testing.T) {
	// Not parallel: AllocsPerRun counts the allocations of all goroutines.
	ascii := [4]byte{1, 2, 3, 4} // unmasked again and again, ASCII stays ASCII
	tests := []struct {
		op   frame.Op
		size int
	}{
		{frame.Text, 0},
		{frame.Text, 128},
		{frame.Text, 4 << 10},
		{frame.Text, 64 << 10},
		{frame.Binary, 128},
		{frame.Binary, 64 << 10},
		{frame.Ping, 0},
		{frame.Pong, 125},
		{frame.Close, 2},
	}
	for _, tt := range tests {
		stream := frame.AppendMasked(nil, tt.op, true, ascii, make([]byte, tt.size))
		stream = append(stream, stream...)
		var p frame.Parser
		allocs := testing.AllocsPerRun(100, func() {
			for in := stream; len(in) > 0; {
				m, rest, err := p.Next(in)
				if err != nil || m.Op != tt.op {
					t.Fatal(m.Op, err)
				}
				in = rest
			}
		})
		if allocs != 0 {
			t.Errorf("opcode %d, %d bytes: %v allocations", tt.op, tt.size, allocs)
		}
	}
}

func TestControlFrameBetweenFragmentsAllocatesNothing(t *testing.T) {
	// Not parallel: AllocsPerRun.
	var p frame.Parser
	if _, _, err := p.Next(masked(frame.Text, part, "a")); err != nil {
		t.Fatal(err)
	}
	ping := masked(frame.Ping, final, "ping")
	if n := testing.AllocsPerRun(100, func() { _, _, _ = p.Next(ping) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBuffersGrowByDoubling(t *testing.T) {
	// Not parallel: AllocsPerRun.
	const size = 1 << 20
	oneFrame := masked(frame.Binary, final, strings.Repeat("x", size))
	tiny := masked(frame.Binary, part, "x")
	for range size / 8 {
		tiny = append(tiny, masked(frame.Continuation, part, "x")...)
	}
	tests := []struct {
		name   string
		stream []byte
	}{
		{"a large frame in small pieces", oneFrame},
		{"many small fragments", tiny},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			allocs := testing.AllocsPerRun(1, func() {
				var p frame.Parser
				for in := tt.stream; len(in) > 0; in = in[min(len(in), 1000):] {
					if _, _, err := p.Next(in[:min(len(in), 1000)]); err != nil {
						t.Fatal(err)
					}
				}
			})
			if allocs > 20 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
}

func TestTextInTinyPiecesIsCheckedOnce(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	stream := masked(frame.Text, final, strings.Repeat("é", size/2))
	var p frame.Parser
	start := time.Now()
	for i := range stream {
		if _, _, err := p.Next(stream[i : i+1]); err != nil {
			t.Fatal(err)
		}
		// It takes a tenth of a second; checked again for each byte, minutes.
		if i%1000 == 0 && time.Since(start) > 20*time.Second {
			t.Fatalf("only %d bytes in %v", i, time.Since(start))
		}
	}
}

func TestBufferOfALargeFrameEndsWithIt(t *testing.T) {
	t.Parallel()
	stream := masked(frame.Binary, final, strings.Repeat("x", 5000))
	var p frame.Parser
	_, _, err := p.Next(stream[:len(stream)-1])
	if err != nil || p.Held() != 5000 {
		t.Errorf("parser holds %d bytes for a frame of 5000 (%v)", p.Held(), err)
	}
}

func TestDeclaredLengthAllocatesNothing(t *testing.T) {
	t.Parallel()
	for _, b0 := range []byte{0x01, 0x02, 0x81, 0x82} {
		t.Run(fmt.Sprintf("first byte %#x", b0), func(t *testing.T) {
			t.Parallel()
			in := append([]byte{b0, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, key[:]...)
			in = append(in, "ab"...)
			var p frame.Parser
			if _, _, err := p.Next(in[:14]); err != nil {
				t.Fatal(err)
			}
			if p.Held() > 512 {
				t.Errorf("parser holds %d bytes for a header", p.Held())
			}
		})
	}
}
