package drivers

import "github.com/duxweb/go-ws/core"

// Kept returns how many things a memory driver remembers.
func Kept(driver core.Driver) int {
	d := driver.(*memory) //nolint:errcheck // a panic is what a test with another driver deserves
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.links) + len(d.topics) + len(d.joined) + len(d.counts)
}

var (
	EncodePublication = encodePublication
	DecodePublication = decodePublication
	Scoped            = scoped
	Unscoped          = unscoped
)
