package server

import (
	"encoding/json"
	"slices"
	"sync"
)

// envelope is a message of the project's protocol, as far as the job needs it.
type envelope struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Channel string `json:"channel,omitempty"`
	Message string `json:"message,omitempty"`
}

// encode cannot fail: an envelope is nothing but strings.
func (e envelope) encode() []byte {
	text, _ := json.Marshal(e)
	return text
}

// rooms is who is where, for libraries that leave that to their users; C is a connection of theirs.
type rooms[C comparable] struct {
	one func(to C, text []byte)
	all func(to []C, text []byte)

	// blocks says that one and all may wait for a client. They run without the lock then; otherwise they run under it,
	// and who has left is in nobody's hands any more.
	blocks bool

	mu       sync.RWMutex   // guards the rest
	channels map[string][]C // who is in a channel
	members  map[C]*member  // who is connected
	named    map[string]C   // the last connection of a token
}

type member struct {
	token    string
	channels []string
}

// enter takes in a connection.
func (r *rooms[C]) enter(c C, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members == nil {
		r.channels, r.members, r.named = map[string][]C{}, map[C]*member{}, map[string]C{}
	}
	r.members[c] = &member{token: token}
	r.named[token] = c
}

// leave takes a connection out of everything. Once more does nothing.
func (r *rooms[C]) leave(c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[c]
	if m == nil {
		return
	}
	delete(r.members, c)
	if r.named[m.token] == c {
		delete(r.named, m.token)
	}
	for _, channel := range m.channels {
		in := r.channels[channel]
		i, last := slices.Index(in, c), len(in)-1
		in[i] = in[last]
		clear(in[last:])
		if r.channels[channel] = in[:last]; last == 0 {
			delete(r.channels, channel)
		}
	}
}

// handle does what a message from c asks for.
func (r *rooms[C]) handle(c C, text []byte) {
	var e envelope
	if json.Unmarshal(text, &e) != nil {
		return
	}
	switch e.Type {
	case "subscribe":
		r.subscribe(c, e.Channel)
	case "message":
		r.publish(e.Channel, e.encode())
	case "direct":
		r.send(e.Channel, e.encode())
	}
	if e.ID != "" {
		r.one(c, envelope{ID: e.ID, Type: "receive"}.encode())
	}
}

func (r *rooms[C]) subscribe(c C, channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[c]
	if m == nil || slices.Contains(m.channels, channel) {
		return
	}
	m.channels = append(m.channels, channel)
	r.channels[channel] = append(r.channels[channel], c)
}

func (r *rooms[C]) publish(channel string, text []byte) {
	r.mu.RLock()
	if r.blocks {
		to := slices.Clone(r.channels[channel])
		r.mu.RUnlock()
		r.all(to, text)
		return
	}
	defer r.mu.RUnlock()
	r.all(r.channels[channel], text)
}

func (r *rooms[C]) send(token string, text []byte) {
	r.mu.RLock()
	to, here := r.named[token]
	if r.blocks {
		r.mu.RUnlock()
	} else {
		defer r.mu.RUnlock()
	}
	if here {
		r.one(to, text)
	}
}
