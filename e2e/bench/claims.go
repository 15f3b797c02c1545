package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/duxweb/go-ws/e2e/bench/server"
)

// claim is what go-ws says of itself: on each of its hosts, in each of the scenarios, a median is at most, or at least, so
// much of another.
type claim struct {
	text      string
	scenarios []string
	of        metric
	than      func(Outcome, *Standing) float64 // what it is compared with
	most      float64
	least     float64
}

var claims = []claim{
	{
		text: "one message in flight: at most 1.1 of raw's CPU for each delivery", of: cpu, than: raw(cpu), most: 1.1,
		scenarios: []string{"room", "room-16B", "room-4K", "hall", "ten", "thousand"},
	},
	{
		text: "one message in flight: the last delivery's p99 at most 1.2 of raw's", of: p99, than: raw(p99), most: 1.2,
		scenarios: []string{"room", "room-16B", "room-4K", "hall", "ten", "thousand"},
	},
	{
		text: "under load, one channel: at least 4 times the deliveries of the best peer", of: rate, than: bestPeer(rate), least: 4,
		scenarios: []string{"room-load", "room-load-16B", "room-load-4K", "hall-load"},
	},
	{
		text: "under load, ten channels: at least 1.5 times the deliveries of the best peer", of: rate, than: bestPeer(rate), least: 1.5,
		scenarios: []string{"ten-load"},
	},
	{
		text: "under load, 1,000 channels: at most 1.15 of raw's CPU for each delivery", of: cpu, than: raw(cpu), most: 1.15,
		scenarios: []string{"thousand-load"},
	},
	{
		text: "idle: at most 5,000 bytes a connection", of: memory, than: is(5000), most: 1,
		scenarios: []string{"idle", "idle-15000"},
	},
	{
		text: "connections a second: no fewer than raw's", of: connects, than: raw(connects), least: 1,
		scenarios: []string{"idle", "idle-15000"},
	},
	{
		text: "a slow tenth: the others' p99 at most 1.2 of that without them", of: p99, than: own(alone), most: 1.2,
		scenarios: []string{"slow"},
	},
	{
		text: "beside three floods: a channel of one has a p99 below 10 ms", of: p99, than: is(10_000), most: 1,
		scenarios: []string{"beside"},
	},
	{
		text: "at most 10 allocations a message, all its deliveries included", of: allocs, than: is(10), most: 1,
		scenarios: []string{"room-load", "hall-load", "thousand-load"},
	},
	{
		text: "two nodes under load: at least twice the deliveries of the best peer", of: rate, than: bestPeer(rate), least: 2,
		scenarios: []string{"cluster-load"},
	},
}

func raw(m metric) func(Outcome, *Standing) float64 {
	return func(o Outcome, _ *Standing) float64 { return o.median("raw", m) }
}

func own(m metric) func(Outcome, *Standing) float64 {
	return func(_ Outcome, s *Standing) float64 { return s.Medians[m] }
}

func is(v float64) func(Outcome, *Standing) float64 {
	return func(Outcome, *Standing) float64 { return v }
}

func bestPeer(m metric) func(Outcome, *Standing) float64 {
	return func(o Outcome, _ *Standing) (best float64) {
		for _, s := range o.Servers {
			v := s.Medians[m]
			if isPeer(s.Server) && v > 0 && (best == 0 || more[m] == (v > best)) {
				best = v
			}
		}
		return best
	}
}

func isPeer(name string) bool {
	s, err := server.Find(name)
	return err == nil && s.Library != "" && !isHost(name)
}

func isHost(name string) bool {
	s, err := server.Find(name)
	return err == nil && s.Library == "go-ws"
}

// verdict is how a claim stands after a run: the worst host of the worst scenario. A host that failed, or lost something,
// makes it void.
type verdict struct {
	holds bool
	ratio float64
	where string
}

// judge returns false when nothing was measured that the claim is about.
func (c claim) judge(r *Report) (v verdict, judged bool) {
	for _, o := range r.Scenarios {
		if !slices.Contains(c.scenarios, o.Name) {
			continue
		}
		for _, s := range o.Servers {
			if isHost(s.Server) {
				switch {
				case s.Failed != "":
					return verdict{where: s.Server + " failed in " + o.Name}, true
				case s.Medians[lost] != 0:
					return verdict{where: s.Server + " lost something in " + o.Name}, true
				case s.Medians[closed] != 0 && o.Name != "slow":
					return verdict{where: s.Server + " closed somebody in " + o.Name}, true
				case len(s.Rounds) > 0 && s.Medians[c.of] == 0:
					return verdict{where: s.Server + " has no figure in " + o.Name}, true
				}
			}
			than := c.than(o, s)
			if !isHost(s.Server) || than == 0 || len(s.Rounds) == 0 {
				continue
			}
			ratio := s.Medians[c.of] / than
			if worse := c.least > 0 && ratio < v.ratio || c.most > 0 && ratio > v.ratio; worse || !judged {
				v.ratio, v.where = ratio, s.Server+" in "+o.Name
			}
			judged = true
		}
	}
	v.holds = (c.least == 0 || v.ratio >= c.least) && (c.most == 0 || v.ratio <= c.most)
	return v, judged
}

// sayClaims prints how the claims stand.
func sayClaims(w io.Writer, r *Report) {
	var b strings.Builder
	b.WriteString("| | at worst | where |\n|---|---:|---|\n")
	any := false
	for _, c := range claims {
		v, judged := c.judge(r)
		if !judged {
			continue
		}
		any = true
		word := "holds"
		if !v.holds {
			word = "does NOT hold"
		}
		fmt.Fprintf(&b, "| %s: %s | %.2f | %s |\n", c.text, word, v.ratio, v.where)
	}
	if any {
		fmt.Fprintln(w, b.String())
	}
}
