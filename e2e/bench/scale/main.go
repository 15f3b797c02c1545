// Command scale shows what many connections on one machine need, and that they survive a rolling restart: it starts Redis,
// several nodes, and processes that hold the clients, and prints memory, CPU and how long deliveries take from node to
// node. Each process has as many descriptors as the system allows one to have: Go raises the limit as far as it can.
//
//	go run ./scale -connections 4000 -nodes 2 -for 3s
//
// All of it is on the loopback interface, bounded in time and memory, and gone when the command ends. Linux only.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// role plays the part that the first argument names: a node, the clients of a node, or else the command itself.
func role(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "node":
		return serveNode(args[1], args[2])
	case len(args) == 1 && args[0] == "clients":
		return serveClients(os.Stdin, os.Stdout)
	}
	return command(args)
}

// config is what the command is asked for.
type config struct {
	Connections int
	Nodes       int
	Rooms       [kinds]int     // members of a room, by kind
	Rates       [kinds]float64 // messages per second, by kind, of all clients together
	Connects    float64        // per second
	Spread      time.Duration  // clients come back after a random part of it
	For         time.Duration  // how long each phase lasts that is measured
	Limit       time.Duration  // of everything
	Memory      int            // bytes, of all processes together
}

func command(args []string) error {
	c := config{Rooms: [kinds]int{2, 50, 5000}, Rates: [kinds]float64{200, 100, 2}}
	flags := flag.NewFlagSet("scale", flag.ExitOnError)
	flags.IntVar(&c.Connections, "connections", 100_000, "clients, each with one connection and in three rooms")
	flags.IntVar(&c.Nodes, "nodes", 6, "nodes; each has its share of the clients")
	flags.Float64Var(&c.Connects, "rate", 4000, "connections per second that are opened, at most")
	flags.DurationVar(&c.Spread, "spread", 5*time.Second, "clients of a node that restarts come back after a random part of this")
	flags.DurationVar(&c.For, "for", 15*time.Second, "how long each measurement lasts")
	flags.DurationVar(&c.Limit, "limit", 10*time.Minute, "stop after this time, whatever is done by then")
	memory := flags.Float64("memory", 12, "stop when all processes together have more than this, in GiB")
	out := flags.String("out", "", "write the result to this file, as JSON")
	_ = flags.Parse(args) // it exits by itself
	c.Memory = int(*memory * (1 << 30))
	if flags.NArg() > 0 {
		return fmt.Errorf("there is no argument %q: see -help", flags.Arg(0))
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	_, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS)
	r, err := run(ctx, c, &progress{out: os.Stdout, terminal: err == nil})
	if err != nil {
		return err
	}
	fmt.Print("\n", r)
	if *out != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			err = os.WriteFile(*out, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	}
	if len(r.Problems) > 0 {
		return errors.New("not everything is as it should be: see the problems above")
	}
	return nil
}

// check says what to change when c cannot work.
func (c config) check() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("the limit of descriptors: %w", err)
	}
	// A node has a connection to Redis or two, and what the command asks of it; 200 is ample.
	if each := uint64(c.Connections/max(1, c.Nodes) + 200); each > limit.Max {
		return fmt.Errorf("each of %d nodes needs %d descriptors, and a process may have %d: take more -nodes, or raise ulimit -Hn",
			c.Nodes, each, limit.Max)
	}
	switch {
	case c.Nodes < 1 || c.Nodes > 1000 || c.Connections < c.Nodes:
		return errors.New("take from 1 to 1000 -nodes, and as many -connections at least")
	case c.Connects <= 0 || c.Spread <= 0 || c.For <= 0 || c.Limit <= 0 || c.Memory <= 0:
		return errors.New("-rate, -spread, -for, -limit and -memory must be above 0")
	}
	return nil
}
