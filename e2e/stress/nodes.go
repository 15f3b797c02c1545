package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
)

// kind is what the channels with one prefix have in common.
type kind struct {
	prefix string
	rules  core.Rules
	strict bool // every message must arrive
	latest bool // the last message must arrive; it has one publisher
	fat    bool // its messages are large: it is for those who stall
}

var (
	broadcasts = &kind{strict: true}
	kinds      = []*kind{
		{prefix: "room", strict: true, rules: core.Rules{Presence: core.PresenceEvents}},
		{prefix: "feed", strict: true},
		{prefix: "mute", strict: true, rules: core.Rules{Presence: core.PresenceOff}},
		{prefix: "hall", strict: true},
		{prefix: "drop", rules: core.Rules{Slow: core.DropOldest}},
		{prefix: "last", latest: true, rules: core.Rules{Slow: core.Latest}},
		{prefix: "fatclose", strict: true, fat: true},
		{prefix: "fatdrop", fat: true, rules: core.Rules{Slow: core.DropOldest}},
		{prefix: "fatlast", fat: true, latest: true, rules: core.Rules{Slow: core.Latest}},
	}
)

const (
	outboxBytes = 512 << 10
	pingEvery   = 10 * time.Second
	pongWithin  = 15 * time.Second
	writeStall  = 5 * time.Second
)

// group is a cluster of nodes that share a driver and a policy for sessions.
type group struct {
	stage    *stage
	name     string
	sessions core.Sessions
	driver   core.Driver
	nodes    []*node
}

// node is a server that stays, and the service in it, which is ended and started again.
type node struct {
	group  *group
	name   string
	plain  string // addresses
	secure string
	life   atomic.Pointer[life]
	server *http.Server
	served chan struct{} // gets one when a listener is done
}

// life is one service of a node.
type life struct {
	node    *node
	name    string
	service *core.Service
	closing atomic.Bool // Shutdown has been called
	closed  atomic.Bool // Shutdown has returned
}

// app returns the verbs of an app.
func (l *life) app(name string) *core.App { return l.service.App(name) }

func (g *group) start(n int) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	for i := range n {
		node := &node{group: g, name: fmt.Sprintf("%s%d", g.name, i), served: make(chan struct{}, 2)}
		if err := node.begin(0); err != nil {
			return err
		}
		if err := node.listen(certificate); err != nil {
			return err
		}
		g.nodes = append(g.nodes, node)
	}
	return nil
}

// begin starts a service.
func (n *node) begin(number int) error {
	l := &life{node: n, name: fmt.Sprintf("%s.%d", n.name, number)}
	options := []core.Option{
		core.WithSessions(n.group.sessions), core.WithOutboxBytes(outboxBytes), core.WithPing(pingEvery, pongWithin),
		core.WithWriteStall(writeStall), core.WithLogger(n.group.stage.log),
	}
	for _, k := range kinds {
		options = append(options, core.WithChannel(k.prefix+":*", k.rules))
	}
	l.service = core.New(n.group.driver, append(options, l.provider())...)
	if err := l.service.RegisterProvider("shop", l.provider()); err != nil {
		return err
	}
	if err := l.service.Run(); err != nil {
		return err
	}
	n.life.Store(l)
	return nil
}

// end shuts the service down. Nobody may be left then.
func (n *node) end(ctx context.Context) error {
	l := n.life.Load()
	l.closing.Store(true)
	if err := l.service.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) && n.group.stage.pulse.starved() {
		n.group.stage.count.unavailable.Add(1)
	} else if err != nil {
		return fmt.Errorf("%s: Shutdown: %w", l.name, err)
	}
	l.closed.Store(true)
	for _, c := range n.group.stage.all() {
		if err := c.leftBehind(l); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) listen(certificate tls.Certificate) error {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { n.life.Load().service.ServeHTTP(w, r) })
	n.server = &http.Server{Handler: mux, ReadHeaderTimeout: writeTimeout, ErrorLog: log.New(discard{}, "", 0)}
	n.plain, n.secure = plain.Addr().String(), secure.Addr().String()
	for _, l := range []net.Listener{plain, secure} {
		go func() { // ends with close
			_ = n.server.Serve(l)
			n.served <- struct{}{}
		}()
	}
	return nil
}

func (n *node) close() {
	_ = n.server.Close()
	<-n.served
	<-n.served
}

// discard takes what net/http says of handshakes that were broken off.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	text, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{text}, PrivateKey: key}, err
}

var errBadToken = errors.New("a bad token")

// provider are the hooks of one service. The token says which connection it is.
func (l *life) provider() *core.Provider {
	s := l.node.group.stage
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			c := s.find(token)
			if c == nil {
				return nil, errBadToken
			}
			identity := map[string]any{"client_id": c.id}
			if !c.expires.IsZero() {
				identity["exp"] = c.expires.Unix()
			}
			return identity, nil
		},
		Event: func(name string, client *core.Client) error {
			c := s.find(client.Token)
			switch {
			case c == nil:
				s.fail("the server", fmt.Errorf("%s of an unknown connection %q", name, client.Token))
			case name == core.EventOnline:
				c.goesOnline(l, client)
			case name == core.EventOffline:
				c.goesOffline(l, client)
			default:
				c.inHook(l, name, func() {})
			}
			return nil
		},
		Subscribe: func(client *core.Client, channel string) (err error) {
			s.hook(l, client, "Subscribe", func(*conn) {
				if strings.HasPrefix(channel, "staff") {
					err = core.Errorf(http.StatusForbidden, "staff only")
				}
			})
			return err
		},
		Publish: func(client *core.Client, m *core.Message) error {
			s.hook(l, client, "Publish", func(*conn) {})
			return nil
		},
		Message: func(m *core.Message, client *core.Client) (err error) {
			panics := false
			s.hook(l, client, "Message", func(c *conn) {
				switch m.Type {
				case "echo":
					err = m.Reply(m.Data)
				case "leave":
					err = client.Close(leaveCode, "bye")
				case "panic":
					panics = true
				default:
					err = core.Errorf(http.StatusNotFound, "there is no type %q", m.Type)
				}
			})
			if panics {
				panic("as was asked for") //nolint:forbidigo // hooks that panic are part of the load
			}
			return err
		},
	}
}

// leaveCode is what the application closes with, who says leave.
const leaveCode = 4001
