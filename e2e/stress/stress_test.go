package main

import (
	"os"
	"testing"
	"time"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A minute: half of it with each driver. GOWS_STRESS_FOR=10m is 10 minutes with each.
func TestAMinuteOfStress(t *testing.T) {
	o := options{seed: uint64(time.Now().UnixNano()) % 1e6, length: 30 * time.Second, driver: "both", nodes: 3, clients: 250, rest: 6 * time.Second}
	if text := os.Getenv("GOWS_STRESS_FOR"); text != "" {
		var err error
		if o.length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	o.verbose, o.out = testing.Verbose(), t.Output()
	if err := play(t, o, t.Output()); err != nil {
		t.Fatal(err)
	}
}
