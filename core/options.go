package core

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Option configures a Service. *Provider is one too. An option that makes no sense is reported by Run.
type Option interface{ apply(s *Service) }

type optionFunc func(*Service)

func (f optionFunc) apply(s *Service) { f(s) }

// options holds what the WithX functions set; its zero value is never used.
type options struct {
	messageBytes, pushBytes, outboxBytes int
	pingInterval, pingTimeout            time.Duration
	stall, auth                          time.Duration
	channels, channelBytes               int
	spread                               time.Duration
	sessions                             Sessions
	limits                               limits
	refusal                              RefusalMode
	origins                              []string
	presence                             []string
	rules                                []*Rules
	log                                  *slog.Logger
	bad                                  []error
}

func defaults() options {
	return options{
		messageBytes: 64 << 10, pushBytes: 1 << 20, outboxBytes: 1 << 20,
		pingInterval: 25 * time.Second, pingTimeout: 10 * time.Second,
		stall: 10 * time.Second, auth: 10 * time.Second,
		channels: 1024, channelBytes: 200, spread: 5 * time.Second,
		limits: limits{outboxBytes: halfOfMemoryLimit(), logLines: 100},
		log:    slog.Default(),
	}
}

// positive reports n, or notes that the option of that name must be more than zero.
func positive[N int | time.Duration](o *options, option string, n N) N {
	if n <= 0 {
		o.bad = append(o.bad, fmt.Errorf("gows: core.%s(%v): must be more than 0", option, n))
	}
	return n
}

// WithMessageBytes bounds a message from a client, in bytes. Default 64 KiB; a larger one closes the connection with 1009.
func WithMessageBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.messageBytes = positive(&s.opts, "WithMessageBytes", n) })
}

// WithPushBytes bounds an encoded message to clients, in bytes. Default 1 MiB; a larger one is refused with ErrTooLarge.
func WithPushBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.pushBytes = positive(&s.opts, "WithPushBytes", n) })
}

// WithOutboxBytes bounds what waits for one client that reads slowly, in bytes. Default 1 MiB. A client for whom more
// waits when the next frames arrive is treated as the channel's Rules.Slow says.
func WithOutboxBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.outboxBytes = positive(&s.opts, "WithOutboxBytes", n) })
}

// WithPing sets after how much silence a client is pinged, and how long it may stay silent then. Default 25 s and 10 s.
// Keep the interval below the idle timeout of the proxies in between (nginx: 60 s).
func WithPing(interval, timeout time.Duration) Option {
	return optionFunc(func(s *Service) {
		s.opts.pingInterval = positive(&s.opts, "WithPing", interval)
		s.opts.pingTimeout = positive(&s.opts, "WithPing", timeout)
	})
}

// WithWriteStall sets how long a peer may take nothing of what waits for it. Default 10 s, then it is closed with 3003.
func WithWriteStall(d time.Duration) Option {
	return optionFunc(func(s *Service) { s.opts.stall = positive(&s.opts, "WithWriteStall", d) })
}

// WithAuthTimeout bounds Auth and Authenticate. Default 10 s, then the client is told to try again.
func WithAuthTimeout(d time.Duration) Option {
	return optionFunc(func(s *Service) { s.opts.auth = positive(&s.opts, "WithAuthTimeout", d) })
}

// WithMaxChannels bounds the channels of one client. Default 1,024.
func WithMaxChannels(n int) Option {
	return optionFunc(func(s *Service) { s.opts.channels = positive(&s.opts, "WithMaxChannels", n) })
}

// WithChannelBytes bounds a channel's name, in bytes. Default 200.
func WithChannelBytes(n int) Option {
	return optionFunc(func(s *Service) { s.opts.channelBytes = positive(&s.opts, "WithChannelBytes", n) })
}

// WithLogger sets where the service logs. Default slog.Default(); nil discards. Nothing is logged per message, and never a
// token, a query or a payload.
func WithLogger(log *slog.Logger) Option {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return optionFunc(func(s *Service) { s.opts.log = log })
}

// WithOrigins allows browsers from other origins than the request's own host: full origins such as
// "https://app.example.com", with * for one label or for the port ("https://*.example.com", "http://localhost:*"), or
// "null". Further calls add to the list.
func WithOrigins(patterns ...string) Option {
	return optionFunc(func(s *Service) {
		for _, p := range patterns {
			if _, host, full := strings.Cut(p, "://"); p != "null" && (!full || host == "" || strings.Contains(host, "/")) {
				s.opts.bad = append(s.opts.bad, fmt.Errorf(`gows: core.WithOrigins(%q): a full origin such as "https://app.example.com" is needed`, p))
			}
		}
		s.opts.origins = append(s.opts.origins, patterns...)
	})
}

// WithPresenceData names the keys of the identity that other clients see as Member.Data and in joins. Default none.
func WithPresenceData(keys ...string) Option {
	return optionFunc(func(s *Service) { s.opts.presence = append([]string(nil), keys...) })
}

// WithShutdownWindow sets over how long Shutdown spreads the closes of more than 1,000 connections, so that they do not all
// come back, to the other nodes, in the same second. Default 5 s; never more than half of the time that the context of Shutdown
// has left. 0 closes all of them at once.
func WithShutdownWindow(d time.Duration) Option {
	return optionFunc(func(s *Service) {
		if d < 0 {
			s.opts.bad = append(s.opts.bad, fmt.Errorf("gows: core.WithShutdownWindow(%v): must not be negative", d))
		}
		s.opts.spread = d
	})
}

// Sessions says what happens when a client id connects that is already connected.
type Sessions int

// The session policies.
const (
	AllowMany  Sessions = iota // the connections live side by side: tabs, phones
	ReplaceOld                 // the newer closes the older with 3502, on whatever node
	RejectNew                  // the newer is refused with 3504
)

// WithSessions sets the policy for a client id that connects twice. Default AllowMany.
func WithSessions(policy Sessions) Option {
	return optionFunc(func(s *Service) { s.opts.sessions = policy })
}

// RefusalMode says how a connection is refused.
type RefusalMode int

// The refusal modes.
const (
	RefuseAuto  RefusalMode = iota // by close when the request carries an Origin (a browser's script sees no HTTP status), else by HTTP
	RefuseHTTP                     // always 401, 403, 429 or 503 with a JSON body
	RefuseClose                    // always accept and close, so that every client sees code and reason
)

// WithRefusal forces one way of refusing. Malformed handshakes and foreign origins always get HTTP. Default RefuseAuto.
func WithRefusal(mode RefusalMode) Option {
	return optionFunc(func(s *Service) { s.opts.refusal = mode })
}

// Presence says what is told about who is in a channel.
type Presence int

// The presence rules.
const (
	PresenceOn     Presence = iota // Members, Count and the presence verb answer
	PresenceEvents                 // and the channel is told "join" and "leave"
	PresenceOff                    // nothing is kept: Members is empty
)

// Slow says what happens to a client for whom more than WithOutboxBytes waits.
type Slow int

// The policies for slow clients.
const (
	CloseSlow  Slow = iota // close with 3003; it comes back and reloads
	DropOldest             // drop the oldest waiting messages of that channel
	Latest                 // while anything waits skip the channel, then send its last message
)

// Rules are the properties of the channels that match a pattern.
type Rules struct {
	Presence Presence
	Slow     Slow

	pattern string
}

// WithChannel sets the rules of the channels matching pattern, in which * stands for any characters: "room:*". The first
// pattern that matches wins; a channel that matches none has the zero Rules.
func WithChannel(pattern string, rules Rules) Option {
	rules.pattern = pattern
	return optionFunc(func(s *Service) {
		if pattern == "" {
			s.opts.bad = append(s.opts.bad, errors.New(`gows: core.WithChannel(""): a pattern such as "room:*" is needed`))
		}
		s.opts.rules = append(s.opts.rules, &rules)
	})
}

var noRules Rules

func (o *options) rulesOf(channel string) *Rules {
	for _, r := range o.rules {
		if matches(r.pattern, channel) {
			return r
		}
	}
	return &noRules
}

// matches reports whether s fits pattern, in which * stands for any characters, none included.
func matches(pattern, s string) bool {
	prefix, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, prefix)
	for ok && strings.Contains(rest, "*") {
		var part string
		part, rest, _ = strings.Cut(rest, "*")
		_, s, ok = strings.Cut(s, part)
	}
	return ok && strings.HasSuffix(s, rest)
}
