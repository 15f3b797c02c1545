// Package adaptertest is what every adapter has to do, on plain connections and on TLS:
//
//	func TestGin(t *testing.T) { adaptertest.Run(t, adaptertest.Host{Serve: serve}) }
//
// It drives a real server of the framework with real sockets, in one process.
package adaptertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
)

// Host is the framework with the adapter.
//
// Serve serves these routes:
//
//	GET  /ws           the adapter without options
//	GET  /context      WithToken: header X-Other, behind a middleware that leaves header X-Token as the context value "token"
//	GET  /identity     WithIdentity: {"client_id": header X-User}, nil when there is no such header
//	GET  /nameless     WithIdentity: {"role": "admin"}, which has no client_id
//	GET  /apps/{app}   WithApp: the route parameter; WithToken: header X-Token; WithData: {"lang": header X-Lang}
//	GET  /expired      Refuse(service, core.CloseExpired, "the token has expired")
//	GET  /token        a plain handler that answers with Token
//	GET  /from         behind Middleware, a plain handler that does Pushed(From)
//	GET  /nobody       a plain handler without Middleware that does Pushed(From)
//	GET  /nil          the adapter with a nil service
//	POST /ws           the adapter without options
//
// Long headers pass: the framework's limit is at least 100 KiB.
type Host struct {
	// Serve serves on l until the test ends.
	Serve func(t testing.TB, service *core.Service, l net.Listener)
	// Holds says that a goroutine of the framework stays with each connection even when it is plain.
	Holds bool
}

// Pushed pushes to the channel "room" and returns the HTTP status that says how that went.
func Pushed(service *core.Service) int {
	if service == nil {
		return 404
	}
	if err := service.Push([]string{"room"}, map[string]any{"type": "news"}); err != nil {
		return 503
	}
	return 204
}

// Run runs all cases against host.
func Run(t *testing.T, host Host) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Run("plain", func(t *testing.T) {
				if !c.alone {
					t.Parallel()
				}
				c.run(&stage{T: t, host: host})
			})
			t.Run("TLS", func(t *testing.T) {
				if !c.alone {
					t.Parallel()
				}
				c.run(&stage{T: t, host: host, secure: true})
			})
		})
	}
}

var cases = []struct {
	name  string
	alone bool // it counts what the process has
	run   func(s *stage)
}{
	{"nothing is left behind by 2,000 connections, or on TLS by 200", true, (*stage).nothingIsLeftBehind},
	{"an idle connection costs one goroutine, on TLS at most two", true, (*stage).oneGoroutineEach},

	{"a page and a program are let in", false, (*stage).letIn},
	{"a token is found wherever it may be", false, (*stage).tokens},
	{"the context's token comes before the request's", false, (*stage).contextToken},
	{"an identity from a middleware is believed, and without one the token decides", false, (*stage).identities},
	{"the options say app, token and data", false, (*stage).options},
	{"a refusal is a close for a page and a status for a program", false, (*stage).refusals},
	{"a middleware refuses with a code of its own", false, (*stage).refusedByMiddleware},
	{"pages of foreign origins are refused", false, (*stage).origins},
	{"a request that is no handshake is told so", false, (*stage).noHandshake},
	{"a service that is not there or does not run says so", false, (*stage).noService},
	{"odd headers get an answer", false, (*stage).oddHeaders},
	{"no header hides the address that is counted, unless its proxy is trusted", false, (*stage).addresses},

	{"messages of up to 64 KiB come and go", false, (*stage).messages},
	{"a message in the packet of the request is not lost", false, (*stage).earlyMessage},
	{"pings are answered", false, (*stage).pings},
	{"other handlers find the service", false, (*stage).sharedService},
	{"what a hook keeps does not change with the next request", false, (*stage).keptMemory},
	{"a panic in a hook harms its own connection only", false, (*stage).panics},

	{"the server's close is seen at once", false, (*stage).serverCloses},
	{"the client's close and its disappearance end in offline", false, (*stage).clientCloses},
	{"shutdown tells everybody to come back", false, (*stage).shutdown},
}

// listen returns a listener on loopback, and for TLS what a client needs to trust it.
func listen(t testing.TB, secure bool) (net.Listener, *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if !secure {
		return l, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(parsed)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	return tls.NewListener(l, config), &tls.Config{RootCAs: trusted}
}
