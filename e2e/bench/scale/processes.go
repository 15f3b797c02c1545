package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/e2e/bench/load"
)

// child is a process of ours. It ends with the context it was started with, or with the thread that started it: the
// kernel sees to that, also when the command is killed.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string        // file of what it complains about
	gone time.Duration // when it has ended, of the machine's clock
	done chan struct{} // closed then, and when it was waited for
}

// processes are all that were started.
type processes struct {
	dir string // for logs
	all []*child
}

// start starts a child.
func (p *processes) start(ctx context.Context, name string, cmd *exec.Cmd) (*child, error) {
	c := &child{name: name, cmd: cmd, log: filepath.Join(p.dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	go func() { // ends with the process, which ends with ctx
		defer close(c.done)
		defer stop()
		_ = cmd.Wait() // how it ended is for ended to say
		c.gone = monotonic()
	}()
	p.all = append(p.all, c)
	return c, nil
}

// wait returns when all have ended, which the end of their context makes them do.
func (p *processes) wait() {
	for _, c := range p.all {
		<-c.done
	}
}

// play returns a command that plays a part of this program.
func play(args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own file: %w", err)
	}
	return exec.Command(self, args...), nil
}

func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// ended is the error of a child that has ended by itself.
func (c *child) ended() error {
	said, _ := os.ReadFile(c.log)
	said = bytes.TrimSpace(said[max(0, len(said)-2000):])
	return fmt.Errorf("%s has ended (%s): %s", c.name, c.cmd.ProcessState, said)
}

// freePort returns an address that nobody listens on. Its port is below those that the kernel gives to outgoing
// connections, which could take it while a node is down.
func freePort() (string, error) {
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15000+rand.IntN(17000)))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no port between 15000 and 32000 is free")
}

// redisServer is Redis, without persistence.
type redisServer struct {
	*child

	addr string
}

func (p *processes) startRedis(ctx context.Context) (*redisServer, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not installed: apt-get install redis-server")
	}
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	c, err := p.start(ctx, "redis", exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--dir", p.dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no"))
	if err != nil {
		return nil, err
	}
	r := &redisServer{c, addr}
	return r, r.await(ctx, func() error {
		_, err := r.info()
		return err
	})
}

// await asks until there is no error, the process or the context has ended.
func (c *child) await(ctx context.Context, ready func() error) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", c.name, context.Cause(ctx), err)
		case <-c.done:
			return c.ended()
		case <-ticker.C:
		}
	}
}

// info returns what INFO says, by name.
func (r *redisServer) info() (map[string]string, error) {
	conn, err := net.DialTimeout("tcp", r.addr, time.Second)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a connection that is closed says so when it is read
	if _, err := io.WriteString(conn, "INFO everything\r\n"); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	in := bufio.NewReader(conn)
	head, err := in.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil {
		return nil, fmt.Errorf("redis: %q is no answer to INFO", head)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(in, text); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	info := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// number returns one of them, or 0.
func number(info map[string]string, name string) float64 {
	n, _ := strconv.ParseFloat(info[name], 64)
	return n
}

// node is a process that serves.
type node struct {
	*child

	addr string
}

func (p *processes) startNode(ctx context.Context, name, addr, redis string) (*node, error) {
	cmd, err := play("node", addr, redis)
	if err != nil {
		return nil, err
	}
	c, err := p.start(ctx, name, cmd)
	if err != nil {
		return nil, err
	}
	return &node{c, addr}, nil
}

var asking = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the node for a path.
func (n *node) get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.addr+path, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := asking.Do(request)
	if err != nil {
		return "", fmt.Errorf("%s: %w", n.name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(string(body))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", n.name, path, err)
	}
	return string(body), nil
}

// ready returns nil when the node serves.
func (n *node) ready(ctx context.Context) error {
	_, err := n.get(ctx, "/stats")
	return err
}

func (n *node) stats(ctx context.Context) (s core.Stats, err error) {
	body, err := n.get(ctx, "/stats")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(body), &s)
}

func (n *node) count(ctx context.Context, channel string) (int, error) {
	body, err := n.get(ctx, "/count?channel="+url.QueryEscape(channel))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(body)
}

// crowd is a process that holds the clients of a node.
type crowd struct {
	*child

	orders  *json.Encoder
	reports *json.Decoder
	report  // the last one
}

func (p *processes) startCrowd(ctx context.Context, name string, of plan) (*crowd, error) {
	cmd, err := play("clients")
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	child, err := p.start(ctx, name, cmd)
	if err != nil {
		return nil, err
	}
	c := &crowd{child: child, orders: json.NewEncoder(in), reports: json.NewDecoder(out)}
	if err := c.orders.Encode(of); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, c.hear()
}

// hear takes the report that answers a plan or an order.
func (c *crowd) hear() error {
	c.report = report{}
	if err := c.reports.Decode(&c.report); err != nil {
		_ = c.cmd.Process.Kill() // it does not do what it should, or is gone
		<-c.done
		return c.ended()
	}
	if c.Failure != "" {
		return fmt.Errorf("%s: %s", c.name, c.Failure)
	}
	return nil
}

// spent returns the CPU time of processes, without those that have ended.
func spent(children ...*child) (sum time.Duration) {
	for _, c := range children {
		if d, err := load.CPU(c.cmd.Process.Pid); err == nil && c.alive() {
			sum += d
		}
	}
	return sum
}

// resident returns the memory of processes, without those that have ended.
func resident(children ...*child) (sum int) {
	for _, c := range children {
		if n, err := load.Memory(c.cmd.Process.Pid); err == nil && c.alive() {
			sum += n
		}
	}
	return sum
}
