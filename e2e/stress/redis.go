package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing" //nolint:depguard // redistest wants one; this is a program of tests

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/redistest"
)

// program is the testing.TB that redistest needs of a program that is none.
type program struct {
	testing.TB

	cleanups []func()
}

// Helper does nothing.
func (p *program) Helper() {}

// Cleanup remembers what the end has to do.
func (p *program) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

// Fatal ends the program.
func (p *program) Fatal(args ...any) { p.Fatalf("%s", fmt.Sprintln(args...)) }

// Fatalf ends the program.
func (p *program) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	p.end()
	os.Exit(1)
}

// TempDir returns a directory that the end removes.
func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "stress")
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// end runs what Cleanup remembered, the last first.
func (p *program) end() {
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
	p.cleanups = nil
}

// backend is where the drivers of a run come from.
type backend struct{ server *redistest.Server }

func newBackend(tb testing.TB, driver string) *backend {
	tb.Helper()
	if driver == "memory" {
		return &backend{}
	}
	return &backend{redistest.Start(tb)}
}

// connect returns the driver of a group.
func (b *backend) connect(prefix string) (core.Driver, error) {
	if b.server == nil {
		return drivers.NewMemoryDriver(), nil
	}
	return drivers.NewRedisDriver(&drivers.RedisOptions{Addr: b.server.Addr(), Prefix: prefix})
}

// left says which keys are in Redis that may not be there when all nodes have shut down.
func (b *backend) left() error {
	if b.server == nil {
		return nil
	}
	var more []string
	for key := range strings.FieldsSeq(b.server.CLI("KEYS", "*")) {
		if !strings.HasSuffix(key, "}:number") && !strings.HasSuffix(key, "}:epoch") {
			more = append(more, key)
		}
	}
	if len(more) > 0 {
		return fmt.Errorf("left in Redis: %q", more)
	}
	return nil
}
