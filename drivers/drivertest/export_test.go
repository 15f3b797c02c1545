package drivertest

import (
	"testing"
	"time"
)

// Scene is a case of the suite, for a test that plays it with any testing.TB.
type Scene struct {
	Name string
	Play func(t testing.TB, h Harness, patience time.Duration, rounds int)
}

// Scenes returns the cases that fit h.
func Scenes(h Harness) []Scene {
	var scenes []Scene
	for _, c := range suite() {
		if c.fits(h) {
			scenes = append(scenes, Scene{Name: c.name, Play: func(t testing.TB, h Harness, patience time.Duration, rounds int) {
				t.Helper()
				c.run(&stage{TB: t, harness: func() Harness { return h }, patience: patience, rounds: rounds})
			}})
		}
	}
	return scenes
}
