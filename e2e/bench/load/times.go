package load

import (
	"math/bits"
	"time"
)

// Times counts durations by size. A duration comes back with an error of 1.6% at most.
type Times struct {
	counts [64 * steps]int64
	total  int64
}

const (
	stepBits = 6
	steps    = 1 << stepBits // between a duration and its double
)

// Add counts one more duration. Negative ones count as 0.
func (t *Times) Add(d time.Duration) {
	t.counts[bucket(uint64(max(d, 0)))]++
	t.total++
}

// At returns the duration below which so large a share of all lies, 0.5 for the median and 1 for the longest, in
// microseconds. It is 0 when nothing was counted.
func (t *Times) At(share float64) float64 {
	rank := min(int64(share*float64(t.total)), t.total-1)
	for i, n := range t.counts {
		if rank -= n; rank < 0 {
			return float64(least(i)) / 1000
		}
	}
	return 0
}

// Merge adds what another has counted.
func (t *Times) Merge(other *Times) {
	for i, n := range other.counts {
		t.counts[i] += n
	}
	t.total += other.total
}

func bucket(n uint64) int {
	if n < steps {
		return int(n)
	}
	shift := bits.Len64(n) - 1 - stepBits
	return (shift+1)*steps + int(n>>shift) - steps
}

// least is the smallest number in a bucket.
func least(bucket int) uint64 {
	if bucket < 2*steps {
		return uint64(bucket)
	}
	shift := bucket/steps - 1
	return uint64(bucket%steps+steps) << shift
}
