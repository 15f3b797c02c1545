package core

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
)

// hub holds the clients and channels of one node. It does no I/O and calls no hook and no driver, but for interest.go.
type hub struct {
	s      *Service
	seed   maphash.Seed
	shards [shards]shard

	slots chan struct{}  // see inSlots
	turns sync.WaitGroup // one for each running turn

	quietMu sync.Mutex // guards quiet
	quiet   []*channel // without subscribers, for the janitor
}

const shards = 64

type shard struct {
	mu       sync.RWMutex // guards the rest
	channels map[Topic]*channel
	clients  map[clientKey]*Client // the newest; older ones of the same id follow Client.older
	closed   bool
}

type clientKey struct{ app, id string }

func (h *hub) init(s *Service) {
	h.s = s
	h.seed = maphash.MakeSeed()
	h.slots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))
	for i := range h.shards {
		h.shards[i].channels = map[Topic]*channel{}
		h.shards[i].clients = map[clientKey]*Client{}
	}
}

func (h *hub) shard(name string) *shard {
	return &h.shards[maphash.String(h.seed, name)%shards]
}

// channel returns the channel of a topic, or nil when nobody here is in it.
func (h *hub) channel(t Topic) *channel {
	sh := h.shard(t.Channel)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.channels[t]
}

// register makes c known under its client id.
func (h *hub) register(c *Client) {
	key := clientKey{c.App, c.ClientID}
	sh := h.shard(c.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c.older = sh.clients[key]
	sh.clients[key] = c
}

// forget undoes register. It is called when c's last hook has returned.
func (h *hub) forget(c *Client) {
	key := clientKey{c.App, c.ClientID}
	sh := h.shard(c.ClientID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.clients[key] == c {
		if c.older == nil {
			delete(sh.clients, key)
		} else {
			sh.clients[key] = c.older
		}
		return
	}
	for newer := sh.clients[key]; newer != nil; newer = newer.older {
		if newer.older == c {
			newer.older = c.older
			return
		}
	}
}

// find returns the connections of a client id, those included that have ended but whose hooks still run.
func (h *hub) find(app, id string) []*Client {
	sh := h.shard(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	var found []*Client
	for c := sh.clients[clientKey{app, id}]; c != nil; c = c.older {
		found = append(found, c)
	}
	return found
}

// clients returns the connections of one shard: all of them are visited shard by shard, so that nobody waits long.
func (h *hub) clients(shard int, into []*Client) []*Client {
	sh := &h.shards[shard]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for _, c := range sh.clients {
		for ; c != nil; c = c.older {
			into = append(into, c)
		}
	}
	return into
}

// everybody returns the connections of an app.
func (h *hub) everybody(app string) []*Client {
	var all []*Client
	for i := range h.shards {
		all = h.clients(i, all)
	}
	n := 0
	for _, c := range all {
		if c.App == app {
			all[n] = c
			n++
		}
	}
	return all[:n]
}

// topics returns the channels this node is interested in.
func (h *hub) topics() []Topic {
	var topics []Topic
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		for t := range sh.channels {
			topics = append(topics, t)
		}
		sh.mu.RUnlock()
	}
	return topics
}

// count returns how many channels there are.
func (h *hub) count() int {
	n := 0
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		n += len(sh.channels)
		sh.mu.RUnlock()
	}
	return n
}

// flush waits until everything published so far has been written, or ctx ends.
func (h *hub) flush(ctx context.Context) {
	for _, t := range h.topics() {
		ch := h.channel(t)
		if ch == nil {
			continue
		}
		if flushed := ch.flushing(); flushed != nil {
			select {
			case <-flushed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// close lets no further turn start and waits for the running ones: a turn starts under its channel's lock.
func (h *hub) close() {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		sh.closed = true
		for _, ch := range sh.channels {
			ch.mu.Lock()
			ch.closed = true
			ch.mu.Unlock()
		}
		clear(sh.channels)
		sh.mu.Unlock()
	}
	h.turns.Wait()
}
