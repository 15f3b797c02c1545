package drivers_test

import (
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
)

func TestMemoryDriver(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		driver := drivers.NewMemoryDriver()
		return drivertest.Harness{Driver: func() core.Driver { return driver }, Answers: true}
	})
}
