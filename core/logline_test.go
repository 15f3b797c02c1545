package core_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// A header may have a megabyte, a message 64 KiB.
func TestALogLineIsShortWhateverAPeerSends(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.Run(t, logged, &core.Provider{Auth: core.Anonymous, Message: func(*core.Message, *core.Client) error {
		return errors.New("no such type")
	}})
	long := strings.Repeat("x", 60_000)
	for i, change := range []func(h *core.Handshake){
		func(h *core.Handshake) { h.Header.Set("Origin", "https://"+long) },
		func(h *core.Handshake) { h.Header.Set("Origin", "https://evil.example"); h.Host = long },
		func(h *core.Handshake) { h.Header.Set("Origin", "https://example.net"); h.RemoteAddr = long },
		func(h *core.Handshake) { h.RemoteAddr, h.Method = long, "POST" },
	} {
		h := coretest.Handshake()
		change(h)
		if _, err := service.Admit(t.Context(), h); err == nil {
			t.Errorf("%d is let in", i)
		}
	}
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	conn.SendText(`{"id":"1","channel":"room","type":"` + long + `"}`)
	conn.Expect("error")
	if n := len(log.with("xxx")); n != 5 {
		t.Errorf("%d lines, want 5", n)
	}
	for _, line := range log.with() {
		if len(line) > 2000 {
			t.Errorf("a line of %d bytes: %s...", len(line), strconv.Quote(line[:200]))
		}
	}
}

// An identity service that does not answer: the error of http.Get has the URL.
func TestAnErrorOfAuthIsLoggedWithoutTheToken(t *testing.T) {
	t.Parallel()
	const token = secret + " &c="
	log, logged := keepJournal(t)
	s := coretest.Run(t, logged, &core.Provider{Auth: func(token string) (map[string]any, error) {
		return nil, &url.Error{Op: "Get", URL: "https://id.example/who?token=" + url.QueryEscape(token), Err: fmt.Errorf("no answer about %s: %w", token, net.ErrClosed)}
	}})
	h := coretest.Handshake()
	h.Token = token
	if _, err := s.Admit(t.Context(), h); err == nil {
		t.Fatal("let in")
	}
	log.has("refused", `err="Get \"https://id.example/who?token=(token)\": no answer about (token): use of closed network connection"`)
}
