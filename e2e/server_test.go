package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// build builds one of the examples, the programs that people run, in the example's own module.
func build(t *testing.T, example string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(example))
	command := exec.CommandContext(t.Context(), "go", "build", "-o", binary)
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		command.Args = append(command.Args, "-race") // a race in the server fails its stop
	}
	command.Dir = filepath.Join("..", "examples", example)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go build in examples/%s: %v\n%s", example, err, output)
	}
	return binary
}

// server is a running chat. It can be stopped and started again on the same port.
type server struct {
	t       *testing.T
	binary  string
	address string
	url     string
	process *exec.Cmd
	output  bytes.Buffer
}

func newServer(t *testing.T, binary string) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	s := &server{t: t, binary: binary, address: address, url: "http://" + address}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start returns once the server answers.
func (s *server) start() {
	s.t.Helper()
	s.output.Reset()
	s.process = exec.Command(s.binary, "-addr", s.address)
	s.process.Stdout, s.process.Stderr = &s.output, &s.output
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	again, end := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer again.Stop()
	for {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-again.C:
		case <-end:
			s.t.Fatalf("the chat does not listen on %s: %v", s.address, err)
		}
	}
}

// stop asks the server to end, as a deployment does, and fails the test if it does not end well, or has written a token
// into its log.
func (s *server) stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGTERM)
	ended := time.AfterFunc(patience, func() { _ = s.process.Process.Signal(syscall.SIGQUIT) }) // and its stacks
	err := s.process.Wait()
	ended.Stop()
	s.process = nil
	if err != nil || strings.Contains(s.output.String(), "panic") {
		s.t.Errorf("the chat ended with %v:\n%s", err, s.output.String())
	}
	if strings.Contains(s.output.String(), jwt) {
		s.t.Errorf("a token is in the log:\n%s", s.output.String())
	}
}

// jwt is how every JWT begins: {" in base64.
const jwt = "eyJ"

// post is what the page's curl line does.
func (s *server) post(path, body string) (status int, answer string) {
	s.t.Helper()
	return s.call(http.MethodPost, path, body)
}

func (s *server) call(method, path, body string) (status int, answer string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl -d does
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// link is a TCP proxy between one person and the server: a network that can be cut, or hold back what the server says.
type link struct {
	url string

	mu    sync.Mutex
	open  bool
	held  chan struct{} // closed when the server's bytes may pass; nil when nothing is held
	conns map[net.Conn]struct{}
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{url: "http://" + listener.Addr().String(), open: true, conns: map[net.Conn]struct{}{}}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wait.Go(func() { l.carry(conn, target) })
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.release()
		l.cut()
		wait.Wait()
	})
	return l
}

// carry copies both ways until either side ends.
func (l *link) carry(down net.Conn, target string) {
	defer down.Close()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	defer l.forget(down, up)
	if !l.keep(down, up) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, down)
		_ = up.Close()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := up.Read(buffer)
		l.pass()
		if _, failed := down.Write(buffer[:n]); err != nil || failed != nil {
			break
		}
	}
	_ = down.Close()
	<-done
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range conns {
		l.conns[conn] = struct{}{}
	}
	return l.open
}

func (l *link) forget(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range conns {
		delete(l.conns, conn)
	}
}

// pass waits while the link is held.
func (l *link) pass() {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held != nil {
		<-held
	}
}

// cut ends all connections and refuses new ones, until restore.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
	for conn := range l.conns {
		_ = conn.Close()
	}
}

func (l *link) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
}

// hold keeps what the server says back, until release. What the person says passes.
func (l *link) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = make(chan struct{})
}

func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		close(l.held)
		l.held = nil
	}
}
