package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report is the result of a run, as it is written to results.json.
type Report struct {
	Began     time.Time
	Machine   Machine
	Versions  map[string]string // of the libraries and frameworks, by module path
	Rounds    int
	Length    string // of a measurement
	Scenarios []Outcome
}

// Outcome is the result of one scenario.
type Outcome struct {
	Name    string
	Title   string
	Columns []metric
	Servers []*Standing
}

// Standing is the result of one server in a scenario.
type Standing struct {
	Server  string
	Failed  string               `json:",omitempty"` // why there are no more rounds
	Medians map[metric]float64   // of the rounds; of lost and closed the worst
	Rounds  []map[metric]float64 `json:",omitempty"`
}

func (s *Standing) fail(err error) {
	if err != nil && s.Failed == "" {
		s.Failed = err.Error()
	}
}

// settle computes the medians.
func (s *Standing) settle() {
	values := map[metric][]float64{}
	for _, round := range s.Rounds {
		for m, v := range round {
			values[m] = append(values[m], v)
		}
	}
	for m, all := range values {
		slices.Sort(all)
		s.Medians[m] = (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	}
	// What was lost, or came twice, is a fact in every round.
	for _, m := range []metric{lost, closed} {
		if all := values[m]; len(all) > 0 {
			s.Medians[m] = slices.MaxFunc(all, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
		}
	}
}

// Table returns the outcome as lines of Markdown.
func (o Outcome) Table() string {
	var b strings.Builder
	first := o.Columns[0]
	floor := o.median("raw", first)
	fmt.Fprintf(&b, "| %s |", o.Title)
	for _, m := range o.Columns {
		fmt.Fprintf(&b, " %s |", heads[m])
	}
	if floor > 0 {
		fmt.Fprintf(&b, " of raw |")
	}
	b.WriteString("\n|---" + strings.Repeat("|---:", len(o.Columns)))
	if floor > 0 {
		b.WriteString("|---:")
	}
	b.WriteString("|\n")
	for _, s := range o.Servers {
		fmt.Fprintf(&b, "| %s |", s.Server)
		for _, m := range o.Columns {
			fmt.Fprintf(&b, " %s |", s.shown(m))
		}
		if floor > 0 {
			text := "-"
			if v, ok := s.Medians[first]; ok {
				text = strconv.FormatFloat(v/floor, 'f', 2, 64)
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteByte('\n')
	}
	for _, s := range o.Servers {
		if s.Failed != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", s.Server, s.Failed)
		}
	}
	return b.String()
}

func (s *Standing) shown(m metric) string {
	v, ok := s.Medians[m]
	if !ok {
		return "-"
	}
	return number(v)
}

// number writes three digits that mean something, and groups the large ones.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 1000:
		unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
		return grouped(int(math.Round(v/unit) * unit))
	case math.Abs(v) >= 100:
		return grouped(int(math.Round(v)))
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func bytesOf(n int) string {
	if n >= 1<<10 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// median returns 0 for what was not measured.
func (o Outcome) median(server string, m metric) float64 {
	for _, s := range o.Servers {
		if s.Server == server {
			return s.Medians[m]
		}
	}
	return 0
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Machine is what the figures were measured on.
type Machine struct {
	CPU    string
	Cores  int
	Memory string
	Kernel string
	Go     string
}
