package frame_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/duxweb/go-ws/core/internal/frame"
)

func TestCloseCodesAllowedOnTheWire(t *testing.T) {
	t.Parallel()
	ranges := []struct {
		first, last int
		want        bool
	}{
		{-1, 999, false},
		{1000, 1003, true},
		{1004, 1006, false},
		{1007, 1014, true},
		{1015, 2999, false},
		{3000, 4999, true},
		{5000, 70000, false},
		{1<<16 + 1000, 1<<16 + 1000, false},
	}
	for _, r := range ranges {
		for code := r.first; code <= r.last; code++ {
			if frame.ValidCloseCode(code) != r.want {
				t.Errorf("ValidCloseCode(%d) = %v", code, !r.want)
			}
		}
	}
}

func TestParseClose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		payload string
		code    uint16
		reason  string
		errCode int
	}{
		{"no payload means 1005", "", 1005, "", 0},
		{"a code alone", "\x03\xe8", 1000, "", 0},
		{"a code and a reason", "\x0f\xa0bye é", 4000, "bye é", 0},
		{"half a code", "\x03", 0, "", 1002},
		{"1005 on the wire", "\x03\xed", 0, "", 1002},
		{"1006 on the wire", "\x03\xee", 0, "", 1002},
		{"code 0", "\x00\x00x", 0, "", 1002},
		{"code 65535", "\xff\xff", 0, "", 1002},
		{"a reason that is not UTF-8", "\x03\xe8a\xff", 0, "", 1007},
		{"a reason cut within a character", "\x03\xe8\xe2\x82", 0, "", 1007},
		{"a wrong code before a reason that is not UTF-8", "\x03\xed\xff", 0, "", 1002},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gotCode, gotReason, err := frame.ParseClose([]byte(tt.payload))
			if gotCode != tt.code || gotReason != tt.reason || code(t, err) != tt.errCode {
				t.Errorf("got %d %q %v", gotCode, gotReason, err)
			}
		})
	}
}

func TestAppendCloseIsAlwaysValid(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		code       int
		reason     string
		wantCode   uint16
		wantReason string
	}{
		{"a short reason", 3001, "restarting", 3001, "restarting"},
		{"no reason", 1000, "", 1000, ""},
		{"123 bytes fit", 1000, strings.Repeat("a", 123), 1000, strings.Repeat("a", 123)},
		{"124 bytes are cut", 1000, strings.Repeat("a", 124), 1000, strings.Repeat("a", 123)},
		{"a character that does not fit is left out", 1000, strings.Repeat("é", 62), 1000, strings.Repeat("é", 61)},
		{"a character of four bytes that does not fit", 1000, strings.Repeat("a", 120) + "😀", 1000, strings.Repeat("a", 120)},
		{"a character that just fits", 1000, strings.Repeat("a", 119) + "😀!", 1000, strings.Repeat("a", 119) + "😀"},
		{"bytes that are not UTF-8", 1000, "a\xff\xfeb", 1000, "a\uFFFDb"},
		{"many bytes that are not UTF-8", 1000, strings.Repeat("\xffa", 100), 1000, strings.Repeat("\uFFFDa", 30) + "\uFFFD"},
		{"code 1005 has no payload", 1005, "lost", 1005, ""},
		{"code 1006 has no payload", 1006, "lost", 1005, ""},
		{"code 0 has no payload", 0, "lost", 1005, ""},
		{"code 66536 has no payload", 1<<16 + 1000, "lost", 1005, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := parse(t, &frame.Parser{Unmasked: true}, frame.AppendClose(nil, tt.code, tt.reason), whole)
			if err != nil || len(got) != 1 || got[0].op != frame.Close {
				t.Fatalf("not one close frame: %q %v", got, err)
			}
			code, reason, err := frame.ParseClose([]byte(got[0].payload))
			if err != nil || code != tt.wantCode || reason != tt.wantReason {
				t.Errorf("got %d %q %v", code, reason, err)
			}
		})
	}
}

func TestReasonsOfErrorsFitIntoACloseFrame(t *testing.T) {
	t.Parallel()
	p := frame.Parser{MaxMessage: math.MaxInt32}
	_, _, err := p.Next([]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	var violation *frame.Error
	if !errors.As(err, &violation) {
		t.Fatal(err)
	}
	if reason := violation.Reason; len(reason) > 123 || !utf8.ValidString(reason) {
		t.Errorf("reason %q", reason)
	}
}

func BenchmarkAppendClose(b *testing.B) {
	buf := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		buf = frame.AppendClose(buf[:0], 3001, "restarting, come back soon")
	}
}
