package drivertest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// recorder is a test that notes its failures instead of failing.
type recorder struct {
	testing.TB // nil: what a case calls beyond the methods below is a panic, and so a failure
	ctx        context.Context

	mu       sync.Mutex // guards the rest
	failures []string
	cleanups []func()
}

// record runs a test and its cleanups and returns how it failed.
func record(ctx context.Context, test func(t testing.TB)) []string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &recorder{ctx: ctx}
	r.run(func() { test(r) })
	cancel()
	for _, cleanup := range slices.Backward(r.cleanups) {
		r.run(cleanup)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures
}

// run runs f in a goroutine that FailNow may end, and waits for it.
func (r *recorder) run(f func()) {
	ended := make(chan struct{})
	go func() { // ends with f
		defer close(ended)
		defer func() {
			if v := recover(); v != nil {
				r.Errorf("panic: %v", v)
			}
		}()
		f()
	}()
	<-ended
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
