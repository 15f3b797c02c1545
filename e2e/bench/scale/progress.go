package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
)

// progress shows how a run goes: one line, which is written again each second on a terminal, and now and then elsewhere.
type progress struct {
	out      io.Writer
	terminal bool

	phase  string
	shown  time.Time
	recent load.Times               // of deliveries since the line was shown
	count  int64                    // of deliveries in this phase, when it was shown
	order  int                      // the phase of the order then
	cpu    map[*child]time.Duration // of the nodes, then
	drawn  bool                     // the line is on the screen
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// clear removes the line.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.drawn = false
}

// show shows how s is doing, when it is time to.
func (p *progress) show(ctx context.Context, phase string, s *scale) {
	every := 5 * time.Second
	if p.terminal {
		every = time.Second
	}
	now := time.Now()
	passed := now.Sub(p.shown)
	if passed < every && phase == p.phase {
		return
	}
	_, count := s.deliveries()
	cpu, used := map[*child]time.Duration{}, time.Duration(0)
	for _, n := range s.servers() {
		cpu[n] = max(p.cpu[n], spent(n)) // one that has ended has used no more
		used += cpu[n] - p.cpu[n]
	}
	if s.order.Phase != p.order {
		p.count = 0
	}
	p99 := "-"
	if us := p.recent.At(0.99); us > 0 {
		p99 = millis(us)
	}
	line := fmt.Sprintf("%-17s %7s joined  %6s deliveries/s  p99 %7s  nodes %4.2f cores %8s  %6s left", phase, group(s.joined()),
		group(int(float64(count-p.count)/passed.Seconds())), p99,
		used.Seconds()/passed.Seconds(), bytesText(resident(s.servers()...)), left(ctx))
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K", line)
		p.drawn = true
	} else {
		fmt.Fprintln(p.out, line)
	}
	p.phase, p.shown, p.recent, p.count, p.order, p.cpu = phase, now, load.Times{}, count, s.order.Phase, cpu
}

// left is the time until ctx ends.
func left(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline).Round(time.Second)
}

// group writes a number with a comma behind each third digit.
func group(n int) string {
	if n < 0 {
		return "-" + group(-n)
	}
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", group(n/1000), n%1000)
}

func bytesText(n int) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}

// millis writes microseconds as milliseconds.
func millis(us float64) string { return fmt.Sprintf("%.1f ms", us/1000) }
