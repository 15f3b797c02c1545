package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
)

// result is what a run has shown.
type result struct {
	Machine     string
	Redis       string // its version
	Connections int
	Nodes       int
	Rooms       [kinds]int // members

	Joining  float64 // seconds until all were in their rooms
	Memory   memory
	Idle     quiet
	Load     traffic
	Restarts []back
	Restart  traffic // while the nodes were restarted
	After    traffic // when all were back

	Back    int // clients, in the end
	Counted int // rooms whose members were counted
	Closed  map[int]int
	Failed  int // attempts to come back that were not successful, mostly because the node was not there yet
	Gaps    int

	Problems []string // what is not as it should be
}

// memory is bytes for each connection.
type memory struct {
	Nodes   float64 // resident, after a garbage collection, less what the nodes had before anybody came
	Redis   float64 // used, less what was used before
	Clients float64 // resident
}

// use is how much of the cores was used.
type use struct {
	Seconds float64
	Nodes   float64 // of them all, in cores
	Redis   float64
	Clients float64
}

// quiet is a time without messages.
type quiet struct {
	Use      use
	Commands map[string]float64 // per second, those within scripts too, by name
}

// traffic is a time with messages.
type traffic struct {
	Use   use
	Kinds [kinds]kindTraffic
}

// kindTraffic is that of the rooms of a kind.
type kindTraffic struct {
	Kind      string
	Messages  int64
	Expected  int64 // deliveries
	Delivered int64
	Same      quantiles // of publishers on the same node as the receiver
	Across    quantiles // of publishers on another node
}

// quantiles are microseconds.
type quantiles struct{ P50, P99, P999 float64 }

func quantilesOf(t *load.Times) quantiles { return quantiles{t.At(0.5), t.At(0.99), t.At(0.999)} }

// back is a node's restart. Times are seconds from the signal on.
type back struct {
	Clients int
	Ended   float64 // until the old process had ended
	Back    float64 // until the last client was in its rooms again
}

func (r *result) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// expectAll makes a problem of messages that were lost, or came twice.
func (r *result) expectAll(when string, t traffic) {
	for _, k := range t.Kinds {
		if k.Messages == 0 {
			r.problem("%s nobody has published to a %s", when, k.Kind)
		}
		if k.Delivered != k.Expected {
			r.problem("%s %s deliveries to a %s arrived, not %s", when, group(int(k.Delivered)), k.Kind, group(int(k.Expected)))
		}
	}
}

// footprint is the memory of everybody.
type footprint struct{ nodes, redis, clients float64 }

// footprint collects the garbage of the nodes and returns what is left.
func (s *scale) footprint(ctx context.Context) (f footprint, err error) {
	for _, n := range s.nodes {
		if _, err := n.get(ctx, "/gc"); err != nil {
			return f, err
		}
	}
	info, err := s.redis.info()
	if err != nil {
		return f, err
	}
	return footprint{float64(resident(s.servers()...)), number(info, "used_memory"), float64(resident(s.holders()...))}, nil
}

func (f footprint) since(before footprint, connections int) memory {
	n := float64(connections)
	return memory{(f.nodes - before.nodes) / n, (f.redis - before.redis) / n, (f.clients - before.clients) / n}
}

// use begins to measure, and returns what ends it.
func (s *scale) use() func() use {
	begun, nodes, redis, clients := time.Now(), spent(s.servers()...), spent(s.redis.child), spent(s.holders()...)
	return func() use {
		seconds := time.Since(begun).Seconds()
		cores := func(from time.Duration, of ...*child) float64 { return (spent(of...) - from).Seconds() / seconds }
		return use{seconds, cores(nodes, s.servers()...), cores(redis, s.redis.child), cores(clients, s.holders()...)}
	}
}

// commands returns what Redis has done between two INFO, per second. Asking is not counted.
func commands(before, after map[string]string, seconds float64) map[string]float64 {
	each := map[string]float64{}
	for name, value := range after {
		name, ok := strings.CutPrefix(name, "cmdstat_")
		if n := calls(value) - calls(before["cmdstat_"+name]); ok && name != "info" && n > 0 {
			each[name] = float64(n) / seconds
		}
	}
	return each
}

// calls reads "calls=12,usec=...".
func calls(stat string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
	n, _ := strconv.Atoi(first)
	return n
}

// gather takes what the clients have counted in this phase.
func (t *traffic) gather(s *scale) {
	for kind := range kinds {
		k := &t.Kinds[kind]
		k.Kind = kindNames[kind]
		for _, c := range s.crowds {
			k.Messages += c.Sent[kind]
			k.Expected += c.Expected[kind]
			k.Delivered += c.Delivered[kind]
		}
		k.Same, k.Across = quantilesOf(&s.took[kind][0]), quantilesOf(&s.took[kind][1])
	}
}

// machine says where this was measured.
func machine() string {
	model := ""
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = ", " + strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s, %d cores%s, %s", runtime.GOOS, runtime.NumCPU(), model, runtime.Version())
}

// String is the result for people.
func (r *result) String() string {
	var b strings.Builder
	p := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s "+format+"\n", append([]any{name}, args...)...)
	}
	p("machine", "%s, Redis %s; nodes, Redis and clients share it", r.Machine, r.Redis)
	p("joining", "%s clients in %.1f s: %s a second, each with three subscriptions",
		group(r.Connections), r.Joining, group(int(float64(r.Connections)/r.Joining)))
	p("memory", "%s bytes per connection on the nodes, %s in Redis (the clients' processes: %s)",
		group(int(r.Memory.Nodes)), group(int(r.Memory.Redis)), group(int(r.Memory.Clients)))
	all, busiest := 0., []string{}
	for name, n := range r.Idle.Commands {
		all += n
		if n >= 1 {
			busiest = append(busiest, fmt.Sprintf("%s %.1f", name, n))
		}
	}
	slices.Sort(busiest)
	p("idle", "%s; Redis has %.1f commands a second (%s)", r.Idle.Use, all, strings.Join(busiest, ", "))
	p("load", "%s", r.Load.Use)
	r.Load.write(&b)
	for i, n := range r.Restarts {
		p("restart", "%s: ended after %.1f s, all of its %s clients back after %.1f s", nodeName(i), n.Ended, group(n.Clients), n.Back)
	}
	p("", "meanwhile, with members away:")
	r.Restart.write(&b)
	p("after", "%s of %s clients are back, %d rooms counted; %s", group(r.Back), group(r.Connections), r.Counted, r.After.Use)
	r.After.write(&b)
	for _, problem := range r.Problems {
		p("PROBLEM", "%s", problem)
	}
	return b.String()
}

func (u use) String() string {
	return fmt.Sprintf("nodes %.2f cores, Redis %.2f, clients %.2f, for %.0f s", u.Nodes, u.Redis, u.Clients, u.Seconds)
}

func (t traffic) write(b *strings.Builder) {
	fmt.Fprintf(b, "%10s%-5s %8s %10s %8s   %-30s   %s\n", "", "", "messages", "delivered", "missing",
		"across nodes p50, p99, p99.9", "same node")
	for _, k := range t.Kinds {
		fmt.Fprintf(b, "%10s%-5s %8s %10s %8s   %-30s   %s\n", "", k.Kind, group(int(k.Messages)), group(int(k.Delivered)),
			group(int(k.Expected-k.Delivered)), k.Across, k.Same)
	}
}

func (q quantiles) String() string {
	return fmt.Sprintf("%s, %s, %s", millis(q.P50), millis(q.P99), millis(q.P999))
}
