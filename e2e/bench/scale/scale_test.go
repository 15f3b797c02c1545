package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The test binary plays all parts: the test, the nodes, and the clients.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "node" || os.Args[1] == "clients") {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEverybodyComesBackAndNothingIsLost(t *testing.T) {
	c := small()
	var out strings.Builder
	r, err := run(t.Context(), c, &progress{out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Logf("%s\n%s", &out, r)
	for _, problem := range r.Problems {
		t.Error(problem)
	}
	if r.Back != c.Connections || r.Closed[3001] != c.Connections || r.Counted < 3 || len(r.Restarts) != c.Nodes {
		t.Errorf("%d back, closed %v, %d rooms counted, %d restarts", r.Back, r.Closed, r.Counted, len(r.Restarts))
	}
	for kind, k := range r.Load.Kinds {
		if k.Expected != k.Messages*int64(c.Rooms[kind]) || k.Across.P50 <= 0 || k.Across.P50 > k.Across.P999 {
			t.Errorf("%s: %+v", k.Kind, k)
		}
	}
	if r.Memory.Redis <= 0 || r.Idle.Use.Seconds < 1 || r.Load.Use.Nodes <= 0 {
		t.Errorf("memory %+v, idle %+v, load %+v", r.Memory, r.Idle, r.Load.Use)
	}
}

func TestARunThatNeedsTooMuchStops(t *testing.T) {
	for _, tt := range []struct {
		change func(*config)
		says   string
	}{
		{func(c *config) { c.Memory = 1 << 20 }, "raise -memory"},
		{func(c *config) { c.Limit = time.Second / 2; c.Connects = 10 }, "raise -limit"},
		{func(c *config) { c.Connections = 1e9 }, "take more -nodes"},
	} {
		c := small()
		tt.change(&c)
		var out strings.Builder
		if _, err := run(t.Context(), c, &progress{out: &out}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v, not %q\n%s", err, tt.says, &out)
		}
	}
}

func small() config {
	return config{
		Connections: 400, Nodes: 2, Rooms: [kinds]int{2, 50, 200}, Rates: [kinds]float64{50, 20, 4},
		Connects: 1000, Spread: time.Second, For: time.Second, Limit: time.Minute, Memory: 4 << 30,
	}
}

func TestStamp(t *testing.T) {
	s := stamp{phase: 3, kind: hall, node: 999, due: 123456789 * time.Second}
	if got, err := parseStamp([]byte(s.String() + `"}`)); err != nil || got != s {
		t.Errorf("%+v, %v, not %+v", got, err, s)
	}
	for _, text := range []string{"", "~", "~03203e", s.String()[:stampLen-1], strings.Replace(s.String(), "~032", "~039", 1), strings.Repeat("~", stampLen)} {
		if got, err := parseStamp([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
