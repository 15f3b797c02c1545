package docs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// server is the one that protocol.md describes at its top.
type server struct {
	t       *testing.T
	service *core.Service
	driver  *watched
	http    *httptest.Server
}

// watched is a driver that can be lost.
type watched struct {
	core.Driver
	node core.Node
}

func (d *watched) Open(ctx context.Context, node core.Node) (core.Link, error) {
	if node != nil {
		d.node = node
	}
	return d.Driver.Open(ctx, node) //nolint:wrapcheck // as it is
}

// elsewhere is another node on the same driver.
type elsewhere struct{ core.Node }

func (elsewhere) ID() string { return "elsewhere" }

func newServer(t *testing.T, opts ...core.Option) *server {
	t.Helper()
	provider := &core.Provider{
		Auth: func(token string) (map[string]any, error) {
			switch token {
			case "":
				return nil, errors.New("please enter a name")
			case "broken":
				return nil, fmt.Errorf("database: %w", context.DeadlineExceeded)
			case "nameless":
				return map[string]any{"name": "Nobody"}, nil
			}
			identity := map[string]any{"client_id": token, "name": strings.ToUpper(token[:1]) + token[1:]}
			switch token {
			case "expired":
				identity["exp"] = 1
			case "shopper":
				identity["app"] = "shop"
			}
			return identity, nil
		},
		Subscribe: func(_ *core.Client, channel string) error {
			if channel == "staff" {
				return core.Errorf(http.StatusForbidden, "staff only")
			}
			return nil
		},
		Publish: func(*core.Client, *core.Message) error { return nil },
		Message: func(message *core.Message, _ *core.Client) error {
			if message.Type != "sum" {
				return core.Errorf(http.StatusNotFound, "no handler for type %q", message.Type)
			}
			var numbers []int
			if err := message.Bind(&numbers); err != nil {
				return err
			}
			sum := 0
			for _, n := range numbers {
				sum += n
			}
			return message.Reply(sum)
		},
	}
	s := &server{t: t, driver: &watched{Driver: drivers.NewMemoryDriver()}}
	opts = append(opts, provider,
		core.WithChannel("room:*", core.Rules{Presence: core.PresenceEvents}), core.WithPresenceData("name"),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	s.service = coretest.RunOn(t, s.driver, opts...)
	for _, app := range []string{"shop", "forum"} {
		if err := s.service.RegisterProvider(app, provider); err != nil {
			t.Fatal(err)
		}
	}
	s.http = httptest.NewServer(s.service)
	t.Cleanup(s.http.Close)
	return s
}

// Order is what one of the examples pushes.
type Order struct {
	ID   int  `json:"id"`
	Paid bool `json:"paid"`
}

// program is what the server's program does in the examples.
var program = map[string]func(ctx context.Context, s *server) error{
	`service.Push([]string{"room:1"}, map[string]any{"type": "news", "message": "rain", "degrees": 9})`: func(_ context.Context, s *server) error {
		return s.service.Push([]string{"room:1"}, map[string]any{"type": "news", "message": "rain", "degrees": 9})
	},
	`service.Push([]string{"room:1"}, Order{ID: 7, Paid: true})`: func(_ context.Context, s *server) error {
		return s.service.Push([]string{"room:1"}, Order{ID: 7, Paid: true})
	},
	`service.Push([]string{"room:1"}, &core.Message{Type: "news", Message: "restart in a minute"})`: func(_ context.Context, s *server) error {
		return s.service.Push([]string{"room:1"}, &core.Message{Type: "news", Message: "restart in a minute"})
	},
	`service.Send(ctx, "alice", &core.Message{Type: "system", Message: "welcome"})`: func(ctx context.Context, s *server) error {
		return s.service.Send(ctx, "alice", &core.Message{Type: "system", Message: "welcome"})
	},
	`service.Broadcast(ctx, &core.Message{Type: "system", Message: "closing at six"})`: func(ctx context.Context, s *server) error {
		return s.service.Broadcast(ctx, &core.Message{Type: "system", Message: "closing at six"})
	},
	`service.Unsubscribe(ctx, "alice", "room:1")`: func(ctx context.Context, s *server) error {
		return s.service.Unsubscribe(ctx, "alice", "room:1")
	},
	`service.Disconnect(ctx, "carol", 3503, "no flooding")`: func(ctx context.Context, s *server) error {
		return s.service.Disconnect(ctx, "carol", 3503, "no flooding")
	},
	`service.Shutdown(ctx)`: func(ctx context.Context, s *server) error { return s.service.Shutdown(ctx) },
	`(1,000 others are in room:1)`: func(ctx context.Context, s *server) error {
		link, err := s.driver.Driver.Open(ctx, elsewhere{})
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { _ = link.Close(context.Background()) })
		for i := range 1000 {
			m := core.Member{ClientID: "other " + strconv.Itoa(i), ConnID: strconv.Itoa(i)}
			if _, err := link.Join(ctx, m, core.Topic{Channel: "room:1"}); err != nil {
				return err
			}
		}
		return nil
	},
	`(the driver was away for a moment)`: func(_ context.Context, s *server) error {
		s.driver.node.Down(errors.New("away"), nil)
		s.driver.node.Up(nil)
		return nil
	},
}

// step is a line of a transcript.
type step struct {
	line int
	who  string
	by   string // "C", "S" or "app"
	text string
}

var stepLine = regexp.MustCompile(`^(?:(?:(\w+) )?([CS])|app): (.+)$`)

func steps(t *testing.T, b block) []step {
	t.Helper()
	var all []step
	for i, line := range strings.Split(strings.TrimSpace(b.code), "\n") {
		m := stepLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%s:%d: neither C: nor S: nor app: %s", b.file, b.line+i, line)
		}
		s := step{line: b.line + i, who: m[1], by: m[2], text: m[3]}
		if s.by == "" {
			s.by = "app"
		} else if s.who == "" {
			s.who = "alice"
		}
		all = append(all, s)
	}
	return all
}

func TestTheLibraryPlaysTheExamplesOfTheProtocol(t *testing.T) {
	t.Parallel()
	played := 0
	for _, b := range read(t, wire).blocks {
		switch b.lang {
		case "text":
			played++
			t.Run("line "+strconv.Itoa(b.line), func(t *testing.T) {
				t.Parallel()
				play(t, b)
			})
		case "http":
			played++
			t.Run("line "+strconv.Itoa(b.line), func(t *testing.T) {
				t.Parallel()
				exchange(t, b)
			})
		default:
			t.Errorf("%s:%d: a block of %q is not played: write it as C: and S:", b.file, b.line, b.lang)
		}
	}
	if played < 20 {
		t.Fatalf("only %d examples", played)
	}
}

// play sends what C: says, expects what S: says, and nothing else.
func play(t *testing.T, b block) {
	t.Helper()
	s := newServer(t)
	players := map[string]*player{}
	for _, st := range steps(t, b) {
		at := fmt.Sprintf("%s:%d", b.file, st.line)
		if st.by == "app" {
			act := program[st.text]
			if act == nil {
				t.Fatalf("%s: the test does not know how to do %s", at, st.text)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			err := act(ctx, s)
			cancel()
			if err != nil {
				t.Fatalf("%s: %s: %v", at, st.text, err)
			}
			continue
		}
		p := players[st.who]
		if st.by == "C" && strings.HasPrefix(st.text, "(connect to ") {
			if p != nil {
				t.Fatalf("%s: %s is connected", at, st.who)
			}
			players[st.who] = s.connect(st.text)
			continue
		}
		if p == nil {
			p = s.connect("(connect to /ws?token=" + st.who + ")")
			players[st.who] = p
		}
		if st.by == "C" {
			p.send(at, st.text)
		} else {
			p.expect(at, st.text)
		}
	}
	for who, p := range players {
		p.expectNothing(fmt.Sprintf("%s:%d: %s, behind the example", b.file, b.line, who))
	}
}

// player is a client in a transcript.
type player struct {
	t      *testing.T
	ws     *websocket.Conn
	heard  chan string // closed at the end
	early  []string    // heard and not expected yet
	closed bool        // a close was expected and came
}

var connects = regexp.MustCompile(`^\(connect to (\S+?)( from a page)?\)$`)

func (s *server) connect(how string) *player {
	s.t.Helper()
	m := connects.FindStringSubmatch(how)
	if m == nil {
		s.t.Fatalf("connect how? %s", how)
	}
	header := http.Header{}
	if m[2] != "" {
		header.Set("Origin", s.http.URL)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	ws, response, err := websocket.DefaultDialer.DialContext(ctx, strings.Replace(s.http.URL, "http", "ws", 1)+m[1], header)
	if err != nil {
		s.t.Fatalf("%s: %v", how, err)
	}
	_ = response.Body.Close()
	p := &player{t: s.t, ws: ws, heard: make(chan string, 100)}
	ws.SetPongHandler(func(data string) error {
		p.heard <- fmt.Sprintf("(pong %q)", data)
		return nil
	})
	ended := make(chan struct{})
	go func() { // ends with the connection
		defer close(ended)
		defer close(p.heard)
		for {
			_, text, err := ws.ReadMessage()
			if err != nil {
				var why *websocket.CloseError
				if errors.As(err, &why) {
					p.heard <- fmt.Sprintf("(close %d %q)", why.Code, why.Text)
				}
				return
			}
			p.heard <- string(text)
		}
	}()
	s.t.Cleanup(func() {
		_ = ws.Close()
		<-ended
	})
	return p
}

var (
	sendsClose = regexp.MustCompile(`^\(close (\d+) "(.*)"\)$`)
	sendsPing  = regexp.MustCompile(`^\(ping "(.*)"\)$`)
)

func (p *player) send(at, text string) {
	p.t.Helper()
	soon := time.Now().Add(patience)
	var err error
	switch {
	case text == "(binary message)":
		err = p.ws.WriteMessage(websocket.BinaryMessage, []byte("x"))
	case text == "(text message of 65,537 bytes)":
		err = p.ws.WriteMessage(websocket.TextMessage, slices.Repeat([]byte(" "), 65537))
	case sendsClose.MatchString(text):
		m := sendsClose.FindStringSubmatch(text)
		code, _ := strconv.Atoi(m[1])
		err = p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, m[2]), soon)
	case sendsPing.MatchString(text):
		err = p.ws.WriteControl(websocket.PingMessage, []byte(sendsPing.FindStringSubmatch(text)[1]), soon)
	case strings.HasPrefix(text, "("):
		p.t.Fatalf("%s: the test does not know how to send %s", at, text)
	default:
		err = p.ws.WriteMessage(websocket.TextMessage, []byte(text))
	}
	if err != nil {
		p.t.Fatalf("%s: send %s: %v", at, text, err)
	}
}

// expect takes the next message. Answers, and all others, keep their order; between the two there is none.
func (p *player) expect(at, want string) {
	p.t.Helper()
	for i, got := range p.early {
		if isAnswer(got) == isAnswer(want) {
			p.early = slices.Delete(p.early, i, i+1)
			p.compare(at, got, want)
			return
		}
	}
	for {
		got, ok := p.next()
		if !ok {
			p.t.Fatalf("%s: want %s, and nothing came but %v", at, want, p.early)
		}
		if isAnswer(got) == isAnswer(want) {
			p.compare(at, got, want)
			return
		}
		p.early = append(p.early, got)
	}
}

func (p *player) compare(at, got, want string) {
	p.t.Helper()
	if comparable(got) != comparable(want) {
		p.t.Errorf("%s:\n got %s\nwant %s", at, got, want)
	}
	p.closed = strings.HasPrefix(got, "(close ")
}

func (p *player) next() (got string, ok bool) {
	select {
	case got, ok = <-p.heard:
		return got, ok
	case <-time.After(patience):
		return "", false
	}
}

// expectNothing fails when there is more than was expected.
func (p *player) expectNothing(at string) {
	p.t.Helper()
	const last = `{"type":"pong","id":"the end"}`
	if !p.closed {
		p.send(at, `{"type":"ping","id":"the end"}`)
		if got, _ := p.next(); got != last {
			p.early = append(p.early, got)
		}
	} else if got, ok := p.next(); ok {
		p.early = append(p.early, got)
	}
	if len(p.early) > 0 {
		p.t.Errorf("%s: nothing was expected any more, and there came %v", at, p.early)
	}
}

var answers = regexp.MustCompile(`"type":"(receive|error|pong)"`)

func isAnswer(text string) bool { return answers.MatchString(text) }

var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`"meta":\{"time":\d+\}`), `"meta":{"time":0}`},
	{regexp.MustCompile(`"conn":"[A-Z2-7]{16}"`), `"conn":"X"`},
	{regexp.MustCompile(`"since":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"`), `"since":"X"`},
}

// comparable is a message without what differs from run to run.
func comparable(text string) string {
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.with)
	}
	return text
}

// exchange sends the request of a block and compares the response.
func exchange(t *testing.T, b block) {
	t.Helper()
	request, want, ok := strings.Cut(b.code, "\n\n")
	if !ok {
		t.Fatalf("%s:%d: a request, an empty line and a response are needed", b.file, b.line)
	}
	got := newServer(t).ask(request + "\n\n")
	if got != want {
		t.Errorf("%s:%d:\n got %s\nwant %s", b.file, b.line, got, want)
	}
}

// ask sends a request as it is and returns the response without the headers that net/http adds to every one.
func (s *server) ask(request string) string {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.http.Listener.Addr().String()) //nolint:noctx // on this machine
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(nc, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		s.t.Fatal(err)
	}
	in := bufio.NewReader(nc)
	var text strings.Builder
	length := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the response ends in its headers: %v\n%s", err, text.String())
		}
		line = strings.TrimSuffix(line, "\r\n")
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if length > 0 {
				body := make([]byte, length)
				if _, err := io.ReadFull(in, body); err != nil {
					s.t.Fatal(err)
				}
				text.WriteString("\n")
				text.Write(body)
			}
			return text.String()
		case name == "Content-Length":
			if length, err = strconv.Atoi(value); err != nil {
				s.t.Fatal(err)
			}
		case name != "Date":
			text.WriteString(line + "\n")
		}
	}
}
