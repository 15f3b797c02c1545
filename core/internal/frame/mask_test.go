package frame_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/duxweb/go-ws/core/internal/frame"
)

func maskNaively(b []byte, key [4]byte, pos int) int {
	for i := range b {
		b[i] ^= key[(pos+i)&3]
	}
	return (pos + len(b)) & 3
}

func TestMaskAgreesWithTheByteLoop(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	source := make([]byte, 300)
	for i := range source {
		source[i] = byte(rng.Uint32())
	}
	for _, key := range [][4]byte{{}, {1, 2, 3, 4}, {0xff, 0, 0x80, 0x7f}, {0, 0, 0, 9}} {
		for length := range 260 {
			for pos := range 6 {
				offset := rng.IntN(9)
				got, want := bytes.Clone(source), bytes.Clone(source)
				gotPos := frame.Mask(got[offset:offset+length], key, pos)
				wantPos := maskNaively(want[offset:offset+length], key, pos)
				if !bytes.Equal(got, want) || gotPos != wantPos {
					t.Fatalf("key %v, %d bytes at %d, pos %d: differs (pos %d, want %d)", key, length, offset, pos, gotPos, wantPos)
				}
			}
		}
	}
}

func TestMaskContinuesWhereItStopped(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		got := bytes.Repeat([]byte("0123456789"), 50)
		want := bytes.Clone(got)
		pos := 0
		for rest := got; len(rest) > 0; {
			n := min(len(rest), rng.IntN(100))
			pos = frame.Mask(rest[:n], key, pos)
			rest = rest[n:]
		}
		maskNaively(want, key, 0)
		if !bytes.Equal(got, want) {
			t.Fatal("masking in pieces differs from masking at once")
		}
	}
}

func BenchmarkMask(b *testing.B) {
	for _, impl := range []struct {
		name string
		mask func([]byte, [4]byte, int) int
	}{{"words", frame.Mask}, {"naive", maskNaively}} {
		for _, size := range []int{16, 128, 4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", impl.name, size), func(b *testing.B) {
				buf := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					impl.mask(buf, key, 0)
				}
			})
		}
	}
}
