package middleware

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// hosts are all that adapters serve on, each with its routes /ws and /plain.
var hosts = map[string]func(s *site) server{
	"net/http": func(s *site) server {
		mux := http.NewServeMux()
		mux.Handle("/ws", s.service)
		mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, plain) })
		return s.serve(mux)
	},
	"Gin":      func(s *site) server { return s.serve(ginBehind(s)) },
	"Echo v4":  func(s *site) server { return s.serve(echoV4Behind(s)) },
	"Echo v5":  func(s *site) server { return s.serve(echoV5Behind(s)) },
	"Fiber v2": func(s *site) server { return fiberV2Behind(s) },
	"Fiber v3": func(s *site) server { return fiberV3Behind(s) },
}

// onEachHost runs a test on all of them.
func onEachHost(t *testing.T, test func(s *site)) {
	t.Helper()
	for name, mount := range hosts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(open(t, mount))
		})
	}
}

// asking is the head of a handshake, up to the empty line.
func (s *site) asking(query string, lines ...string) string {
	return strings.Join(append([]string{
		"GET /ws" + query + " HTTP/1.1", "Host: " + s.address, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...), "\r\n") + "\r\n\r\n"
}

// sends writes all at once to a connection of its own, and returns the response, and what comes behind it.
func (s *site) sends(raw string) (reply, *bufio.Reader) {
	s.Helper()
	nc, err := net.Dial("tcp", s.address)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(coretest.Patience))
	if _, err := io.WriteString(nc, raw); err != nil {
		s.Fatal(err)
	}
	in := bufio.NewReader(nc)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	r := reply{proto: response.ProtoMajor, status: response.StatusCode, header: response.Header}
	if r.status != http.StatusSwitchingProtocols {
		if r.body, err = io.ReadAll(response.Body); err != nil {
			s.Fatal(err)
		}
	}
	return r, in
}

// TestARequestBehindAHandshakeIsNoRequest: what comes behind a 101 are frames, in whatever disguise. A proxy that has
// passed the handshake on and looks at no more must not be a way past its own rules.
func TestARequestBehindAHandshakeIsNoRequest(t *testing.T) {
	t.Parallel()
	onEachHost(t, func(s *site) {
		behind := "GET /plain HTTP/1.1\r\nHost: " + s.address + "\r\n\r\n"
		for name, raw := range map[string]string{
			"as it is":          s.asking("?token=alice") + behind,
			"as a body":         s.asking("?token=alice", fmt.Sprint("Content-Length: ", len(behind))) + behind,
			"behind a body":     s.asking("?token=alice", "Content-Length: 5") + "hello" + behind,
			"in chunks":         s.asking("?token=alice", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(behind), behind),
			"behind chunks":     s.asking("?token=alice", "Transfer-Encoding: chunked") + "0\r\n\r\n" + behind,
			"two lengths":       s.asking("?token=alice", "Content-Length: 0", fmt.Sprint("Content-Length: ", len(behind))) + behind,
			"length and chunks": s.asking("?token=alice", "Content-Length: 0", "Transfer-Encoding: chunked") + behind,
			"odd chunks":        s.asking("?token=alice", "Transfer-Encoding: xchunked") + behind,
		} {
			r, in := s.sends(raw)
			if r.status != http.StatusSwitchingProtocols {
				if r.status < 400 || name == "as it is" {
					s.Errorf("%s: %d %s", name, r.status, r.body)
				}
				continue // refused by the host
			}
			all, _ := io.ReadAll(in) // up to the end, or a reset
			if strings.Contains(string(all), "HTTP/1") || strings.Contains(string(all), plain) {
				s.Errorf("%s: behind the 101 is a response: %.100q", name, all)
			}
			if name == "as it is" && !strings.Contains(string(all), "\x03\xea") { // 1002
				s.Errorf("it is closed with %q", all)
			}
		}
		s.ordinary()
	})
}

// TestNothingOfARequestGetsIntoTheHeaderOfAResponse, or unescaped into its body.
func TestNothingOfARequestGetsIntoTheHeaderOfAResponse(t *testing.T) {
	t.Parallel()
	onEachHost(t, func(s *site) {
		const split = "%0d%0aX-Evil:%20yes%0d%0a%0d%0a<script>"
		for _, raw := range []string{
			s.asking("?token=alice" + split),
			s.asking("?app=" + split),
			s.asking("?token=alice&app=x" + split),
			s.asking("?token="+split, "Sec-WebSocket-Protocol: gows, x%0d%0aX-Evil:yes, gows.bearer.DQpYLUV2aWw6IHllcw"),
			strings.Replace(s.asking("?token=alice"+split), "13", "8", 1),
			s.asking("?token=alice"+split, "Origin: https://evil.example%0d%0aX-Evil: yes"),
		} {
			r, _ := s.sends(raw)
			if r.header.Get("X-Evil") != "" {
				s.Errorf("%q: %v", raw, r.header)
			}
			if r.status == http.StatusSwitchingProtocols {
				continue
			}
			if !json.Valid(r.body) || strings.Contains(string(r.body), "<script>") || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
				s.Errorf("%q: %v, %s", raw, r.header, r.body)
			}
		}
	})
}

// TestAnUpgradeToHTTP2IsNone: h2c would put a connection into other hands than those of the middlewares in front.
func TestAnUpgradeToHTTP2IsNone(t *testing.T) {
	t.Parallel()
	onEachHost(t, func(s *site) {
		h2c := strings.Replace(s.asking("?token=alice", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), "Upgrade: websocket", "Upgrade: h2c", 1)
		h2c = strings.Replace(h2c, "Connection: Upgrade", "Connection: Upgrade, HTTP2-Settings", 1)
		r, _ := s.sends(h2c)
		if r.status != http.StatusUpgradeRequired || r.header.Get("Upgrade") != "websocket" {
			s.Error(r.status, r.header)
		}
		if n := s.service.Stats().Connections; n != 0 {
			s.Errorf("%d connections", n)
		}
		s.connect("/ws", header("Token", "alice")).says(core.Message{Type: "leave"})
	})
}
