package redistest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// masterName is what the sentinels call the master.
const masterName = "gows"

// Failover is a master, its replica, and three sentinels that watch both.
type Failover struct {
	t               testing.TB
	master, replica *Server
	sentinels       []*Server
}

// StartFailover runs a master, a replica and three sentinels, two of which must agree that the master is down after a
// second of silence. It returns when the replica is in sync and the sentinels know it and each other.
func StartFailover(t testing.TB) *Failover {
	t.Helper()
	f := &Failover{t: t, master: Start(t)}
	f.replica = Start(t, "--replicaof", host, strconv.Itoa(f.master.port))
	must(t, f.replica.synced) // before the sentinels ask the master for its replicas, which they rarely do
	for range 3 {
		f.sentinels = append(f.sentinels, start(t, func(dir string) []string {
			return f.sentinel(t, dir)
		}))
	}
	for _, s := range f.sentinels { // they greet each other every 2 s, and ask servers who they are every 10 s
		s.CLI("SENTINEL", "DEBUG", "publish-period", "200", "info-period", "500")
	}
	for _, s := range f.sentinels {
		must(t, func() error { return knowsAll(s) })
	}
	return f
}

// sentinel returns the arguments of a sentinel, whose configuration must be a file: it writes there what it learns.
func (f *Failover) sentinel(t testing.TB, dir string) []string {
	t.Helper()
	file := filepath.Join(dir, "sentinel.conf")
	config := fmt.Sprintf(`sentinel monitor %[1]s %s %d 2
sentinel down-after-milliseconds %[1]s 1000
sentinel failover-timeout %[1]s 3000
`, masterName, host, f.master.port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{file, "--sentinel"}
}

// knowsAll tells whether a sentinel knows the two others and the replica.
func knowsAll(s *Server) error {
	master, err := s.ask(answer, "SENTINEL", "MASTER", masterName)
	if err != nil {
		return err
	}
	replica, err := s.ask(answer, "SENTINEL", "REPLICAS", masterName)
	if err != nil {
		return err
	}
	m, r := pairs(master), pairs(replica)
	if m["flags"] != "master" || m["num-slaves"] != "1" || m["num-other-sentinels"] != "2" ||
		r["flags"] != "slave" || r["master-link-status"] != "ok" {
		return fmt.Errorf("redistest: the sentinel on port %d knows only %v and %v", s.port, m, r)
	}
	return nil
}

// Options returns what a client needs to find the master.
func (f *Failover) Options() *redis.FailoverOptions {
	o := &redis.FailoverOptions{MasterName: masterName}
	for _, s := range f.sentinels {
		o.SentinelAddrs = append(o.SentinelAddrs, s.Addr())
	}
	return o
}

// Master returns the server that was the master at the start.
func (f *Failover) Master() *Server { return f.master }

// Replica returns the server that was the replica at the start.
func (f *Failover) Replica() *Server { return f.replica }

// Sentinels returns the three sentinels.
func (f *Failover) Sentinels() []*Server { return append([]*Server(nil), f.sentinels...) }

// MasterAddr returns the host:port of whom the first sentinel that answers holds for the master.
func (f *Failover) MasterAddr() string {
	f.t.Helper()
	var errs []error
	for _, s := range f.sentinels {
		out, err := s.ask(answer, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
		if fields := strings.Fields(out); err == nil && len(fields) == 2 {
			return net.JoinHostPort(fields[0], fields[1])
		}
		errs = append(errs, err)
	}
	f.t.Fatalf("redistest: no sentinel knows the master: %v", errors.Join(errs...))
	return ""
}

// synced tells whether the server is a replica that has all that its master has sent.
func (s *Server) synced() error {
	info, err := s.ask(answer, "INFO", "replication")
	if err == nil && !strings.Contains(info, "master_link_status:up\r\n") {
		err = fmt.Errorf("redistest: the replica on port %d is not in sync:\n%s", s.port, info)
	}
	return err
}

// must polls, and fails the test where that fails.
func must(t testing.TB, question func() error) {
	t.Helper()
	if err := poll(question); err != nil {
		t.Fatal(err)
	}
}

// pairs reads lines that are names and values in turn.
func pairs(text string) map[string]string {
	found := map[string]string{}
	lines := strings.Split(text, "\n")
	for ; len(lines) > 1; lines = lines[2:] {
		found[lines[0]] = lines[1]
	}
	return found
}
