package drivertest_test

import (
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestDriverThatRestartsPasses(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		driver := newRestartable(drivers.NewMemoryDriver())
		return drivertest.Harness{Driver: func() core.Driver { return driver }, Answers: true, Restart: driver.Restart}
	})
}

func TestDriverThatDoesEverythingLaterPasses(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		driver := newRestartable(newLater(drivers.NewMemoryDriver()))
		return drivertest.Harness{Driver: func() core.Driver { return driver }, Restart: driver.Restart}
	})
}
