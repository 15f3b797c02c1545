package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// App is one of the applications that share a service: its verbs reach its own clients and channels only. Service has the
// same verbs for the app "". All methods may be called concurrently, from hooks too; after Shutdown they return ErrClosed.
// On a service that never ran they work as those of a node without connections: for a cron job or a worker.
type App struct {
	name string
	s    *Service
}

// Name returns the app's name, "" for the default app.
func (a *App) Name() string { return a.name }

// PushOption narrows down whom a Push, Broadcast or Disconnect is for.
type PushOption func(*pushOptions)

type pushOptions struct{ except []string }

// Except leaves out one connection, say the sender's. A nil client leaves out nobody.
func Except(client *Client) PushOption {
	return func(o *pushOptions) {
		if client != nil {
			o.except = append(o.except, client.ConnID)
		}
	}
}

// ExceptConn leaves out the connection with that ConnID, for a REST handler that was told it by the page.
func ExceptConn(connID string) PushOption {
	return func(o *pushOptions) {
		if connID != "" {
			o.except = append(o.except, connID)
		}
	}
}

// Push is PushContext with a deadline of 5 s.
func (a *App) Push(channels []string, payload any, opts ...PushOption) error {
	ctx, cancel := a.s.soon()
	defer cancel()
	return a.PushContext(ctx, channels, payload, opts...)
}

// PushContext pushes a payload to everybody subscribed to the channels, on all nodes; who is in two of them gets it twice.
// It returns nil once the driver has accepted it and never waits for a subscriber: delivery is at most once, in order per
// channel and publisher. While a channel is full of what its subscribers have not been written yet, it waits for room.
//
// The payload is decided by its Go type. A Message, *Message or map with string keys and a string "type" is the
// envelope, to which the channel is added. Anything else travels whole as "data" of a message of type "message"; []byte and
// json.RawMessage are JSON text. It is encoded once and not retained.
//
// Errors: ErrChannelName, ErrTooLarge, ErrUnavailable (the driver, or a channel that stayed full), ErrClosed, the context's,
// and what the payload's encoding returned. An error from the driver means that the message may have been delivered.
func (a *App) PushContext(ctx context.Context, channels []string, payload any, opts ...PushOption) error {
	return a.push(ctx, channels, payload, "", opts)
}

func (a *App) push(ctx context.Context, channels []string, payload any, stamp string, opts []PushOption) error {
	if err := a.s.checkChannels(channels); err != nil {
		return err
	}
	text, err := encodeWithin(payload, stamp, a.s.opts.pushBytes)
	if err != nil {
		return err
	}
	var o pushOptions
	for _, opt := range opts {
		opt(&o)
	}
	var failed []error
	for _, channel := range channels {
		if err := a.publish(ctx, channel, text.in(channel), o.except); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// publish hands one publication to the driver and waits for its word.
func (a *App) publish(ctx context.Context, channel string, text []byte, except []string) error {
	link, err := a.s.linked(ctx)
	if err != nil {
		return err
	}
	a.s.stats.published.Add(1)
	word := make(chan error, 1)
	p := Publication{Topic: Topic{a.name, channel}, Payload: text, Except: except}
	if err := link.Publish(ctx, p, func(err error) { word <- err }); err != nil {
		return unavailable("publish", err)
	}
	select {
	case err = <-word:
	case <-ctx.Done():
		select {
		case err = <-word: // both: the word counts
		default:
			err = ctx.Err()
		}
	}
	if err != nil {
		return unavailable("publish", err)
	}
	return nil
}

// Broadcast sends a payload to every connection of the app, on all nodes. See PushContext.
func (a *App) Broadcast(ctx context.Context, payload any, opts ...PushOption) error {
	text, err := encodeWithin(payload, "", a.s.opts.pushBytes)
	if err != nil {
		return err
	}
	var o pushOptions
	for _, opt := range opts {
		opt(&o)
	}
	return a.publish(ctx, "", text.in(""), o.except)
}

// Send sends a payload to every connection of a client id, on any node. See PushContext for payload and errors; ErrOffline
// when there is no connection.
func (a *App) Send(ctx context.Context, clientID string, payload any) error {
	text, err := encodeWithin(payload, "", a.s.opts.pushBytes)
	if err != nil {
		return err
	}
	return a.command(ctx, "send", Command{Action: ActionSend, ClientID: clientID, Payload: text.in("")})
}

// Subscribe takes every connection of a client id into channels, without asking the Subscribe hook. Errors are those of
// Client.Sub, and ErrOffline.
func (a *App) Subscribe(ctx context.Context, clientID string, channels ...string) error {
	if err := a.s.checkChannels(channels); err != nil {
		return err
	}
	return a.command(ctx, "subscribe", Command{Action: ActionSubscribe, ClientID: clientID, Channels: channels})
}

// Unsubscribe takes every connection of a client id out of channels and tells it so ("unsubscribed"). Errors are those of
// Client.Unsub, and ErrOffline.
func (a *App) Unsubscribe(ctx context.Context, clientID string, channels ...string) error {
	if err := a.s.checkChannels(channels); err != nil {
		return err
	}
	return a.command(ctx, "unsubscribe", Command{Action: ActionUnsubscribe, ClientID: clientID, Channels: channels})
}

// Disconnect closes every connection of a client id, but for those excepted, with a close code (1000, 3000-4999) and a
// reason; 0 stands for 3503, "kicked". ErrOffline when there is no connection.
func (a *App) Disconnect(ctx context.Context, clientID string, code int, reason string, opts ...PushOption) error {
	if code == 0 {
		code, reason = CloseKicked, cmp.Or(reason, "kicked")
	}
	if err := checkCloseCode(code); err != nil {
		return err
	}
	var o pushOptions
	for _, opt := range opts {
		opt(&o)
	}
	return a.command(ctx, "disconnect",
		Command{Action: ActionClose, ClientID: clientID, Code: code, Reason: reason, Except: o.except})
}

func checkCloseCode(code int) error {
	if code == closeNormal || code >= 3000 && code <= 4999 {
		return nil
	}
	return fmt.Errorf("gows: close code %d: use 1000, 3000-3999 (the library's) or 4000-4999 (your own)", code)
}

// command carries a command to the nodes that hold connections of its client id.
func (a *App) command(ctx context.Context, verb string, cmd Command) error {
	cmd.App = a.name
	link, err := a.s.linked(ctx)
	if err != nil {
		return err
	}
	found, err := link.Find(ctx, a.name, cmd.ClientID)
	if err != nil {
		return unavailable(verb, err)
	}
	told := map[string]bool{}
	offline := true
	var failed []error
	for _, m := range found {
		if told[m.Node] {
			continue
		}
		told[m.Node] = true
		switch err := link.Command(ctx, m.Node, cmd); {
		case err == nil:
			offline = false
		case !isOffline(err):
			failed = append(failed, unavailable(verb, err))
		}
	}
	if offline && len(failed) == 0 {
		return ErrOffline
	}
	return errors.Join(failed...)
}

func isOffline(err error) bool { return errors.Is(err, ErrOffline) }

// Online reports whether a client id has a connection on any node.
func (a *App) Online(ctx context.Context, clientID string) (bool, error) {
	link, err := a.s.linked(ctx)
	if err != nil {
		return false, err
	}
	found, err := link.Find(ctx, a.name, clientID)
	if err != nil {
		return false, unavailable("online", err)
	}
	return len(found) > 0, nil
}

// Members lists at most limit connections subscribed to a channel, on all nodes, in no order; limit <= 0 means all. A
// client id with two connections is listed twice. Channels with PresenceOff have none.
func (a *App) Members(ctx context.Context, channel string, limit int) ([]Member, error) {
	if err := a.s.checkChannel(channel); err != nil {
		return nil, err
	}
	link, err := a.s.linked(ctx)
	if err != nil {
		return nil, err
	}
	members, err := link.Members(ctx, Topic{a.name, channel}, limit)
	if err != nil {
		return nil, unavailable("members", err)
	}
	return members, nil
}

// Count returns how many client ids are subscribed to a channel, on all nodes. Channels with PresenceOff have none.
func (a *App) Count(ctx context.Context, channel string) (int, error) {
	if err := a.s.checkChannel(channel); err != nil {
		return 0, err
	}
	link, err := a.s.linked(ctx)
	if err != nil {
		return 0, err
	}
	n, err := link.Count(ctx, Topic{a.name, channel})
	if err != nil {
		return 0, unavailable("count", err)
	}
	return n, nil
}
