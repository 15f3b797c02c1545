package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// slots is how many there are in a cluster.
const slots = 16384

// Cluster is a Redis Cluster. Its nodes hold each other for dead after two seconds of silence.
type Cluster struct {
	t       testing.TB
	servers []*Server // the masters at the start, then the replicas
}

// StartCluster runs a cluster of so many masters, which share the slots, and replicas of each. It returns when every
// node serves and knows all others, and the replicas are in sync.
func StartCluster(t testing.TB, masters, replicasEach int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	var buses, ids []string
	for i := range masters * (1 + replicasEach) {
		var bus string
		s := start(t, func(string) []string {
			bus = strconv.Itoa(freePort(t))
			return memory("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000",
				"--cluster-replica-validity-factor", "0")
		})
		if i < masters { // before they meet, as the command wants it
			s.CLI("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
			s.CLI("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		}
		for j, other := range c.servers { // all, not only the first: gossip would take its time
			s.CLI("CLUSTER", "MEET", host, strconv.Itoa(other.port), buses[j])
		}
		c.servers = append(c.servers, s)
		buses = append(buses, bus)
		ids = append(ids, s.CLI("CLUSTER", "MYID"))
	}
	for i, s := range c.servers[masters:] {
		must(t, func() error { // fails until they have met
			_, err := s.ask(answer, "CLUSTER", "REPLICATE", ids[i%masters])
			return err
		})
	}
	for i, s := range c.servers {
		must(t, func() error { return c.whole(s, masters) })
		if i >= masters {
			must(t, s.synced)
		}
	}
	return c
}

// whole tells whether the server serves, and knows and is connected to all the others in their parts.
func (c *Cluster) whole(s *Server, masters int) error {
	info, err := s.ask(answer, "CLUSTER", "INFO")
	if err != nil {
		return err
	}
	nodes, err := s.nodes()
	if err != nil {
		return err
	}
	m, r := 0, 0
	for _, n := range nodes {
		switch {
		case !n.connected:
		case n.flags == "master" && len(n.slots) > 0:
			m++
		case n.flags == "slave":
			r++
		}
	}
	if !strings.Contains(info, "cluster_state:ok\r\n") || m != masters || m+r != len(c.servers) || len(nodes) != m+r {
		return fmt.Errorf("redistest: the node on port %d is not ready: %+v\n%s", s.port, nodes, info)
	}
	return nil
}

// Addrs returns the host:port of all nodes.
func (c *Cluster) Addrs() []string {
	var all []string
	for _, s := range c.servers {
		all = append(all, s.Addr())
	}
	return all
}

// Servers returns all nodes: the masters at the start in the order of their slots, then a replica of each in that order,
// then the next of each.
func (c *Cluster) Servers() []*Server { return append([]*Server(nil), c.servers...) }

// MasterOf returns the server that now serves the key's slot as a master. Where that is dead or paused, it waits for
// another to take over.
func (c *Cluster) MasterOf(key string) *Server {
	c.t.Helper()
	var master *Server
	must(c.t, func() error {
		var errs []error
		latest := -1
		for _, s := range c.servers {
			epoch, err := s.serves(key)
			if err != nil {
				errs = append(errs, errors.New(err.Error())) // a text: others may live
			} else if epoch > latest { // one that was replaced may not have heard of it
				master, latest = s, epoch
			}
		}
		if master == nil {
			return fmt.Errorf("redistest: nobody serves %q: %w", key, errors.Join(errs...))
		}
		return nil
	})
	return master
}

// serves returns the epoch since which the server serves the key as a master, and -1 if it does not.
func (s *Server) serves(key string) (epoch int, err error) {
	out, err := s.ask(answer, "CLUSTER", "KEYSLOT", key)
	if err != nil {
		return -1, err
	}
	slot, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return -1, err
	}
	nodes, err := s.nodes()
	if err != nil {
		return -1, err
	}
	for _, n := range nodes {
		if !n.myself || n.flags != "master" {
			continue
		}
		for _, r := range n.slots {
			if r[0] <= slot && slot <= r[1] {
				return n.epoch, nil
			}
		}
	}
	return -1, nil
}

// node is a line of CLUSTER NODES.
type node struct {
	flags     string // without myself
	myself    bool
	epoch     int
	connected bool
	slots     [][2]int
}

// nodes returns all nodes as the server sees them.
func (s *Server) nodes() ([]node, error) {
	out, err := s.ask(answer, "CLUSTER", "NODES")
	if err != nil {
		return nil, err
	}
	var all []node
	for line := range strings.Lines(out) {
		// id address flags master ping pong epoch link slot...
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		flags, myself := strings.CutPrefix(f[2], "myself,")
		epoch, err := strconv.Atoi(f[6])
		if err != nil {
			return nil, err
		}
		n := node{flags, myself, epoch, f[7] == "connected", nil}
		for _, text := range f[8:] {
			first, last, isRange := strings.Cut(text, "-")
			if !isRange {
				last = first
			}
			a, err1 := strconv.Atoi(first)
			b, err2 := strconv.Atoi(last)
			if err1 == nil && err2 == nil { // else it is [slot->-node], on its way
				n.slots = append(n.slots, [2]int{a, b})
			}
		}
		all = append(all, n)
	}
	return all, nil
}
