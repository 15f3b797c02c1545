//go:build race

package core_test

// scale divides the numbers of family 9 that make it slow, and the limit: the race detector looks at each octet several
// times.
const scale = 8
