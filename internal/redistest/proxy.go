package redistest

import (
	"bytes"
	"net"
	"regexp"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP connections on to a server until told to misbehave. What it is told holds for all that is forwarded
// after the call returns, on connections old and new. Safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	all      sync.WaitGroup // the accept loop and the connections

	mu      sync.Mutex // guards all below and the links
	links   map[*link]struct{}
	cut     bool
	stalled bool
	losing  bool
	delay   time.Duration
	writing int           // how many writes have begun and not ended
	changed chan struct{} // closed and replaced when one of the above is told to change
}

// NewProxy passes what comes to a free loopback port on to target, a host:port that need not listen yet.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listener: listener, links: map[*link]struct{}{}, changed: make(chan struct{})}
	t.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
		p.all.Wait()
	})
	p.all.Go(p.accept) // ends with the listener
	return p
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes all connections, and new ones at once, until Restore.
func (p *Proxy) Cut() {
	p.tell(func() {
		p.cut = true
		for l := range p.links {
			l.endLocked()
		}
	})
}

// Restore undoes all that the proxy was told, but for connections that are closed and those stalled for good.
// What was held back is forwarded.
func (p *Proxy) Restore() {
	p.tell(func() { p.cut, p.stalled, p.losing, p.delay = false, false, false, 0 })
}

// Stall holds back what either side sends, its closing included. New connections are accepted, and stalled too.
func (p *Proxy) Stall() {
	p.tell(func() { p.stalled = true })
}

// StallSubscriptions throws away what the server sends over those connections over which the client has sent a SUBSCRIBE,
// SSUBSCRIBE or PSUBSCRIBE so far, until one side closes them. New ones work, and Restore does not change it.
func (p *Proxy) StallSubscriptions() {
	p.tell(func() {
		for l := range p.links {
			l.mute = l.mute || l.subscribed
		}
	})
}

// StallConnections is StallSubscriptions for all connections, as when a firewall has forgotten them.
func (p *Proxy) StallConnections() {
	p.tell(func() {
		for l := range p.links {
			l.mute = true
		}
	})
}

// Slow holds back each chunk that either side sends for so long; they stay in order.
func (p *Proxy) Slow(delay time.Duration) {
	p.tell(func() { p.delay = delay })
}

// LoseReplies forwards what clients send, throws the answer away and closes the connection. One over which the client
// sends nothing goes on as before, also when the server sends something.
func (p *Proxy) LoseReplies() {
	p.tell(func() {
		p.losing = true
		for l := range p.links {
			l.used = false
		}
	})
}

// Connections returns how many are open now. One that was closed while the proxy stalled counts until Restore.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// tell changes what the proxy does, and waits for the writes that began before; not for long, since one that nobody
// reads may never end.
func (p *Proxy) tell(change func()) {
	p.mu.Lock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()

	deadline := time.NewTimer(200 * time.Millisecond)
	defer deadline.Stop()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		p.mu.Lock()
		writing := p.writing
		p.mu.Unlock()
		if writing == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{proxy: p, client: client, done: make(chan struct{})}
		p.mu.Lock()
		refused := p.cut
		if !refused {
			p.links[l] = struct{}{}
		}
		p.mu.Unlock()
		if refused {
			_ = client.Close()
			continue
		}
		p.all.Go(l.serve) // ends with the link, which Cut ends
	}
}

// link is a connection of a client and the one to the server that belongs to it.
type link struct {
	proxy  *Proxy
	client net.Conn
	done   chan struct{} // closed when the link ends

	// Guarded by proxy.mu.
	server     net.Conn // nil before it is dialled
	ended      bool
	subscribed bool // the client has sent a SUBSCRIBE
	mute       bool // what the server sends is thrown away
	used       bool // the client has sent something since LoseReplies
}

// chunk is what one read returned. One without data stands for the end.
type chunk struct {
	data []byte
	at   time.Time
}

func (l *link) serve() {
	defer func() {
		l.end()
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.mu.Unlock()
	}()
	if l.pass(chunk{at: time.Now()}, false) != passed { // stalled, it waits to be dialled on
		return
	}
	server, err := net.DialTimeout("tcp", l.proxy.target, patience)
	l.proxy.mu.Lock()
	l.server = server
	ended := l.ended
	l.proxy.mu.Unlock()
	if err != nil {
		return
	}
	if ended {
		_ = server.Close()
		return
	}
	requests, replies := make(chan chunk, 1024), make(chan chunk, 1024)
	var all sync.WaitGroup // all end with the link
	all.Go(func() { l.read(l.client, requests, l.scan()) })
	all.Go(func() { l.read(server, replies, func([]byte) {}) })
	all.Go(func() { l.write(server, requests, false) })
	all.Go(func() { l.write(l.client, replies, true) })
	all.Wait()
}

// end closes both connections.
func (l *link) end() {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	l.endLocked()
}

func (l *link) endLocked() {
	if l.ended {
		return
	}
	l.ended = true
	close(l.done)
	_ = l.client.Close()
	if l.server != nil {
		_ = l.server.Close()
	}
}

// read queues what comes from a side, and its end.
func (l *link) read(from net.Conn, queue chan<- chunk, look func([]byte)) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		look(buffer[:n])
		select {
		case queue <- chunk{bytes.Clone(buffer[:n]), time.Now()}:
		case <-l.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// subscribe is the head of a command in RESP.
var subscribe = regexp.MustCompile(`(?i)\*[0-9]+\r\n\$(9|10)\r\n[sp]?subscribe\r\n`)

// scan returns a function that looks for subscriptions in what the client sends.
func (l *link) scan() func([]byte) {
	var tail []byte // of what came before, where a command may have begun
	return func(data []byte) {
		tail = append(tail, data...)
		if subscribe.Match(tail) {
			l.proxy.mu.Lock()
			l.subscribed = true
			l.proxy.mu.Unlock()
		}
		tail = bytes.Clone(tail[max(0, len(tail)-40):])
	}
}

// write forwards what is queued to a side, when and as the proxy is told to, until the end.
func (l *link) write(to net.Conn, queue <-chan chunk, isReply bool) {
	defer l.end()
	for {
		var c chunk
		select {
		case c = <-queue:
		case <-l.done:
			return
		}
		verdict := l.pass(c, isReply)
		if verdict == ending || len(c.data) == 0 {
			return
		}
		if verdict == dropped {
			continue
		}
		_, err := to.Write(c.data)
		l.proxy.mu.Lock()
		l.proxy.writing--
		l.proxy.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// What becomes of a chunk.
const (
	passed  = iota // it is to be written, and counts as being written where it has data
	dropped        // it is thrown away
	ending         // it is thrown away, and the link ends
)

// pass waits until it is settled what becomes of a chunk.
func (l *link) pass(c chunk, isReply bool) int {
	for {
		verdict, wait, changed := l.judge(c, isReply)
		if wait == 0 {
			return verdict
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-l.done:
			timer.Stop()
			return ending
		}
		timer.Stop()
	}
}

// judge returns what becomes of a chunk now, or how long to wait, unless something changes before.
func (l *link) judge(c chunk, isReply bool) (verdict int, wait time.Duration, changed <-chan struct{}) {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	switch wait = time.Until(c.at.Add(p.delay)); {
	case l.ended:
		return ending, 0, nil
	case isReply && l.mute:
		return dropped, 0, nil
	case p.stalled:
		return passed, time.Hour, p.changed
	case wait > 0:
		return passed, wait, p.changed
	case isReply && p.losing && l.used:
		return ending, 0, nil
	}
	if len(c.data) > 0 {
		l.used = l.used || !isReply
		p.writing++
	}
	return passed, 0, nil
}
