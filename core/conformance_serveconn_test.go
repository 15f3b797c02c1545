package core_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
)

// gorillaSite serves connections that gorilla/websocket has upgraded.
func gorillaSite(t *testing.T) *httptest.Server {
	t.Helper()
	service := echoing(t)
	var upgrader websocket.Upgrader
	return mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_ = service.ServeConn(conn, &core.Handshake{Identity: user("alice")})
	}))
}

// judgedOtherwise reports whether gorilla lets pass what the row is about, finds it later, or knows another code for it.
func judgedOtherwise(number string) bool {
	return strings.HasPrefix(number, "6.4.") || strings.HasSuffix(number, " only so far") || slices.Contains([]string{
		"1 125 in 16 bits", "1 0 in 64 bits", "1 65535 in 64 bits", "1 the highest bit", "9 one octet too many, announced",
		"9 one octet too many, binary", "9 the largest length", "7.3.2", "7.5.1", "7.5 cut", "7.5 a bad code and a bad reason", "7.7 code 1014",
	}, number)
}

// What gorilla refuses it refuses in its own words.
func TestEveryCaseOfAutobahnOnAConnectionThatGorillaUpgraded(t *testing.T) {
	t.Parallel()
	server := gorillaSite(t)
	for _, r := range table() {
		if r.large != nil || r.late || judgedOtherwise(r.number) {
			continue
		}
		got, want := r.play(server, r.sent, false), append(slices.Clone(r.heard), "end")
		if r.failed {
			got, want = withoutReason(got), withoutReason(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s %s\nheard %.200q\nwant  %.200q", r.number, r.says, got, want)
		}
	}
}

// withoutReason leaves of a close frame its code.
func withoutReason(heard []string) []string {
	for i, f := range heard {
		if rest, ok := strings.CutPrefix(f, "close "); ok {
			code, _, _ := strings.Cut(rest, " ")
			heard[i] = "close " + code
		}
	}
	return heard
}

// It was closed with the rest unread: the reset destroyed what the service had said before, and why it hung up.
func TestAViolationThatGorillaFindsDoesNotResetWhatWasSaidBefore(t *testing.T) {
	t.Parallel()
	server := gorillaSite(t)
	behind := strings.Repeat("x", 16<<10) // more than gorilla reads at once
	r := closing("", "", atOnce(enveloped(hello), sealed(fin|3, ""), sealed(whole, behind)), echoed(hello), closed(1002, "bad opcode 3"))
	if got, want := r.play(server, r.sent, false), append(slices.Clone(r.heard), "end"); !slices.Equal(got, want) {
		t.Errorf("heard %q\nwant  %q", got, want)
	}
}
