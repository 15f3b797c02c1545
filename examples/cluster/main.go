// Command cluster is the chat of examples/chat on three nodes, each a process of its own, behind a proxy and joined by
// Redis. Run it with go run ./examples/cluster, open http://localhost:8080 in several windows, and kill what you like.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/examples/cluster/past"
)

const (
	pause    = 5 * time.Second  // until what has died is started again
	patience = 20 * time.Second // with what does not start, or does not end when asked to
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	redis := flag.String("redis", "", `host:port of a Redis, or "own" to start one; without, localhost:6379 if it answers, else own`)
	node := flag.String("node", "", "be the node of this name; the cluster starts its nodes so")
	flag.Parse()
	log.SetFlags(log.Ltime | log.Lmsgprefix)
	logging.Disable() // go-redis tells of every connection that it could not make; the service says once that Redis is away

	run := func() error { return launch(*addr, *redis) }
	if *node != "" {
		log.SetPrefix(*node + ": ")
		run = func() error { return serve(*node, *redis) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// launch has Redis, the nodes and the proxy run until a signal comes, and ends them in the reverse order.
func launch(addr, redis string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer listener.Close()

	if redis == "" && usable("localhost:6379") == nil {
		redis = "localhost:6379"
	}
	if redis == "" || redis == "own" {
		address, end, err := startRedis(ctx)
		if err != nil {
			return err
		}
		defer end()
		redis = address
	} else if err := usable(redis); err != nil {
		return err
	}

	self, err := os.Executable()
	if err != nil {
		return err
	}
	nodes, ready := make([]node, 3), make(chan struct{}, 3)
	var ending sync.WaitGroup
	defer ending.Wait()
	for i := range nodes {
		name := fmt.Sprint("node ", i+1)
		end := keep(name, func(ctx context.Context) *exec.Cmd {
			return exec.CommandContext(ctx, self, "-node", name, "-redis", redis)
		}, func(address string) {
			nodes[i].Store(&address)
			log.Printf("%s is ready: http://%s/health", name, address)
			select {
			case ready <- struct{}{}:
			default:
			}
		})
		defer ending.Go(end) // all at once
	}
	for range nodes {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
	}

	proxy := http.NewServeMux()
	proxy.Handle("/ws", balanced(nodes)) // a turn of their own: windows opened one after another are on different nodes
	proxy.Handle("/", balanced(nodes))
	server := &http.Server{
		Handler:           proxy,
		ReadHeaderTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, // of requests; a socket has none
	}
	defer server.Close() // lets sockets be: the nodes end them
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with Close

	where := listener.Addr().String()
	if strings.HasPrefix(addr, ":") {
		where = "localhost" + where[strings.LastIndex(where, ":"):]
	}
	log.Printf(`the chat is at http://%s

  Open it in several windows: each shows the node it is on. Then try, with a process from above,
    kill -9 PROCESS of a node     its windows come back on another node; the node starts again after %v
    kill -9 PROCESS of redis      what is said meanwhile is refused; redis starts again after %v, the rest heals by itself
    go run ./examples/cluster/publish -redis %s -channel room:lobby -text "hello from a cron job"
`, where, pause, pause, redis)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		stop() // a second signal ends at once
		return nil
	}
}

// startRedis starts a Redis that writes nothing to disk, on a port below those that outgoing connections get: it must be
// free when Redis starts again.
func startRedis(ctx context.Context) (address string, end func(), err error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return "", nil, errors.New("gows: redis-server is not installed: apt-get install redis-server, or give -redis host:port")
	}
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "gows-cluster-")
	if err != nil {
		return "", nil, err
	}
	address = net.JoinHostPort("127.0.0.1", port)
	ended := keep("redis at "+address, func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
			"--save", "", "--appendonly", "no", "--daemonize", "no")
	}, func(string) {})
	end = func() { ended(); _ = os.RemoveAll(dir) }

	again, late := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer again.Stop()
	for usable(address) != nil {
		select {
		case <-again.C:
		case <-ctx.Done():
			return address, end, nil
		case <-late:
			err := usable(address)
			end()
			return "", nil, err
		}
	}
	return address, end, nil
}

func freePort() (string, error) {
	var err error
	for range 100 {
		var listener net.Listener
		port := strconv.Itoa(6380 + rand.IntN(1000))
		if listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			return port, listener.Close()
		}
	}
	return "", err
}

// usable returns why a Redis is not.
func usable(address string) error {
	_, err := drivers.NewRedisDriver(&drivers.RedisOptions{Addr: address, Prefix: past.Prefix})
	return err
}

// keep has a program run until end is called, which returns when it has ended. A program that ends by itself is started
// again. Each line that it prints is given to said.
func keep(name string, program func(context.Context) *exec.Cmd, said func(line string)) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { // ends with ctx
		runtime.LockOSThread() // a child ends with the thread that started it: this one does nothing else
		for {
			outcome := run(name, program(ctx), said)
			if ctx.Err() != nil {
				log.Printf("%s has ended (%s)", name, outcome)
				return
			}
			log.Printf("%s has ended (%s) and starts again in %v", name, outcome, pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { stop(); running.Wait() }
}

// run returns when the program has ended, and how it did.
func run(name string, program *exec.Cmd, said func(line string)) string {
	program.SysProcAttr = ofThisProcess
	program.Cancel = func() error { return program.Process.Signal(syscall.SIGTERM) }
	program.WaitDelay = patience // then it is killed
	program.Stderr = os.Stderr
	output, err := program.StdoutPipe()
	if err == nil {
		err = program.Start()
	}
	if err != nil {
		return err.Error()
	}
	log.Printf("%s is process %d", name, program.Process.Pid)
	for lines := bufio.NewScanner(output); lines.Scan(); {
		said(lines.Text())
	}
	_ = program.Wait() // says less than:
	return program.ProcessState.String()
}

// node is the address on which a node listens, or did before it died.
type node struct{ atomic.Pointer[string] }

// balanced passes each request to the next node that listens.
func balanced(nodes []node) http.Handler {
	var turn atomic.Uint64
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "node" // the Host of the request stays: pages of others are refused by it
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DisableKeepAlives: true, // a connection for each request, to:
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				for range nodes {
					address := nodes[(turn.Add(1)-1)%uint64(len(nodes))].Load()
					if address == nil {
						continue
					}
					if conn, err := (&net.Dialer{}).DialContext(ctx, network, *address); err == nil {
						return conn, nil
					}
				}
				return nil, errors.New("gows: no node listens")
			},
		},
	}
}
