package drivers

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
)

// A publication on Redis is either the JSON text that subscribers get, which begins with "{" and may come from any program;
// or, from nodes, the byte 1, the connections that do not get it (their number, then length and bytes of each, as
// uvarints) and any payload.

const fromNode = 1

func encodePublication(p core.Publication) []byte {
	size := 2 + len(p.Payload)
	for _, conn := range p.Except {
		size += binary.MaxVarintLen32 + len(conn)
	}
	data := append(make([]byte, 0, size), fromNode)
	data = binary.AppendUvarint(data, uint64(len(p.Except)))
	for _, conn := range p.Except {
		data = append(binary.AppendUvarint(data, uint64(len(conn))), conn...)
	}
	return append(data, p.Payload...)
}

var errGarbage = errors.New("neither a JSON object in UTF-8 nor a publication of a node")

func decodePublication(data []byte) (payload []byte, except []string, err error) {
	switch {
	case len(data) > 0 && data[0] == '{':
		if !json.Valid(data) || !utf8.Valid(data) { // a text frame that is not UTF-8 ends the connection: RFC 6455 section 8.1
			return nil, nil, errGarbage
		}
		return data, nil, nil
	case len(data) == 0 || data[0] != fromNode:
		return nil, nil, errGarbage
	}
	rest := data[1:]
	next := func() (n int) {
		v, size := binary.Uvarint(rest)
		if size <= 0 || v > uint64(len(rest)-size) {
			err = errGarbage
			return 0
		}
		rest = rest[size:]
		return int(v) //nolint:gosec // no longer than rest
	}
	for range next() {
		n := next()
		if err != nil {
			break
		}
		except = append(except, string(rest[:n]))
		rest = rest[n:]
	}
	if err != nil {
		return nil, nil, err
	}
	return rest, except, nil
}

// redisPublisher sends what a node publishes in one lane. One goroutine does it, so that while one round trip lasts the
// next pipeline fills; a lone publication waits for nobody. That is an order of magnitude cheaper than a round trip each.
type redisPublisher struct {
	lane *redisLane
	wake chan struct{} // holds one: there is something to do

	mu     sync.Mutex // guards the rest
	queue  []publication
	bytes  int           // in queue
	room   chan struct{} // closed when the queue gets shorter; nil when nobody waits
	closed bool
}

type publication struct {
	name   string
	data   []byte
	sendBy time.Time // so that what becomes of it is known within callTimeout
	done   func(error)
}

const (
	pipelineLength = 512
	pipelineBytes  = 1 << 20 // a longer publication goes alone
	queueLength    = 16 * pipelineLength
	queueBytes     = 16 << 20 // a longer publication waits for an empty queue
)

func (l *redisLink) Publish(ctx context.Context, p core.Publication, done func(error)) error {
	lane, name := l.pubOf(p.Topic)
	return lane.publisher.add(ctx, publication{
		name: name, data: encodePublication(p), sendBy: time.Now().Add(callTimeout - replyTimeout), done: done,
	})
}

// add waits for room in the queue.
func (p *redisPublisher) add(ctx context.Context, pub publication) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return core.ErrClosed
		}
		if len(p.queue) == 0 || len(p.queue) < queueLength && p.bytes+len(pub.data) <= queueBytes {
			p.queue = append(p.queue, pub)
			p.bytes += len(pub.data)
			p.mu.Unlock()
			signal(p.wake)
			return nil
		}
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
	}
}

// signal wakes a goroutine that waits for c, which holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run sends until the publisher is closed and its queue empty, or ctx has ended.
func (p *redisPublisher) run(ctx context.Context) {
	var batch []publication
	for {
		var closed bool
		batch, closed = p.take(batch[:0])
		switch {
		case len(batch) > 0:
			p.send(ctx, batch)
			clear(batch)
		case closed:
			return
		default:
			<-p.wake
		}
	}
}

// take moves the next pipeline from the queue to batch.
func (p *redisPublisher) take(batch []publication) (_ []publication, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) <= pipelineLength && p.bytes <= pipelineBytes {
		batch, p.queue, p.bytes = p.queue, batch, 0
		p.leaveRoomLocked()
		return batch, p.closed
	}
	n, size := 0, 0
	for n < min(len(p.queue), pipelineLength) && (n == 0 || size+len(p.queue[n].data) <= pipelineBytes) {
		size += len(p.queue[n].data)
		n++
	}
	batch = append(batch, p.queue[:n]...)
	p.queue = slices.Delete(p.queue, 0, n)
	p.bytes -= size
	p.leaveRoomLocked()
	return batch, p.closed
}

// leaveRoomLocked wakes who waits for room.
func (p *redisPublisher) leaveRoomLocked() {
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
}

// send publishes a batch, in its order, and tells what became of each. While the Cluster or Sentinel is moving the lane to
// another server it tries again, which repeats nothing: those servers have refused.
func (p *redisPublisher) send(ctx context.Context, batch []publication) {
	batch = slices.DeleteFunc(batch, func(pub publication) bool {
		late := time.Now().After(pub.sendBy)
		if late {
			pub.done(errUnpublished)
		}
		return late
	})
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	command := "publish"
	if p.lane.sharded() {
		command = "spublish"
	}
	for wait := firstPause; len(batch) > 0; wait = min(2*wait, lastPause) {
		client, err := p.lane.server(ctx)
		var cmds []*redis.IntCmd
		if err == nil {
			pipe := client.Pipeline()
			cmds = make([]*redis.IntCmd, len(batch))
			for i, pub := range batch {
				cmds[i] = redis.NewIntCmd(ctx, command, pub.name, pub.data)
				_ = pipe.Process(ctx, cmds[i]) // which only notes it
			}
			exec(ctx, pipe, cmds)
		}
		again := batch[:0]
		for i, pub := range batch {
			if cmds != nil {
				err = cmds[i].Err()
			}
			if fateOf(err) == misplaced && ctx.Err() == nil {
				again = append(again, pub)
			} else {
				pub.done(err)
			}
		}
		p.lane.doubt(client, err) // the last one's is as good as any
		if batch = again; len(batch) > 0 {
			pause(ctx, wait)
		}
	}
}

var errUnpublished = errors.New("redis has not taken what was published before: not sent")

const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// pause waits, and no longer than ctx.
func pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// close lets the queue run empty and nothing more in.
func (p *redisPublisher) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	signal(p.wake)
}
