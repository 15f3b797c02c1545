package core

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// peerLog keeps one peer from filling the log: so many lines a second about each address, and as many that warn.
type peerLog struct {
	mu     sync.Mutex // guards the rest
	peers  map[logged]*peerLines
	forgot int64 // the second of the last forgetLocked
}

type logged struct {
	peer  string
	warns bool
}

type peerLines struct {
	second            int64 // of the count
	lines, suppressed int
}

const loggedPeers = 1024 // remembered; more are counted together

// take counts a line, and reports whether it is within the limit, and how many before it were not.
func (p *peerLog) take(about logged, limit int, now int64) (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peers == nil {
		p.peers = map[logged]*peerLines{}
	}
	if p.peers[about] == nil && len(p.peers) >= loggedPeers {
		p.forgetLocked(now)
		if len(p.peers) >= loggedPeers {
			about.peer = ""
		}
	}
	l := p.peers[about]
	if l == nil {
		l = new(peerLines)
		p.peers[about] = l
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

// forgetLocked forgets the peers that have been quiet since this second began, once a second.
func (p *peerLog) forgetLocked(now int64) {
	if p.forgot == now {
		return
	}
	p.forgot = now
	for peer, l := range p.peers {
		if l.second != now {
			delete(p.peers, peer)
		}
	}
}

// logAbout logs a line about a peer, unless there were too many. addr is what it is counted under, or remote when that is no
// IP address.
func (s *Service) logAbout(level slog.Level, remote string, addr netip.Addr, message string, args ...any) {
	ctx := context.Background()
	if !s.opts.log.Enabled(ctx, level) {
		return
	}
	about := logged{peer: brief(remote), warns: level >= slog.LevelWarn}
	if addr.IsValid() {
		about.peer = addr.String()
	}
	suppressed, ok := s.peerLog.take(about, s.opts.limits.logLines, time.Now().Unix())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	s.opts.log.Log(ctx, level, message, args...)
}

func (c *Client) log(level slog.Level, message string, args ...any) {
	c.app.s.logAbout(level, c.remote, c.address(), message, append(c.names(), args...)...)
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
