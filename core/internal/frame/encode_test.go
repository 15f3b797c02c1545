package frame_test

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core/internal/frame"
)

func TestHeadersAreAsShortAsPossible(t *testing.T) {
	t.Parallel()
	tests := []struct {
		length int
		want   []byte
	}{
		{0, []byte{0x81, 0}},
		{125, []byte{0x81, 125}},
		{126, []byte{0x81, 126, 0, 126}},
		{65535, []byte{0x81, 126, 0xff, 0xff}},
		{65536, []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	}
	for _, tt := range tests {
		got := frame.AppendHeader([]byte("before"), frame.Text, tt.length)
		if !bytes.Equal(got, append([]byte("before"), tt.want...)) {
			t.Errorf("header of %d bytes is % x", tt.length, got[6:])
		}
		if n := frame.HeaderLen(tt.length); n != len(tt.want) {
			t.Errorf("HeaderLen(%d) = %d", tt.length, n)
		}
	}
}

func TestEncodedFramesComeBack(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			t.Parallel()
			payload := strings.Repeat("x", size)

			var server []byte
			server = frame.AppendText(server, []byte(payload))
			server = append(frame.AppendHeader(server, frame.Binary, size), payload...)
			server = frame.AppendControl(server, frame.Ping, []byte(payload))
			server = frame.AppendControl(server, frame.Pong, nil)
			short := payload[:min(size, 125)]
			want := []event{{frame.Text, payload}, {frame.Binary, payload}, {frame.Ping, short}, {frame.Pong, ""}}
			if got, _, err := parse(t, &frame.Parser{Unmasked: true}, server, whole); err != nil || !slices.Equal(got, want) {
				t.Errorf("from a server: %v, got %.300q", err, got)
			}

			source := []byte(payload)
			client := frame.AppendMasked(nil, frame.Text, true, key, source)
			if string(source) != payload {
				t.Error("AppendMasked changed its payload")
			}
			client = frame.AppendMasked(client, frame.Binary, false, key, source)
			client = frame.AppendMasked(client, frame.Continuation, true, key, source)
			want = []event{{frame.Text, payload}, {frame.Binary, payload + payload}}
			if got, _, err := parse(t, new(frame.Parser), client, whole); err != nil || !slices.Equal(got, want) {
				t.Errorf("from a client: %v, got %.300q", err, got)
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	for _, size := range []int{128, 4 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			payload, buf := make([]byte, size), make([]byte, 0, size+10)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = frame.AppendText(buf[:0], payload)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	ascii := [4]byte{1, 2, 3, 4} // unmasked again and again, ASCII stays ASCII
	for _, size := range []int{128, 4 << 10, 64 << 10} {
		stream := frame.AppendMasked(nil, frame.Text, true, ascii, bytes.Repeat([]byte("a"), size))
		run := func(name string, piece int) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var p frame.Parser
				for b.Loop() {
					for in := stream; len(in) > 0; in = in[min(len(in), piece):] {
						if _, _, err := p.Next(in[:min(len(in), piece)]); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
		run("whole", len(stream))
		run("pieces", max(len(stream)/16, 64))
	}
}
