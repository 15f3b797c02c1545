package core

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/url"
	"reflect"
	"strings"
)

// Handshake is the request of a client that wants a connection, in plain values that the core owns: a host copies what it
// needs out of its request and keeps no part of it. Admit does not keep the Handshake.
type Handshake struct {
	Proto      string // HTTP/1.1 when empty
	Method     string
	Host       string
	RemoteAddr string      // as it shall be known: behind a trusted proxy the address the framework made out
	Peer       string      // of the connection itself, which no header can change; RemoteAddr when empty
	Header     http.Header // with canonical keys
	Query      url.Values

	// What the host has found out itself; each may be empty.
	App      string         // the app of the route
	Token    string         // found before all other places
	Identity map[string]any // from the host's own authentication: Auth is skipped
	Data     map[string]any // merged into Client.Data
}

// NewHandshake copies what the core needs out of a net/http request, the identity of ContextWithIdentity included.
func NewHandshake(r *http.Request) *Handshake {
	identity, _ := r.Context().Value(identityKey{}).(map[string]any)
	header := r.Header
	if len(r.TransferEncoding) > 0 { // net/http takes it out of the header
		header = header.Clone()
		header["Transfer-Encoding"] = r.TransferEncoding
	}
	return &Handshake{
		Proto: r.Proto, Method: r.Method, Host: r.Host, RemoteAddr: r.RemoteAddr, Peer: r.RemoteAddr,
		Header: header, Query: r.URL.Query(), Identity: identity,
	}
}

// Clone returns a copy that shares no memory with h: strings, and the strings, maps, slices and structs in Identity and
// Data, to any depth. Pointers and unexported fields are kept: what is behind them is the host's to copy. It is for hosts that reuse the memory of a request for the next one, as
// Fiber does.
func (h *Handshake) Clone() *Handshake {
	return &Handshake{
		Proto: strings.Clone(h.Proto), Method: strings.Clone(h.Method), Host: strings.Clone(h.Host),
		RemoteAddr: strings.Clone(h.RemoteAddr), Peer: strings.Clone(h.Peer),
		Header: owned(h.Header), Query: owned(h.Query),
		App: strings.Clone(h.App), Token: strings.Clone(h.Token), Identity: owned(h.Identity), Data: owned(h.Data),
	}
}

func owned[M ~map[string]V, V any](m M) M {
	return clone(reflect.ValueOf(m)).Interface().(M) //nolint:errcheck // clone keeps the type
}

func clone(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.String:
		return reflect.ValueOf(strings.Clone(v.String())).Convert(v.Type())
	case reflect.Interface:
		if !v.IsNil() {
			return clone(v.Elem())
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeMapWithSize(v.Type(), v.Len())
		for key, value := range v.Seq2() {
			c.SetMapIndex(clone(key), clone(value))
		}
		return c
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			c.Index(i).Set(clone(v.Index(i)))
		}
		return c
	case reflect.Array:
		c := reflect.New(v.Type()).Elem()
		for i := range v.Len() {
			c.Index(i).Set(clone(v.Index(i)))
		}
		return c
	case reflect.Struct:
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		for i := range v.NumField() {
			if c.Field(i).CanSet() { // exported
				c.Field(i).Set(clone(v.Field(i)))
			}
		}
		return c
	default:
	}
	return v
}

type identityKey struct{}

// ContextWithIdentity returns a context that tells ServeHTTP who the user is, for a net/http middleware that has
// authenticated the request: Auth is skipped. identity needs "client_id", as the map of Provider.Auth does.
func ContextWithIdentity(ctx context.Context, identity map[string]any) context.Context {
	return context.WithValue(ctx, identityKey{}, identity)
}

// Token returns the token of a request from the first place that has one: header Token, Authorization: Bearer, the
// subprotocol gows.bearer.<base64url> offered beside gows, query token. It is where the core looks after Handshake.Token.
func Token(h http.Header, query url.Values) string {
	if token := h.Get("Token"); token != "" {
		return token
	}
	if scheme, rest, _ := strings.Cut(h.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		if token := strings.TrimSpace(rest); token != "" {
			return token
		}
	}
	for protocol := range tokens(h, "Sec-Websocket-Protocol") {
		if coded, ok := strings.CutPrefix(protocol, "gows.bearer."); ok {
			if token, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(coded, "=")); err == nil && len(token) > 0 {
				return string(token)
			}
		}
	}
	return query.Get("token")
}

// malformed says what is wrong with the request as an opening handshake (RFC 6455 section 4.2.1), or nil.
func (h *Handshake) malformed() *Refusal {
	wrong := func(status int, reason string, header ...string) *Refusal {
		r := newRefusal(status, closeWrongFrame, reason)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	switch {
	case h.Method != http.MethodGet:
		return wrong(http.StatusMethodNotAllowed, "a WebSocket handshake is a GET request", "Allow", http.MethodGet)
	case !h.upgrades():
		return wrong(http.StatusUpgradeRequired, "this is a WebSocket endpoint: connect with new WebSocket(url); a proxy in between must speak HTTP/1.1 and pass on Upgrade and Connection",
			"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13")
	case h.outdated():
		return wrong(http.StatusUpgradeRequired, "a WebSocket handshake is at least HTTP/1.1 (nginx: proxy_http_version 1.1)",
			"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13")
	case h.Header.Get("Sec-Websocket-Version") != "13":
		return wrong(http.StatusUpgradeRequired, "Sec-WebSocket-Version must be 13",
			"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13")
	case h.hasBody():
		return wrong(http.StatusBadRequest, "a WebSocket handshake has no body")
	}
	if key, err := base64.StdEncoding.DecodeString(h.Header.Get("Sec-Websocket-Key")); err != nil || len(key) != 16 {
		return wrong(http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64")
	}
	return nil
}

// outdated reports whether the request is older than HTTP/1.1, which knows neither Upgrade nor where a chunked body ends.
func (h *Handshake) outdated() bool {
	major, minor, ok := http.ParseHTTPVersion(h.Proto)
	return h.Proto != "" && (!ok || major < 1 || major == 1 && minor < 1)
}

// upgrades reports whether the request asks for a WebSocket at all.
func (h *Handshake) upgrades() bool {
	return hasToken(h.Header, "Connection", "upgrade") && hasToken(h.Header, "Upgrade", "websocket")
}

// hasBody reports whether a body follows the header. A proxy passes it on as a part of the request, so what is in it must
// not be taken for frames of the client.
func (h *Handshake) hasBody() bool {
	for _, length := range h.Header["Content-Length"] {
		if strings.Trim(length, "0") != "" {
			return true
		}
	}
	return len(h.Header["Transfer-Encoding"]) > 0
}

// response is the 101 that accepts the handshake (RFC 6455 section 4.2.2). Of the subprotocols only gows is answered:
// the one with the token must not be echoed, and a browser fails unless one of those it offered is.
func (h *Handshake) response() []byte {
	sum := sha1.Sum([]byte(h.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	b := make([]byte, 0, 192)
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = base64.StdEncoding.AppendEncode(b, sum[:])
	for protocol := range tokens(h.Header, "Sec-Websocket-Protocol") {
		if protocol == "gows" {
			b = append(b, "\r\nSec-WebSocket-Protocol: gows"...)
			break
		}
	}
	return append(b, "\r\n\r\n"...)
}

// tokens yields the elements of a header that is a list, over all its lines.
func tokens(h http.Header, name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h[name] {
			for part := range strings.SplitSeq(line, ",") {
				if part = strings.Trim(part, " \t"); part != "" && !yield(part) {
					return
				}
			}
		}
	}
}

// hasToken compares as HTTP does: ASCII letters of either case are the same, and nothing else is. EqualFold alone would
// take U+017F for an s and U+212A for a k.
func hasToken(h http.Header, name, want string) bool {
	for t := range tokens(h, name) {
		if len(t) == len(want) && strings.EqualFold(t, want) {
			return true
		}
	}
	return false
}
