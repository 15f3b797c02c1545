// Package redistest runs real redis servers for tests: alone, with sentinels or as a cluster, to be killed, paused and
// restarted, and a TCP proxy that misbehaves. All of it ends with the test. It needs redis-server 7.0 or later.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	host     = "127.0.0.1"
	patience = 30 * time.Second      // for what must happen, on a machine that is busy with other things
	answer   = 2 * time.Second       // for a question that can be asked again
	pace     = 20 * time.Millisecond // between two questions
)

// Server is a redis-server process, or its successor on the same port. Safe for concurrent use; but all methods except
// Addr, Client and Kill may fail the test at once, and belong in its goroutine.
type Server struct {
	t        testing.TB
	dir      string
	port     int
	args     []string
	password string

	mu      sync.Mutex // guards process, paused
	process *process   // nil while it is dead
	paused  bool
}

// Start runs a redis-server without persistence on a free loopback port, and returns when it answers. args are options
// of its configuration, such as "--requirepass", "secret".
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, func(string) []string { return memory(args...) })
}

// start runs a redis-server with the arguments that args returns for its directory. They come first, so that
// they may begin with a configuration file.
func start(t testing.TB, args func(dir string) []string) *Server {
	t.Helper()
	for _, name := range []string{"redis-server", "redis-cli"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatal("redis-server is not installed: apt-get install redis-server")
		}
	}
	s := &Server{t: t, dir: t.TempDir()}
	t.Cleanup(s.Kill)
	var err error
	for range 5 { // another test's process may take the port between our look and the server's
		s.port = freePort(t)
		s.args = args(s.dir)
		s.password = ""
		for i, arg := range s.args[:max(0, len(s.args)-1)] {
			if arg == "--requirepass" {
				s.password = s.args[i+1]
			}
		}
		s.args = append(slices.Clip(s.args),
			"--bind", host, "--port", strconv.Itoa(s.port), "--dir", s.dir, "--daemonize", "no")
		if err = s.run(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// run starts the process and returns when it answers.
func (s *Server) run() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("redis-server", s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := launch(cmd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.process, s.paused = p, false
	s.mu.Unlock()

	// Not any server that answers on this port.
	own := fmt.Sprintf("process_id:%d\r\n", p.cmd.Process.Pid)
	err = poll(func() error {
		select {
		case <-p.done:
			return errDead
		default:
		}
		info, err := s.ask(answer, "INFO", "server")
		if err == nil && !strings.Contains(info, own) {
			err = errors.New("another server answers")
		}
		return err
	})
	if err != nil {
		s.Kill()
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("redistest: the server on port %d: %w\n%s", s.port, err, said)
	}
	return nil
}

// Addr returns the server's host:port, the same for its whole life.
func (s *Server) Addr() string { return net.JoinHostPort(host, strconv.Itoa(s.port)) }

// Kill ends the process with SIGKILL, paused or not, and returns when it is gone. Once more does nothing.
func (s *Server) Kill() {
	s.mu.Lock()
	p := s.process
	s.process, s.paused = nil, false
	s.mu.Unlock()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // fails where it has ended by itself
	<-p.done
}

// Restart starts the server again on the same port, without data, and returns when it answers. It is killed first if it
// is alive. A member of a cluster and a sentinel remember who they are.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := os.Remove(filepath.Join(s.dir, "dump.rdb")); err != nil && !os.IsNotExist(err) { // of a replica's sync
		s.t.Fatal(err)
	}
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the process with SIGSTOP and returns when it stands: its connections stay, new ones are accepted by the
// kernel, and nothing answers until Resume.
func (s *Server) Pause() {
	s.t.Helper()
	s.signal("pause", pause, true)
}

// Resume undoes Pause, with SIGCONT.
func (s *Server) Resume() {
	s.t.Helper()
	s.signal("resume", resume, false)
}

func (s *Server) signal(what string, send func(*os.Process) error, paused bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errDead
	if s.process != nil {
		err = send(s.process.cmd.Process)
	}
	if err != nil {
		s.t.Fatalf("redistest: %s the server on port %d: %v", what, s.port, err)
	}
	s.paused = paused
}

// CLI runs redis-cli with args against the server and returns what it prints, without the space around. An error reply
// fails the test.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	out, err := s.ask(patience, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Client returns a new client of the server, for the test's own questions, whose contexts it heeds. It is closed when the
// test ends.
func (s *Server) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: s.password, ContextTimeoutEnabled: true})
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// ask runs redis-cli and returns what it prints.
func (s *Server) ask(limit time.Duration, args ...string) (string, error) {
	s.mu.Lock()
	mute := s.process == nil || s.paused
	s.mu.Unlock()
	if mute {
		return "", fmt.Errorf("redistest: redis-cli %q: the server on port %d: %w", args, s.port, errDead)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-e", "-h", host, "-p", strconv.Itoa(s.port)}, args...)...)
	if s.password != "" {
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+s.password)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("redistest: redis-cli %q on port %d: %w: %s%s", args, s.port, err, out, complaint.String())
	}
	return string(out), nil
}

// errDead ends a poll: it will not get better.
var errDead = errors.New("dead or paused")

// poll asks until there is no error, or one that is errDead, or patience ends, and returns the last.
func poll(question func() error) error {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		err := question()
		if err == nil || errors.Is(err, errDead) || time.Now().After(deadline) {
			return err
		}
	}
}

// memory is what keeps a server from writing to disk and from waiting before a replica's sync.
func memory(more ...string) []string {
	return append([]string{
		"--save", "", "--appendonly", "no", "--rdb-del-sync-files", "yes",
		"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
	}, more...)
}

var (
	portsMu sync.Mutex // guards ports
	ports   = map[int]bool{}
)

// freePort returns a port that nobody listens on, never the same twice. It is below those that systems give to outgoing
// connections, which could take it while a server is dead.
func freePort(t testing.TB) int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 1000 {
		port := 15000 + rand.IntN(17000)
		if ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = listener.Close()
		ports[port] = true
		return port
	}
	t.Fatal("redistest: no free port")
	return 0
}
