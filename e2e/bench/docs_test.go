package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// figure is a row of the tables in the READMEs.
type figure struct {
	scenario string
	of       metric
	unit     string
	times    float64
}

var figures = []figure{
	{"room-load", rate, "", 1},
	{"room", cpu, " us", 1},
	{"beside", p99, " ms", 1. / 1000},
	{"idle-15000", memory, " bytes", 1},
}

// row is what the tables show: net/http, the best of the peers, raw.
func (f figure) row(r *Report) string {
	i := slices.IndexFunc(r.Scenarios, func(o Outcome) bool { return o.Name == f.scenario })
	if i < 0 {
		return "nothing: " + f.scenario + " was not measured"
	}
	o := r.Scenarios[i]
	best := bestPeer(f.of)(o, nil)
	name := ""
	for _, s := range o.Servers {
		if s.Medians[f.of] == best {
			name = s.Server
		}
	}
	show := func(v float64) string { return number(v*f.times) + f.unit }
	return fmt.Sprintf("| %s | %s (%s) | %s |", show(o.median("net/http", f.of)), show(best), name, show(o.median("raw", f.of)))
}

// equipment is the table of what the run had.
func equipment(r *Report) string {
	var b strings.Builder
	b.WriteString("| | |\n|---|---|\n")
	fmt.Fprintf(&b, "| when | %s, %d rounds of %s |\n", r.Began.Format("2006-01-02"), r.Rounds, r.Length)
	fmt.Fprintf(&b, "| machine | %s, %d cores, %s |\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Memory)
	fmt.Fprintf(&b, "| system | Linux %s, %s |\n", r.Machine.Kernel, r.Machine.Go)
	for _, module := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(&b, "| %s | %s |\n", module, r.Versions[module])
	}
	return b.String()
}

// What is quoted was written by make bench OUT=docs/benchmarks; the test says what the documents have to say.
func TestTheDocsQuoteTheResults(t *testing.T) {
	const docs = "../../docs/"
	text, err := os.ReadFile(docs + "benchmarks/results.json")
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{docs + "benchmarks.md": {equipment(&r)}}
	var b bytes.Buffer
	sayClaims(&b, &r)
	want[docs+"benchmarks.md"] = append(want[docs+"benchmarks.md"], b.String())
	for _, f := range figures {
		row := f.row(&r)
		want[docs+"benchmarks.md"] = append(want[docs+"benchmarks.md"], row)
		want["../../README.md"] = append(want["../../README.md"], row)
		want["../../README.zh-CN.md"] = append(want["../../README.zh-CN.md"], strings.ReplaceAll(row, " bytes", " 字节"))
	}
	for file, parts := range want {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if !strings.Contains(string(page), part) {
				t.Errorf("%s does not say\n%s", file, part)
			}
		}
	}
}
