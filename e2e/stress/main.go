// Command stress plays thousands of clients that join, leave, stall, talk nonsense, tear their connections and are thrown
// out, against nodes that push, kick and restart, and checks everything that the library promises: at each client, and
// against the truth at quiet points in between.
//
//	go run ./stress -seed 1 -for 1h -driver redis -v
//
// The seed decides what each actor does, step by step; in which order the steps of different actors happen it does not.
//
// One file is one step:
//
//	main.go      flags                              stage.go     who plays, from round to round
//	nodes.go     services and their hooks           redis.go     where drivers come from
//	actor.go     what clients do                    garbage.go   what they should not do
//	operator.go  what the server's program does     wire.go      frames
//	conn.go      what one connection hears          identity.go  several connections of one client id
//	model.go     what must arrive                   quiet.go     what must be so when nothing happens
//	pulse.go     whether the machine keeps up
//	trace.go     what is told of a failure          report.go    figures, and what may be left behind
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"testing" //nolint:depguard // for redistest
	"time"
)

func main() {
	o := options{out: os.Stderr}
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano())%1e6, "what the actors do")
	flag.DurationVar(&o.length, "for", time.Minute, "length of the run, of each driver's with both")
	flag.StringVar(&o.driver, "driver", "both", "memory, redis or both")
	flag.IntVar(&o.nodes, "nodes", 3, "in each of the two groups")
	flag.IntVar(&o.clients, "clients", 1500, "actors, each with a connection most of the time; at most 6000")
	flag.DurationVar(&o.rest, "quiet", 10*time.Second, "time between two quiet points")
	flag.BoolVar(&o.verbose, "v", false, "show progress")
	flag.Parse()
	if err := o.check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	tb := &program{}
	err := play(tb, o, os.Stdout)
	tb.end()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check says what is wrong with the flags.
func (o *options) check() error {
	switch {
	case o.driver != "both" && o.driver != "memory" && o.driver != "redis":
		return fmt.Errorf("-driver %s: memory, redis or both", o.driver)
	case o.nodes < 1:
		return fmt.Errorf("-nodes %d: at least 1", o.nodes)
	case o.clients < 100 || o.clients > 6000:
		return fmt.Errorf("-clients %d: from 100 to 6000", o.clients)
	case o.length < time.Second || o.rest < time.Second:
		return fmt.Errorf("-for %v -quiet %v: at least 1s", o.length, o.rest)
	}
	return nil
}

// play runs one or both drivers, and prints the report of each.
func play(tb testing.TB, o options, reports io.Writer) error {
	tb.Helper()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var all []error
	for _, driver := range []string{"memory", "redis"} {
		if o.driver != "both" && o.driver != driver {
			continue
		}
		one := o
		one.driver = driver
		r, err := playOne(ctx, tb, one)
		if r != nil {
			fmt.Fprintln(reports, r)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// warmUp is how long a run is that shows what the process needs for good.
const warmUp = 2 * time.Second

// playOne is a short run, and a long one behind which nothing more may be left than behind the short one.
//
//nolint:contextcheck // redistest takes none
func playOne(ctx context.Context, tb testing.TB, o options) (*report, error) {
	tb.Helper()
	o.replay = fmt.Sprintf("go run ./stress -seed %d -for %v -driver %s -nodes %d -clients %d -quiet %v -v",
		o.seed, o.length, o.driver, o.nodes, o.clients, o.rest)
	b := newBackend(tb, o.driver)
	o.connect = b.connect
	short := o
	short.length, short.clients, short.verbose = warmUp, min(o.clients, 200), false
	if _, err := run(ctx, short); err != nil {
		return nil, fmt.Errorf("warming up: %w", err)
	}
	if err := b.left(); err != nil {
		return nil, err
	}
	before := measure()
	r, err := run(ctx, o)
	if err != nil {
		return r, fmt.Errorf("%s, seed %d: %w", o.driver, o.seed, err)
	}
	return r, errors.Join(left(r, before), b.left(), r.served())
}
