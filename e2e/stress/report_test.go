package main

import "testing"

// A run of an hour ended at a quiet point with 750 connections, because one with 500 had been before it.
func TestWhatGrowsIsToldFromWhatIsFuller(t *testing.T) {
	t.Parallel()
	at := func(connections, leaked int) usage {
		return usage{Connections: connections, Goroutines: 1000 + 2*connections + leaked, Files: 20 + 2*connections, Heap: 20 << 20}
	}
	var fuller, grows counters
	for n := range 3 * window {
		fuller.keep(at(500+5*n, 0))
		grows.keep(at(800-5*n, 5*n))
	}
	if err := fuller.grows(); err != nil {
		t.Error(err)
	}
	if grows.grows() == nil {
		t.Error("200 goroutines more were not seen")
	}
}
