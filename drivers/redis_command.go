package drivers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"github.com/duxweb/go-ws/core"
)

// A command goes to the pub/sub channel of a node, or to the one that all nodes have. What takes a client into a channel or
// out of it is answered, so that it is in force when the caller goes on; for the rest it is enough that the server
// reports a receiver.

// beat is what a node sends itself, see redisPresence.beat.
const beat = "beat"

// envelope is a command, or the answer to one, on Redis.
type envelope struct {
	core.Command
	ID      uint64 `json:"id,omitempty"`      // of a command that wants an answer
	From    string `json:"from,omitempty"`    // the node that wants it
	Answer  uint64 `json:"answer,omitempty"`  // the ID of the command that this answers
	Error   string `json:"error,omitempty"`   // what it came to
	Outcome string `json:"outcome,omitempty"` // which of the core's errors that was

	size int // as it arrived
}

// outcomes are the errors that keep their meaning on the way back.
var outcomes = map[string]error{
	"closed": core.ErrClosed, "offline": core.ErrOffline, "unavailable": core.ErrUnavailable,
	"name": core.ErrChannelName, "channels": core.ErrTooManyChannels,
}

// redisCommands carries out the commands that arrive. Those about one client id go through one worker: in order.
type redisCommands struct {
	link    *redisLink
	workers [8]chan envelope
	working sync.WaitGroup
	bytes   atomic.Int64 // that wait for a worker

	mu      sync.Mutex // guards the rest
	last    uint64
	answers map[uint64]chan error
}

const (
	commandQueue = 1024 // per worker
	commandBytes = 16 << 20
)

func (c *redisCommands) init(l *redisLink) {
	c.link = l
	c.answers = map[uint64]chan error{}
	for i := range c.workers {
		c.workers[i] = make(chan envelope, commandQueue)
	}
}

// start lets commands be carried out, until close.
func (c *redisCommands) start() {
	for _, work := range c.workers {
		c.working.Go(func() {
			for e := range work {
				c.bytes.Add(-int64(e.size))
				c.carryOut(e)
			}
		})
	}
}

// close waits for the commands that are carried out. It is called when nothing is received any more.
func (c *redisCommands) close() {
	for _, work := range c.workers {
		close(work)
	}
	c.working.Wait()
}

func (l *redisLink) Command(ctx context.Context, node string, cmd core.Command) error {
	if err := l.open(); err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	e := envelope{Command: cmd}
	if node == "" {
		heard, err := l.tell(ctx, l.lanes[0], l.lanes[0].everybody(), e)
		if err == nil && heard == 0 {
			err = core.ErrOffline
		}
		return err
	}
	if cmd.Action == core.ActionSubscribe || cmd.Action == core.ActionUnsubscribe {
		return l.ask(ctx, node, e)
	}
	return l.tellNode(ctx, node, e)
}

// tell publishes an envelope and returns how many have received it.
func (l *redisLink) tell(ctx context.Context, lane *redisLane, name string, e envelope) (heard int64, err error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		return 0, fmt.Errorf("redis: command: %w", err)
	}
	client, err := lane.reader(ctx)
	if err != nil {
		return 0, err
	}
	if lane.sharded() {
		heard, err = client.SPublish(ctx, name, text.Bytes()).Result()
	} else {
		heard, err = client.Publish(ctx, name, text.Bytes()).Result()
	}
	if err != nil {
		lane.doubtReader(ctx, client, err)
	}
	return heard, err
}

// missedFor is how long a command is repeated that a node does not receive which has not been declared dead.
const missedFor = time.Second

// tellNode tells a node. One that has just lost its connection gets some time to come back; but a connection to be
// replaced is looked at again then, and the newer one does not wait for it.
func (l *redisLink) tellNode(ctx context.Context, node string, e envelope) error {
	lane := l.laneOf(node)
	until := time.Now().Add(missedFor)
	for wait := firstPause; ; wait *= 2 {
		heard, err := l.tell(ctx, lane, lane.nodeName(node), e)
		if fateOf(err) == misplaced && ctx.Err() == nil && time.Now().Before(until) { // the lane moves to another server
			pause(ctx, wait)
			continue
		}
		if err != nil || heard > 0 {
			return err
		}
		alive, err := lane.alive(ctx, node)
		switch {
		case err != nil:
			return err
		case !alive:
			return core.ErrOffline
		case e.Action == core.ActionReplace, ctx.Err() != nil, time.Now().After(until):
			return fmt.Errorf("%w: node %s does not receive", core.ErrUnavailable, node)
		}
		pause(ctx, wait)
	}
}

// ask tells a node and waits for its answer.
func (l *redisLink) ask(ctx context.Context, node string, e envelope) error {
	if err := l.hear(ctx); err != nil {
		return err
	}
	word := make(chan error, 1)
	c := &l.commands
	c.mu.Lock()
	c.last++
	e.ID, e.From = c.last, l.id
	c.answers[e.ID] = word
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.answers, e.ID)
	}()
	if err := l.tellNode(ctx, node, e); err != nil {
		return err
	}
	select {
	case err := <-word:
		return err
	case <-ctx.Done():
		return fmt.Errorf("node %s has not answered: %w", node, ctx.Err())
	case <-l.ctx.Done():
		return core.ErrClosed
	}
}

// hear makes sure that an answer can arrive. A node hears everything anyway, a publisher nothing until it asks.
func (l *redisLink) hear(ctx context.Context) error {
	if l.node != nil {
		return nil
	}
	home := l.laneOf(l.id)
	home.receiver.start()
	s := home.receiver.want([]string{home.nodeName(l.id)})
	err := home.receiver.await(ctx, s)
	if err != nil {
		home.receiver.forget(s)
		home.receiver.reopen() // nobody else finds out that it is dead
	}
	return err
}

// take sorts what has arrived in the channel of this node, or of all.
func (c *redisCommands) take(text string) {
	if text == beat {
		return // that it has arrived is all
	}
	var e envelope
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Action == "" && e.Answer == 0 {
		c.link.fault(fmt.Errorf("redis: %d bytes in the channel of this node are no command", len(text)))
		return
	}
	if e.Answer != 0 {
		c.mu.Lock()
		word := c.answers[e.Answer]
		c.mu.Unlock()
		if word != nil {
			select {
			case word <- e.err():
			default: // answered before
			}
		}
		return
	}
	if c.link.node == nil {
		return
	}
	if e.Action == core.ActionSend && !bytes.HasPrefix(e.Payload, []byte("{")) {
		c.link.fault(errors.New("redis: a command in the channel of this node is to send what is no JSON object"))
		return
	}
	e.size = len(text)
	if c.bytes.Add(int64(e.size)) <= commandBytes {
		select {
		case c.workers[crc32.ChecksumIEEE([]byte(e.ClientID))%uint32(len(c.workers))] <- e:
			return
		default:
		}
	}
	c.bytes.Add(-int64(e.size))
	c.link.fault(errors.New("redis: more commands than this node can carry out: one was dropped"))
}

func (e envelope) err() error {
	switch {
	case e.Error == "":
		return nil
	case outcomes[e.Outcome] != nil:
		return fmt.Errorf("%w (on node %s: %s)", outcomes[e.Outcome], e.From, e.Error)
	}
	return fmt.Errorf("node %s: %s", e.From, e.Error)
}

// carryOut carries out a command, and answers it if that is wanted.
func (c *redisCommands) carryOut(e envelope) {
	ctx, cancel := context.WithTimeout(c.link.ctx, callTimeout)
	defer cancel()
	if ctx.Err() != nil {
		return
	}
	err := c.link.node.Command(ctx, e.Command)
	if e.ID == 0 {
		return
	}
	answer := envelope{Answer: e.ID, From: c.link.id}
	if err != nil {
		answer.Error = err.Error()
		for name, known := range outcomes {
			if errors.Is(err, known) {
				answer.Outcome = name
			}
		}
	}
	lane := c.link.laneOf(e.From)
	if _, err := c.link.tell(ctx, lane, lane.nodeName(e.From), answer); err != nil && c.link.ctx.Err() == nil {
		c.link.fault(fmt.Errorf("redis: answer to node %s: %w", e.From, err))
	}
}
