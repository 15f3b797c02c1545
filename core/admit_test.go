package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
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
	{"Errorf without verbs is told", fmt.Errorf("请输入用户名"), 401, core.CloseRefused, "请输入用户名", ""}, //nolint:perfsprint,revive // what is tested
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
func refusedBothWays(t *testing.T, server interface {
	knock(header http.Header) answer
	page() http.Header
}, status, code int, reason string,
) {
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

var _ = []any{json.Marshal, maps.Copy[map[string]any, map[string]any], strings.Cut, synctest.Test, time.Now, drivers.NewMemoryDriver}
