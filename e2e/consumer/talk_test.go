//go:build !race

package consumer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

// talk writes a program, builds it, starts it, and talks to it until it ends.
func (p *project) talk(program string) {
	p.Helper()
	p.write(program)
	p.run("vet", ".")
	binary := filepath.Join(p.folder, "server")
	p.run("build", "-o", binary, ".")
	p.carriesNoTests()

	server := start(p.T, binary)
	refused(p.T, server.address)
	alice := connect(p.T, server.address)
	alice.say(`{"id":"1","type":"subscribe","channel":"room:1"}`)
	if m := alice.hears(); m.Type != "receive" || m.ID != "1" {
		p.Errorf("the answer to a subscribe is %+v", m)
	}
	push(p.T, server.address, "rain")
	if m := alice.hears(); m.Type != "news" || m.Message != "rain" || m.Channel != "room:1" {
		p.Errorf("got %+v", m)
	}
	server.stop()
	alice.closes(core.CloseRestart)
}

// carriesNoTests judges the packages that are compiled into the program. Fiber v2 has a package for tests itself.
func (p *project) carriesNoTests() {
	p.Helper()
	for line := range strings.Lines(p.run("list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, ".")) {
		packages := strings.Fields(line)
		name, imports := packages[0], packages[1:]
		if strings.HasPrefix(name, "github.com/gorilla/") || strings.HasPrefix(name, library+"/internal/") {
			p.Errorf("the program has the package %s", name)
		}
		if slices.Contains(imports, "testing") && name != "github.com/gofiber/fiber/v2/utils" {
			p.Errorf("%s brings the package testing into the program", name)
		}
	}
}

// server is a program that runs.
type server struct {
	*testing.T

	address string
	process *exec.Cmd
	input   io.Closer
	errors  strings.Builder
}

// start returns once the program has told its address.
func start(t *testing.T, binary string) *server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*coretest.Patience)
	s := &server{T: t, process: exec.CommandContext(ctx, binary)}
	s.process.Stderr = &s.errors
	input, err := s.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = s.process.Wait() // has been waited for, unless the test failed before
	})
	s.input = input
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatalf("the program tells no address: %v, %v\n%s", err, s.process.Wait(), &s.errors)
	}
	s.address = strings.TrimSpace(line)
	return s
}

// stop ends the program's standard input, and with it the program.
func (s *server) stop() {
	s.Helper()
	_ = s.input.Close()
	if err := s.process.Wait(); err != nil {
		s.Errorf("the program ended with %v\n%s", err, &s.errors)
	}
}

func refused(t *testing.T, address string) {
	t.Helper()
	_, response, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+address+"/ws", nil)
	if response == nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", response.Status)
	}
}

// push asks the program's REST route to push a text.
func push(t *testing.T, address, text string) {
	t.Helper()
	form := strings.NewReader(url.Values{"text": {text}}.Encode())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/push", form)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("POST /push: %s", response.Status)
	}
}

// client is a client of the program.
type client struct {
	*websocket.Conn

	t *testing.T
}

func connect(t *testing.T, address string) *client {
	t.Helper()
	conn, response, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+address+"/ws?token=alice", nil)
	if err != nil {
		t.Fatal(err, response)
	}
	_ = response.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(coretest.Patience))
	return &client{conn, t}
}

func (c *client) say(text string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hears() (m core.Message) {
	c.t.Helper()
	if err := c.ReadJSON(&m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *client) closes(code int) {
	c.t.Helper()
	var closed *websocket.CloseError
	if _, text, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != code {
		c.t.Errorf("got %q, %v, want a close with %d", text, err, code)
	}
}
