// Package e2e tests the whole: the real programs, driven through a real browser. A missing browser fails the tests.
package e2e

import (
	"testing"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
