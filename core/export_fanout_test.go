package core

import (
	"context"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// What the fan-out tests and benchmarks need of the inside.

// FindClients returns the server's ends of the connections of a client id, the newest first.
func FindClients(s *Service, app, clientID string) []*Client { return s.hub.find(app, clientID) }

// Service is the service a client belongs to.
func (c *Client) Service() *Service { return c.app.s }

// HoldSlots takes all slots of the node, so that no turn over more than 64 clients goes on, until release is called.
func HoldSlots(s *Service) (release func()) {
	for range cap(s.hub.slots) {
		s.hub.slots <- struct{}{}
	}
	return func() {
		for range cap(s.hub.slots) {
			<-s.hub.slots
		}
	}
}

// Drained reports whether nothing waits for the client.
func Drained(c *Client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backlog == nil
}

// BacklogBytes is how much waits for the client.
func BacklogBytes(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return 0
	}
	return c.backlog.bytes
}

// PendingBytes is what the channel holds for its next turns.
func PendingBytes(s *Service, channel string) int {
	ch := s.hub.channel(Topic{Channel: channel})
	if ch == nil {
		return 0
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.waiting
}

// AttachStub connects a client without a peer: took is handed every write, and all of it counts as written.
func AttachStub(s *Service, clientID string, took func(p []byte)) *Client {
	stub := &stubSocket{took: took, closed: make(chan struct{})}
	c := newClient(&Ticket{app: s.app, provider: s.providerOf(""), clientID: clientID})
	c.socket = stub
	if s.enter(netip.Addr{}) != nil {
		return nil
	}
	c.arrive()
	c.startReading()
	return c
}

// stubSocket takes everything and says nothing.
type stubSocket struct {
	took   func(p []byte)
	once   sync.Once
	closed chan struct{}
}

func (s *stubSocket) read() ([]byte, error) {
	<-s.closed
	return nil, io.EOF
}

func (s *stubSocket) done() {}

func (s *stubSocket) try(_ *writer, p []byte) (int, error) {
	s.took(p)
	return len(p), nil
}

func (s *stubSocket) write(p []byte, _ time.Duration) error {
	s.took(p)
	return nil
}

func (s *stubSocket) settle() {}

// readUntil ends the reading at once: nobody is there to answer a close.
func (s *stubSocket) readUntil(time.Time) { s.close() }

func (s *stubSocket) close() { s.once.Do(func() { close(s.closed) }) }

func (s *stubSocket) abort() { s.close() }

func (s *stubSocket) endWriting() bool { return false }

// HeapBytes is what the live objects take, after garbage collection.
func HeapBytes() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools let go of their second half
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Ahead is how many clients a turn writes to between two looks at what is in flight.
const Ahead = ahead

// HeldBytes is the memory that holds what waits for c.
func HeldBytes(c *Client) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.backlog == nil {
		return 0
	}
	for _, k := range c.backlog.chunks {
		n += cap(k.data)
	}
	return n
}

// DebtBytes is what waits in all outboxes.
func DebtBytes(s *Service) int { return int(s.debt.bytes.Load()) }

// LoggedPeers is how many addresses the log remembers.
func LoggedPeers(s *Service) int {
	s.peerLog.mu.Lock()
	defer s.peerLog.mu.Unlock()
	return len(s.peerLog.peers)
}

// Registered is how many connections of a client id the driver knows.
func Registered(s *Service, clientID string) (int, error) {
	link, err := s.linked(context.Background())
	if err != nil {
		return 0, err
	}
	found, err := link.Find(context.Background(), "", clientID)
	return len(found), err
}

// FindClosed reports whether a client id has no open connection here.
func FindClosed(s *Service, clientID string) bool {
	for _, c := range s.hub.find("", clientID) {
		if !c.Closed() {
			return false
		}
	}
	return true
}
