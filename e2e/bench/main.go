// Command bench compares go-ws with other libraries and with a bare loop of writes, which is the floor. Everything runs on
// this machine, over loopback: it needs Linux, and redis-server for the scenarios with two nodes.
//
//	go run .                                     all of it, which takes about 40 minutes
//	go run . -scenarios '^room' -servers raw,gin,centrifuge -rounds 3
//	go run . -out results                        also writes results.json, tables.md and a chart for each scenario
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
	"github.com/duxweb/go-ws/e2e/bench/server"
)

func main() {
	if played, err := play(os.Args[1:]); played {
		exit(err)
	}
	which := flag.String("scenarios", "", "regular expression: the names of the scenarios; all without it")
	names := flag.String("servers", "", "names separated by commas; all without it")
	rounds := flag.Int("rounds", 7, "how often each server has its turn; medians are reported")
	length := flag.Duration("length", time.Second, "how long one measurement takes")
	out := flag.String("out", "", "folder to write results.json, tables.md and the charts to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(bench(ctx, *which, *names, *rounds, *length, *out))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play plays a part in a run of this program, if that is what it was started for.
func play(args []string) (played bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case "load":
		return true, load.Serve(os.Stdin, os.Stdout)
	case "serve":
		return true, serve(args[1], args[2])
	}
	return false, nil
}

// serve is a server until standard input ends.
func serve(name, redis string) error {
	s, err := server.Find(name)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println(l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l, redis) }() // ends with the process
	go func() {                                 // ends when whoever started this process has ended
		_, _ = io.Copy(io.Discard, os.Stdin)
		failed <- nil
	}()
	return <-failed
}

func bench(ctx context.Context, which, names string, rounds int, length time.Duration, out string) error {
	wanted, err := regexp.Compile(which)
	if err != nil {
		return fmt.Errorf("-scenarios: %w", err)
	}
	servers := server.All
	if names != "" {
		servers = nil
		for name := range strings.SplitSeq(names, ",") {
			s, err := server.Find(name)
			if err != nil {
				return err
			}
			servers = append(servers, s)
		}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if out != "" {
		if err := os.MkdirAll(out, 0o755); err != nil {
			return err
		}
	}
	report := &Report{
		Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), Versions: server.Versions(), Rounds: rounds,
		Length: length.String(),
	}
	for _, s := range scenarios {
		if !wanted.MatchString(s.name) {
			continue
		}
		outcome, err := s.hold(&contest{
			ctx: ctx, program: program, servers: servers, rounds: rounds, length: length,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		report.Scenarios = append(report.Scenarios, outcome)
		fmt.Printf("## %s\n\n%s\n", s.name, outcome.Table())
	}
	if len(report.Scenarios) == 0 {
		return errors.New("-scenarios names none")
	}
	sayClaims(os.Stdout, report)
	if out == "" {
		return nil
	}
	return publish(report, out)
}

// hold runs a scenario.
func (s scenario) hold(c *contest) (Outcome, error) {
	defer c.close()
	if err := s.run(c); err != nil {
		return Outcome{}, err
	}
	for _, standing := range c.standings {
		standing.settle()
	}
	return Outcome{Name: s.name, Title: s.title, Columns: s.columns, Servers: c.standings}, nil
}

// publish writes the report to a folder.
func publish(r *Report, folder string) error {
	var b strings.Builder
	for _, o := range r.Scenarios {
		b.WriteString(o.Table() + "\n")
		if err := draw(o, filepath.Join(folder, o.Name+".svg")); err != nil {
			return fmt.Errorf("chart of %s: %w", o.Name, err)
		}
	}
	sayClaims(&b, r)
	if err := os.WriteFile(filepath.Join(folder, "tables.md"), []byte(b.String()), 0o644); err != nil { //nolint:gosec // published
		return err
	}
	return r.write(filepath.Join(folder, "results.json"))
}
