package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
	"github.com/duxweb/go-ws/e2e/bench/server"
)

// contest is one scenario while it runs. Its servers take turns, round by round, because the machine drifts: only figures
// of the same rounds can be compared.
type contest struct {
	ctx     context.Context //nolint:containedctx // it lives as long as the scenario
	program string          // this one, which plays all parts
	servers []server.Server
	rounds  int
	length  time.Duration // of one measurement
	redis   string        // address, of the scenarios that need it

	standings []*Standing
	procs     []*process
}

// process is a part that this program plays in a process of its own.
type process struct {
	cmd  *exec.Cmd
	addr string
}

// contestant is a server while it has its turn.
type contestant struct {
	*Standing

	server server.Server
	nodes  []*process
}

// warm is how long a scenario runs before it counts, each time.
const warm = 200 * time.Millisecond

// fanOut measures the task on every server, all of which have the same clients.
func fanOut(plan load.Plan, task load.Task) func(*contest) error {
	return func(c *contest) error {
		return c.eachRound(1, func(in *contestant) (map[metric]float64, error) { return c.measure(in, plan, task) })
	}
}

// cluster is fanOut with two nodes of each server. Of the hosts of go-ws it takes the first: they differ in nothing that
// comes behind the handshake.
func cluster(plan load.Plan, task load.Task) func(*contest) error {
	return func(c *contest) error {
		redis, err := c.startRedis()
		if err != nil {
			return err
		}
		c.redis = redis
		seen := map[string]bool{}
		c.servers = slices.DeleteFunc(slices.Clone(c.servers), func(s server.Server) bool {
			out := !s.Clusters() || seen[s.Library]
			seen[s.Library] = true
			return out
		})
		return c.eachRound(2, func(in *contestant) (map[metric]float64, error) { return c.measure(in, plan, task) })
	}
}

// measure opens a crowd and gives it the task.
func (c *contest) measure(in *contestant, plan load.Plan, task load.Task) (map[metric]float64, error) {
	crowd, _, err := c.open(in, plan)
	if err != nil {
		return nil, err
	}
	defer crowd.Close()
	task.Warm, task.For = warm, c.length
	if task.Window == 1 {
		task.For *= 2 // it is about latencies, too, and has fewer messages
	}
	for _, node := range in.nodes {
		task.Pids = append(task.Pids, node.cmd.Process.Pid)
	}
	before, err := in.mallocs()
	if err != nil {
		return nil, err
	}
	r, err := crowd.Measure(task)
	if err != nil {
		return nil, err
	}
	after, err := in.mallocs()
	if err != nil {
		return nil, err
	}
	sample := sampleOf(r)
	sample[allocs] = (after - before) / float64(max(1, r.Messages+r.Warming))
	return sample, nil
}

func sampleOf(r load.Result) map[metric]float64 {
	return map[metric]float64{
		cpu: r.ServerCPU, rate: r.PerSecond(), p50: r.P50, p99: r.P99, p999: r.P999,
		lost: float64(r.Lost), closed: float64(r.Closed),
	}
}

// slowTenth opens a new crowd for each measurement: what a slow reader costs shows before the server has given it up.
func slowTenth(c *contest) error {
	const readers = 900
	task := load.Task{Size: 4 << 10, Window: 1, Warm: warm, For: c.length}
	return c.eachRound(1, func(in *contestant) (map[metric]float64, error) {
		var results [2]load.Result
		for n := range results { // in every other round the other one is the first that the server has
			i := (n + len(in.Rounds)) % len(results)
			slow := i * readers / 9
			crowd, _, err := c.open(in, load.Plan{Clients: readers + slow, Channels: 1, Slow: slow})
			if err != nil {
				return nil, err
			}
			results[i], err = crowd.Measure(task)
			if err := errors.Join(err, crowd.Close()); err != nil {
				return nil, err
			}
		}
		sample := sampleOf(results[1])
		sample[alone] = results[0].P99
		return sample, nil
	})
}

// besideFloods measures how long a message takes while the server has much else to do.
func besideFloods(c *contest) error {
	return c.eachRound(1, func(in *contestant) (map[metric]float64, error) {
		flood, _, err := c.open(in, load.Plan{Clients: 3000, Channels: 3})
		if err != nil {
			return nil, err
		}
		defer flood.Close()
		lone, _, err := c.open(in, load.Plan{Clients: 1, Channels: 1})
		if err != nil {
			return nil, err
		}
		defer lone.Close()
		flooded := make(chan error, 1)
		var floods load.Result
		go func() { // ends with its measurement
			var err error
			floods, err = flood.Measure(load.Task{Size: 128, Window: 3 * 64, Warm: warm, For: 2*warm + c.length})
			flooded <- err
		}()
		r, err := lone.Measure(load.Task{Size: 128, Rate: 100, Warm: 2 * warm, For: c.length})
		if err := errors.Join(<-flooded, err); err != nil {
			return nil, err
		}
		sample := sampleOf(r)
		sample[rate] = floods.PerSecond()
		return sample, nil
	})
}

// threeRounds is for what needs no more, or would take too long.
func threeRounds(run func(*contest) error) func(*contest) error {
	return func(c *contest) error {
		c.rounds = min(c.rounds, 3)
		return run(c)
	}
}

// idle measures what a connection holds when nothing happens, and how fast they come. Each round has a new process.
func idle(clients int) func(*contest) error {
	return func(c *contest) error {
		return c.eachRound(1, func(in *contestant) (map[metric]float64, error) {
			// What the first connections bring into memory once, the code that serves them above all, is not a connection's.
			first, _, err := c.open(in, load.Plan{Clients: 100, Channels: 100})
			if err == nil {
				err = first.Close()
			}
			if err != nil {
				return nil, err
			}
			before, err := in.nodes[0].collected()
			if err != nil {
				return nil, err
			}
			crowd, opened, err := c.open(in, load.Plan{Clients: clients, Channels: 100})
			if err != nil {
				return nil, err
			}
			defer crowd.Close()
			after, err := in.nodes[0].collected()
			if err != nil {
				return nil, err
			}
			return map[metric]float64{
				memory: float64(after-before) / float64(clients), connects: opened.PerSecond,
			}, nil
		})
	}
}

// eachRound gives each server its turn in each round. It is started anew each time: where the system happens to put a
// process into memory makes a difference of some ten percent, for as long as it runs. A server that fails is out of the
// scenario, and the result says why.
func (c *contest) eachRound(nodes int, measure func(*contestant) (map[metric]float64, error)) error {
	for _, s := range c.servers {
		c.standings = append(c.standings, &Standing{Server: s.Name, Medians: map[metric]float64{}})
	}
	for round := range c.rounds {
		for n := range c.servers { // each time another one begins, so that nobody always comes behind the same
			i := (n + round) % len(c.servers)
			if in := c.standings[i]; in.Failed == "" {
				in.fail(c.turn(&contestant{Standing: in, server: c.servers[i]}, nodes, measure))
			}
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (c *contest) turn(in *contestant, nodes int, measure func(*contestant) (map[metric]float64, error)) error {
	for range nodes {
		node, err := c.startServer(in.server)
		if err != nil {
			return err
		}
		defer node.stop()
		in.nodes = append(in.nodes, node)
	}
	sample, err := measure(in)
	if err == nil {
		in.Rounds = append(in.Rounds, sample)
	}
	return err
}

func (c *contest) open(in *contestant, plan load.Plan) (*load.Process, load.Opened, error) {
	plan.Dialect = in.server.Dialect
	plan.URL = "ws://" + in.nodes[0].addr + "/ws"
	plan.Publish = "ws://" + in.nodes[len(in.nodes)-1].addr + "/ws"
	plan.Name = fmt.Sprintf("c%d", len(c.procs))
	cmd := exec.CommandContext(c.ctx, c.program, "load")
	cmd.Stderr = os.Stderr
	c.procs = append(c.procs, &process{cmd: cmd})
	crowd, opened, err := load.Start(cmd, plan)
	if err != nil {
		return nil, opened, fmt.Errorf("open a crowd: %w", err)
	}
	return crowd, opened, nil
}

// startServer starts a server, which says where it listens.
func (c *contest) startServer(s server.Server) (*process, error) {
	cmd := exec.CommandContext(c.ctx, c.program, "serve", s.Name, c.redis)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // it ends when this program does
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p := &process{cmd: cmd}
	c.procs = append(c.procs, p)
	if _, err := fmt.Fscanln(out, &p.addr); err != nil {
		return nil, fmt.Errorf("%s has not said where it listens: %w", s.Name, err)
	}
	return p, nil
}

// startRedis starts a Redis of this scenario, and returns its address.
func (c *contest) startRedis() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("redis-server is missing: install it, or leave the scenarios cluster... out: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("a port for redis-server: %w", err)
	}
	addr := l.Addr().(*net.TCPAddr) //nolint:errcheck // a TCP listener has no other
	_ = l.Close()
	cmd := exec.CommandContext(c.ctx, path, "--port", strconv.Itoa(addr.Port), "--bind", "127.0.0.1", "--save", "", "--dir", os.TempDir())
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start redis-server: %w", err)
	}
	c.procs = append(c.procs, &process{cmd: cmd})
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for range 500 {
		if conn, err := net.Dial("tcp", addr.String()); err == nil {
			return addr.String(), conn.Close()
		}
		<-ticker.C
	}
	return "", errors.New("redis-server does not answer")
}

// close ends all processes of the scenario.
func (c *contest) close() {
	for _, p := range c.procs {
		p.stop()
	}
}

func (p *process) stop() {
	if p.cmd.Process != nil && p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// collected returns the resident memory of a server that has collected its garbage.
func (p *process) collected() (int, error) {
	if _, err := get(p.addr, "/gc"); err != nil {
		return 0, err
	}
	return load.Memory(p.cmd.Process.Pid)
}

// mallocs returns how often the nodes have allocated.
func (in *contestant) mallocs() (sum float64, err error) {
	for _, node := range in.nodes {
		text, err := get(node.addr, "/mallocs")
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return 0, fmt.Errorf("allocations of %s: %w", in.Server, err)
		}
		sum += n
	}
	return sum, nil
}

func get(addr, path string) (string, error) {
	response, err := http.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
