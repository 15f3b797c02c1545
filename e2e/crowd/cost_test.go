//go:build !race

package crowd

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	withPeers = flag.Bool("peers", false, "measure the usual code beside the hosts")
	rounds    = flag.Int("rounds", 5, "how often each host's cost of a delivery is measured")
)

// servers are the names of the hosts, and of the peers when they are asked for.
func servers() (names []string) {
	for _, host := range hosts {
		names = append(names, host.name)
	}
	if *withPeers {
		for _, peer := range peers {
			names = append(names, peer.name)
		}
	}
	return names
}

func isPeer(name string) bool { return strings.Contains(name, " on ") }

func TestAnIdleConnectionCosts5500BytesAtMostOnEachHost(t *testing.T) {
	const crowd = 5000
	for _, name := range servers() {
		t.Run(name, func(t *testing.T) {
			server := start(t, "server", name)
			addr := server.line()
			collected := func() int {
				response, err := http.Get("http://" + addr + "/gc")
				must(t, err)
				must(t, response.Body.Close())
				return server.memory("VmRSS")
			}
			before := collected()
			room := start(t, "readers", addr, "room", strconv.Itoa(crowd))
			if got := room.line(); got != "ready" {
				t.Fatal(got)
			}
			each := (collected() - before) / crowd
			t.Logf("%d bytes of resident memory for each connection, authenticated and in one channel", each)
			if each > 5500 && !isPeer(name) {
				t.Errorf("%d bytes, 5,500 at most", each)
			}
		})
	}
}

// side is a host with a room full of readers.
type side struct {
	name      string
	server    *process
	room      *process
	publisher *client
	costs     []float64 // microseconds of the server's CPU for each delivery, one for each round
}

func TestADeliveryCostsAsMuchOnEachHostAsOnNetHTTP(t *testing.T) {
	const crowd = 1000
	var sides []*side
	for _, name := range servers() {
		s := &side{name: name, server: start(t, "server", name)}
		addr := s.server.line()
		s.room = start(t, "readers", addr, "room", strconv.Itoa(crowd))
		if got := s.room.line(); got != "ready" {
			t.Fatal(got)
		}
		s.publisher = join(t, addr, "publisher", "room") // the last in the room: its copy comes when the others are on their way
		sides = append(sides, s)
	}
	measure := func() (worst float64) {
		for range *rounds { // in turn, because the machine drifts
			for _, s := range sides {
				s.costs = append(s.costs, s.cost(t, crowd+1, time.Second))
			}
		}
		floor := median(sides[0].costs)
		for _, s := range sides {
			ratio := median(s.costs) / floor
			t.Logf("%-26s %5.2f us of CPU for each delivery, %.3f of net/http's, median of %d", s.name, median(s.costs), ratio, len(s.costs))
			if !isPeer(s.name) {
				worst = max(worst, ratio)
			}
		}
		return worst
	}
	worst := measure()
	if worst > 1.15 { // something else may have kept the machine busy
		worst = measure()
	}
	if worst > 1.15 {
		t.Errorf("a host needs %.2f of net/http's CPU for each delivery, 1.15 at most", worst)
	}
}

// cost publishes for a while, one message in flight, and returns what each delivery has cost the server.
func (s *side) cost(t *testing.T, deliveries int, d time.Duration) float64 {
	t.Helper()
	text := `{"type":"message","channel":"room","message":"|` + strings.Repeat("x", 64) + `"}`
	messages, before := 0, s.server.cpu()
	for end := time.Now().Add(d); time.Now().Before(end); messages++ {
		must(t, s.publisher.say(text))
		_, err := s.publisher.hear()
		must(t, err)
	}
	spent := s.server.cpu() - before
	return float64(spent.Microseconds()) / float64(messages*deliveries)
}

// cpu returns the CPU time that the process has used.
func (p *process) cpu() time.Duration {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	must(p.t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	var ticks time.Duration
	for _, field := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.Atoi(field)
		must(p.t, err)
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
