package core_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		origin, host string
		patterns     []string
		allowed      bool
	}{
		// No browser, or the host's own page.
		{"", "example.com", nil, true},
		{"https://example.com", "example.com", nil, true},
		{"http://EXAMPLE.com:8080", "example.com:8080", nil, true},
		{"https://[2001:db8::1]:8080", "[2001:db8::1]:8080", nil, true},
		{"https://example.com", "example.com:443", nil, true}, // a proxy that names the scheme's port
		{"http://example.com", "example.com:80", nil, true},
		{"http://example.com", "example.com:443", nil, false},
		{"https://example.com", "example.com:8443", nil, false},
		{"https://example.com:8443", "example.com", nil, false},
		{"https://evil.com", "example.com", nil, false},
		{"https://example.com.evil.com", "example.com", nil, false},
		{"https://example.com@evil.com", "example.com", nil, false},
		{"https://evil-example.com", "example.com", nil, false},
		{"https://www.example.com", "example.com", nil, false},
		{"null", "example.com", nil, false},
		{"null", "", nil, false},
		{"example.com", "example.com", nil, false},
		{"https://", "", nil, false},
		{"://", "example.com", nil, false},
		{"http://[::1", "[::1", nil, false},

		// A dev server: loopback on both sides, any port.
		{"http://localhost:5173", "localhost:8080", nil, true},
		{"http://localhost:5173", "127.0.0.1:8080", nil, true},
		{"http://[::1]:5173", "app.localhost", nil, true},
		{"http://127.0.0.1:5173", "[::1]:8080", nil, true},
		{"http://localhost:5173", "example.com", nil, false},
		{"http://evil.com", "localhost:8080", nil, false},
		{"http://localhost.evil.com", "localhost:8080", nil, false},
		{"http://notlocalhost", "localhost:8080", nil, false},
		{"http://192.168.0.7:5173", "192.168.0.7:8080", nil, false},

		// WithOrigins.
		{"https://app.example.com", "api.example.com", []string{"https://app.example.com"}, true},
		{"HTTPS://App.Example.Com", "api.example.com", []string{"https://app.example.COM"}, true},
		{"http://app.example.com", "api.example.com", []string{"https://app.example.com"}, false},
		{"https://app.example.com:8443", "api.example.com", []string{"https://app.example.com"}, false},
		{"https://app.example.com.evil.com", "api.example.com", []string{"https://app.example.com"}, false},
		{"https://a.example.com", "x", []string{"https://*.example.com"}, true},
		{"https://a.b.example.com", "x", []string{"https://*.example.com"}, false},
		{"https://example.com", "x", []string{"https://*.example.com"}, false},
		{"https://.example.com", "x", []string{"https://*.example.com"}, false},
		{"https://evil.com/.example.com", "x", []string{"https://*.example.com"}, false},
		{"https://evil.com:1.example.com", "x", []string{"https://*.example.com"}, false},
		{"https://pr-7.example.com", "x", []string{"https://pr-*.example.com"}, true},
		{"https://pr-7.evil.com", "x", []string{"https://pr-*.example.com"}, false},
		{"https://a.b.example.com", "x", []string{"https://*.*.example.com"}, true},
		{"http://app.test:3000", "x", []string{"http://app.test:*"}, true},
		{"http://app.test", "x", []string{"http://app.test:*"}, false},
		{"http://app.test:", "x", []string{"http://app.test:*"}, false},
		{"http://app.test:3000.evil.com", "x", []string{"http://app.test:*"}, false},
		{"capacitor://localhost", "example.com", []string{"capacitor://localhost"}, true},
		{"chrome-extension://abc", "example.com", []string{"chrome-extension://abc"}, true},
		{"null", "example.com", []string{"null"}, true},
		{"https://b.com", "x", []string{"https://a.com", "https://b.com"}, true},
		{"https://example.com", "example.com", []string{"https://other.com"}, true},
	} {
		if got := core.OriginAllowed(c.origin, c.host, c.patterns); got != c.allowed {
			t.Errorf("origin %q, host %q, WithOrigins%q: %v", c.origin, c.host, c.patterns, got)
		}
	}
}

func TestAForeignOriginIsRefusedAndTheLogSaysHowToAllowIt(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	asked := false
	service := coretest.Run(t, logged, &core.Provider{Auth: func(string) (map[string]any, error) {
		asked = true
		return core.Anonymous("")
	}})
	server := mount(t, service)
	for range 3 {
		got := knock(t, server, "/?token="+secret, http.Header{"Origin": {"https://evil.com"}})
		if got.Status != http.StatusForbidden || got.Body.Status != http.StatusForbidden || got.Body.Code != core.CloseRefused ||
			got.Body.Reason != "this origin is not allowed" {
			t.Fatal(got)
		}
	}
	log.has("level=WARN", "origin=https://evil.com", "host="+server.Listener.Addr().String(), "core.WithOrigins",
		"proxy_set_header Host $http_host")
	log.has() // nothing else was logged
	if asked {
		t.Error("Auth was asked about a foreign page")
	}
	if n := service.Stats().Refused; n != 3 {
		t.Error("refused:", n)
	}
}

func TestForeignOriginsAreLoggedOncePerOriginAndMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, logged := keepJournal(t)
		service := coretest.Run(t, logged)
		knock := func(origin string) {
			h := coretest.Handshake()
			h.Header.Set("Origin", origin)
			var refused *core.Refusal
			if _, err := service.Admit(context.Background(), h); !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
				t.Fatal(err)
			}
		}
		count := func(origin string, want int) {
			t.Helper()
			if got := log.with("origin=" + origin); len(got) != want {
				t.Fatalf("%s is logged %d times, want %d", origin, len(got), want)
			}
		}
		knock("https://a.com")
		<-time.After(50 * time.Second)
		knock("https://a.com")
		knock("https://b.com")
		count("https://a.com", 1)
		count("https://b.com", 1)
		<-time.After(20 * time.Second) // a's minute is over, b's is not
		knock("https://a.com")
		knock("https://b.com")
		count("https://a.com", 2)
		count("https://b.com", 1)

		<-time.After(2 * time.Minute)
		for i := range 300 { // somebody invents origins
			knock(fmt.Sprintf("https://%d.invented.com", i))
		}
		if n := len(log.with("invented.com")); n != 100 {
			t.Errorf("%d invented origins are logged in a minute, want 100", n)
		}
	})
}
