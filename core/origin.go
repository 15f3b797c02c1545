package core

import (
	"maps"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// originAllowed reports whether a page of that origin may connect to host. A script of any page on the web can open a
// WebSocket to any server and the browser adds that server's cookies, so a foreign origin is refused (cross-site
// hijacking). No origin means no browser.
func originAllowed(origin, host string, patterns []string) bool {
	if origin == "" {
		return true
	}
	for _, p := range patterns {
		if originMatches(p, origin) {
			return true
		}
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	return strings.EqualFold(u.Host, strings.TrimSuffix(host, defaultPorts[u.Scheme])) ||
		isLoopback(u.Hostname()) && isLoopback(hostname(host))
}

// A browser never names the default port of the scheme; some proxies do.
var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

func hostname(host string) string {
	u := url.URL{Host: host}
	return u.Hostname()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// originMatches compares an origin with a pattern in which * stands for one label or for the port.
func originMatches(pattern, origin string) bool {
	pattern, origin = strings.ToLower(pattern), strings.ToLower(origin)
	for {
		fixed, rest, starred := strings.Cut(pattern, "*")
		if !starred {
			return pattern == origin
		}
		var ok bool
		if origin, ok = strings.CutPrefix(origin, fixed); !ok {
			return false
		}
		end := strings.IndexAny(origin+"/", ".:/")
		if end == 0 {
			return false
		}
		pattern, origin = rest, origin[end:]
	}
}

// foreign remembers which foreign origins were logged in the last minute, so that a page which retries all day, or an
// attacker who invents origins, cannot fill the log.
type foreign struct {
	mu     sync.Mutex // guards logged
	logged map[string]time.Time
}

const foreignOrigins = 100 // logged a minute at most

// first reports whether origin has not been reported in the last minute.
func (f *foreign) first(origin string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(f.logged, func(_ string, at time.Time) bool { return now.Sub(at) >= time.Minute })
	if _, logged := f.logged[origin]; logged || len(f.logged) >= foreignOrigins {
		return false
	}
	if f.logged == nil {
		f.logged = map[string]time.Time{}
	}
	f.logged[origin] = now
	return true
}
