package drivers

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/duxweb/go-ws/core"
)

// redisPresence writes who is where on this node, in one lane. One goroutine does it, batch after batch: so the server's
// acknowledgement of one write is known before the next one leaves, and a write that was lost is noticed.
//
// Everything is written under a registration, which is valid while its counter on the server is what this node has
// brought it to. When it is not, or when nobody knows what became of a write, the node takes a new one, writes under it
// what the core says is there now, and leaves the old one to be swept like that of a dead node.
type redisPresence struct {
	lane  *redisLane
	wake  chan struct{} // holds one: there is something to do
	hurry chan struct{} // holds one: the next beat is due

	done chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex // guards the next three
	queue    []*presenceOp
	closed   bool
	sweeping map[string]bool // registrations

	// The rest is the goroutine's own.
	reg          string               // the registration, or the one that is to be
	entered      bool                 // it exists
	complete     bool                 // and whatever is on this node was written under it
	valid        bool                 // and the server has it so
	taken        int                  // registrations, so far
	old          []string             // those given up and not yet declared dead
	partial      []string             // those given up that were never complete
	written      uint64               // number of the last write
	acknowledged uint64               // number of the last write that the server has confirmed
	epoch        string               // see enter.lua; of the last registration that was complete
	owed         []*presenceOp        // leaves that the server has refused, to be repeated
	away         bool                 // lane.lost was called, and lane.restored is due
	seen         map[string]*sighting // the other registrations
	quiet        uint64               // receiver.reads when the last beat was sent
}

type presenceAction uint8

const (
	opRegister presenceAction = iota
	opUnregister
	opJoin
	opLeave
)

// presenceOp is one write, for one topic or client.
type presenceOp struct {
	waits    func() error // what ended the context of who waits for it
	action   presenceAction
	text     string // topic or client, scoped
	member   core.Member
	numbered func(uint64) // of opRegister
	first    bool         // a registration has joined it as the first, of which nobody was told
	edge     bool         // the first joined, or the last left
	err      error
	over     chan struct{} // closed when edge and err are set; nil when nobody waits
}

const (
	presenceBatch = 256
	owedLength    = 10_000
)

func newPresence(lane *redisLane) *redisPresence {
	return &redisPresence{
		lane: lane, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), sweeping: map[string]bool{}, seen: map[string]*sighting{},
		done: make(chan struct{}),
	}
}

func (l *redisLink) Register(ctx context.Context, app string, m core.Member, numbered func(uint64)) error {
	if err := l.openNode(); err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	m.Number = 0
	op := &presenceOp{waits: ctx.Err, action: opRegister, text: scoped(app, m.ClientID), member: m, numbered: numbered}
	return l.finish(ctx, l.begin(op))
}

func (l *redisLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	return l.change(ctx, opJoin, m, topics)
}

func (l *redisLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	return l.change(ctx, opLeave, m, topics)
}

// change writes one op for each topic and returns those that are reported.
func (l *redisLink) change(ctx context.Context, action presenceAction, m core.Member, topics []core.Topic) (edge []core.Topic, err error) {
	if err := l.openNode(); err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	ops := make([]*presenceOp, len(topics))
	for i, t := range topics {
		op := &presenceOp{waits: ctx.Err, action: action, text: topicText(t), member: m}
		if t.Channel == "" && action == opLeave {
			op.action, op.text = opUnregister, scoped(t.App, m.ClientID)
		}
		ops[i] = l.begin(op)
	}
	for i, op := range ops {
		if failed := l.finish(ctx, op); failed != nil {
			err = failed // the others are the same in all likelihood
		} else if op.edge {
			edge = append(edge, topics[i])
		}
	}
	return edge, err
}

// begin queues an op.
func (l *redisLink) begin(op *presenceOp) *presenceOp {
	op.over = make(chan struct{})
	p := l.laneOf(op.text).presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		op.end(core.ErrClosed)
		return op
	}
	p.queue = append(p.queue, op)
	signal(p.wake)
	return op
}

func (op *presenceOp) end(err error) {
	op.err = err
	if op.over != nil {
		close(op.over)
	}
}

// finish waits for an op.
func (l *redisLink) finish(ctx context.Context, op *presenceOp) error {
	select {
	case <-op.over:
		return op.err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), l.laneOf(op.text).why())
	}
}

// run writes until resign. It begins with a registration.
func (p *redisPresence) run(ctx context.Context) {
	defer close(p.done)
	beat, listen := time.NewTimer(beatInterval), time.NewTimer(time.Hour)
	defer beat.Stop()
	defer listen.Stop()
	wait, due := firstPause, time.Now().Add(beatInterval)
	for ctx.Err() == nil {
		written := true
		if !p.valid {
			written = p.register(ctx)
			signal(p.wake) // for what was queued meanwhile
		} else if ops := p.take(); len(ops) > 0 {
			signal(p.wake) // for the rest
			written = p.write(ctx, ops)
		} else if p.isClosed() {
			break
		}
		if !written {
			p.giveUp()
			if p.isClosed() {
				break
			}
			pause(ctx, wait)
			wait = min(2*wait, lastPause)
		} else {
			wait = firstPause
		}
		if !p.valid {
			continue
		}
		select {
		case <-p.wake:
			if time.Now().Before(due) {
				continue // but the beat has its turn, however much there is to write
			}
		case <-p.hurry:
			p.away = true
		case <-beat.C:
		case <-listen.C:
			p.lane.receiver.probe(p.quiet)
			continue
		case <-ctx.Done():
			continue
		}
		if p.beat(ctx) {
			listen.Reset(replyTimeout)
		}
		beat.Reset(beatInterval)
		due = time.Now().Add(beatInterval)
	}
	for _, op := range p.takeAll() {
		op.end(core.ErrClosed)
	}
}

func (p *redisPresence) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// take returns the next ops. A Join that nobody waits for any more is left out: its caller has been told that it failed.
func (p *redisPresence) take() []*presenceOp {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ops []*presenceOp
	n := 0
	for ; n < len(p.queue) && len(ops) < presenceBatch; n++ {
		op := p.queue[n]
		if err := op.waits(); err != nil && (op.action == opJoin || op.action == opRegister) {
			op.end(err)
			continue
		}
		ops = append(ops, op)
	}
	p.queue = p.queue[n:]
	return ops
}

func (p *redisPresence) takeAll() []*presenceOp {
	p.mu.Lock()
	defer p.mu.Unlock()
	ops := p.queue
	p.queue = nil
	return ops
}

// putBack queues ops that have not been carried out, before all others.
func (p *redisPresence) putBack(ops []*presenceOp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(ops, p.queue...)
}

// giveUp ends the ops that nobody waits for any more, unless they have to be carried out all the same: a registration that
// is not valid is followed by one that begins with what is there then.
func (p *redisPresence) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := p.queue[:0]
	for _, op := range p.queue {
		if err := op.waits(); err != nil && (!p.valid || op.action == opJoin || op.action == opRegister) {
			op.end(err)
		} else {
			keep = append(keep, op)
		}
	}
	clear(p.queue[len(keep):])
	p.queue = keep
	if len(keep) > owedLength { // leaves that a new registration makes up for
		p.valid = false
	}
}

// write carries out ops in one round trip. It reports false when some were put back, because the server is not the one to
// ask now, or the registration is not valid.
func (p *redisPresence) write(ctx context.Context, ops []*presenceOp) bool {
	calls := make([]*scriptCall, len(ops))
	for i, op := range ops {
		calls[i] = p.call(op)
	}
	p.carryOut(ctx, calls)
	var again []*presenceOp
	for i, op := range ops {
		switch err := calls[i].err; fateOf(err) {
		case carriedOut:
			p.succeeded(op, calls[i].reply)
		case misplaced, outdated:
			again = append(again, op)
		case refused:
			if op.action == opLeave || op.action == opUnregister {
				p.owed = append(p.owed, &presenceOp{action: op.action, text: op.text, member: op.member})
			}
			if len(p.owed) > owedLength { // a new registration makes up for them
				p.valid = false
				p.leaves(err)
			}
			op.end(p.lane.explain(ctx, err, calls[i].keys))
		case unknown:
			op.end(err)
		}
	}
	p.putBack(again)
	return len(again) == 0
}

// succeeded takes what the server has returned.
func (p *redisPresence) succeeded(op *presenceOp, reply any) {
	if op.action == opRegister {
		text, _ := reply.(string)
		number, err := strconv.ParseUint(text, 10, 64)
		if err == nil && op.numbered != nil {
			op.numbered(number) // here and not in Register: whoever registers anew after this must find it
		}
		op.end(err)
		return
	}
	if op.action == opJoin && len(p.owed) > 0 { // it is there again
		p.owed = slices.DeleteFunc(p.owed, func(leave *presenceOp) bool {
			return leave.text == op.text && leave.member.ConnID == op.member.ConnID
		})
	}
	op.edge = (reply == int64(1) || op.first) && op.action != opUnregister
	if op.over == nil && op.edge { // it was owed
		p.lane.link.spawn(func(context.Context) { p.changed(op, false) }) // ends with a driver call, which must not hold up the beat
	}
	op.end(nil)
}

func (p *redisPresence) changed(op *presenceOp, joined bool) {
	app, channel, _ := unscoped(op.text)
	p.lane.link.node.Changed(core.Topic{App: app, Channel: channel}, op.member, joined)
}

// call makes the script call for an op, but for what every call begins with.
func (p *redisPresence) call(op *presenceOp) *scriptCall {
	l, m := p.lane, op.member
	switch op.action {
	case opRegister:
		return &scriptCall{
			script: registerScript, keys: []string{l.nodes(), l.number(), l.client(op.text), l.conns(p.reg)},
			args: []any{m.ConnID, op.text, encodeMember(m), m.Number},
		}
	case opUnregister:
		return &scriptCall{
			script: unregisterScript, keys: []string{l.nodes(), l.client(op.text), l.conns(p.reg)}, args: []any{m.ConnID},
		}
	case opJoin:
		member := strconv.Itoa(len(m.ClientID)) + ":" + m.ClientID + encodeMember(m)
		return &scriptCall{script: joinScript, keys: l.topicKeys(p.reg, op.text), args: []any{m.ConnID, m.ClientID, member, op.text}}
	case opLeave:
	}
	return &scriptCall{script: leaveScript, keys: l.topicKeys(p.reg, op.text), args: []any{m.ConnID, m.ClientID, op.text}}
}

func (l *redisLane) topicKeys(reg, text string) []string {
	return []string{l.nodes(), l.members(reg, text), l.count(text), l.in(text), l.topics(reg)}
}

// carryOut runs guarded calls. The registration is not valid any more when one says so, or when nobody knows what became of
// one.
func (p *redisPresence) carryOut(ctx context.Context, calls []*scriptCall) {
	for _, c := range calls {
		p.written++
		c.args = append([]any{p.reg, p.acknowledged, p.written}, c.args...)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(ctx)
	if err == nil {
		runScripts(ctx, client, calls)
	}
	worst := err // where there is no server: nothing was carried out, and nothing is known to be there
	for _, c := range calls {
		if err != nil {
			c.err = err
		}
		switch fateOf(c.err) {
		case carriedOut:
			p.acknowledged, _ = c.args[2].(uint64)
		case outdated, unknown:
			p.valid = false
			worst = c.err
		case misplaced:
			worst = c.err
		case refused:
		}
	}
	switch {
	case worst != nil:
		p.lane.doubt(client, worst)
		if !p.valid {
			p.leaves(worst)
		}
	case p.away && p.valid:
		p.away = false
		p.lane.restored(registered)
	}
}

// leaves notes why what is here is not known to the other nodes.
func (p *redisPresence) leaves(err error) {
	p.away = true
	p.lane.lost(registered, err)
}

// register takes a new registration and writes under it whatever is on this node now. It reports whether that is done.
func (p *redisPresence) register(ctx context.Context) bool {
	switch {
	case p.entered && p.complete:
		p.old = append(p.old, p.reg)
	case p.entered:
		p.partial = append(p.partial, p.reg)
	}
	if p.entered || p.reg == "" {
		p.taken++
		p.reg, p.entered, p.complete = p.lane.link.id+"."+strconv.Itoa(p.taken), false, false
	}
	for _, reg := range p.declared(ctx, p.partial, "") { // else nobody in it would be the first
		p.sweep(ctx, reg, false)
	}
	epoch, err := p.enter(ctx)
	if err != nil {
		p.leaves(err)
		return false
	}
	p.written, p.acknowledged, p.valid = 1, 1, true
	p.owed, p.away = nil, false // said at the end
	back, ok := p.writeAll(ctx)
	if !ok {
		return false
	}
	p.complete = true
	p.lane.restored(registered)
	back = p.handOver(back)
	if p.epoch == epoch { // nothing was lost: the others have declared this node dead, and told that these have left
		p.lane.link.spawn(func(ctx context.Context) { p.tellBack(ctx, back) }) // ends with the last of them, or the link
	}
	p.epoch = epoch
	p.declare(ctx, p.old, "")
	p.old, p.partial = nil, nil
	p.seen = map[string]*sighting{}
	return true
}

// writeAll writes whatever is on this node, and returns the joins that were the first of their client id.
func (p *redisPresence) writeAll(ctx context.Context) (first []*presenceOp, ok bool) {
	for ops := p.present(); len(ops) > 0; {
		n := min(len(ops), presenceBatch)
		calls := make([]*scriptCall, n)
		for i, op := range ops[:n] {
			calls[i] = p.call(op)
		}
		p.carryOut(ctx, calls)
		for i, op := range ops[:n] {
			switch err := calls[i].err; {
			case wrongType(err):
				p.lane.link.fault(p.lane.explain(ctx, err, calls[i].keys))
			case err != nil: // refused or misplaced: nothing is valid without the rest
				p.valid = false
				p.leaves(err)
				return nil, false
			case op.action == opJoin && calls[i].reply == int64(1):
				first = append(first, op)
			}
		}
		ops = ops[n:]
	}
	return first, p.valid
}

// handOver marks those joins that somebody still waits for, and returns the others.
func (p *redisPresence) handOver(first []*presenceOp) (rest []*presenceOp) {
	type key struct{ text, conn string }
	p.mu.Lock()
	defer p.mu.Unlock()
	queued := map[key]*presenceOp{}
	for _, op := range p.queue {
		if op.action == opJoin {
			queued[key{op.text, op.member.ConnID}] = op
		}
	}
	for _, op := range first {
		if waits := queued[key{op.text, op.member.ConnID}]; waits != nil {
			waits.first = true
		} else {
			rest = append(rest, op)
		}
	}
	return rest
}

// tellBack tells the node of joins, topic by topic, but for those that have left since.
func (p *redisPresence) tellBack(ctx context.Context, back []*presenceOp) {
	var last string
	joined := map[string]bool{}
	for i, op := range back {
		if ctx.Err() != nil {
			return
		}
		if i == 0 || op.text != last {
			last = op.text
			clear(joined)
			app, channel, _ := unscoped(op.text)
			for m := range p.lane.link.node.Joined(core.Topic{App: app, Channel: channel}) {
				joined[m.ConnID] = true
			}
		}
		if joined[op.member.ConnID] {
			p.changed(op, true)
		}
	}
}

// enter makes the registration exist, and returns the epoch. A name that nothing was written under yet may be tried again.
func (p *redisPresence) enter(ctx context.Context) (epoch string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(ctx)
	if err != nil {
		p.lane.doubt(nil, err)
		return "", err
	}
	c := &scriptCall{script: enterScript, keys: []string{p.lane.nodes(), p.lane.epoch()}, args: []any{p.reg, rand.Text()}}
	runScripts(ctx, client, []*scriptCall{c})
	if c.err != nil {
		p.lane.doubt(client, c.err)
		return "", p.lane.explain(ctx, c.err, c.keys)
	}
	p.entered = true
	epoch, _ = c.reply.(string)
	return epoch, nil
}

// present returns an op for everything that is on this node now.
func (p *redisPresence) present() []*presenceOp {
	link := p.lane.link
	var ops []*presenceOp
	for app, m := range link.node.Registered() {
		if text := scoped(app, m.ClientID); link.laneOf(text) == p.lane {
			ops = append(ops, &presenceOp{action: opRegister, text: text, member: m})
		}
	}
	for _, t := range p.lane.receiver.topics() {
		if t.Channel == "" {
			continue
		}
		for m := range link.node.Joined(t) {
			ops = append(ops, &presenceOp{action: opJoin, text: topicText(t), member: m})
		}
	}
	return ops
}

// resign writes what is queued and takes the registration back, of which nobody is told.
func (p *redisPresence) resign(ctx context.Context) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	signal(p.wake)
	select {
	case <-p.done:
	case <-ctx.Done():
		return
	}
	if p.entered && len(p.declared(ctx, []string{p.reg}, "")) > 0 {
		p.sweep(ctx, p.reg, false)
	} // else the others do it
}

// storedMember is a member as JSON on Redis.
type storedMember struct {
	Conn  string          `json:"c"`
	Node  string          `json:"n"`
	Data  json.RawMessage `json:"d,omitempty"`
	Since int64           `json:"s"` // ms
}

func encodeMember(m core.Member) string {
	text, err := json.Marshal(storedMember{m.ConnID, m.Node, m.Data, m.Since.UnixMilli()})
	if err != nil { // Data is no JSON
		text, _ = json.Marshal(storedMember{m.ConnID, m.Node, nil, m.Since.UnixMilli()})
	}
	return string(text)
}

func decodeMember(clientID, text string) (m core.Member, err error) {
	var s storedMember
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return m, fmt.Errorf("redis: member: %w", err)
	}
	return core.Member{ClientID: clientID, ConnID: s.Conn, Node: s.Node, Data: s.Data, Since: time.UnixMilli(s.Since)}, nil
}

// decodeTopicMember undoes what Join has stored: length of the client id, client id, member.
func decodeTopicMember(value string) (core.Member, error) {
	size, rest, ok := strings.Cut(value, ":")
	n, err := strconv.Atoi(size)
	if !ok || err != nil || n < 0 || n > len(rest) {
		return core.Member{}, errNoMember
	}
	return decodeMember(rest[:n], rest[n:])
}

// decodeClientMember undoes what Register has stored: registration, number, member.
func decodeClientMember(clientID, value string) (core.Member, error) {
	_, rest, _ := strings.Cut(value, " ")
	number, text, ok := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return core.Member{}, errNoMember
	}
	m, err := decodeMember(clientID, text)
	m.Number = n
	return m, err
}

var errNoMember = errors.New("redis: a member that no node has written")
