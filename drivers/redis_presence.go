package drivers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// redisPresence writes who is where on this node, in one lane. One goroutine does it, batch after batch: so the server's
// acknowledgement of one write is known before the next one leaves, and a write that was lost is noticed.
//
// Everything is written under a registration, which is valid while its counter on the server is what this node has
// brought it to. When it is not, or when nobody knows what became of a write, the node takes a new one, writes under it
// what the core says is there now, and leaves the old one to be swept like that of a dead node.
type redisPresence struct {
	lane *redisLane
	wake chan struct{} // holds one: there is something to do

	mu       sync.Mutex // guards the next three
	queue    []*presenceOp
	closed   bool
	sweeping map[string]bool

	// The rest is the goroutine's own.
	reg          string
	taken        int    // registrations, so far
	written      uint64 // number of the last write
	acknowledged uint64 // number of the last write that the server has confirmed
	valid        bool
	old          []string // registrations given up
	seen         map[string]*sighting
	quiet        uint64 // receiver.reads when the last beat was sent
	done         chan struct{}
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
	waits  func() error // what ended the context of who waits for it
	action presenceAction
	text   string // topic or client, scoped
	member core.Member
	reply  any
	err    error
	over   chan struct{} // closed when reply and err are set
}

const presenceBatch = 256

func newPresence(lane *redisLane) *redisPresence {
	return &redisPresence{
		lane: lane, wake: make(chan struct{}, 1), sweeping: map[string]bool{}, seen: map[string]*sighting{},
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
	op := l.begin(ctx, opRegister, scoped(app, m.ClientID), m)
	if err := l.finish(ctx, op); err != nil {
		return err
	}
	text, _ := op.reply.(string)
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fmt.Errorf("redis: number of a connection: %w", err)
	}
	numbered(number)
	return nil
}

func (l *redisLink) Join(ctx context.Context, m core.Member, topics ...core.Topic) (first []core.Topic, err error) {
	return l.change(ctx, opJoin, m, topics)
}

func (l *redisLink) Leave(ctx context.Context, m core.Member, topics ...core.Topic) (last []core.Topic, err error) {
	return l.change(ctx, opLeave, m, topics)
}

// change writes one op for each topic and returns those for which the server has returned 1.
func (l *redisLink) change(ctx context.Context, action presenceAction, m core.Member, topics []core.Topic) (edge []core.Topic, err error) {
	if err := l.openNode(); err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	ops := make([]*presenceOp, len(topics))
	for i, t := range topics {
		if t.Channel == "" && action == opLeave {
			ops[i] = l.begin(ctx, opUnregister, scoped(t.App, m.ClientID), m)
		} else {
			ops[i] = l.begin(ctx, action, topicText(t), m)
		}
	}
	var failed []error
	for i, op := range ops {
		if err := l.finish(ctx, op); err != nil {
			failed = append(failed, err)
		} else if op.reply == int64(1) && op.action == action {
			edge = append(edge, topics[i])
		}
	}
	if len(failed) > 0 {
		return nil, failed[0] // the others are the same in all likelihood
	}
	return edge, nil
}

// begin queues an op.
func (l *redisLink) begin(ctx context.Context, action presenceAction, text string, m core.Member) *presenceOp {
	op := &presenceOp{waits: ctx.Err, action: action, text: text, member: m, over: make(chan struct{})}
	p := l.laneOf(text).presence
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
	close(op.over)
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
	beat, listen := time.NewTimer(time.Hour), time.NewTimer(time.Hour) // register sets the one, a beat the other
	defer beat.Stop()
	defer listen.Stop()
	wait := firstPause
	for ctx.Err() == nil {
		if !p.valid {
			if err := p.register(ctx); err != nil {
				p.lane.lost(registered, err)
				p.giveUp()
				if p.isClosed() {
					break
				}
				pause(ctx, wait)
				wait = min(2*wait, lastPause)
				continue
			}
			wait = firstPause
			p.lane.restored(registered)
			beat.Reset(beatInterval)
		}
		ops := p.take()
		if len(ops) > 0 {
			signal(p.wake) // the beat has its turn, too
			p.write(ctx, ops)
		} else if p.isClosed() {
			break
		}
		select {
		case <-beat.C:
			p.beat(ctx)
			beat.Reset(beatInterval)
			listen.Reset(replyTimeout)
		case <-listen.C:
			p.lane.receiver.probe(p.quiet)
		case <-p.wake:
		case <-ctx.Done():
		}
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

// giveUp ends the ops that nobody waits for any more: the next registration begins with what is there then.
func (p *redisPresence) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := p.queue[:0]
	for _, op := range p.queue {
		if err := op.waits(); err != nil {
			op.end(err)
		} else {
			keep = append(keep, op)
		}
	}
	clear(p.queue[len(keep):])
	p.queue = keep
}

// write carries out ops in one round trip. What the server refused because the registration is not valid is carried out
// under the next one.
func (p *redisPresence) write(ctx context.Context, ops []*presenceOp) {
	calls := make([]*scriptCall, len(ops))
	for i, op := range ops {
		calls[i] = p.call(op)
	}
	failed := p.carryOut(ctx, calls)
	var again []*presenceOp
	for i, op := range ops {
		if err := calls[i].err; lost(err) || misplaced(err) {
			again = append(again, op)
		} else {
			op.reply = calls[i].reply
			op.end(p.lane.explain(ctx, err, calls[i].keys))
		}
	}
	p.putBack(again)
	if failed != nil {
		p.lane.lost(registered, failed)
	}
}

// lost reports whether the guard of a script has found the registration not valid.
func lost(err error) bool { return redis.HasErrorPrefix(err, "LOST") }

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

// carryOut runs guarded calls. It returns an error, and the registration is not valid any more, when it was not, or when
// what became of a call is not known.
func (p *redisPresence) carryOut(ctx context.Context, calls []*scriptCall) (failed error) {
	for _, c := range calls {
		p.written++
		c.args = append([]any{p.reg, p.acknowledged, p.written}, c.args...)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(ctx)
	if err != nil {
		for _, c := range calls {
			c.err = err
		}
	} else {
		runScripts(ctx, client, calls)
	}
	for _, c := range calls {
		switch {
		case c.err == nil:
			p.acknowledged, _ = c.args[2].(uint64)
		case lost(c.err), misplaced(c.err), !answered(c.err):
			failed = c.err
		}
	}
	if failed != nil {
		p.valid = false
		p.lane.doubt(client, failed)
	}
	return failed
}

// register takes a new registration and writes under it whatever is on this node now.
func (p *redisPresence) register(ctx context.Context) error {
	if p.reg != "" {
		p.old = append(p.old, p.reg)
	}
	p.taken++
	p.reg = p.lane.link.id + "." + strconv.Itoa(p.taken)
	enter := &scriptCall{script: enterScript, keys: []string{p.lane.nodes()}, args: []any{p.reg}}
	entering, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := p.lane.server(entering)
	if err != nil {
		p.lane.doubt(nil, err)
		return err
	}
	runScripts(entering, client, []*scriptCall{enter})
	if err := enter.err; err != nil {
		p.lane.doubt(client, err)
		return p.lane.explain(ctx, err, enter.keys)
	}
	p.written, p.acknowledged, p.valid = 1, 1, true
	var back []*presenceOp // others have been told that they left
	for ops := p.present(); len(ops) > 0; {
		n := min(len(ops), presenceBatch)
		calls := make([]*scriptCall, n)
		for i, op := range ops[:n] {
			calls[i] = p.call(op)
		}
		if err := p.carryOut(ctx, calls); err != nil {
			return err
		}
		for i, op := range ops[:n] {
			switch err := calls[i].err; {
			case err != nil:
				p.lane.link.node.Fault(p.lane.explain(ctx, err, calls[i].keys))
			case op.action == opJoin && calls[i].reply == int64(1):
				back = append(back, op)
			}
		}
		ops = ops[n:]
	}
	for _, reg := range p.old {
		p.declare(ctx, reg, "")
	}
	p.old = nil
	p.seen = map[string]*sighting{}
	if len(back) > 0 {
		p.lane.link.spawn(func(ctx context.Context) { p.tellBack(ctx, back) }) // ends with the last of them, or the link
	}
	return nil
}

func (p *redisPresence) tellBack(ctx context.Context, back []*presenceOp) {
	for _, op := range back {
		if ctx.Err() != nil {
			return
		}
		app, channel, _ := unscoped(op.text)
		p.lane.link.node.Changed(core.Topic{App: app, Channel: channel}, op.member, true)
	}
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
	if p.reg != "" && p.declared(ctx, p.reg, "") {
		_ = p.sweep(ctx, p.reg, nil) // else the others do it
	}
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
