package core

import (
	"context"
	"crypto/rand"
)

// The names of the events that Provider.Event is called with.
const (
	EventOnline  = "online"  // after authentication and registration, before the first message
	EventOffline = "offline" // exactly once per online that returned nil, after the last message was handled
	EventPing    = "ping"    // a WebSocket ping, the pong to the server's ping, or a message of type "ping"
)

// Provider is the application: what to do when somebody connects, speaks or leaves. Every hook is optional, but without
// Auth, Authenticate or an identity from a middleware everybody is refused with 401.
//
// The hooks of one connection run one at a time, in order; those of different connections run concurrently. Each may take
// its time: only its own connection waits. Each may call anything of Client and Service. A panic is recovered, logged with
// its stack and answered with error 500; the connection lives on.
type Provider struct {
	// Auth turns a token into an identity. The map must hold "client_id": a string, an integer, an integral float64 below
	// 2^53, a json.Number or a fmt.Stringer. It may hold "exp" (Unix seconds or a time.Time; the connection is closed with
	// 3005 then) and "app". It becomes Client.Data and stays the application's own.
	//
	// An error refuses the connection: see Errorf for its code. The text of a plain error (errors.New, fmt.Errorf without
	// %w) is sent to the client; the text of others is not. A network or context error, a panic and a call of more than
	// WithAuthTimeout mean "try again" (503, close code 3004), so that a database hiccup signs nobody out.
	Auth func(token string) (map[string]any, error)

	// Event hears of online, offline and ping. An error from online refuses the connection, and no offline follows; errors
	// from the others are logged.
	Event func(name string, client *Client) error

	// Message handles every message that is not a verb of the core. nil answers the sender's id with "receive", an error
	// with "error": see Errorf. message is the hook's to keep.
	Message func(message *Message, client *Client) error

	// Authenticate replaces Auth for those who need more than the token: the whole Handshake. ctx ends after
	// WithAuthTimeout.
	Authenticate func(ctx context.Context, h *Handshake) (map[string]any, error)

	// Subscribe, when set, makes "subscribe", "unsubscribe" and "presence" verbs of the core: it asks this hook about a
	// subscribe, acts and answers. nil allows. Presence is answered for channels the client is in.
	Subscribe func(client *Client, channel string) error

	// Publish, when set, makes "message" a verb of the core: it asks this hook, pushes the message to its channel and
	// answers. nil allows. The hook may change the message first. The sender gets it too, with its id, if it subscribed.
	Publish func(client *Client, message *Message) error
}

// apply makes *Provider an Option of New: the provider of the app "".
func (p *Provider) apply(s *Service) {
	if p != nil {
		s.providers[""] = p
	}
}

// Anonymous is a Provider.Auth that admits everybody under a random client id.
func Anonymous(string) (map[string]any, error) {
	return map[string]any{"client_id": "anonymous-" + rand.Text()}, nil
}
