// Package docs tests the documentation: its Go code compiles, its programs run, its examples are what the library says.
package docs

import (
	"testing"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
