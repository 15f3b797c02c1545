//go:build !race

package core_test

const scale = 1 // see conformance_race_test.go
