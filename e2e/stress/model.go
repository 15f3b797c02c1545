package main

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
)

// What the checks know of publications. Each publisher numbers what it pushes to a channel from 1 and pushes one at a
// time. A quiet point ends an epoch: all that was published before has been accounted for, and is forgotten.

// stamp is what stands in the text of each message.
type stamp struct {
	epoch     int
	place     string // group and app
	channel   string // "" for a broadcast
	publisher string
	n         int
}

// text returns the stamp, and padding behind it.
func (s stamp) text(padding int) string {
	return fmt.Sprintf("%d %s %q %s %d %s", s.epoch, s.place, s.channel, s.publisher, s.n, strings.Repeat("x", padding))
}

func parseStamp(text string) (s stamp, err error) {
	fields := strings.SplitN(text, " ", 6)
	if len(fields) != 6 || strings.Trim(fields[5], "x") != "" {
		return s, fmt.Errorf("no stamp: %.200q", text)
	}
	s.place, s.publisher = fields[1], fields[3]
	if s.epoch, err = strconv.Atoi(fields[0]); err != nil {
		return s, err
	}
	if s.channel, err = strconv.Unquote(fields[2]); err != nil {
		return s, err
	}
	s.n, err = strconv.Atoi(fields[4])
	return s, err
}

// stream is what one publisher has pushed to one channel in this epoch.
type stream struct {
	begun  int          // the number of the last one
	done   int          // the number of the last one that was accepted
	failed map[int]bool // those that were not, or nobody knows: they may arrive
}

// owed returns the first number behind after and up to last that must arrive, or 0.
func (s *stream) owed(after, last int) int {
	for n := after + 1; n <= last; n++ {
		if !s.failed[n] {
			return n
		}
	}
	return 0
}

// channel is what is known of one channel of one place.
type channel struct {
	place, name string
	kind        *kind

	mu      sync.Mutex // guards streams
	streams map[string]*stream
	trace   trace
}

// begin returns the number of the next message of a publisher.
func (ch *channel) begin(publisher string) int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	s := ch.streams[publisher]
	if s == nil {
		s = &stream{}
		ch.streams[publisher] = s
	}
	s.begun++
	return s.begun
}

// end notes what became of message n.
func (ch *channel) end(publisher string, n int, err error) {
	ch.mu.Lock()
	s := ch.streams[publisher]
	if err == nil {
		s.done = n
	} else {
		if s.failed == nil {
			s.failed = map[int]bool{}
		}
		s.failed[n] = true
	}
	ch.mu.Unlock()
	ch.trace.note("pushed by "+publisher, errText(err), n)
}

// begun returns the last number of each publisher: what is behind it began later.
func (ch *channel) begun() map[string]int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	all := make(map[string]int, len(ch.streams))
	for publisher, s := range ch.streams {
		all[publisher] = s.begun
	}
	return all
}

func (ch *channel) owed(publisher string, after, last int) int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if s := ch.streams[publisher]; s != nil {
		return s.owed(after, last)
	}
	return 0
}

func (ch *channel) forget() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.streams = map[string]*stream{}
}

// reception is what one connection has received of one channel in this epoch. Its connection guards it.
type reception struct {
	ch      *channel
	settled bool           // subscribe has been answered: from then on everything must arrive
	leaving bool           // unsubscribe has been sent
	from    map[string]int // what had begun when subscribe was answered
	excused map[string]int // what had begun when a gap was told
	last    map[string]int // what has arrived
}

func newReception(ch *channel) *reception {
	return &reception{ch: ch, last: map[string]int{}}
}

// settle notes that the subscription is in force.
func (r *reception) settle() {
	r.settled = true
	r.from = r.ch.begun()
}

// excuse notes that a gap was told.
func (r *reception) excuse() {
	begun := r.ch.begun()
	for publisher, n := range r.excused {
		begun[publisher] = max(begun[publisher], n)
	}
	r.excused = begun
}

// renew begins an epoch.
func (r *reception) renew() {
	r.from, r.excused = nil, nil
	clear(r.last)
}

// take notes a message that has arrived, and returns what is wrong with that.
func (r *reception) take(publisher string, n int) error {
	last, came := r.last[publisher]
	if came && n <= last {
		return fmt.Errorf("%s: %d of %s came after %d: doubled, or in the wrong order", r.ch.name, n, publisher, last)
	}
	r.last[publisher] = n
	if !r.ch.kind.strict || n == last+1 || !came && !r.settled {
		return nil
	}
	if lost := r.ch.owed(publisher, r.base(publisher, last, came), n-1); lost > 0 {
		return fmt.Errorf("%s: %d of %s did not come before %d: lost, or in the wrong order", r.ch.name, lost, publisher, n)
	}
	return nil
}

// base is the number behind which everything must arrive.
func (r *reception) base(publisher string, last int, came bool) int {
	if !came {
		last = r.from[publisher]
	}
	return max(last, r.excused[publisher])
}

// missing says what has not arrived that must, at a quiet point.
func (r *reception) missing() error {
	if !r.settled || r.leaving || !r.ch.kind.strict && !r.ch.kind.latest {
		return nil
	}
	r.ch.mu.Lock()
	defer r.ch.mu.Unlock()
	for publisher, s := range r.ch.streams {
		last, came := r.last[publisher]
		base := r.base(publisher, last, came)
		if r.ch.kind.latest { // it has one publisher; what is before the last may be left out
			base = max(base, s.done-1)
		}
		if lost := s.owed(base, s.done); lost > 0 {
			return fmt.Errorf("%s: %d of %s has not come, the last that came is %d of %d", r.ch.name, lost, publisher, last, s.done)
		}
	}
	return nil
}

// ends keeps what both ends say of a connection's end.
type verdict struct {
	allowed map[int]string // close code -> why it may be
	mute    bool           // the client did not read for a while, or has torn the connection: it may see 1006
}

func (v *verdict) allow(code int, why string) {
	if v.allowed == nil {
		v.allowed = map[int]string{}
	}
	v.allowed[code] = why
}

// judge says what is wrong with an end: seen is the code that the client saw, cause the one of the server.
func (v *verdict) judge(seen, cause int) error {
	if _, ok := v.allowed[cause]; !ok {
		return fmt.Errorf("the server ended it with %d, want one of %v", cause, maps.Clone(v.allowed))
	}
	if seen != cause && (seen != lostCode || !v.mute) {
		return fmt.Errorf("the client saw %d, the server's cause is %d", seen, cause)
	}
	return nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
