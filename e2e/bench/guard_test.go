//go:build !race

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// guards are what a change may not make much worse: bounds that leave room for a machine that has other things to do, and
// against what was measured in the same rounds. The claims have the strict ones.
//
// Of the peers centrifuge is there, the best of them under load.
var guards = []struct {
	scenario string
	servers  []string
	rounds   int
	claims   []claim
}{
	{"room", []string{"raw", "net/http", "fiber"}, 3, []claim{
		{text: "CPU of raw's", of: cpu, than: raw(cpu), most: 1.4},
	}},
	{"ten", []string{"raw", "net/http"}, 3, []claim{
		{text: "CPU of raw's", of: cpu, than: raw(cpu), most: 1.4},
	}},
	{"thousand-load", []string{"raw", "net/http"}, 3, []claim{
		{text: "CPU of raw's", of: cpu, than: raw(cpu), most: 1.4},
	}},
	{"room-load", []string{"net/http", "fiber", "centrifuge"}, 3, []claim{
		{text: "deliveries of the best peer", of: rate, than: bestPeer(rate), least: 2.5},
		{text: "allocations of 10 a message", of: allocs, than: is(10), most: 1},
	}},
	{"ten-load", []string{"net/http", "centrifuge"}, 3, []claim{
		{text: "deliveries of the best peer", of: rate, than: bestPeer(rate), least: 1.1},
	}},
	{"slow", []string{"net/http"}, 9, []claim{ // the p99 of a round is that of one message: 1.4 to 1.9 for the same code
		{text: "p99 of that without the slow", of: p99, than: own(alone), most: 2.5},
	}},
	{"idle", []string{"net/http", "fiber"}, 2, []claim{
		{text: "memory of 5,900 bytes a connection", of: memory, than: is(5900), most: 1},
	}},
}

// Not parallel: it is alone on the machine, and the package's other tests are over or wait.
func TestNothingHasBecomeMuchSlower(t *testing.T) {
	for _, g := range guards {
		t.Run(g.scenario, func(t *testing.T) {
			const twice = 2 // something else may have kept the machine busy
			for attempt := range twice {
				s, _ := find(g.scenario)
				o, err := s.hold(stage(t, g.rounds, 250*time.Millisecond, g.servers...))
				if err != nil {
					t.Fatal(err)
				}
				verdicts, hold := judgeAll(g.claims, o)
				t.Logf("\n%s\n%s", o.Table(), verdicts)
				if hold {
					return
				}
				if attempt == twice-1 {
					t.Error("the bounds do not hold, twice in a row")
				}
			}
		})
	}
}

// judgeAll says how claims stand after one scenario, and whether all of them hold.
func judgeAll(claims []claim, o Outcome) (text string, hold bool) {
	var b strings.Builder
	hold = true
	for _, c := range claims {
		c.scenarios = []string{o.Name}
		v, judged := c.judge(&Report{Scenarios: []Outcome{o}})
		hold = hold && judged && v.holds
		limit := fmt.Sprintf("at most %v", c.most)
		if c.least > 0 {
			limit = fmt.Sprintf("at least %v", c.least)
		}
		fmt.Fprintf(&b, "%.2f of the %s (%s), %s; holds: %t\n", v.ratio, c.text, limit, v.where, v.holds && judged)
	}
	return b.String(), hold
}
