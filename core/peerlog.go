package core

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// peerLog keeps one peer from filling the log: so many lines a second about each address.
type peerLog struct {
	mu    sync.Mutex // guards peers
	peers map[string]*peerLines
}

type peerLines struct {
	second            int64 // of the count
	lines, suppressed int
}

const loggedPeers = 1024 // remembered; more are counted together

var silent = slog.New(slog.DiscardHandler)

// of returns log for one line about a peer, or one that discards it.
func (p *peerLog) of(log *slog.Logger, limit int, peer string) *slog.Logger {
	suppressed, ok := p.take(peer, limit, time.Now().Unix())
	switch {
	case !ok:
		return silent
	case suppressed > 0:
		return log.With("suppressed", suppressed)
	}
	return log
}

// take counts a line, and reports whether it is within the limit, and how many before it were not.
func (p *peerLog) take(peer string, limit int, now int64) (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peers == nil {
		p.peers = map[string]*peerLines{}
	}
	if p.peers[peer] == nil && len(p.peers) >= loggedPeers {
		p.forgetLocked(now)
		if len(p.peers) >= loggedPeers {
			peer = ""
		}
	}
	l := p.peers[peer]
	if l == nil {
		l = new(peerLines)
		p.peers[peer] = l
	}
	if l.second != now {
		l.second, l.lines = now, 0
	}
	if l.lines++; l.lines > limit {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// forgetLocked forgets the peers that have been quiet since this second began.
func (p *peerLog) forgetLocked(now int64) {
	for peer, l := range p.peers {
		if l.second != now {
			delete(p.peers, peer)
		}
	}
}

// peerName is what a peer is counted under.
func peerName(remote string, addr netip.Addr) string {
	if addr.IsValid() {
		return household(addr).String()
	}
	return brief(remote)
}

// logAbout returns the log for one line about a peer.
func (s *Service) logAbout(remote string, addr netip.Addr) *slog.Logger {
	return s.peerLog.of(s.opts.log, s.opts.limits.logLines, peerName(remote, addr))
}

// log returns the log for one line about the client.
func (c *Client) log() *slog.Logger {
	return c.app.s.logAbout(c.remote, addressOf(c.remote)).With(c.names()...)
}

// names are the attributes that say which client it is.
func (c *Client) names() []any {
	return []any{"app", c.App, "client", c.ClientID, "conn", c.ConnID}
}

const briefBytes = 200

// brief is as much of what a peer has sent as is logged or remembered: a header may have a megabyte, a message 64 KiB. It is
// in memory of its own.
func brief(text string) string {
	if len(text) <= briefBytes {
		return strings.Clone(text)
	}
	return strings.ToValidUTF8(text[:briefBytes], "") + "..."
}
