// Command bench compares go-ws with other libraries and with a bare loop of writes, which is the floor. Everything runs on
// this machine, over loopback: it needs Linux, and redis-server for the scenarios with two nodes.
//
//	go run .                                     all of it, which takes about 35 minutes
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
	length := flag.Duration("length", 500*time.Millisecond, "how long one measurement takes; twice that with one message in flight")
	out := flag.String("out", "", "folder to write results.json, tables.md and the charts to")
	flag.Parse()
	if flag.NArg() > 0 {
		exit(fmt.Errorf("%q is no flag: see -help", flag.Arg(0)))
	}
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
	switch {
	case len(args) == 1 && args[0] == "load":
		return true, load.Serve(os.Stdin, os.Stdout)
	case len(args) == 3 && args[0] == "serve":
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
	any := false
	for _, s := range scenarios {
		if !wanted.MatchString(s.name) {
			continue
		}
		any = true
		outcome, failure := s.hold(&contest{
			ctx: ctx, program: program, servers: servers, rounds: rounds, length: length,
		})
		if failure != nil { // what was measured before is worth something
			err = fmt.Errorf("%s: %w", s.name, failure)
			break
		}
		report.Scenarios = append(report.Scenarios, outcome)
		fmt.Printf("## %s\n\n%s\n", s.name, outcome.Table())
	}
	if !any {
		return errors.New("-scenarios names none")
	}
	sayClaims(os.Stdout, report)
	if out != "" {
		err = errors.Join(err, publish(report, out))
	}
	return err
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
	if err := r.write(filepath.Join(folder, "results.json")); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# All tables\n\nWritten by `make bench` on %s: %s, %d cores, %s, Linux %s, %s; %d rounds of %s. What they mean: [benchmarks](../benchmarks.md).\n\n",
		r.Began.Format(time.DateOnly), r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go, r.Rounds, r.Length)
	for _, o := range r.Scenarios {
		fmt.Fprintf(&b, "## %s\n\n`make bench SCENARIOS='^%s$'`\n\n%s\n![%s](%s.svg)\n\n", o.Name, o.Name, o.Table(), o.Title, o.Name)
		if err := draw(o, filepath.Join(folder, o.Name+".svg")); err != nil {
			return fmt.Errorf("chart of %s: %w", o.Name, err)
		}
	}
	b.WriteString("## What holds\n\n")
	sayClaims(&b, r)
	return os.WriteFile(filepath.Join(folder, "tables.md"), []byte(b.String()), 0o644)
}
