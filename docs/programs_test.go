package docs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/internal/redistest"
)

// original is the README of the library's first version, as it was: what its reader wrote has to go on working.
const original = "testdata/original/README.md"

func TestTheGoCodeOfTheDocsCompilesAndItsProgramsRun(t *testing.T) {
	t.Parallel()
	s, wider := newSnippets(t, "."), newSnippets(t, "../e2e")
	var programs, quickStarts []string
	for _, file := range pages {
		for _, b := range read(t, file).blocks {
			if b.lang != "go" {
				continue
			}
			name, whole := nameOf(b), strings.HasPrefix(b.code, "package main")
			switch {
			case frameworkOf(b) == nil:
				s.add(name, b)
				if file == english && whole {
					programs = append(programs, name)
				}
			default:
				wider.add(name, b)
				if strings.HasSuffix(file, "/README.md") && whole {
					quickStarts = append(quickStarts, name)
				}
			}
		}
	}
	for i, b := range originalBlocks(t) {
		if name := "original_" + string(rune('a'+i)); strings.HasPrefix(b.code, "package main") {
			s.addAsItStands(name, b)
		} else {
			s.add(name, b)
		}
	}
	program := originalProgram(t)
	s.add("original_program", onMemory(t, program))
	copies := [2]string{freeAddress(t), freeAddress(t)}
	database := redistest.Start(t)
	for i, address := range copies {
		s.addAsItStands(fmt.Sprint("original_redis_", i), onRedis(t, program, database.Addr(), address))
	}
	s.build()
	wider.build()
	if len(quickStarts) != len(readmes)-1 {
		t.Errorf("%d programs of the adapters, one each is wanted: %v", len(quickStarts), quickStarts)
	}
	for _, name := range quickStarts {
		t.Run(name+" talks", func(t *testing.T) {
			t.Parallel()
			talkToTheQuickStart(t, start(t, wider, name))
		})
	}
	if len(programs) != 3 {
		t.Fatalf("the README has %d programs, and there are 3 ways to drive them here", len(programs))
	}
	t.Run("the program of the README talks", func(t *testing.T) {
		t.Parallel()
		talkToTheQuickStart(t, start(t, s, programs[0]))
	})
	t.Run("the program with the original names talks", func(t *testing.T) {
		t.Parallel()
		p := start(t, s, programs[1])
		talkAsTheOriginalPage(t, p, p)
	})
	t.Run("the program that shuts down does so", func(t *testing.T) {
		t.Parallel()
		shutDown(t, start(t, s, programs[2]))
	})
	t.Run("the original program talks", func(t *testing.T) {
		t.Parallel()
		p := start(t, s, "original_program")
		talkAsTheOriginalPage(t, p, p)
		for _, line := range []string{
			"用户 [测试用户] 正在连接", "客户端 测试用户 触发事件: online", "收到客户端 测试用户 的消息: 你好", "用户 [测试用户] 已断开连接",
		} {
			p.prints(line)
		}
	})
	t.Run("two copies of the original program talk to one another over Redis", func(t *testing.T) {
		t.Parallel()
		one, two := startAt(t, s, "original_redis_0", copies[0]), startAt(t, s, "original_redis_1", copies[1])
		talkAsTheOriginalPage(t, one, two)
		for _, line := range []string{"用户 [测试用户] 正在连接", "收到客户端 测试用户 的消息: 你好", "用户 [测试用户] 已断开连接"} {
			one.prints(line)
		}
		two.prints("用户 [second] 已成功连接")
		if printed := two.output.String(); strings.Contains(printed, "测试用户") {
			t.Errorf("the second copy has a client of the first:\n%s", printed)
		}
	})
}

// originalBlocks returns the Go blocks of the original README.
func originalBlocks(t *testing.T) []block {
	t.Helper()
	var blocks []block
	for _, b := range read(t, original).blocks {
		if b.lang != "go" {
			continue
		}
		// Two ways to the same variable, of which a reader takes one.
		if first, second, two := strings.Cut(b.code, "// 方式2"); two {
			also := b
			b.code = first
			also.code = leadingImports.FindString(first) + "// 方式2" + second
			also.line += strings.Count(first, "\n")
			blocks = append(blocks, also)
		}
		blocks = append(blocks, b)
	}
	return blocks
}

// originalProgram returns the whole program of the original README.
func originalProgram(t *testing.T) block {
	t.Helper()
	for _, b := range read(t, original).blocks {
		if strings.HasPrefix(b.code, "package main") {
			return b
		}
	}
	t.Fatal("the original README has no program")
	return block{}
}

var makesRedisDriver = regexp.MustCompile(`(?s)redisDriver, err := drivers\.NewRedisDriver\(.*?\n\t}\n`)

func onMemory(t *testing.T, program block) block {
	t.Helper()
	whole := program.code
	program.code = makesRedisDriver.ReplaceAllString(whole, "redisDriver := drivers.NewMemoryDriver()\n")
	if program.code == whole {
		t.Fatal("the program makes no Redis driver")
	}
	return program
}

// onRedis changes the two addresses of the program, and nothing else.
func onRedis(t *testing.T, program block, database, address string) block {
	t.Helper()
	for old, new := range map[string]string{`"localhost:6379"`: database, `":8080"`: address} {
		if strings.Count(program.code, old) != 1 {
			t.Fatalf("the program does not have the address %s once", old)
		}
		program.code = strings.ReplaceAll(program.code, old, strconv.Quote(new))
	}
	return program
}

// freeAddress returns an address that nobody listens on, below those that systems give to outgoing connections.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := "127.0.0.1:" + strconv.Itoa(10000+rand.IntN(5000))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// patience is how long a program may take to answer. Only a failure waits for it.
const patience = 20 * time.Second

// process is a program of the docs that runs.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	addr   string
	output output
	ended  chan struct{}
	err    error
}

// output is what a program has printed so far.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	more chan struct{} // holds a token when there is more
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// prints returns when the program has printed a text.
func (p *process) prints(text string) {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !strings.Contains(p.output.String(), text) {
		select {
		case <-p.output.more:
		case <-late.C:
			p.t.Fatalf("the program does not print %q", text)
		}
	}
}

// start starts a program. It may be dialed at once: who comes before it is there waits in the listener.
func start(t testing.TB, s *snippets, name string, prepare ...func(*exec.Cmd)) *process {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File() //nolint:errcheck // it is one
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return launch(t, s, name, l.Addr().String(), append(prepare, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{file} })...)
}

// startAt starts a program that listens on an address of its own, and returns when it does.
func startAt(t testing.TB, s *snippets, name, address string) *process {
	t.Helper()
	p := launch(t, s, name, address)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for late := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return p
		}
		select {
		case <-ticker.C:
		case <-p.ended:
			t.Fatalf("the program has ended: %v", p.err)
		}
		if time.Now().After(late) {
			t.Fatal(err)
		}
	}
}

func launch(t testing.TB, s *snippets, name, address string, prepare ...func(*exec.Cmd)) *process {
	t.Helper()
	p := &process{t: t, addr: address, ended: make(chan struct{})}
	p.output.more = make(chan struct{}, 1)
	p.cmd = exec.Command(filepath.Join(s.bin, name)) //nolint:noctx // ended by stop
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	for _, do := range prepare {
		do(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the program
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.stop)
	return p
}

// stop ends the program, if it runs, and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	if p.t.Failed() {
		p.t.Logf("the program printed:\n%s", p.output.String())
	}
}

// person is a client that a page would be.
type person struct {
	t  testing.TB
	ws *websocket.Conn
}

// connect opens a WebSocket from a page of the program's own origin.
func (p *process) connect(path string) *person {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, response, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+p.addr+path, http.Header{"Origin": {"http://" + p.addr}})
	if err != nil {
		p.t.Fatalf("connect to %s: %v", path, err)
	}
	_ = response.Body.Close()
	p.t.Cleanup(func() { _ = ws.Close() })
	return &person{p.t, ws}
}

func (c *person) say(text string) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatalf("say %s: %v", text, err)
	}
}

// hears returns when messages with these texts have arrived, in any order, and fails for others.
func (c *person) hears(texts ...string) {
	c.t.Helper()
	missing := map[string]int{}
	for _, text := range texts {
		missing[comparable(text)]++
	}
	for range texts {
		_ = c.ws.SetReadDeadline(time.Now().Add(patience))
		_, got, err := c.ws.ReadMessage()
		if err != nil {
			c.t.Fatalf("waiting for %v: %v", missing, err)
		}
		if missing[comparable(string(got))]--; missing[comparable(string(got))] < 0 {
			c.t.Fatalf("got %s, want one of %v", got, texts)
		}
	}
}

// ends returns when the connection is closed with that code and reason.
func (c *person) ends(code int, reason string) {
	c.t.Helper()
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	_, text, err := c.ws.ReadMessage()
	if !websocket.IsCloseError(err, code) || !strings.Contains(err.Error(), reason) {
		c.t.Fatalf("got %s %v, want close %d %s", text, err, code, reason)
	}
}

func talkToTheQuickStart(t *testing.T, p *process) {
	t.Helper()
	p.connect("/ws").ends(3500, "please enter a name")
	alice, bob := p.connect("/ws?token=alice"), p.connect("/ws?token=bob")
	const done = `{"id":"1","type":"receive","meta":{"time":0}}`
	for _, c := range []*person{alice, bob} {
		c.say(`{"id":"1","type":"subscribe","channel":"room:1"}`)
		c.hears(done)
	}
	alice.say(`{"id":"2","type":"message","channel":"room:1","message":"hello"}`)
	hello := `{"id":"2","type":"message","client":"alice","channel":"room:1","message":"hello"}`
	alice.hears(`{"id":"2","type":"receive","meta":{"time":0}}`, hello)
	bob.hears(hello)

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr+"/announce",
		strings.NewReader(url.Values{"text": {"lunch"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("announce: %s %s", response.Status, body)
	}
	const notice = `{"type":"notice","channel":"room:1","message":"lunch"}`
	alice.hears(notice)
	bob.hears(notice)
}

// talkAsTheOriginalPage does what the original README's front end does, in two windows, each with a program.
func talkAsTheOriginalPage(t *testing.T, p, q *process) {
	t.Helper()
	one, two := p.connect("/ws?token="+url.QueryEscape("测试用户")), q.connect("/ws?token=second")
	if strings.Contains(p.cmd.Path, "original") {
		one.hearsWelcome("欢迎 测试用户，连接成功!")
		two.hearsWelcome("欢迎 second，连接成功!")
	}
	for _, c := range []*person{one, two} {
		c.say(`{"type":"subscribe","channel":"channel1","id":"1700000000000"}`)
		c.hears(`{"id":"1700000000000","type":"receive","meta":{"time":0}}`)
	}
	one.say(`{"id":"1700000000001","type":"message","channel":"channel1","message":"你好","meta":{"username":"测试用户"}}`)
	hello := `{"id":"1700000000001","type":"message","client":"测试用户","channel":"channel1","message":"你好","meta":{"username":"测试用户"}}`
	one.hears(hello, `{"id":"1700000000001","type":"receive","meta":{"time":0}}`)
	two.hears(hello)
	two.say(`{"type":"unsubscribe","channel":"channel1","id":"1700000000002"}`)
	two.hears(`{"id":"1700000000002","type":"receive","meta":{"time":0}}`)
	one.say(`{"id":"1700000000003","type":"message","channel":"channel1","message":"还在吗"}`)
	one.hears(`{"id":"1700000000003","type":"message","client":"测试用户","channel":"channel1","message":"还在吗"}`,
		`{"id":"1700000000003","type":"receive","meta":{"time":0}}`)
	two.say(`{"type":"ping","id":"nothing before this"}`)
	two.hears(`{"type":"pong","id":"nothing before this"}`)
	if err := one.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	one.ends(1000, "")
}

func (c *person) hearsWelcome(text string) {
	c.t.Helper()
	var m struct{ ID, Type, Message string }
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	if err := c.ws.ReadJSON(&m); err != nil {
		c.t.Fatal(err)
	}
	if m.Type != "system" || m.Message != text || m.ID == "" {
		c.t.Fatalf("got %+v, want the welcome %q", m, text)
	}
}

func shutDown(t *testing.T, p *process) {
	t.Helper()
	c := p.connect("/ws")
	c.say(`{"type":"ping"}`)
	c.hears(`{"type":"pong"}`)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.addr+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatal("healthz:", response.Status)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	c.ends(3001, "restarting")
	_ = c.ws.Close()
	select {
	case <-p.ended:
		if printed := p.output.String(); p.err != nil || printed != "" {
			t.Fatalf("the program ended with %v and printed\n%s", p.err, printed)
		}
	case <-time.After(patience):
		t.Fatal("the program does not end")
	}
}
