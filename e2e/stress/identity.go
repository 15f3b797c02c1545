package main

import (
	"fmt"
	"slices"
	"sync"
)

// identity is a client id: several actors may share it.
type identity struct {
	id     string
	single bool // the newer replaces the older
	shared bool

	mu       sync.Mutex // guards the rest
	number   int
	attempts []*conn // of this epoch, and those that are open
}

// attempt numbers a connection.
func (i *identity) attempt(c *conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.number++
	c.number = i.number
	i.attempts = append(i.attempts, c)
}

// all returns the connections that may be open.
func (i *identity) all() []*conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.attempts)
}

// forget drops a connection that has ended.
func (i *identity) forget(c *conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attempts = slices.DeleteFunc(i.attempts, func(o *conn) bool { return o == c })
}

// replaces says why a connection cannot have been replaced: the server numbers them when it registers them, so one that
// was dialed earlier may be the newer one if it was on its way still.
func (i *identity) replaces(c *conn) error {
	for _, o := range i.all() {
		if o != c && i.single && (o.number > c.number || o.wasOpenAt(c.dialed)) {
			return nil
		}
	}
	return fmt.Errorf("%s was replaced, but nobody else connected", i.id)
}
