package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/duxweb/go-ws/core/internal/frame"
)

// Door is how the original spells serving a connection.
type Door struct{ s *Service }

// HandleRequest is Service.ServeHTTP.
func (d Door) HandleRequest(w http.ResponseWriter, r *http.Request) { d.s.ServeHTTP(w, r) }

// ServeHTTP makes the service an http.Handler: mux.Handle("/ws", service). It returns as soon as the connection is taken
// over or refused, so middlewares with a time limit do no harm.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, NewHandshake(r)) }

// Serve is ServeHTTP with a Handshake that the host has completed, made by NewHandshake: how adapters of frameworks on
// net/http let a connection in.
func (s *Service) Serve(w http.ResponseWriter, r *http.Request, h *Handshake) {
	t, err := s.Admit(r.Context(), h)
	if errors.Is(r.Context().Err(), context.Canceled) {
		// The peer has left, or a middleware with a time limit has returned before us: then w may serve another request by
		// now, and with it another client's connection.
		return
	}
	if err != nil {
		s.writeRefusal(w, err, r.ProtoMajor)
		return
	}
	s.takeOver(w, t)
}

func (s *Service) takeOver(w http.ResponseWriter, t *Ticket) {
	nc, leftover, err := hijack(w)
	if err != nil {
		s.opts.log.Error("gows: no connection", "err", err)
		s.WriteRefusal(w, newRefusal(http.StatusInternalServerError, CloseInternal, err.Error()))
		return
	}
	s.Attach(nc, leftover, t)
}

// Refuse refuses a connection in a way that a browser can read: what a host calls when its own middleware says no. code
// is a close code (3005 for an expired token) or one of HTTP's. A request that is no upgrade gets 401, 403, 429 or 503
// with a JSON body.
func (s *Service) Refuse(w http.ResponseWriter, r *http.Request, code int, reason string) {
	t, err := s.AdmitRefused(NewHandshake(r), code, reason)
	if err != nil {
		s.writeRefusal(w, err, r.ProtoMajor)
		return
	}
	s.takeOver(w, t)
}

// AdmitRefused is Admit for a client whose refusal is decided: the error is for the host to write, a ticket for Attach.
func (s *Service) AdmitRefused(h *Handshake, code int, reason string) (*Ticket, error) {
	r := refuse(code, reason)
	if s == nil {
		return nil, r
	}
	h = s.behindProxy(h)
	s.countRefusal(h.RemoteAddr, h.peer(), r, nil)
	if h.malformed() != nil || !s.refusesByClose(h) || !originAllowed(h.Header.Get("Origin"), h.Host, s.opts.origins) {
		return nil, r
	}
	return &Ticket{response: h.response(), refusal: r, remote: brief(h.RemoteAddr)}, nil
}

// WriteRefusal writes what Admit returned as an HTTP response: status, headers and a JSON body with status, code and
// reason.
func (s *Service) WriteRefusal(w http.ResponseWriter, err error) { s.writeRefusal(w, err, 1) }

func (s *Service) writeRefusal(w http.ResponseWriter, err error, proto int) {
	var r *Refusal
	if !errors.As(err, &r) {
		r = refuse(http.StatusInternalServerError, "internal error")
	}
	maps.Copy(w.Header(), r.Header)
	if proto > 1 { // where a response with one of these is malformed (RFC 9113 section 8.2.2)
		w.Header().Del("Connection")
		w.Header().Del("Upgrade")
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(r.Status)
	_ = json.NewEncoder(w).Encode(r) // the client may have gone
}

// hijack takes the connection from net/http. Some wrappers of a ResponseWriter claim to be an http.Hijacker and panic, or
// count the response as written, when the one they wrap is none: so that one is asked first.
func hijack(w http.ResponseWriter) (nc net.Conn, leftover []byte, err error) {
	var inner http.ResponseWriter
	defer func() {
		if v := recover(); v != nil {
			nc, err = nil, fmt.Errorf("gows: the connection cannot be hijacked (%T: %v): mount the route outside that middleware", inner, v)
		}
	}()
	inner = innermost(w)
	if _, ok := inner.(http.Hijacker); !ok {
		return nil, nil, fmt.Errorf("gows: the connection cannot be hijacked (%T): mount the route outside the timeout middleware", inner)
	}
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("gows: the connection cannot be hijacked (%T): %w", inner, err)
	}
	if buffered != nil {
		leftover, _ = buffered.Peek(buffered.Reader.Buffered())
	}
	return nc, leftover, nil
}

// innermost follows the convention of http.ResponseController.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

const (
	refusals    = 256     // refused connections that may be drained at a time
	refuseDrain = 4 << 10 // bytes
	refuseWait  = time.Second
	refuseHaste = 50 * time.Millisecond
)

// refuseByClose accepts and closes in one write, and takes in what the peer sends for a moment: a reset would destroy the
// close frame on its way. When too many do so at a time, somebody is knocking on purpose, and gets no such patience; nor
// is there any after Shutdown, which nothing may outlive.
func (s *Service) refuseByClose(nc net.Conn, t *Ticket) {
	b := frame.AppendClose(t.response, t.refusal.Code, t.refusal.Reason)
	if !s.beginRefusal() {
		_ = writeAll(nc, b, refuseHaste) // into the empty buffer of a new connection: it does not wait
		_ = nc.Close()
		return
	}
	go func() { // ends after refuseWait at the latest
		defer s.endRefusal()
		defer nc.Close()
		sendOff(nc, b)
	}()
}

// sendOff writes what ends the connection, and takes in what the peer still sends.
func sendOff(nc net.Conn, b []byte) {
	_ = nc.SetDeadline(time.Now().Add(refuseWait))
	if _, err := nc.Write(b); err != nil {
		return
	}
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	buf := make([]byte, 512)
	for n := 0; n < refuseDrain; {
		m, err := nc.Read(buf)
		n += m
		if err != nil {
			return
		}
	}
}

// beginRefusal takes one of the slots for refusals, unless none is free or Shutdown waits for nobody any more.
func (s *Service) beginRefusal() bool {
	select {
	case s.refusing <- struct{}{}:
	default:
		return false
	}
	if !s.beginLeaver() {
		<-s.refusing
		return false
	}
	return true
}

func (s *Service) endRefusal() {
	<-s.refusing
	s.leavers.Done()
}
