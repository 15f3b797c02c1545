package core_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// echo answers every message with its own data.
func echo() *core.Provider {
	return &core.Provider{
		Auth: func(token string) (map[string]any, error) { return map[string]any{"client_id": token}, nil },
		Message: func(m *core.Message, _ *core.Client) error {
			return m.Reply(m.Data)
		},
	}
}

func TestGorillaClientsTalkOverTCPAndTLS(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, echo())
	mux := http.NewServeMux()
	mux.Handle("/ws", service)
	mux.HandleFunc("/original", service.Websocket.HandleRequest)
	for name, server := range map[string]*httptest.Server{"tcp": mount(t, mux), "tls": mountTLS(t, mux)} {
		for _, path := range []string{"/ws", "/original"} {
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				conn, response, err := dialer(server).Dial("ws"+strings.TrimPrefix(server.URL, "http")+path+"?token=alice", fromPage(server))
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				defer conn.Close()
				_ = conn.SetReadDeadline(time.Now().Add(coretest.Patience))
				for _, size := range []int{0, 1, 1000, 40_000} {
					want := strings.Repeat("x", size)
					if err := conn.WriteJSON(map[string]any{"id": "1", "type": "echo", "data": want}); err != nil {
						t.Fatal(err)
					}
					var got struct{ ID, Type, Data string }
					if err := conn.ReadJSON(&got); err != nil || got.ID != "1" || got.Type != "receive" || got.Data != want {
						t.Fatal(got.ID, got.Type, len(got.Data), err)
					}
				}
				if err := conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "bye"), time.Now().Add(time.Second)); err != nil {
					t.Fatal(err)
				}
				var closed *websocket.CloseError
				if _, _, err := conn.ReadMessage(); !errors.As(err, &closed) || closed.Code != 4000 {
					t.Error("the close was answered by", err)
				}
			})
		}
	}
}

func TestTheHandlerReturnsWhileTheConnectionLives(t *testing.T) {
	t.Parallel()
	returned := make(chan struct{})
	service := coretest.Run(t, echo())
	server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(w, r)
		close(returned)
	}))
	p := call(t, server, openingRequest(server, "/", "Token: alice"))
	p.enter()
	<-returned
	p.say(masked(frame.Text, `{"id":"1","type":"echo"}`))
	if got := string(p.hear().Payload); !strings.Contains(got, `"receive"`) {
		t.Error(got)
	}
}

func TestFramesBehindTheRequestAreNotLost(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, echo())
	server := mount(t, service)
	request := openingRequest(server, "/", "Token: alice")
	early := masked(frame.Text, `{"id":"1","type":"echo"}`)
	late := masked(frame.Text, `{"id":"2","type":"echo"}`)
	for _, cut := range []int{0, 1, 5, len(early), len(early) + 3, len(early) + len(late)} { // of the frames, in the packet of the request
		frames := append(bytes.Clone(early), late...)
		p := call(t, server, request+string(frames[:cut]))
		p.enter()
		p.say(frames[cut:])
		for _, id := range []string{"1", "2"} {
			if got := string(p.hear().Payload); !strings.Contains(got, `"id":"`+id+`"`) {
				t.Errorf("cut at %d: got %s, want the answer to %s", cut, got, id)
			}
		}
	}
}

func TestOnlineComesBeforeAMessageThatCameWithTheRequest(t *testing.T) {
	t.Parallel()
	events := make(chan string, 4)
	service := coretest.Run(t, &core.Provider{
		Auth: core.Anonymous,
		Event: func(name string, _ *core.Client) error {
			events <- name
			return nil
		},
		Message: func(m *core.Message, _ *core.Client) error {
			events <- m.Type
			return nil
		},
	})
	server := mount(t, service)
	p := call(t, server, openingRequest(server, "/")+string(masked(frame.Text, `{"type":"hello"}`))+string(masked(frame.Close, "")))
	p.enter()
	p.closedWithoutCode()
	for _, want := range []string{"online", "hello", "offline"} {
		if got := <-events; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}

// closedWithoutCode reads a close frame that has none.
func (p *peer) closedWithoutCode() {
	p.t.Helper()
	if m := p.hear(); m.Op != frame.Close || len(m.Payload) != 0 {
		p.t.Error(m.Op, m.Payload)
	}
}

func TestARefusedClientThatSpokeWithTheRequestHearsWhy(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), core.WithRefusal(core.RefuseClose))
	server := mount(t, service)
	p := call(t, server, openingRequest(server, "/")+strings.Repeat(string(masked(frame.Text, `{"type":"hello"}`)), 20))
	p.enter()
	if code, reason := p.closed(); code != core.CloseRefused || reason != "unauthorized" {
		t.Error(code, reason)
	}
}

func TestARefusedClientThatSpeaksWhileItIsAskedAboutHearsWhy(t *testing.T) {
	t.Parallel()
	spoke := make(chan struct{})
	service := coretest.Run(t, core.WithLogger(nil), core.WithRefusal(core.RefuseClose), &core.Provider{
		Auth: func(string) (map[string]any, error) {
			<-spoke
			return nil, errors.New("not today")
		},
	})
	server := mount(t, service)
	p := call(t, server, openingRequest(server, "/"))
	// More than net/http reads ahead: closing the socket with it unread would be a reset.
	p.say(bytes.Repeat(masked(frame.Text, `{"type":"hello"}`), 280))
	close(spoke)
	p.enter()
	if code, reason := p.closed(); code != core.CloseRefused || reason != "not today" {
		t.Error(code, reason)
	}
}

func TestWithRefusal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		mode    core.RefusalMode
		page    bool
		byClose bool
	}{
		{"auto, a program", core.RefuseAuto, false, false},
		{"auto, a page", core.RefuseAuto, true, true},
		{"HTTP, a program", core.RefuseHTTP, false, false},
		{"HTTP, a page", core.RefuseHTTP, true, false},
		{"close, a program", core.RefuseClose, false, true},
		{"close, a page", core.RefuseClose, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			service := coretest.Run(t, logged, core.WithRefusal(c.mode))
			server := mount(t, service)
			var header http.Header
			if c.page {
				header = fromPage(server)
			}
			got := knock(t, server, "/", header)
			if c.byClose && (got.Status != 101 || got.Code != core.CloseRefused || got.Reason != "unauthorized") ||
				!c.byClose && (got.Status != 401 || got.Body.Code != core.CloseRefused || got.Body.Reason != "unauthorized") {
				t.Errorf("%+v", got)
			}
			log.has("gows: refused", "code=3500", "reason=unauthorized", "remote=127.0.0.1:")
			if n := service.Stats().Refused; n != 1 {
				t.Error("refused:", n)
			}
		})
	}
}

func TestMalformedRequestsAndForeignOriginsAreRefusedByHTTPInEveryMode(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), core.WithRefusal(core.RefuseClose), &core.Provider{Auth: core.Anonymous})
	server := mount(t, service)
	if got := knock(t, server, "/", http.Header{"Origin": {"https://evil.com"}}); got.Status != http.StatusForbidden {
		t.Error(got.Status)
	}
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUpgradeRequired {
		t.Error(response.Status)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		mode    core.RefusalMode
		code    int
		page    bool
		foreign bool
		status  int // by HTTP
		closed  int // by close
		jsonIs  int
	}{
		{name: "a program", code: 401, status: 401, jsonIs: core.CloseRefused},
		{name: "a program, forbidden", code: 403, status: 403, jsonIs: core.CloseRefused},
		{name: "a program, with a close code", code: core.CloseExpired, status: 401, jsonIs: core.CloseExpired},
		{name: "a program, with one of the application's", code: 4001, status: 403, jsonIs: 4001},
		{name: "a program, try again", code: 429, status: 429, jsonIs: core.CloseInternal},
		{name: "a page", code: 401, page: true, closed: core.CloseRefused},
		{name: "a page, with a close code", code: core.CloseExpired, page: true, closed: core.CloseExpired},
		{name: "a page, with one of the application's", code: 4001, page: true, closed: 4001},
		{name: "a page, try again", code: 503, page: true, closed: core.CloseInternal},
		{name: "a foreign page", code: 401, foreign: true, status: 401, jsonIs: core.CloseRefused},
		{name: "a foreign page, RefuseClose", mode: core.RefuseClose, code: 401, foreign: true, status: 401, jsonIs: core.CloseRefused},
		{name: "a program, RefuseClose", mode: core.RefuseClose, code: 401, closed: core.CloseRefused},
		{name: "a page, RefuseHTTP", mode: core.RefuseHTTP, code: 401, page: true, status: 401, jsonIs: core.CloseRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log, logged := keepJournal(t)
			service := coretest.Run(t, logged, core.WithRefusal(c.mode))
			server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				service.Refuse(w, r, c.code, "the session is over")
			}))
			header := http.Header{}
			switch {
			case c.page:
				header = fromPage(server)
			case c.foreign:
				header.Set("Origin", "https://evil.com")
			}
			got := knock(t, server, "/?token="+secret, header)
			switch {
			case c.status != 0 && (got.Status != c.status || got.Body.Status != c.status || got.Body.Code != c.jsonIs || got.Body.Reason != "the session is over"):
				t.Errorf("%+v", got)
			case c.status == 0 && (got.Status != 101 || got.Code != c.closed || got.Reason != "the session is over"):
				t.Errorf("%+v", got)
			}
			log.has("gows: refused", `reason="the session is over"`)
		})
	}
}

func TestRefuseAnswersARequestThatIsNoUpgradeWithItsOwnStatus(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), core.WithRefusal(core.RefuseClose))
	for code, status := range map[int]int{401: 401, 403: 403, 429: 429, 503: 503, core.CloseExpired: 401, core.CloseTooMany: 429, core.CloseRestart: 503, 4001: 403, 7: 500} {
		w := httptest.NewRecorder()
		service.Refuse(w, httptest.NewRequest(http.MethodPost, "/api", nil), code, "sign in first")
		if w.Code != status || !strings.Contains(w.Body.String(), `"reason":"sign in first"`) {
			t.Errorf("Refuse(%d): %d %s, want %d", code, w.Code, w.Body, status)
		}
	}
}

func TestRefuseWorksBeforeRunAndAfterShutdown(t *testing.T) {
	t.Parallel()
	service := core.New(drivers.NewMemoryDriver(), core.WithLogger(nil))
	server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { service.Refuse(w, r, 4001, "pay first") }))
	refused := func() {
		t.Helper()
		if got := knock(t, server, "/", fromPage(server)); got.Code != 4001 || got.Reason != "pay first" {
			t.Errorf("%+v", got)
		}
	}
	refused()
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	refused()
	if err := service.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	refused()
}

func TestATimeoutMiddlewareIsNamedWhenItKeepsTheConnection(t *testing.T) {
	t.Parallel()
	log, logged := keepJournal(t)
	service := coretest.Run(t, logged, &core.Provider{Auth: core.Anonymous})
	const want = "gows: the connection cannot be hijacked (*http.timeoutWriter): mount the route outside the timeout middleware"
	got := knock(t, mount(t, http.TimeoutHandler(service, coretest.Patience, "")), "/?token="+secret, nil)
	if got.Status != http.StatusInternalServerError || got.Body.Reason != want || got.Body.Status != http.StatusInternalServerError {
		t.Errorf("%+v", got)
	}
	log.has("level=ERROR", want)
}

// wrapper is a middleware's ResponseWriter that claims to be an http.Hijacker.
type wrapper struct {
	http.ResponseWriter
	hijack func() (net.Conn, *bufio.ReadWriter, error)
}

func (w wrapper) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

func TestAConnectionThatCannotBeHadIsAnError(t *testing.T) {
	t.Parallel()
	for name, hijack := range map[string]func() (net.Conn, *bufio.ReadWriter, error){
		"core_test.wrapper: no hijacker below": func() (net.Conn, *bufio.ReadWriter, error) { panic("no hijacker below") },
		"already hijacked":                     func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("already hijacked") },
	} {
		log, logged := keepJournal(t)
		service := coretest.Run(t, logged, &core.Provider{Auth: core.Anonymous})
		server := mount(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			service.ServeHTTP(wrapper{w, hijack}, r)
		}))
		got := knock(t, server, "/", nil)
		if got.Status != http.StatusInternalServerError || !strings.Contains(got.Body.Reason, name) {
			t.Errorf("%+v", got)
		}
		log.has("level=ERROR", "cannot be hijacked", name)
	}
}

// layer is a middleware's ResponseWriter as Gin's: it can hijack only if what it wraps can, and panics otherwise.
type layer struct{ wrapper }

func (l layer) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func TestTheCulpritBelowOtherWrappersIsNamedWithoutAsking(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: core.Anonymous})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service.ServeHTTP(layer{wrapper{w, func() (net.Conn, *bufio.ReadWriter, error) { panic("nothing below can") }}}, r)
	})
	got := knock(t, mount(t, http.TimeoutHandler(handler, coretest.Patience, "")), "/", nil)
	if got.Status != http.StatusInternalServerError || !strings.Contains(got.Body.Reason, "(*http.timeoutWriter): mount") {
		t.Errorf("%+v", got)
	}
}

func TestARequestThatAMiddlewareHasAbandonedTouchesNoResponse(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]error{"let in": nil, "refused": errors.New("not today")} {
		asked, abandoned, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
		service := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: func(string) (map[string]any, error) {
			close(asked)
			<-abandoned
			return map[string]any{"client_id": "alice"}, verdict
		}})
		w := wrapper{httptest.NewRecorder(), func() (net.Conn, *bufio.ReadWriter, error) {
			t.Error(name, ": the connection of who comes next was taken")
			return nil, nil, errors.New("not yours")
		}}
		ctx, abandon := context.WithCancel(t.Context()) // as net/http's ends when the handler returns
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/?token=alice", nil)
		r.Header = coretest.Handshake().Header
		go func() { // as a middleware with a time limit runs what is behind it
			defer close(returned)
			service.ServeHTTP(w, r)
		}()
		<-asked
		abandon()
		close(abandoned)
		<-returned
		if recorder := w.ResponseWriter.(*httptest.ResponseRecorder); recorder.Body.Len() > 0 || len(recorder.Header()) > 0 { //nolint:errcheck // made above
			t.Error(name, ": the response of who comes next was written to:", recorder.Body)
		}
	}
}

func TestARouteWithoutAServiceSaysSo(t *testing.T) {
	t.Parallel()
	var service *core.Service
	for _, header := range []http.Header{nil, {"Origin": {"http://localhost"}}} {
		got := knock(t, mount(t, service), "/", header)
		if got.Status != http.StatusInternalServerError || !strings.Contains(got.Body.Reason, "nil *core.Service") {
			t.Errorf("%+v", got)
		}
		refuse := func(w http.ResponseWriter, r *http.Request) { service.Refuse(w, r, 3005, "expired") }
		got = knock(t, mount(t, http.HandlerFunc(refuse)), "/", header)
		if got.Status != http.StatusUnauthorized || got.Body.Code != 3005 || got.Body.Reason != "expired" {
			t.Errorf("%+v", got)
		}
	}
}

func TestAHijackerWithoutABufferServes(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, echo())
	server, client := net.Pipe()
	defer client.Close()
	r := httptest.NewRequest(http.MethodGet, "/?token=alice", nil)
	r.Header = coretest.Handshake().Header
	service.ServeHTTP(wrapper{httptest.NewRecorder(), func() (net.Conn, *bufio.ReadWriter, error) { return server, nil, nil }}, r)
	newPeer(t, client).enter()
}

func TestManyRefusedConnectionsAtOnceAllHearWhy(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t, core.WithLogger(nil))
	server := mount(t, service)
	const knocking = 320
	peers := make([]*peer, knocking)
	for i := range peers { // none of them hangs up before all have been answered
		peers[i] = call(t, server, openingRequest(server, "/", "Origin: "+server.URL))
	}
	var byClose, byHTTP int
	for _, p := range peers {
		response, err := http.ReadResponse(p.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch response.StatusCode {
		case http.StatusSwitchingProtocols:
			byClose++
			if m := p.hear(); m.Op != frame.Close || !bytes.HasSuffix(m.Payload, []byte("unauthorized")) {
				t.Errorf("%v %q", m.Op, m.Payload)
			}
		case http.StatusUnauthorized:
			byHTTP++
		default:
			t.Error(response.Status)
		}
		_ = response.Body.Close()
	}
	if byClose < 256 || byClose+byHTTP != knocking {
		t.Errorf("%d by close, %d by HTTP", byClose, byHTTP)
	}
}

func TestAtMost256RefusedConnectionsAreWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		service := coretest.Run(t, core.WithLogger(nil))
		admit := func() (*core.Ticket, error) {
			h := coretest.Handshake()
			h.Header.Set("Origin", "https://example.com")
			return service.Admit(context.Background(), h)
		}
		var tickets []*core.Ticket
		for range 300 { // all of them are let through to Attach
			ticket, err := admit()
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, ticket)
		}
		began := time.Now()
		var ended sync.WaitGroup
		var waited, dropped int
		var mu sync.Mutex
		for _, ticket := range tickets {
			server, client := net.Pipe()
			ended.Go(func() {
				heard, _ := io.ReadAll(client) // until the service hangs up; the client answers nothing
				mu.Lock()
				defer mu.Unlock()
				if !bytes.HasSuffix(heard, []byte("unauthorized")) {
					t.Errorf("heard %q", heard)
				}
				if time.Since(began) > 0 {
					waited++
				} else {
					dropped++
				}
			})
			service.Attach(server, nil, ticket)
		}
		var refused *core.Refusal
		if _, err := admit(); !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized {
			t.Error("the next one is refused by HTTP, not:", err)
		}
		ended.Wait()
		if waited != 256 || dropped != 44 || time.Since(began) != time.Second {
			t.Errorf("%d were waited for, %d were not, for %v", waited, dropped, time.Since(began))
		}
		if _, err := admit(); err != nil {
			t.Error("a page is refused by close again, not:", err)
		}
	})
}

// lateDriver holds Subscribe up until it is let go.
type lateDriver struct {
	core.Driver
	reached, release chan struct{}
}

func (d lateDriver) Open(ctx context.Context, n core.Node) (core.Link, error) {
	link, err := d.Driver.Open(ctx, n)
	return lateLink{link, d}, err
}

type lateLink struct {
	core.Link
	d lateDriver
}

func (l lateLink) Subscribe(ctx context.Context, topics ...core.Topic) error {
	l.d.reached <- struct{}{}
	<-l.d.release
	return l.Link.Subscribe(ctx, topics...)
}

func TestAClientThatArrivesDuringShutdownIsToldToReconnect(t *testing.T) {
	t.Parallel()
	late := lateDriver{drivers.NewMemoryDriver(), make(chan struct{}, 2), make(chan struct{})} // the second is Shutdown's
	online := make(chan struct{}, 1)
	service := core.New(late, core.WithLogger(nil), &core.Provider{Event: func(string, *core.Client) error {
		online <- struct{}{}
		return nil
	}})
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	conn := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	<-late.reached
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
		defer cancel()
		down <- service.Shutdown(ctx)
	}()
	eventually(t, "Shutdown to begin", func() bool { return errors.Is(service.Health(context.Background()), core.ErrClosed) })
	close(late.release)
	if why := conn.Closed(); why.Code != core.CloseRestart {
		t.Error(why)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if len(online) > 0 {
		t.Error("it went online")
	}
}

func TestATicketMayBeThrownAway(t *testing.T) {
	t.Parallel()
	service := coretest.Run(t)
	for range 1000 {
		h := coretest.Handshake()
		h.Identity = map[string]any{"client_id": "alice"}
		if _, err := service.Admit(context.Background(), h); err != nil {
			t.Fatal(err)
		}
	}
	if n := service.Stats().Connections; n != 0 {
		t.Error(n, "connections")
	}
}

func TestWriteRefusalHidesErrorsThatAreNone(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	core.New(nil).WriteRefusal(w, fmt.Errorf("dial 10.0.0.5: %w", io.EOF))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "10.0.0.5") {
		t.Error(w.Code, w.Body)
	}
}

func TestNoCacheKeepsARefusal(t *testing.T) {
	t.Parallel()
	server := mount(t, coretest.Run(t, core.WithLogger(nil), &core.Provider{}))
	for want, header := range map[int]http.Header{http.StatusUnauthorized: nil, http.StatusForbidden: {"Origin": {"https://evil.example"}}, http.StatusNotFound: {"App": {"none"}}} {
		a := knock(t, server, "/", header)
		if a.Status != want || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d: %v, want %d", a.Status, a.Header, want)
		}
	}
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.Header.Get("Cache-Control") != "no-store" {
		t.Error(response.Header)
	}
}
