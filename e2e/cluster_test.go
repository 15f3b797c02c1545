package e2e

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What the page shows beside that of examples/chat.
const (
	onNode   = `document.querySelector('#node').textContent`
	troubles = `[...document.querySelectorAll('#log .why')].map(e => e.textContent)`
)

// TestCluster plays a bad day of examples/cluster: its nodes and its Redis are real, and really killed.
func TestCluster(t *testing.T) {
	binary := build(t, "cluster")
	t.Run("without redis-server it says what to install", func(t *testing.T) {
		command := exec.Command(binary, "-addr", "127.0.0.1:0", "-redis", "own")
		command.Env = append(os.Environ(), "PATH=")
		output, err := command.CombinedOutput()
		want := "gows: redis-server is not installed: apt-get install redis-server, or give -redis host:port\n"
		if err == nil || string(output) != want {
			t.Errorf("it ends with %v and prints %q", err, output)
		}
	})
	t.Run("killed, it leaves nothing behind", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			return // other systems do not tell a child
		}
		cluster := newCluster(t, binary)
		kill(t, cluster.command.Process.Pid)
		_ = cluster.command.Wait()
		cluster.command = nil
		cluster.silent(t)
	})

	publisher, chromium := build(t, "cluster/publish"), newBrowser(t)
	cluster := newCluster(t, binary)
	alice, bob := chromium.join(t, cluster.url, "alice"), chromium.join(t, cluster.url, "bob")
	for _, c := range []chatter{alice, bob} {
		c.expect(networkErrors + `|status of 502`)
	}
	alices, bobs := alice.node(), bob.node()

	if !t.Run("two on different nodes see and hear each other", func(t *testing.T) {
		if alices == bobs {
			t.Fatalf("both are on %s", alices)
		}
		alice.here("alice", "bob")
		bob.here("bob", "alice")
		talk(alice, bob, "one")
		for _, name := range threeNodes {
			cluster.healthy(t, name, http.StatusOK)
		}
	}) {
		return
	}

	t.Run("a publisher that is no node is heard on every node, and read by who comes later", func(t *testing.T) {
		text := "from a cron job"
		said := publish(t, publisher, "-redis", cluster.redis, "-channel", "room:lobby", "-text", text)
		if said != "said in room:lobby\n" {
			t.Errorf("the publisher prints %q", said)
		}
		for _, c := range []chatter{alice, bob} {
			c.sees(text)
			c.wait(`document.querySelector('#log .message:last-child .who').textContent === 'REST'`)
		}
		carol := chromium.join(t, cluster.url, "carol")
		carol.sees("one from alice", "one from bob", text) // all three were said elsewhere
		carol.end()
		alice.here("alice", "bob")
	})

	t.Run("who was on a node that is killed goes on, on another", func(t *testing.T) {
		killed := cluster.process(alices)
		alice.say("last words")
		bob.sees("last words")
		kill(t, killed)
		cluster.prints(t, alices+" has ended (signal: killed) and starts again in 5s")
		for range 6 {
			if got := status(t, cluster.url+"/icon.svg"); got != http.StatusOK {
				t.Errorf("while %s is dead the proxy answers %d", alices, got)
			}
		}
		alice.wait(onNode+` !== '' && `+onNode+` !== $1 && `+state+` === 'connected'`, alices)
		alice.here("alice", "bob")
		bob.here("bob", "alice")
		talk(alice, bob, "two")
		if now := bob.node(); now != bobs {
			t.Errorf("bob went from %s to %s", bobs, now)
		}
		alice.wait(texts + `.filter(text => text === 'last words').length === 1`)
		cluster.restarted(t, alices, killed)
		cluster.healthy(t, alices, http.StatusOK)
	})

	t.Run("while Redis is away the page says so, and afterwards it heals by itself", func(t *testing.T) {
		killed := cluster.process("redis at " + cluster.redis)
		kill(t, killed)
		alice.say("into the void")
		alice.wait(troubles + `[0]?.startsWith('Not sent: unavailable')`)
		alice.wait(state + ` === 'connected'`) // this node is there
		bob.goTo("go")
		bob.wait(`document.querySelector('#rooms [data-room=go]').ariaBusy === 'true'`)
		for _, name := range threeNodes {
			cluster.healthy(t, name, http.StatusServiceUnavailable)
		}
		cluster.restarted(t, "redis at "+cluster.redis, killed)
		alice.wait(events + `.includes('messages may have been missed')`)
		bob.inRoom("go", "bob") // asked for while there was no Redis
		bob.goTo("lobby")
		bob.inRoom("lobby", "bob")
		alice.here("alice", "bob")
		bob.here("bob", "alice")
		alice.click(`#log .why button`) // "Try again"
		bob.sees("into the void")
		alice.sent()
		talk(alice, bob, "three")
		for _, name := range threeNodes {
			cluster.healthy(t, name, http.StatusOK)
		}
	})

	t.Run("SIGTERM ends everything, Redis last", func(t *testing.T) {
		cluster.end()
		alice.wait(`/^(connecting|reconnecting in \d+ s)$/.test(` + state + `) && ` + onNode + ` === ''`)
		cluster.silent(t)
		ended := regexp.MustCompile(`(?m)(node \d|redis) .*has ended \(exit status 0\)$`).FindAllStringSubmatch(cluster.output.String(), -1)
		if len(ended) != 4 || ended[3][1] != "redis" {
			t.Errorf("these ended, in this order: %q", ended)
		}
		if left, err := os.ReadDir(cluster.temporary); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v in the folder for temporary files, %v", left, err)
		}
	})
}

var threeNodes = []string{"node 1", "node 2", "node 3"}

// cluster is a running examples/cluster with a Redis of its own.
type cluster struct {
	t         *testing.T
	temporary string // its folder for such files
	url       string
	redis     string // its address
	command   *exec.Cmd
	output    transcript
}

// newCluster returns once the whole cluster is ready.
func newCluster(t *testing.T, binary string) *cluster {
	t.Helper()
	c := &cluster{t: t, temporary: t.TempDir(), command: exec.Command(binary, "-addr", "127.0.0.1:0", "-redis", "own")}
	c.command.Env = append(os.Environ(), "TMPDIR="+c.temporary)
	c.command.Stdout, c.command.Stderr = &c.output, &c.output
	c.command.WaitDelay = patience
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the cluster printed:\n%s", c.output.String())
		}
	})
	c.prints(t, "the chat is at http://")
	c.url = "http://" + c.find(`the chat is at http://(\S+)`)
	c.redis = c.find(`redis at (\S+) is process`)
	return c
}

// end ends the cluster as a terminal or a service manager does, unless it has ended.
func (c *cluster) end() {
	c.t.Helper()
	if c.command == nil {
		return
	}
	_ = c.command.Process.Signal(syscall.SIGTERM)
	ended := time.AfterFunc(2*patience, func() { _ = c.command.Process.Signal(syscall.SIGQUIT) })
	err := c.command.Wait()
	ended.Stop()
	c.command = nil
	text := c.output.String()
	if err != nil || strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") {
		c.t.Errorf("the cluster ended with %v and printed:\n%s", err, text)
	}
}

// find returns what the cluster printed last of a pattern's group.
func (c *cluster) find(pattern string) string {
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(c.output.String(), -1)
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1][1]
}

func (c *cluster) process(name string) int {
	pid, _ := strconv.Atoi(c.find(regexp.QuoteMeta(name) + ` is process (\d+)`))
	return pid
}

func (c *cluster) address(node string) string { return c.find(node + ` is ready: http://(\S+)/health`) }

func (c *cluster) prints(t *testing.T, text string) {
	t.Helper()
	until(t, "the cluster prints "+text, func() bool { return strings.Contains(c.output.String(), text) })
}

func (c *cluster) restarted(t *testing.T, name string, killed int) {
	t.Helper()
	until(t, name+" is started again", func() bool { return c.process(name) != killed })
}

// healthy waits until a load balancer would be told this of a node.
func (c *cluster) healthy(t *testing.T, node string, want int) {
	t.Helper()
	until(t, node+" answers "+strconv.Itoa(want), func() bool {
		return status(t, "http://"+c.address(node)+"/health") == want
	})
}

// status is what a GET is answered with; 0 when it is not.
func status(t *testing.T, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// silent waits until no process of the cluster listens any more.
func (c *cluster) silent(t *testing.T) {
	t.Helper()
	for _, address := range []string{c.redis, c.address("node 1"), c.address("node 2"), c.address("node 3")} {
		until(t, "nobody listens on "+address, func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
	}
}

// node returns the name of the node that the page shows.
func (c chatter) node() string {
	c.t.Helper()
	c.wait(onNode + ` !== ''`)
	return eval[string](c.tab, onNode)
}

// talk has both say something that the other hears.
func talk(alice, bob chatter, what string) {
	alice.t.Helper()
	alice.say(what + " from alice")
	bob.sees(what + " from alice")
	bob.say(what + " from bob")
	alice.sees(what+" from alice", what+" from bob")
	alice.sent()
	bob.sent()
}

func publish(t *testing.T, binary string, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(binary, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("the publisher ends with %v: %s", err, output)
	}
	return string(output)
}

// kill is kill -9.
func kill(t *testing.T, pid int) {
	t.Helper()
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		t.Fatalf("kill -9 %d: %v", pid, err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	again, end := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-end:
			t.Fatalf("waiting in vain: %s", what)
		}
	}
}

// transcript is what a program has printed so far.
type transcript struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *transcript) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *transcript) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
