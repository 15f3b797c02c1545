package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

type customError struct{ detail string }

func (e customError) Error() string { return "custom: " + e.detail }

// hookErrors are what Auth, Authenticate and online may return, and what becomes of it. A text in inLog is for the log alone.
var hookErrors = []struct {
	name   string
	err    error
	status int
	code   int
	reason string
	inLog  string
}{
	{"errors.New is told", errors.New("please log in"), 401, core.CloseRefused, "please log in", ""},
	{"Errorf without verbs is told", fmt.Errorf("请输入用户名"), 401, core.CloseRefused, "请输入用户名", ""}, //nolint:perfsprint // what is tested
	{"Errorf without %w is told", fmt.Errorf("no user %d", 7), 401, core.CloseRefused, "no user 7", ""},
	{"a wrapped cause is not told", fmt.Errorf("load user: %w", errors.New("table users is gone")), 401, core.CloseRefused, "unauthorized", "table users is gone"},
	{"joined errors are not told", errors.Join(errors.New("table users is gone")), 401, core.CloseRefused, "unauthorized", "table users is gone"},
	{"a type of its own is not told", customError{"shard 4"}, 401, core.CloseRefused, "unauthorized", "shard 4"},
	{"a file error is not told", &os.PathError{Op: "open", Path: "/etc/keys", Err: os.ErrNotExist}, 401, core.CloseRefused, "unauthorized", "/etc/keys"},
	{"a deadline means try again", context.DeadlineExceeded, 503, core.CloseInternal, "try again", "deadline exceeded"},
	{"a wrapped deadline means try again", fmt.Errorf("query db-1: %w", context.DeadlineExceeded), 503, core.CloseInternal, "try again", "db-1"},
	{"a cancelled context means try again", fmt.Errorf("query db-1: %w", context.Canceled), 503, core.CloseInternal, "try again", "db-1"},
	{
		"a network error means try again", &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 3306}, Err: syscall.ECONNREFUSED},
		503, core.CloseInternal, "try again", "10.0.0.5:3306",
	},
	{
		"a wrapped network error means try again", fmt.Errorf("ask: %w", &url.Error{Op: "Get", URL: "http://auth.internal", Err: syscall.ECONNRESET}),
		503, core.CloseInternal, "try again", "auth.internal",
	},
	{"a lookup error means try again", &net.DNSError{Err: "no such host", Name: "db.internal"}, 503, core.CloseInternal, "try again", "db.internal"},
	{"the core's ErrUnavailable means try again", fmt.Errorf("push: %w", core.ErrUnavailable), 503, core.CloseInternal, "try again", "push"},
	{"core.Errorf 401", core.Errorf(401, "sign in first"), 401, core.CloseRefused, "sign in first", ""},
	{"core.Errorf 403", core.Errorf(403, "not for guests"), 403, core.CloseRefused, "not for guests", ""},
	{"core.Errorf 404", core.Errorf(404, "no such tenant"), 404, core.CloseRefused, "no such tenant", ""},
	{"core.Errorf 429 means try again", core.Errorf(429, "slow down"), 429, core.CloseInternal, "slow down", ""},
	{"core.Errorf 503 means try again", core.Errorf(503, "maintenance"), 503, core.CloseInternal, "maintenance", ""},
	{"core.Errorf 3005 is a close code", core.Errorf(core.CloseExpired, "expired"), 401, core.CloseExpired, "expired", ""},
	{"core.Errorf 3504 is a close code", core.Errorf(core.CloseTooMany, "three devices at most"), 429, core.CloseTooMany, "three devices at most", ""},
	{"core.Errorf 4001 is a close code", core.Errorf(4001, "pay first"), 403, 4001, "pay first", ""},
	{"core.Errorf with a code that means nothing", core.Errorf(200, "fine"), 500, core.CloseInternal, "fine", ""},
	{"core.Errorf in a chain", fmt.Errorf("check: %w", core.Errorf(403, "banned")), 403, core.CloseRefused, "banned", ""},
	{"core.Errorf tells what it wraps", core.Errorf(403, "banned: %w", context.DeadlineExceeded), 403, core.CloseRefused, "banned: context deadline exceeded", ""},
}

func TestWhatAnErrorOfAuthMeans(t *testing.T) {
	t.Parallel()
	for _, c := range hookErrors {
		refusing := map[string]*core.Provider{
			"Auth": {Auth: func(string) (map[string]any, error) { return nil, c.err }},
			"Authenticate": {Authenticate: func(context.Context, *core.Handshake) (map[string]any, error) {
				return map[string]any{"client_id": "ignored"}, c.err
			}},
		}
		for hook, provider := range refusing {
			t.Run(hook+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				log, logged := keepJournal(t)
				server := mount(t, coretest.Run(t, logged, provider))
				refusedBothWays(t, server, c.status, c.code, c.reason)
				if c.inLog != "" {
					if n := len(log.with("gows: refused", c.inLog)); n != 2 {
						t.Errorf("%d log lines hold the cause, want 2: %s", n, log.with())
					}
				}
			})
		}
	}
}

// refusedBothWays fails the test unless a client without an Origin sees the HTTP response, and a page the close.
func refusedBothWays(t *testing.T, server *httptest.Server, status, code int, reason string) {
	t.Helper()
	byHTTP := knock(t, server, "/?token="+secret, nil)
	if byHTTP.Status != status || byHTTP.Body.Status != status || byHTTP.Body.Code != code || byHTTP.Body.Reason != reason {
		t.Errorf("by HTTP: %d %+v, want %d, %d, %q", byHTTP.Status, byHTTP.Body, status, code, reason)
	}
	if kind := byHTTP.Header.Get("Content-Type"); kind != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", kind)
	}
	byClose := knock(t, server, "/?token="+secret, fromPage(server))
	if byClose.Status != http.StatusSwitchingProtocols || byClose.Code != code || byClose.Reason != reason {
		t.Errorf("by close: %d, closed with %d %q, want %d %q", byClose.Status, byClose.Code, byClose.Reason, code, reason)
	}
}

func TestAnErrorOfOnlineClosesWithoutAnOffline(t *testing.T) {
	t.Parallel()
	for _, c := range hookErrors {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			offline := make(chan struct{}, 1)
			service := coretest.Run(t, logged, &core.Provider{Event: func(name string, client *core.Client) error {
				if name == core.EventOffline {
					offline <- struct{}{}
				}
				return c.err
			}})
			conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
			if why := conn.Closed(); why.Code != c.code || why.Reason != c.reason {
				t.Errorf("closed with %v, want %d %q", why, c.code, c.reason)
			}
			if c.inLog != "" {
				log.has("gows: refused", c.inLog, "client=alice")
			}
			eventually(t, "the end", func() bool { return service.Stats().Connections == 0 })
			if len(offline) > 0 {
				t.Error("offline was called for a connection that never was online")
			}
		})
	}
}

func TestAPanicOfAuthMeansTryAgain(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	server := mount(t, coretest.Run(t, logged, &core.Provider{Auth: func(string) (map[string]any, error) {
		panic("no users table")
	}}))
	refusedBothWays(t, server, http.StatusServiceUnavailable, core.CloseInternal, "try again")
	if n := len(log.with("level=ERROR", "Auth panicked", "no users table", "TestAPanicOfAuthMeansTryAgain")); n != 2 {
		t.Errorf("%d log lines with the stack, want 2: %s", n, log.with())
	}
}

func TestAnAuthThatHangsMeansTryAgain(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	service := coretest.Run(t, logged, core.WithAuthTimeout(20*time.Millisecond), &core.Provider{
		Auth: func(string) (map[string]any, error) {
			<-release
			return core.Anonymous("")
		},
	})
	refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseInternal, "try again")
	if n := len(log.with("gows: refused", "Auth did not return in 20ms")); n != 2 {
		t.Error(log.with())
	}
}

func TestTheContextOfAuthenticateEndsAfterWithAuthTimeout(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithAuthTimeout(20*time.Millisecond), &core.Provider{
		Authenticate: func(ctx context.Context, _ *core.Handshake) (map[string]any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseInternal, "try again")
}

func TestAnAuthThatEndsItsGoroutineIsRefused(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: func(string) (map[string]any, error) {
		runtime.Goexit() // as t.Fatal in a hook of a test does
		return nil, nil
	}})
	refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseInternal, "try again")
}

func TestWithoutAuthEverybodyIsUnauthorized(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]core.Option{
		"no provider":           nil,
		"a provider without":    {&core.Provider{Message: func(*core.Message, *core.Client) error { return nil }}},
		"a nil provider":        {(*core.Provider)(nil)},
		"an option that is nil": {nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := mount(t, coretest.Run(t, append(opts, core.WithLogger(nil))...))
			refusedBothWays(t, server, http.StatusUnauthorized, core.CloseRefused, "unauthorized")
		})
	}
}

type userID int

func (id userID) String() string { return fmt.Sprintf("user-%d", int(id)) }

// unusable is what a client hears whose identity is the application's mistake.
const unusable = "the identity cannot be used: see the server's log"

func TestClientIDs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value any
		id    string // admitted under it
		inLog string // or refused with it
	}{
		{"alice", "alice", ""},
		{"张三", "张三", ""},
		{7, "7", ""},
		{int8(-7), "-7", ""},
		{uint64(math.MaxUint64), "18446744073709551615", ""},
		{int64(math.MinInt64), "-9223372036854775808", ""},
		{float64(1234567), "1234567", ""},
		{float64(1<<53 - 1), "9007199254740991", ""},
		{float64(-3), "-3", ""},
		{json.Number("1200000000000000001"), "1200000000000000001", ""},
		{userID(7), "user-7", ""},
		{1.2e18, "", "use a string"},
		{float64(1 << 53), "", "use a string"},
		{1.5, "", "use a string"},
		{math.NaN(), "", "use a string"},
		{math.Inf(1), "", "use a string"},
		{"", "", "(keys: client_id, role, user_name)"},
		{json.Number(""), "", "(keys: client_id, role, user_name)"},
		{nil, "", "<nil>: use a string"},
		{true, "", "a bool: use a string"},
		{[]byte("alice"), "", "a []uint8: use a string"},
		{(*url.URL)(nil), "", "panic"}, // a Stringer that panics
	} {
		t.Run(fmt.Sprintf("%T %v", c.value, c.id+c.inLog), func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			came := make(chan *core.Client, 1)
			service := coretest.Run(t, logged, &core.Provider{
				Auth: func(string) (map[string]any, error) {
					return map[string]any{"client_id": c.value, "user_name": secret, "role": secret}, nil
				},
				Event: func(name string, client *core.Client) error {
					if name == core.EventOnline {
						came <- client
					}
					return nil
				},
			})
			if c.id == "" {
				refusedBothWays(t, mount(t, service), http.StatusInternalServerError, core.CloseInternal, unusable)
				if n := len(log.with("level=ERROR", "gows: unusable identity", c.inLog)); n != 2 {
					t.Errorf("%d log lines contain %q: %s", n, c.inLog, log.with())
				}
				return
			}
			coretest.ConnectToken(t, service, secret)
			if client := <-came; client.ClientID != c.id {
				t.Errorf("client id %q, want %q", client.ClientID, c.id)
			}
		})
	}
}

func TestAnIdentityWithoutClientIDNamesItsKeysInTheLog(t *testing.T) {
	t.Parallel()
	for keys, identity := range map[string]map[string]any{
		"(keys: role, user_name)": {"user_name": secret, "role": secret},
		"(keys: )":                nil,
	} {
		log, logged := keepJournal(t)
		service := coretest.Run(t, logged, &core.Provider{Auth: func(string) (map[string]any, error) { return identity, nil }})
		refusedBothWays(t, mount(t, service), http.StatusInternalServerError, core.CloseInternal, unusable)
		if n := len(log.with("level=ERROR", `the identity has no \"client_id\" `+keys)); n != 2 {
			t.Error(log.with())
		}
	}
}

type numericDate struct{ time.Time } // as in JWT libraries

func TestAnExpiredTokenIsRefused(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-time.Minute)
	for _, exp := range []any{
		past.Unix(), int(past.Unix()), float64(past.Unix()), json.Number(strconv.FormatInt(past.Unix(), 10)), past, &numericDate{past},
	} {
		t.Run(fmt.Sprintf("%T", exp), func(t *testing.T) {
			t.Parallel()
			service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: func(string) (map[string]any, error) {
				return map[string]any{"client_id": "alice", "exp": exp}, nil
			}})
			refusedBothWays(t, mount(t, service), http.StatusUnauthorized, core.CloseExpired, "the token has expired")
		})
	}
}

func TestAnExpiryThatIsNoTimeIsRefusedAndLogged(t *testing.T) {
	t.Parallel()
	for _, exp := range []any{"tomorrow", true, json.Number("soon"), (*time.Time)(nil)} {
		t.Run(fmt.Sprintf("%T", exp), func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			service := coretest.Run(t, logged, &core.Provider{Auth: func(string) (map[string]any, error) {
				return map[string]any{"client_id": "alice", "exp": exp}, nil
			}})
			refusedBothWays(t, mount(t, service), http.StatusInternalServerError, core.CloseInternal, unusable)
			if n := len(log.with("level=ERROR", "gows: unusable identity")); n != 2 {
				t.Error(log.with())
			}
		})
	}
}

func TestAConnectionIsClosedWhenItsTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := coretest.Run(t)
		alice := coretest.Connect(t, service, map[string]any{"client_id": "alice", "exp": time.Now().Add(5 * time.Minute)})
		bob := coretest.Connect(t, service, map[string]any{"client_id": "bob"})
		<-time.After(5*time.Minute - time.Second)
		alice.Nothing()
		if why := alice.Closed(); why.Code != core.CloseExpired || why.Reason != "the token has expired" {
			t.Error(why)
		}
		bob.Nothing()
	})
}

func TestWhichApp(t *testing.T) {
	t.Parallel()
	// A token "app" is for that app, any other for none. The middleware's identity names the app of its "app" key.
	for _, c := range []struct {
		name      string
		providers []string
		route     string // the adapter's option
		header    string
		query     string
		token     string
		identity  map[string]any
		app       string // where the client ends up
		provider  string // whose hooks it gets
		status    int    // or the refusal
		reason    string
	}{
		{name: "the default", providers: []string{""}, token: "-", app: "", provider: ""},
		{name: "the route's", providers: []string{"", "shop"}, route: "shop", token: "-", app: "shop", provider: "shop"},
		{name: "the route's before the header's", providers: []string{"", "shop"}, route: "shop", header: "blog", token: "-", app: "shop", provider: "shop"},
		{name: "the header's", providers: []string{"", "shop"}, header: "shop", token: "-", app: "shop", provider: "shop"},
		{name: "the query's", providers: []string{"", "shop"}, query: "shop", token: "-", app: "shop", provider: "shop"},
		{name: "the header's before the query's", providers: []string{"shop", "blog"}, header: "shop", query: "blog", token: "-", app: "shop", provider: "shop"},
		{name: "the token's", providers: []string{"", "shop"}, token: "shop", app: "shop", provider: "shop"},
		{name: "asked for and the token's", providers: []string{"", "shop"}, query: "shop", token: "shop", app: "shop", provider: "shop"},
		{name: "not the token's", providers: []string{"", "shop", "blog"}, query: "blog", token: "shop", status: 403, reason: "this token is for another app"},
		{name: "not the route's", providers: []string{"", "shop", "blog"}, route: "blog", token: "shop", status: 403, reason: "this token is for another app"},
		{name: "any, with a provider for all", providers: []string{"*"}, query: "shop", token: "-", app: "shop", provider: "*"},
		{name: "its own before the one for all", providers: []string{"*", "shop"}, query: "shop", token: "-", app: "shop", provider: "shop"},
		{name: "the default is not for all", providers: []string{"*"}, token: "-", status: 401, reason: "unauthorized"},
		{name: "unknown", providers: []string{""}, query: "shop", token: "-", status: 404, reason: "there is no such app"},
		{name: "the token's is unknown", providers: []string{""}, token: "shop", status: 404, reason: "there is no such app"},
		{name: "no name for an app", providers: []string{"*"}, query: "a\nb", token: "-", status: 404, reason: "there is no such app"},
		{name: "no UTF-8", providers: []string{"*"}, query: "a\xff", token: "-", status: 404, reason: "there is no such app"},
		{name: "the star is no name", providers: []string{"*"}, query: "*", token: "-", status: 404, reason: "there is no such app"},
		{name: "the identity's", providers: []string{"", "shop"}, identity: map[string]any{"app": "shop"}, app: "shop", provider: "shop"},
		{name: "with an identity the page has no say", providers: []string{"", "shop"}, identity: map[string]any{}, header: "shop", query: "shop", app: "", provider: ""},
		{name: "with an app in the identity even less", providers: []string{"shop", "blog"}, identity: map[string]any{"app": "shop"}, query: "blog", app: "shop", provider: "shop"},
		{name: "the route's before the identity's", providers: []string{"shop", "blog"}, identity: map[string]any{"app": "blog"}, route: "shop", app: "shop", provider: "shop"},
		{name: "the identity's is unknown", providers: []string{""}, identity: map[string]any{"app": "shop"}, status: 404, reason: "there is no such app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			type arrival struct{ app, provider string }
			came := make(chan arrival, 1)
			service := coretest.Run(t, core.WithLogger(nil))
			for _, name := range c.providers {
				err := service.RegisterProvider(name, &core.Provider{
					Auth: func(token string) (map[string]any, error) {
						identity := map[string]any{"client_id": "alice"}
						if token != "-" {
							identity["app"] = token
						}
						return identity, nil
					},
					Event: func(event string, client *core.Client) error {
						if event == core.EventOnline {
							came <- arrival{client.App, name}
						}
						return nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			h := coretest.Handshake()
			h.App, h.Token = c.route, c.token
			if c.header != "" {
				h.Header.Set("App", c.header)
			}
			if c.query != "" {
				h.Query.Set("app", c.query)
			}
			if c.identity != nil {
				h.Identity = map[string]any{"client_id": "alice"}
				maps.Copy(h.Identity, c.identity)
			}
			if c.status != 0 {
				_, err := service.Admit(context.Background(), h)
				var refused *core.Refusal
				if !errors.As(err, &refused) || refused.Status != c.status || refused.Code != core.CloseRefused || refused.Reason != c.reason {
					t.Fatal(err)
				}
				return
			}
			coretest.Dial(t, service, h)
			if got := <-came; got != (arrival{c.app, c.provider}) {
				t.Errorf("app and provider %q, want %q and %q", got, c.app, c.provider)
			}
		})
	}
}

func TestAuthenticateSeesTheWholeHandshake(t *testing.T) {
	t.Parallel()
	saw := make(chan *core.Handshake, 1)
	service := coretest.Run(t, &core.Provider{
		Auth: func(string) (map[string]any, error) { return nil, errors.New("Authenticate replaces Auth") },
		Authenticate: func(_ context.Context, h *core.Handshake) (map[string]any, error) {
			saw <- h
			return core.Anonymous("")
		},
	})
	if err := service.RegisterProvider("shop", &core.Provider{}); err != nil {
		t.Fatal(err)
	}
	h := coretest.Handshake()
	h.RemoteAddr = "192.0.2.7:999"
	h.Header.Set("Token", secret)
	h.Header.Set("Cookie", "session=1")
	h.Query.Set("room", "1")
	coretest.Dial(t, service, h)
	if h := <-saw; h.Token != secret || h.RemoteAddr != "192.0.2.7:999" || h.Header.Get("Cookie") != "session=1" ||
		h.Query.Get("room") != "1" || h.Host != "example.com" || h.App != "" {
		t.Errorf("%+v", h)
	}
}

func TestAnIdentityFromTheContextSkipsAuth(t *testing.T) {
	t.Parallel()
	came := make(chan *core.Client, 1)
	service := coretest.Run(t, &core.Provider{
		Auth: func(string) (map[string]any, error) { return nil, errors.New("Auth was asked") },
		Event: func(name string, client *core.Client) error {
			if name == core.EventOnline {
				came <- client
			}
			return nil
		},
	})
	server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := core.ContextWithIdentity(r.Context(), map[string]any{"client_id": "alice", "role": "admin"})
		service.ServeHTTP(w, r.WithContext(ctx))
	}))
	call(t, server, openingRequest(server, "/?token="+secret)).enter()
	client := <-came
	if client.ClientID != "alice" || client.Data["role"] != "admin" {
		t.Error(client.ClientID, client.Data)
	}
	if client.Token != "" {
		t.Error("a token that nobody has looked at became Client.Token")
	}
	if client.RemoteAddr() == "" {
		t.Error("no remote address")
	}
}

func TestHandshakeDataIsMergedIntoClientData(t *testing.T) {
	t.Parallel()
	came := make(chan *core.Client, 1)
	identity := map[string]any{"client_id": "alice", "role": "guest"}
	service := coretest.Run(t, core.WithPresenceData("lang"), &core.Provider{
		Auth: func(string) (map[string]any, error) { return identity, nil },
		Event: func(name string, client *core.Client) error {
			if name == core.EventOnline {
				came <- client
			}
			return nil
		},
	})
	h := coretest.Handshake()
	h.Data = map[string]any{"lang": "zh", "role": "admin"}
	coretest.Dial(t, service, h)
	client := <-came
	if want := map[string]any{"client_id": "alice", "lang": "zh", "role": "admin"}; !maps.Equal(client.Data, want) {
		t.Error(client.Data)
	}
	if len(identity) != 2 || identity["role"] != "guest" {
		t.Error("the map of Auth was changed:", identity)
	}
	if err := client.Sub("room"); err != nil {
		t.Fatal(err)
	}
	members, err := service.Members(context.Background(), "room", 0)
	if err != nil || len(members) != 1 || string(members[0].Data) != `{"lang":"zh"}` {
		t.Error(members, err)
	}
}

func TestOthersSeeOnlyTheNamedKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		keys []string
		want string
	}{
		{nil, ""},
		{[]string{"missing"}, ""},
		{[]string{"name"}, `{"name":"Alice"}`},
		{[]string{"name", "missing", "age"}, `{"age":7,"name":"Alice"}`},
	} {
		came := make(chan *core.Client, 1)
		service := coretest.Run(t, core.WithPresenceData(c.keys...), &core.Provider{Event: func(name string, client *core.Client) error {
			if name == core.EventOnline {
				came <- client
			}
			return nil
		}})
		coretest.Connect(t, service, map[string]any{"client_id": "alice", "name": "Alice", "age": 7, "email": secret})
		client := <-came
		client.Data["name"] = "changed later"
		if err := client.Sub("room"); err != nil {
			t.Fatal(err)
		}
		members, err := service.Members(context.Background(), "room", 0)
		if err != nil || len(members) != 1 || string(members[0].Data) != c.want {
			t.Errorf("WithPresenceData%q: %s, %v", c.keys, members[0].Data, err)
		}
	}
}

func TestPresenceDataThatCannotBeEncodedIsRefusedAndLogged(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.Run(t, logged, core.WithPresenceData("name"), &core.Provider{Auth: func(string) (map[string]any, error) {
		return map[string]any{"client_id": "alice", "name": func() {}}, nil
	}})
	refusedBothWays(t, mount(t, service), http.StatusInternalServerError, core.CloseInternal, unusable)
	if n := len(log.with("level=ERROR", "gows: unusable identity", "func()")); n != 2 {
		t.Error(log.with())
	}
}

// lostDriver opens, but everything else fails with a plain error, as a driver's may.
type lostDriver struct{ core.Driver }

func (d lostDriver) Open(ctx context.Context, n core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, n)
	return lostLink{link}, err
}

type lostLink struct{ core.Link }

var errLost = errors.New("redis: LOADING the dataset")

func (lostLink) Register(context.Context, string, core.Member, func(uint64)) error { return errLost }

func TestADriverThatFailsAtConnectMeansTryAgain(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.RunOn(t, lostDriver{drivers.NewMemoryDriver()}, logged)
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	if why := conn.Closed(); why.Code != core.CloseInternal || why.Reason != "try again" {
		t.Error(why)
	}
	log.has("gows: refused", errLost.Error())
}

func TestAServiceThatDoesNotRunSaysSo(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := core.New(drivers.NewMemoryDriver(), logged, &core.Provider{Auth: core.Anonymous})
	refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseRestart, "gows: service.Run was not called")
	if n := len(log.with("gows: refused", "service.Run was not called")); n != 2 {
		t.Error(log.with())
	}
}

type deadDriver struct{ err error }

func (d deadDriver) Open(context.Context, core.Node) (core.Link, error) { return nil, d.err }

func TestWhyRunFailedIsTheTextOfEveryRefusal(t *testing.T) {
	t.Parallel()
	for want, service := range map[string]*core.Service{
		"gows: open the driver: no route to 10.0.0.5":                       core.New(deadDriver{errors.New("no route to 10.0.0.5")}, core.WithLogger(nil)),
		"gows: core.New was given no driver: use drivers.NewMemoryDriver()": core.New(nil, core.WithLogger(nil)),
		"gows: core.WithPushBytes(-1): must be more than 0":                 core.New(drivers.NewMemoryDriver(), core.WithPushBytes(-1), core.WithLogger(nil)),
	} {
		if err := service.Run(); err == nil || err.Error() != want {
			t.Errorf("Run: %v, want %s", err, want)
		}
		refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseRestart, want)
	}
}

func TestAServiceThatHasShutDownTellsToReconnect(t *testing.T) {
	t.Parallel()
	service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil), &core.Provider{Auth: core.Anonymous})
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	if err := service.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	refusedBothWays(t, mount(t, service), http.StatusServiceUnavailable, core.CloseRestart, "restarting")
}

func TestAServiceThatIsShuttingDownTellsToReconnect(t *testing.T) {
	t.Parallel()
	online, offline, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: core.Anonymous, Event: func(name string, _ *core.Client) error {
		switch name {
		case core.EventOnline:
			close(online)
		case core.EventOffline:
			close(offline)
			<-release
		}
		return nil
	}})
	server := mount(t, service)
	coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	<-online
	h := coretest.Handshake()
	h.Identity = map[string]any{"client_id": "bob"}
	admitted, err := service.Admit(context.Background(), h)
	if err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() { down <- service.Shutdown(context.Background()) }()
	<-offline
	refusedBothWays(t, server, http.StatusServiceUnavailable, core.CloseRestart, "restarting")
	if code, reason := attach(t, service, admitted).closed(); code != core.CloseRestart || reason != "restarting" {
		t.Error(code, reason)
	}
	close(release)
	if err := <-down; err != nil {
		t.Error(err)
	}
}
