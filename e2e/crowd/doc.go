// Package crowd is tests alone: they put thousands of real sockets on one server, which runs in a process of its own, as
// the clients do. They judge memory and latency, which mean nothing under the race detector: there the package has none.
package crowd
