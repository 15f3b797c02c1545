package core_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// What is in tokens, queries, headers, messages and close reasons is nobody's but the application's. The journals of other
// tests look at what a service logs; here a process of its own, which sets no logger, shows all that comes out of it.

// printsAll is set in the environment of the process whose output is looked at.
const printsAll = "GOWS_PRINTS_ALL"

// forged is behind a line break in everything that a peer may send; at the start of a line it would be a log line of its own.
const forged = "ERROR gows: forged"

var everyLine = core.WithLogRate(1 << 20)

func TestNothingSecretIsPrintedWhateverGoesWrong(t *testing.T) {
	t.Parallel()
	if os.Getenv(printsAll) != "" {
		goWrong(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	child.Env = append(os.Environ(), printsAll+"=yes")
	output, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	text := string(output)
	for _, mark := range []string{secret, base64.RawURLEncoding.EncodeToString([]byte(secret))} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, mark) || strings.HasPrefix(line, forged) || strings.ContainsAny(line, "\x1b\x07\r") {
				t.Errorf("printed: %q", line)
			}
		}
	}
	for _, what := range []string{ // there was something to fail on
		"gows: refused", "foreign origin", "Auth panicked", "Auth did not return", "unusable identity", "connection refused",
		"Message panicked", "Subscribe panicked", "Publish panicked", "gows: a message failed", "push failed in a hook", "online failed here",
		"offline failed here", "ping failed here", "redis: OOM", "timeoutWriter", "replaced 5 times", "too slow",
	} {
		if !strings.Contains(text, what) {
			t.Errorf("nothing was printed of %q", what)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// goWrong does to services all that a peer, an application and a driver can do wrong.
func goWrong(t *testing.T) {
	t.Helper()
	handshakesGoWrong(t)
	messagesGoWrong(t, drivers.NewMemoryDriver())
	messagesGoWrong(t, brokenDriver{drivers.NewMemoryDriver()})
	sessionsGoWrong(t)
	peersGoWrong(t)
}

// outcomes end the tokens of clients, and say what becomes of them.
var outcomes = []string{"", "refused", "typed", "broken", "dials", "panics", "nobody", "expired", "hangs", "offline", "ping"}

// judging lets in and refuses as the token says.
func judging(t testing.TB, hung chan struct{}) *core.Provider {
	t.Helper()
	p := hooked()
	subscribe := p.Subscribe
	p.Subscribe = func(client *core.Client, channel string) error {
		if channel == "broken" {
			return errors.New("table rooms is gone")
		}
		return subscribe(client, channel)
	}
	p.Auth = func(token string) (map[string]any, error) {
		switch {
		case strings.HasSuffix(token, "refused"):
			return nil, errors.New("wrong password")
		case strings.HasSuffix(token, "typed"):
			return nil, core.Errorf(http.StatusTooManyRequests, "not so fast")
		case strings.HasSuffix(token, "broken"):
			return nil, fmt.Errorf("query: %w", context.DeadlineExceeded)
		case strings.HasSuffix(token, "dials"):
			_, err := net.Dial("tcp", "127.0.0.1:1")
			return nil, err
		case strings.HasSuffix(token, "panics"):
			_ = []byte(token)[len(token)]
		case strings.HasSuffix(token, "nobody"):
			return map[string]any{"password": token}, nil
		case strings.HasSuffix(token, "expired"):
			return map[string]any{"client_id": "alice", "exp": 1, "password": token}, nil
		case strings.HasSuffix(token, "hangs"):
			<-hung
		}
		return map[string]any{"client_id": "alice", "password": token}, nil
	}
	p.Event = func(name string, client *core.Client) error {
		if strings.HasSuffix(client.Token, name) {
			return fmt.Errorf("%s failed here: %w", name, context.Canceled)
		}
		return nil
	}
	return p
}

func handshakesGoWrong(t *testing.T) {
	t.Helper()
	hung := make(chan struct{})
	defer close(hung)
	service := coretest.Run(t, everyLine, core.WithAuthTimeout(50*time.Millisecond), judging(t, hung))
	server := mount(t, service)
	limited := mount(t, http.TimeoutHandler(service, coretest.Patience, "too late"))
	for _, outcome := range append(outcomes, "online") {
		token := secret + outcome
		coded := "Sec-WebSocket-Protocol: gows, gows.bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
		for _, line := range []string{"Token: " + token, "Authorization: Bearer " + token, coded, "Cookie: session=" + secret} {
			path := "/" + secret + "?room=" + secret + "&token=" + token
			for _, origin := range []string{"X: y", "Origin: " + server.URL, "Origin: https://evil.example"} {
				call(t, server, openingRequest(server, path, line, origin)).awaitAnswer()
			}
			request := openingRequest(server, path, line)
			for _, malformed := range []string{
				strings.Replace(request, "GET ", "POST ", 1), strings.Replace(request, "13", "8", 1),
				strings.Replace(request, "Key", "No-Key", 1), strings.Replace(request, "Connection: Upgrade\r\n", "", 1),
			} {
				call(t, server, malformed).awaitAnswer()
			}
		}
		call(t, limited, openingRequest(limited, "/?token="+token)).awaitAnswer()
	}
	for _, text := range []string{"\n" + forged, "\r\n" + forged, "\x1b[2J\x07"} { // no server lets them pass; a host of its own may
		h := coretest.Handshake()
		h.Method, h.Host, h.RemoteAddr, h.Token, h.App = "GET"+text, "host"+text, "peer"+text, secret+"panics", "app"+text
		_, _ = service.Admit(t.Context(), h)
		h.Method = http.MethodGet
		_, _ = service.Admit(t.Context(), h)
		h.Header.Set("Origin", "https://evil.example"+text)
		_, _ = service.Admit(t.Context(), h)
		_, _ = service.AdmitRefused(h, http.StatusForbidden, "no"+text)
	}
}

// badMessages hold the secret in every place.
func badMessages() []string {
	var all []string
	for _, kind := range []string{"ok", "broken", "wrapped", "panics", "bind", "push", "dance", "sub"} {
		all = append(all, fmt.Sprintf(`{"id":%[2]q,"type":%[1]q,"message":%[2]q,"data":%[2]q,"meta":{%[2]q:%[2]q},%[2]q:%[2]q}`, kind, secret))
	}
	for _, verb := range []string{"subscribe", "message", "unsubscribe", "presence"} {
		for _, channel := range []string{"broken", "panics", "function", "boom", "nowhere", "large", "private", "", `a\n` + forged, `a\u001b[2J`} {
			all = append(all, fmt.Sprintf(`{"id":%[3]q,"type":%[1]q,"channel":"%[2]s","message":%[3]q,"data":%[3]q}`, verb, channel, secret))
		}
	}
	return all
}

func messagesGoWrong(t *testing.T, driver core.Driver) {
	t.Helper()
	service := coretest.RunOn(t, driver, everyLine, core.WithPushBytes(1000), core.WithMessageBytes(2000), core.WithChannelBytes(30), judging(t, nil))
	server := mount(t, service)
	last := masked(frame.Text, "["+secret) // one more than may be bad
	for _, end := range [][]byte{
		masked(frame.Close, "\x0f\xa0"+secret), masked(frame.Binary, secret), masked(frame.Text, strings.Repeat(secret, 1000)),
		masked(frame.Text, secret+"\xff"), masked(3, secret), masked(frame.Ping, strings.Repeat(secret, 20)),
		append(masked(frame.Text, secret), 0xc1, 0x80), []byte(strings.Repeat(string(last), 30)),
		[]byte("GET /?token=" + secret + " HTTP/1.1\r\n\r\n"),
	} {
		p := call(t, server, openingRequest(server, "/?token="+secret))
		p.enter()
		for i, text := range badMessages() {
			p.say(masked(frame.Text, text))
			if i%10 == 0 {
				p.say(masked(frame.Ping, secret))
			}
		}
		p.say(end)
		p.hearTheClose()
	}
	for _, text := range []string{`{"type":"` + `x\n` + forged + `"}`, `{"type":"ping"}`} {
		conn := coretest.ConnectToken(t, service, secret+"ping")
		conn.SendText(text)
		conn.Close(4000, secret)
	}
	coretest.ConnectToken(t, service, secret+"offline").Cut()
	eventually(t, "all to end", func() bool { return service.Stats().Connections == 0 })
	for _, payload := range []any{secret, func() {}, map[string]any{secret: func() {}}, strings.Repeat(secret, 200)} {
		_ = service.Push([]string{"room", "bad\n" + forged}, payload)
		_ = service.Push([]string{"room"}, payload)
		_ = service.Send(t.Context(), "alice", payload)
		_ = service.Broadcast(t.Context(), payload)
	}
	_ = service.Disconnect(t.Context(), "alice", 4000, secret)
}

func sessionsGoWrong(t *testing.T) {
	t.Helper()
	service := coretest.Run(t, everyLine, core.WithSessions(core.ReplaceOld), &core.Provider{Auth: func(token string) (map[string]any, error) {
		return map[string]any{"client_id": "alice\n" + forged, "password": token}, nil
	}})
	for range 8 {
		coretest.ConnectToken(t, service, secret).Do(core.Message{Type: "ping"})
	}
}

// peersGoWrong reads nothing, vanishes, and comes through another library.
func peersGoWrong(t *testing.T) {
	t.Helper()
	var slow atomic.Int64
	service := coretest.Run(t, everyLine, core.WithOutboxBytes(1<<10), core.WithPing(time.Second, time.Second), core.WithWriteStall(time.Second), &core.Provider{
		Auth:      judging(t, nil).Auth,
		Subscribe: func(*core.Client, string) error { return nil },
		Event: func(name string, client *core.Client) error {
			var why *core.CloseError
			if name == core.EventOffline && errors.As(context.Cause(client.Context()), &why) && why.Code == core.CloseTooSlow {
				slow.Add(1)
			}
			return nil
		},
	})
	server := mount(t, service)
	for range 2 { // they never read
		p := call(t, server, openingRequest(server, "/?token="+secret))
		p.enter()
		p.say(masked(frame.Text, `{"id":"1","type":"subscribe","channel":"room"}`))
		p.hear()
	}
	text := strings.Repeat(secret, 10_000)
	eventually(t, "slow ones", func() bool {
		_ = service.Push([]string{"room"}, text)
		return slow.Load() == 2
	})
	upgrader := websocket.Upgrader{Error: func(http.ResponseWriter, *http.Request, int, error) {}}
	other := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, err := upgrader.Upgrade(w, r, nil); err == nil {
			_ = service.ServeConn(conn, core.NewHandshake(r))
		}
	}))
	for _, outcome := range []string{"refused", "broken", "nobody", "panics"} {
		p := call(t, other, openingRequest(other, "/?token="+url.QueryEscape(secret+outcome)))
		p.enter()
		p.hearTheClose()
	}
	service.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/?token="+secret, nil))
	service.Refuse(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/?token="+secret, nil), http.StatusUnauthorized, "no")
}

// hearTheClose is closed without a look at what follows: who says more than is read gets a reset there.
func (p *peer) hearTheClose() {
	p.t.Helper()
	for p.hear().Op != frame.Close {
	}
	_ = p.Close()
}
