package core

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// What one peer, or all of them together, may take of the node: off or generous unless an option says otherwise. A limit of
// 0 is none.
type limits struct {
	connections, perAddress, perClient int
	trusted                            []netip.Prefix
	every, burst                       time.Duration // between messages, and how far ahead of that a client may be
	outboxBytes, flightBytes           int
	logLines                           int
}

// WithMaxConnections bounds the connections of this node, those included whose handshake is under way. Default no bound. A
// client beyond it is refused with 503, or closed with 3004: it tries again and may find room on another node. Every
// connection needs a file descriptor, so stay below what ulimit -n allows.
func WithMaxConnections(n int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.connections = positive(&s.opts, "WithMaxConnections", n) })
}

// WithMaxConnectionsPerAddress bounds the connections to this node that come from one IP address, or from one /64 of IPv6,
// those included whose handshake is under way. Default no bound. One more is refused with 429, or closed with 3004: it tries
// again. Many people may share an address: an office, a mobile network. Behind a proxy it needs WithTrustedProxies, else everybody has
// the proxy's address. Connections without an IP address, of a Unix socket for instance, are not counted.
func WithMaxConnectionsPerAddress(n int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.perAddress = positive(&s.opts, "WithMaxConnectionsPerAddress", n) })
}

// WithTrustedProxies names the proxies, as IP addresses or prefixes such as "10.0.0.0/8", whose header X-Forwarded-For is
// believed: a connection that comes from one of them has the last address in the header that is not one of them. That is
// what WithMaxConnectionsPerAddress counts, and what Client.RemoteAddr and the log show. Default none: anybody can send the
// header. Further calls add to the list.
//
// Without it RemoteAddr is what the framework says, by rules of its own, and what is counted is the address of the
// connection itself.
func WithTrustedProxies(prefixes ...string) Option {
	return optionFunc(func(s *Service) {
		for _, p := range prefixes {
			prefix, err := netip.ParsePrefix(p)
			if addr, wrong := netip.ParseAddr(p); wrong == nil {
				prefix, err = addr.Prefix(addr.BitLen())
			}
			if err != nil {
				s.opts.bad = append(s.opts.bad, fmt.Errorf(`gows: core.WithTrustedProxies(%q): an IP address or a prefix such as "10.0.0.0/8" is needed`, p))
				continue
			}
			if bits := prefix.Bits() - 96; prefix.Addr().Is4In6() && bits >= 0 {
				prefix = netip.PrefixFrom(prefix.Addr().Unmap(), bits)
			}
			s.opts.limits.trusted = append(s.opts.limits.trusted, prefix)
		}
	})
}

// WithMaxConnectionsPerClient bounds the connections of one client id, on all nodes together. Default no bound. One more
// is closed with 3504; the older ones stay. Of those that come at the same moment the driver says which is older.
func WithMaxConnectionsPerClient(n int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.perClient = positive(&s.opts, "WithMaxConnectionsPerClient", n) })
}

// WithAuthConcurrency bounds how many calls of Auth and Authenticate run at a time, so that a crowd that comes back does
// not overwhelm a database. Default no bound. The others wait their turn, as a part of WithAuthTimeout, and are refused
// with 503 "try again" when it does not come. A hook that hangs keeps its place.
func WithAuthConcurrency(n int) Option {
	return optionFunc(func(s *Service) {
		if n = positive(&s.opts, "WithAuthConcurrency", n); n > 0 {
			s.authing = make(chan struct{}, n)
		}
	})
}

// WithMessageRate bounds what one connection may send: messages and pings a second on average, and how many of them at
// once. Default no bound. One more is answered with error 429 and not handled; 20 of those within 10 s close the connection
// with 3505.
func WithMessageRate(perSecond, burst int) Option {
	return optionFunc(func(s *Service) {
		perSecond, burst = positive(&s.opts, "WithMessageRate", perSecond), positive(&s.opts, "WithMessageRate", burst)
		if perSecond > 0 {
			s.opts.limits.every = max(1, time.Second/time.Duration(perSecond))
			s.opts.limits.burst = s.opts.limits.every * time.Duration(min(burst-1, int(math.MaxInt64/2/s.opts.limits.every)))
		}
	})
}

// WithLogRate bounds the lines a second that are logged about one address, and those that warn apart from the others; what
// was left out is counted in the attribute "suppressed" of a later line. Default 100.
func WithLogRate(lines int) Option {
	return optionFunc(func(s *Service) { s.opts.limits.logLines = positive(&s.opts, "WithLogRate", lines) })
}

// halfOfMemoryLimit is half of GOMEMLIMIT, 0 when that is not set.
func halfOfMemoryLimit() int {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return int(limit / 2)
	}
	return 0
}

// behindProxy returns h with the address that a trusted proxy names.
func (s *Service) behindProxy(h *Handshake) *Handshake {
	peer := h.peer()
	if !s.trusts(peer) {
		return h
	}
	var forwarded []string
	for entry := range tokens(h.Header, "X-Forwarded-For") {
		forwarded = append(forwarded, entry)
	}
	for _, entry := range slices.Backward(forwarded) {
		addr := addressOf(entry)
		if !addr.IsValid() {
			break
		}
		if peer = addr; !s.trusts(addr) {
			break
		}
	}
	known := *h
	known.RemoteAddr, known.Peer = peer.String(), peer.String()
	return &known
}

func (s *Service) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.opts.limits.trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// peer is the address of the connection itself; it is not valid when that has none.
func (h *Handshake) peer() netip.Addr {
	if h.Peer != "" {
		return addressOf(h.Peer)
	}
	return addressOf(h.RemoteAddr)
}

// addressOf reads an IP address, with or without a port.
func addressOf(s string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	addr, _ := netip.ParseAddr(strings.Trim(s, "[]"))
	return addr.Unmap().WithZone("")
}

// household is what shares an address as WithMaxConnectionsPerAddress counts it: a peer of IPv6 has a /64 to itself.
func household(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		p, _ := addr.Prefix(64) // which an address of IPv6 has
		return p.Addr()
	}
	return addr
}

// occupancy is how many connections there are, with those whose handshake is under way. Guarded by Service.mu.
type occupancy struct {
	total  int
	byAddr map[netip.Addr]int // only with WithMaxConnectionsPerAddress
}

// add counts one in, or says why it is one too many.
func (o *occupancy) add(l *limits, addr netip.Addr) error {
	if l.connections > 0 && o.total >= l.connections {
		return refuse(http.StatusServiceUnavailable, "this node is full, try again")
	}
	if l.perAddress > 0 && addr.IsValid() {
		if o.byAddr[addr] >= l.perAddress {
			return refuse(http.StatusTooManyRequests, "too many connections from this address, try again")
		}
		if o.byAddr == nil {
			o.byAddr = map[netip.Addr]int{}
		}
		o.byAddr[addr]++
	}
	o.total++
	return nil
}

func (o *occupancy) remove(addr netip.Addr) {
	o.total--
	if n, counted := o.byAddr[addr]; counted && n > 1 {
		o.byAddr[addr] = n - 1
	} else if counted {
		delete(o.byAddr, addr)
	}
}

// allowed takes one message off the connection's allowance, and reports whether there was one. due is when it would have
// been sent at the rate that is allowed, ahead of which a client may be by its burst.
func (c *Client) allowed() bool {
	l := &c.app.s.opts.limits
	if l.every == 0 {
		return true
	}
	now := time.Since(c.app.s.made)
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extrasLocked()
	due := max(x.due, now)
	if due-now > l.burst {
		return false
	}
	x.due = due + l.every
	return true
}

// address is what the connection is counted under.
func (c *Client) address() netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.extras != nil && c.extras.elsewhere {
		return c.extras.address
	}
	return household(addressOf(c.remote))
}
