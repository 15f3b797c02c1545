package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ticket is what Admit decided about a connection, for Attach. It is good for one Attach and reserves nothing: a ticket
// that is never used costs nothing.
type Ticket struct {
	response []byte   // the 101
	refusal  *Refusal // not nil: accept, and close with it

	app      *App
	provider *Provider
	clientID string
	token    string
	remote   string
	address  netip.Addr // what WithMaxConnectionsPerAddress counts it under
	data     map[string]any
	public   json.RawMessage
	expires  int64 // Unix seconds, 0: never
}

// Admit decides whether the client of h may connect: is the handshake well-formed, the origin allowed, the service
// running, and who is it? It calls Authenticate or Auth unless h carries an identity, and takes at most WithAuthTimeout.
//
// A *Refusal as error is for the host to write as its HTTP response (Service.WriteRefusal for net/http). Otherwise the
// host takes the connection over and calls Attach, also when the client is going to be refused: see RefuseAuto.
// Admit writes nothing, keeps no part of h, and may be called concurrently.
func (s *Service) Admit(ctx context.Context, h *Handshake) (*Ticket, error) {
	if s == nil {
		return nil, refuse(http.StatusInternalServerError, noService)
	}
	h = s.behindProxy(h)
	if r := h.malformed(); r != nil {
		s.countRefusal(h.RemoteAddr, h.peer(), r, nil)
		return nil, r
	}
	if origin := h.Header.Get("Origin"); !originAllowed(origin, h.Host, s.opts.origins) {
		r := refuse(http.StatusForbidden, "this origin is not allowed")
		s.stats.refused.Add(1)
		s.logForeign(origin, h)
		return nil, r
	}
	t := &Ticket{response: h.response(), remote: brief(h.RemoteAddr), address: household(h.peer())}
	if err := s.identify(ctx, h, t); err != nil {
		r, told := refusalFor(err)
		if told {
			err = nil
		}
		s.countRefusal(h.RemoteAddr, h.peer(), r, withoutToken(err, t.token))
		if !s.refusesByClose(h) {
			return nil, r
		}
		t.refusal = r
	}
	return t, nil
}

const noService = "this route has no service: it was mounted with a nil *core.Service"

// refusesByClose reports whether the refusal takes the form of a connection that is closed.
func (s *Service) refusesByClose(h *Handshake) bool {
	if len(s.refusing) == refusals { // somebody is knocking on purpose
		return false
	}
	return s.opts.refusal == RefuseClose || s.opts.refusal == RefuseAuto && h.Header.Get("Origin") != ""
}

// identify fills in t who the client is.
func (s *Service) identify(ctx context.Context, h *Handshake, t *Ticket) error {
	if err := s.beginHandshake(t.address); err != nil {
		return err
	}
	defer s.endHandshake(t.address)
	identity, app, asked := h.Identity, h.App, ""
	if identity != nil {
		if named, ok := identity["app"].(string); ok && app == "" {
			app = named
		}
	} else if app == "" {
		asked = h.askedApp()
		if asked != "" && s.checkChannel(asked) != nil { // an app's name is as good a name as a channel's
			return refuse(http.StatusNotFound, "there is no such app")
		}
		app = asked
	}
	t.token = h.Token
	if t.token == "" && identity == nil { // nobody has looked at what the request has beside an identity
		t.token = Token(h.Header, h.Query)
	}
	t.token = strings.Clone(t.token)
	t.provider = s.providerOf(app)
	if t.provider == nil {
		return refuse(http.StatusNotFound, "there is no such app")
	}
	if identity == nil {
		var err error
		known := *h
		known.App, known.Token = app, t.token
		if identity, err = s.authenticate(ctx, t.provider, &known); err != nil {
			return err
		}
		if named, ok := identity["app"].(string); ok && named != app {
			if asked != "" || h.App != "" {
				return refuse(http.StatusForbidden, "this token is for another app")
			}
			app = named
			if t.provider = s.providerOf(app); t.provider == nil {
				return refuse(http.StatusNotFound, "there is no such app")
			}
		}
	}
	t.app = s.App(strings.Clone(app))
	return s.accept(t, identity, h.Data)
}

// askedApp is the app that the client itself asks for; a hook decides whether it may.
func (h *Handshake) askedApp() string {
	if app := h.Header.Get("App"); app != "" {
		return app
	}
	return h.Query.Get("app")
}

// authenticate asks the provider who this is.
func (s *Service) authenticate(ctx context.Context, p *Provider, h *Handshake) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.auth)
	defer cancel()
	asked := func() (map[string]any, error) { return p.Auth(h.Token) }
	if p.Authenticate != nil {
		asked = func() (map[string]any, error) { return p.Authenticate(ctx, h) }
	} else if p.Auth == nil {
		return nil, refuse(http.StatusUnauthorized, "unauthorized")
	}
	type answer struct {
		identity map[string]any
		err      error
	}
	if !s.beginAuth(ctx) {
		return nil, fmt.Errorf("gows: Auth was not called: %d calls run already (core.WithAuthConcurrency): %w", cap(s.authing), ctx.Err())
	}
	answered := make(chan answer, 1)
	// It ends when the hook returns; Auth has no context, so a hook that hangs is left behind.
	go func() {
		a := answer{err: &panicError{value: "Auth ended its goroutine"}}
		defer s.endAuth()
		defer func() {
			if v := recover(); v != nil {
				err := &panicError{value: v, stack: debug.Stack()}
				s.opts.log.Error("gows: Auth panicked", "app", h.App, "err", err, "stack", string(err.stack))
				a.err = err
			}
			answered <- a
		}()
		a.identity, a.err = asked()
		if a.err != nil {
			ask(a.err)
		}
	}()
	select {
	case a := <-answered:
		return a.identity, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("gows: Auth did not return in %v, or the request ended before: %w", s.opts.auth, ctx.Err())
	}
}

// beginAuth waits for a place among the running hooks, and reports whether there was one in time.
func (s *Service) beginAuth(ctx context.Context) bool {
	if s.authing == nil {
		return true
	}
	select {
	case s.authing <- struct{}{}:
		return true
	case <-ctx.Done():
	}
	return false
}

func (s *Service) endAuth() {
	if s.authing != nil {
		<-s.authing
	}
}

// accept takes the identity into t.
func (s *Service) accept(t *Ticket, identity, more map[string]any) error {
	if err := t.take(identity, more, s.opts.presence); err != nil {
		s.opts.log.Error("gows: unusable identity", "app", t.app.name, "err", err)
		return refuse(http.StatusInternalServerError, "the identity cannot be used: see the server's log")
	}
	if t.expires != 0 && t.expires <= time.Now().Unix() {
		return refuse(CloseExpired, "the token has expired")
	}
	return nil
}

// take reads the identity. That calls methods of the values in it, which may panic.
func (t *Ticket) take(identity, more map[string]any, shown []string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("gows: panic in a method of the identity: %v", v)
		}
	}()
	if t.clientID, err = clientID(identity); err != nil {
		return err
	}
	if t.expires, err = expiry(identity); err != nil {
		return err
	}
	t.data = identity
	if len(more) > 0 {
		t.data = maps.Clone(identity)
		maps.Copy(t.data, more)
	}
	public := map[string]any{}
	for _, key := range shown {
		if v, ok := t.data[key]; ok {
			public[key] = v
		}
	}
	if len(public) > 0 {
		if t.public, err = marshal(public); err != nil {
			return fmt.Errorf("gows: encode presence data: %w", err)
		}
	}
	return nil
}

// clientID returns the identity's client id as a string of its own.
func clientID(identity map[string]any) (string, error) {
	value, found := identity["client_id"]
	var id string
	switch v := value.(type) {
	case string:
		if v != "" {
			return v, nil
		}
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		id = fmt.Sprint(v)
	case float64:
		if v != float64(int64(v)) || v >= 1<<53 || v <= -1<<53 {
			return "", fmt.Errorf(`gows: "client_id" %v is a JSON number that may have lost digits: use a string`, v)
		}
		id = strconv.FormatInt(int64(v), 10)
	case json.Number:
		id = v.String()
	case fmt.Stringer:
		id = v.String()
	default:
		if found {
			return "", fmt.Errorf(`gows: "client_id" is a %T: use a string`, value)
		}
	}
	if id == "" {
		keys := slices.Sorted(maps.Keys(identity))
		return "", fmt.Errorf(`gows: the identity has no "client_id" (keys: %s)`, strings.Join(keys, ", "))
	}
	return strings.Clone(id), nil // what a Stringer returns may be in memory of the request
}

// expiry returns the identity's "exp" in Unix seconds, 0 when it has none.
func expiry(identity map[string]any) (int64, error) {
	switch v := identity["exp"].(type) {
	case nil:
		return 0, nil
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case float64:
		return int64(v), nil
	case json.Number:
		if exp, err := v.Float64(); err == nil {
			return int64(exp), nil
		}
	case interface{ Unix() int64 }: // time.Time, *jwt.NumericDate
		if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.IsNil() { // a JWT without exp
			return 0, fmt.Errorf(`gows: "exp" is a nil %T: leave it out`, v)
		}
		return v.Unix(), nil
	}
	return 0, errors.New(`gows: "exp" must be Unix seconds or a time.Time`)
}

func (s *Service) countRefusal(remote string, peer netip.Addr, r *Refusal, err error) {
	s.stats.refused.Add(1)
	args := []any{"remote", brief(remote), "code", r.Code, "reason", r.Reason}
	if err != nil {
		args = append(args, "err", err)
	}
	s.logAbout(slog.LevelInfo, remote, household(peer), "gows: refused", args...)
}

// shortToken is what may be a word of its own.
const shortToken = 8

// withoutToken returns err for the log: a request to an identity service that fails has its whole URL in its error.
func withoutToken(err error, token string) error {
	if err == nil || len(token) < shortToken {
		return err
	}
	text := err.Error()
	for _, written := range []string{token, url.QueryEscape(token), url.PathEscape(token)} {
		text = strings.ReplaceAll(text, written, "(token)")
	}
	return errors.New(text)
}

func (s *Service) logForeign(origin string, h *Handshake) {
	origin = brief(origin)
	if s.foreign.first(origin) {
		s.opts.log.Warn("gows: foreign origin refused: allow it with core.WithOrigins, or let the proxy pass the host (proxy_set_header Host $http_host)",
			"origin", origin, "host", brief(h.Host), "remote", brief(h.RemoteAddr))
	}
}
