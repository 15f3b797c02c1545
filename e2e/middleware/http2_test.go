package middleware

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core/coretest"
)

// TestARequestOfHTTP2IsToldToComeByHTTP1: a WebSocket takes the connection over, and that of HTTP/2 has other requests on it.
func TestARequestOfHTTP2IsToldToComeByHTTP1(t *testing.T) {
	t.Parallel()
	for name, mount := range map[string]func(s *site) http.Handler{
		"net/http": func(s *site) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/ws", s.service)
			return mux
		},
		"Gin":     func(s *site) http.Handler { return ginBehind(s) },
		"Echo v4": func(s *site) http.Handler { return echoV4Behind(s) },
		"Echo v5": func(s *site) http.Handler { return echoV5Behind(s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, func(s *site) server {
				server := s.serve(mount(s))
				server.Protocols = new(http.Protocols)
				server.Protocols.SetHTTP1(true)
				server.Protocols.SetUnencryptedHTTP2(true)
				return server
			})
			clear := &http.Transport{Protocols: new(http.Protocols)}
			clear.Protocols.SetUnencryptedHTTP2(true)
			t.Cleanup(clear.CloseIdleConnections)
			s.toldByHTTP2(&http.Client{Transport: clear, Timeout: coretest.Patience}, "http://"+s.address)

			secure := httptest.NewUnstartedServer(mount(s))
			secure.EnableHTTP2, secure.Config.ErrorLog = true, s.log.logger()
			secure.StartTLS()
			t.Cleanup(secure.Close)
			client := secure.Client()
			client.Timeout = coretest.Patience
			s.toldByHTTP2(client, secure.URL)

			s.connect("/ws", header("Token", "alice")).whoami() // beside them, on the same port
			s.prints()
		})
	}
}

func (s *site) toldByHTTP2(client *http.Client, url string) {
	s.Helper()
	for _, token := range []string{"", "alice"} {
		for _, origin := range []string{"", url, "https://evil.example"} {
			r := s.get(client, url+"/ws?token="+token, "Origin", origin)
			if got := r.decode(s.T); r.proto != 2 || got.Status != http.StatusUpgradeRequired || got.Code != 1002 || !strings.Contains(got.Reason, "HTTP/1.1") {
				s.Errorf("by HTTP/%d: %+v", r.proto, got)
			}
			if r.header.Get("Upgrade") != "" || r.header.Get("Connection") != "" { // RFC 9113 section 8.2.2: malformed
				s.Error(r.header)
			}
		}
	}
}
