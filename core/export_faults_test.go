package core

import (
	"net"
	"time"
)

// AttachThrough is Attach with a socket whose calls fail as strike says. It is asked before each read, try and write with
// the name of the call: of take's share of the bytes the call disposes, then it returns err. A share of 1 and no error is no
// fault.
func AttachThrough(s *Service, nc net.Conn, t *Ticket, strike func(verb string) (share float64, err error)) {
	c := newClient(t)
	c.socket = &faultySocket{newSocket(nc, &c.own), strike}
	c.parser.MaxMessage = s.opts.messageBytes
	if s.enter(t.address) != nil {
		_ = nc.Close()
		return
	}
	w := getWriter()
	c.mu.Lock()
	c.writeLocked(w, t.response)
	c.mu.Unlock()
	w.free()
	go func() { // ends with the connection
		c.arrive()
		c.startReading()
	}()
}

type faultySocket struct {
	socket

	strike func(verb string) (share float64, err error)
}

func (s *faultySocket) read() ([]byte, error) {
	share, err := s.strike("read")
	if share == 0 && err != nil {
		return nil, err
	}
	data, failed := s.socket.read()
	if failed != nil {
		return nil, failed
	}
	return data[:max(1, int(share*float64(len(data))))], nil
}

func (s *faultySocket) try(w *writer, p []byte) (int, error) {
	share, err := s.strike("try")
	n, failed := s.socket.try(w, p[:int(share*float64(len(p)))])
	if failed != nil {
		return n, failed
	}
	return n, err
}

func (s *faultySocket) write(p []byte, stall time.Duration) error {
	share, err := s.strike("write")
	if some := p[:int(share*float64(len(p)))]; len(some) > 0 {
		if failed := s.socket.write(some, stall); failed != nil {
			return failed
		}
	}
	return err
}

// Occupied is how many connections are counted for WithMaxConnections.
func Occupied(s *Service) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.occupied.total
}
