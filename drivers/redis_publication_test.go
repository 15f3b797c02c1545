package drivers_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
)

func TestAPublicationIsTheSameBehindRedis(t *testing.T) {
	t.Parallel()
	for _, p := range []core.Publication{
		{},
		{Payload: []byte(`{"type":"message"}`)},
		{Payload: []byte("\x00\x01{")},
		{Payload: []byte("x"), Except: []string{"one", "", "the third\x00"}},
		{Payload: bytes.Repeat([]byte("x"), 1<<20), Except: []string{strings.Repeat("y", 300)}},
	} {
		payload, except, err := drivers.DecodePublication(drivers.EncodePublication(p))
		if err != nil || !bytes.Equal(payload, p.Payload) || !slices.Equal(except, p.Except) {
			t.Errorf("%.40q without %q became %.40q without %q, %v", p.Payload, p.Except, payload, except, err)
		}
	}
}

func TestAnyProgramMayPublishAJSONObject(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		`{"type":"message","channel":"room"}`: true, `{}`: true, "{\n}": true,
		"": false, "{": false, "{}}": false, `[]`: false, `"x"`: false, "null": false, "\x02{}": false,
		"\x01": false, "\x01\x01": false, "\x01\x01\x09abc": false, "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01": false,
	} {
		payload, except, err := drivers.DecodePublication([]byte(text))
		if (err == nil) != ok {
			t.Errorf("%q: got error %v", text, err)
		}
		if ok && (string(payload) != text || except != nil) {
			t.Errorf("%q became %q without %q", text, payload, except)
		}
	}
}
