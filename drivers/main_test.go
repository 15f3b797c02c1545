package drivers_test

import (
	"testing"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
