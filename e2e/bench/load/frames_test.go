package load

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"
)

// serverFrame appends a frame without a mask. first is the byte with FIN and the opcode.
func serverFrame(dst []byte, first byte, payload []byte) []byte {
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

func TestFramesInPiecesOfEverySizeAreTheSame(t *testing.T) {
	t.Parallel()
	const now = time.Second
	var stream []byte
	want := new(Times)
	messages, pings := int64(0), 0
	for _, size := range []int{15, 125, 126, 127, 1000, 65_535, 65_536, 70_000} {
		took := time.Duration(size) * time.Microsecond
		text := append([]byte(`{"message":"~`), bytes.Repeat([]byte("x"), size)...)
		stamp(text[13:13+stampLen], now-took)
		want.Add(took)
		stream = serverFrame(stream, 0x80|opText, text)
		stream = serverFrame(stream, 0x80|opPing, []byte("~ ping"))
		// The same in fragments, with a ping between.
		want.Add(took)
		stream = serverFrame(stream, opText, text[:20])
		stream = serverFrame(stream, 0x80|opPing, nil)
		stream = serverFrame(stream, 0x80, text[20:])
		messages, pings = messages+2, pings+2
	}
	stream = serverFrame(stream, 0x80|opClose, []byte{0x03, 0xe9, '~'})
	sizes := []int{1000, 1023, 4096, 65_535, len(stream)}
	for size := 1; size <= 40; size++ {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		for _, rate := range []float64{0, 1} { // marks alone, and with what is behind them
			c := &Crowd{measurement: measurement{task: Task{Rate: rate}, times: new(Times), now: now}}
			client := &conn{fd: -1} // so that the pongs stay
			for piece := range slices.Chunk(stream, size) {
				client.feed(piece, c)
			}
			if c.delivered != messages || client.left != 0 || client.have != 0 {
				t.Fatalf("in pieces of %d: %d messages, not %d", size, c.delivered, messages)
			}
			if rate > 0 && *c.times != *want {
				t.Fatalf("in pieces of %d the stamps are not the same", size)
			}
			if pong := []byte{0x8a, 0x80, 0, 0, 0, 0}; !bytes.Equal(client.out, bytes.Repeat(pong, pings)) {
				t.Fatalf("in pieces of %d: %d bytes of pongs, not %d", size, len(client.out), pings*len(pong))
			}
		}
	}
}

func TestADurationComesBackWithAnErrorOf1Point6PercentAtMost(t *testing.T) {
	t.Parallel()
	if us := new(Times).At(0.5); us != 0 {
		t.Errorf("%v of nothing", us)
	}
	for d := time.Duration(1); d < 1<<60; d += d/8 + 1 {
		for _, d := range []time.Duration{d - 1, d} {
			times := new(Times)
			times.Add(d)
			want := float64(d) / 1000
			if got := times.At(0.99); got > want || got < want*(1-0.016) {
				t.Fatalf("%v came back as %v us", d, got)
			}
		}
	}
}

func TestTimesAddUp(t *testing.T) {
	t.Parallel()
	all, even, odd := new(Times), new(Times), new(Times)
	for i := range 1000 {
		d := time.Duration(i+1) * time.Millisecond
		all.Add(d)
		[]*Times{even, odd}[i%2].Add(d)
	}
	even.Add(-time.Second) // counts as 0
	all.Add(0)
	even.Merge(odd)
	if *even != *all {
		t.Error("merged they are not the same")
	}
	for share, ms := range map[float64]float64{0: 0, 0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := all.At(share) / 1000; math.Abs(got-ms) > ms*0.017 {
			t.Errorf("%v ms at %v, not %v", got, share, ms)
		}
	}
}

func TestStampsComeBack(t *testing.T) {
	t.Parallel()
	text := make([]byte, stampLen)
	for _, d := range []time.Duration{0, 1, 255, 256, time.Hour, 1<<56 - 1} {
		if stamp(text, d); stamped(text) != d {
			t.Errorf("%v came back as %v from %s", d, stamped(text), text)
		}
	}
}
