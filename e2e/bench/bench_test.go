package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/e2e/bench/load"
	"github.com/duxweb/go-ws/e2e/bench/server"
	"github.com/duxweb/go-ws/internal/leaktest"
)

// The test binary plays all parts: the test, the servers, and the crowds.
func TestMain(m *testing.M) {
	if played, err := play(os.Args[1:]); played {
		exit(err)
	}
	leaktest.Main(m)
}

// outcome is one of a scenario with a median for each server, in pairs of name and figures.
func outcome(name string, columns []metric, servers ...*Standing) Outcome {
	for _, s := range servers {
		s.Medians = map[metric]float64{}
		s.settle()
	}
	return Outcome{Name: name, Title: "a title", Columns: columns, Servers: servers}
}

func standing(name string, rounds ...map[metric]float64) *Standing {
	return &Standing{Server: name, Rounds: rounds}
}

func TestMediansAreThoseOfTheRoundsAndWhatIsLostIsTheWorst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ rounds, want []float64 }{ // want: the median, the worst
		{[]float64{3, 1, 2}, []float64{2, 3}},
		{[]float64{4, 1, 2, 3}, []float64{2.5, 4}},
		{[]float64{7}, []float64{7, 7}},
		{[]float64{0, -9, 5}, []float64{0, -9}}, // nine came twice
		{nil, []float64{0, 0}},
	} {
		s := standing("raw")
		for _, v := range tt.rounds {
			s.Rounds = append(s.Rounds, map[metric]float64{cpu: v, lost: v, closed: v})
		}
		outcome("room", nil, s)
		if got := []float64{s.Medians[cpu], s.Medians[lost]}; !slices.Equal(got, tt.want) || s.Medians[closed] != got[1] {
			t.Errorf("%v: %v, not %v", tt.rounds, got, tt.want)
		}
		if _, measured := s.Medians[rate]; measured {
			t.Error("a median of what was not measured")
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	gin := standing("gin", map[metric]float64{cpu: 3, rate: 1_234_567})
	gin.Failed = "it broke"
	o := outcome("room", []metric{cpu, rate}, standing("raw", map[metric]float64{cpu: 2, rate: 98.76}), gin, standing("echo"))
	want := `| a title | us of CPU a delivery | deliveries/s | of raw |
|---|---:|---:|---:|
| raw | 2.00 | 98.8 | 1.00 |
| gin | 3.00 | 1,230,000 | 1.50 |
| echo | - | - | - |

gin: it broke
`
	if got := o.Table(); got != want {
		t.Errorf("not\n%s\nbut\n%s", want, got)
	}
	o.Servers = o.Servers[1:]
	if got := o.Table(); strings.Contains(got, "raw") || !strings.Contains(got, "| gin | 3.00 | 1,230,000 |\n") {
		t.Errorf("without raw:\n%s", got)
	}
}

func TestNumbersHaveThreeDigitsThatMeanSomething(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0", 0.004: "0.00", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 999.7: "1,000", 1234: "1,230", 1_987_654: "1,990,000",
		-3: "-3.00", -250: "-250", -1234: "-1,230",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, not %s", v, got, want)
		}
	}
	for n, want := range map[int]string{16: "16 B", 128: "128 B", 4096: "4 KiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: %s, not %s", n, got, want)
		}
	}
}

func TestClaimsAreJudgedAtTheWorstHost(t *testing.T) {
	t.Parallel()
	figure := func(name string, v float64) *Standing { return standing(name, map[metric]float64{cpu: v, rate: v}) }
	failed := figure("echo", 1)
	failed.Failed = "it broke"
	most := claim{text: "cheap", of: cpu, than: raw(cpu), most: 1.1, scenarios: []string{"room", "ten"}}
	least := claim{text: "fast", of: rate, than: bestPeer(rate), least: 2, scenarios: []string{"room"}}
	all := func(servers ...*Standing) Outcome { return outcome("room", nil, servers...) }
	for _, tt := range []struct {
		claim    claim
		outcomes []Outcome
		want     verdict
		judged   bool
	}{
		{most, []Outcome{all(figure("raw", 10), figure("gin", 11), figure("echo", 9), figure("gws", 99))}, verdict{true, 1.1, "gin in room"}, true},
		{most, []Outcome{all(figure("raw", 10), figure("gin", 12), figure("echo", 9))}, verdict{false, 1.2, "gin in room"}, true},
		{
			most,
			[]Outcome{
				all(figure("raw", 10), figure("gin", 9)), outcome("ten", nil, figure("raw", 10), figure("echo", 20)),
				outcome("hall", nil, figure("raw", 10), figure("gin", 90)), // no part of the claim
			},
			verdict{false, 2, "echo in ten"},
			true,
		},
		{most, []Outcome{all(figure("raw", 10), figure("gin", 9), failed)}, verdict{false, 0, "echo failed in room"}, true},
		{most, []Outcome{all(figure("raw", 10), figure("gws", 9), standing("gin"))}, verdict{}, false},
		{most, []Outcome{all(figure("gin", 9))}, verdict{}, false},
		{most, nil, verdict{}, false},
		{least, []Outcome{all(figure("raw", 99), figure("gin", 8), figure("echo", 9), figure("gws", 4), figure("melody", 3))}, verdict{true, 2, "gin in room"}, true},
		{least, []Outcome{all(figure("gin", 9), figure("echo", 3), figure("gws", 4), figure("melody", 3))}, verdict{false, 0.75, "echo in room"}, true},
		{least, []Outcome{all(figure("raw", 4), figure("gin", 9))}, verdict{}, false},
	} {
		r := &Report{Scenarios: tt.outcomes}
		v, judged := tt.claim.judge(r)
		if v.holds = v.holds && judged; v != tt.want || judged != tt.judged {
			t.Errorf("%s: %+v, %t, not %+v, %t", tt.claim.text, v, judged, tt.want, tt.judged)
		}
	}
	cheapest := bestPeer(cpu)(all(figure("raw", 1), figure("gin", 2), figure("gws", 4), figure("melody", 3), standing("socketio")), nil)
	if cheapest != 3 {
		t.Errorf("the best peer has %v, not 3", cheapest)
	}
}

func TestClaimsAreSaidAsTheyStand(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	sayClaims(&b, &Report{Scenarios: []Outcome{
		outcome("idle", nil, standing("raw", map[metric]float64{connects: 50}), standing("gin", map[metric]float64{memory: 6000, connects: 60})),
	}})
	for _, want := range []string{"5,000 bytes a connection: does NOT hold | 1.20 | gin in idle |", "than raw's: holds | 1.20 | gin in idle |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &b)
		}
	}
	if said := strings.Count(b.String(), " hold"); said != 2 {
		t.Errorf("%d claims, not two:\n%s", said, &b)
	}
	b.Reset()
	if sayClaims(&b, &Report{}); b.Len() > 0 {
		t.Errorf("claims about nothing:\n%s", &b)
	}
}

func TestClaimsAreAboutScenariosThatShowThem(t *testing.T) {
	t.Parallel()
	for _, c := range claims {
		for _, name := range c.scenarios {
			s, ok := find(name)
			if !ok || !slices.Contains(s.columns, c.of) && c.of != allocs {
				t.Errorf("%q: %s shows no %s", c.text, name, c.of)
			}
		}
		if (c.most == 0) == (c.least == 0) {
			t.Errorf("%q has not one bound", c.text)
		}
	}
	names := map[string]bool{}
	for _, s := range scenarios {
		for _, m := range s.columns {
			if heads[m] == "" {
				t.Errorf("%s: %s has no head", s.name, m)
			}
		}
		if names[s.name] {
			t.Errorf("two scenarios are called %s", s.name)
		}
		names[s.name] = true
	}
}

func find(name string) (scenario, bool) {
	i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
	if i < 0 {
		return scenario{}, false
	}
	return scenarios[i], true
}

func TestARunFromBeginningToEnd(t *testing.T) {
	out := filepath.Join(t.TempDir(), "results")
	err := bench(t.Context(), "^(paced|direct)$", "raw,net/http,centrifuge", 1, 100*time.Millisecond, out)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	text := read(t, out, "results.json")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.Rounds != 1 || r.Length != "100ms" || time.Since(r.Began) > time.Minute || r.Machine.Cores < 1 || r.Machine.Go == "" ||
		r.Machine.Memory == "" || r.Machine.Kernel == "" || len(r.Scenarios) != 2 {
		t.Errorf("%s", text)
	}
	for _, o := range r.Scenarios {
		for i, name := range []string{"raw", "net/http", "centrifuge"} {
			s := o.Servers[i]
			if s.Server != name || s.Failed != "" || len(s.Rounds) != 1 || s.Medians[lost] != 0 {
				t.Errorf("%s: %+v", o.Name, s)
			}
			for _, m := range []metric{cpu, rate, p50, p99, allocs} {
				if s.Medians[m] <= 0 || s.Medians[m] != s.Rounds[0][m] {
					t.Errorf("%s on %s: %s is %v", o.Name, name, m, s.Medians[m])
				}
			}
		}
		if tables := read(t, out, "tables.md"); !strings.Contains(tables, o.Table()) {
			t.Errorf("not in tables.md:\n%s", o.Table())
		}
		svg := read(t, out, o.Name+".svg")
		for _, want := range []string{"<svg", "raw", "net/http", "centrifuge", number(o.Servers[0].Medians[o.Columns[0]])} {
			if !strings.Contains(svg, want) {
				t.Errorf("the chart of %s has no %q", o.Name, want)
			}
		}
	}
}

func read(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWhatCannotBeRunSaysWhy(t *testing.T) {
	for _, tt := range []struct{ which, names, says string }{
		{"(", "", "-scenarios: "},
		{"^none$", "", "-scenarios names none"},
		{"", "raw,latin", "latin"},
	} {
		if err := bench(t.Context(), tt.which, tt.names, 1, time.Millisecond, ""); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v, not %q", err, tt.says)
		}
	}
	for _, args := range [][]string{nil, {"serve"}, {"-out", "x"}, {"load", "more"}} {
		if played, _ := play(args); played {
			t.Errorf("%q is a part", args)
		}
	}
}

// stage returns a contest of servers, as bench makes it.
func stage(t *testing.T, rounds int, length time.Duration, names ...string) *contest {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &contest{ctx: t.Context(), program: program, rounds: rounds, length: length}
	for _, name := range names {
		s, err := server.Find(name)
		if err != nil {
			s.Name = name // one that cannot be started
		}
		c.servers = append(c.servers, s)
	}
	return c
}

func TestAServerThatFailsIsReportedAndTheOthersGoOn(t *testing.T) {
	few, task := load.Plan{Clients: 10, Channels: 1}, load.Task{Size: 128, Window: 1}
	for _, tt := range []struct {
		name string
		run  func(*contest) error
		fail []string
	}{
		{"fan-out", fanOut(few, task), []string{"none"}},
		{"each round", idle(10), []string{"none"}},
		{"no cluster", func(c *contest) (err error) { // raw is given the Redis that it cannot use
			if c.redis, err = c.startRedis(); err != nil {
				return err
			}
			return fanOut(few, task)(c)
		}, []string{"none", "raw"}},
	} {
		c := stage(t, 2, 20*time.Millisecond, "none", "raw", "net/http")
		o, err := scenario{name: tt.name, columns: oneInFlight, run: tt.run}.hold(c)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for _, s := range o.Servers {
			failed := slices.Contains(tt.fail, s.Server)
			if (s.Failed != "") != failed || (len(s.Rounds) == 0) != failed || len(s.Rounds)%2 != 0 {
				t.Errorf("%s: %+v", tt.name, s)
			}
		}
		t.Logf("%s\n%s", tt.name, o.Table())
		for _, p := range c.procs {
			if p.cmd.Process != nil && p.cmd.ProcessState == nil {
				t.Errorf("%s: %v still runs", tt.name, p.cmd)
			}
		}
	}
}
