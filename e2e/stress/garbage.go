package main

import (
	"bytes"
	"slices"

	"github.com/duxweb/go-ws/core"
)

// What breaks RFC 6455 or the envelope, and what the server must say to it.

type violation struct {
	what   string
	frames []byte
	code   int
}

var violations = []violation{
	{"an unmasked frame", []byte("\x81\x02{}"), 1002},
	{"a reserved bit", appendFrame(nil, 0xc0|opText, []byte("{}")), 1002},
	{"a reserved opcode", appendFrame(nil, 0x80|3, nil), 1002},
	{"a reserved control opcode", appendFrame(nil, 0x80|11, nil), 1002},
	{"a fragmented ping", appendFrame(nil, opPing, nil), 1002},
	{"a ping of 126 bytes", appendFrame(nil, 0x80|opPing, make([]byte, 126)), 1002},
	{"a continuation of nothing", appendFrame(nil, 0x80, []byte("{}")), 1002},
	{"a message within a message", appendFrame(appendFrame(nil, opText, []byte("{")), 0x80|opText, []byte("}")), 1002},
	{"a close of 1 byte", appendFrame(nil, 0x80|opClose, []byte{3}), 1002},
	{"a close with 1005", closeFrame(1005, ""), 1002},
	{"a close that is not UTF-8", closeFrame(1000, "\xff"), 1007},
	{"a binary message", appendFrame(nil, 0x80|opBinary, []byte("{}")), 1003},
	{"text that is not UTF-8", appendFrame(nil, 0x80|opText, []byte("{\"type\":\"\xff\"}")), 1007},
	{"a large message", appendFrame(nil, 0x80|opText, make([]byte, 64<<10+1)), 1009},
	{"a huge announcement", []byte("\x81\xff\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00\x00"), 1009},
	{"large in fragments", append(appendFrame(nil, opText, bytes.Repeat([]byte(" "), 60<<10)), appendFrame(nil, 0, make([]byte, 5<<10))...), 1009},
}

// violate breaks RFC 6455.
func (a *actor) violate(c *conn, d dice) {
	v := violations[d.detail%uint64(len(violations))]
	a.trace.note("violates", v.what, v.code)
	c.isAllowed(v.code, v.what)
	a.stage.count.violations.Add(1)
	frames := v.frames
	if d.amount%2 == 0 { // in pieces
		cut := int(d.channel % uint64(len(frames)))
		if c.write(frames[:cut]) != nil {
			frames = nil
		} else {
			frames = frames[cut:]
		}
	}
	_ = c.write(slices.Clip(frames))
	c.awaitEnd()
}

// bad are messages that are no envelopes, without an id: each gets an error 400.
var bad = []string{
	"hello", "", "[1]", `"text"`, "null", "{", `{"type":7}`, `{"id":7,"type":"ping"}`, `{"type":"subscribe"}`,
	`{"type":"subscribe","channel":"a\nb"}`, `{}`, `{"type":"message","channel":""}`, `{"type":"presence"}`, "\u2028",
	`{"type":"message","channel":["room:1"]}`, `{"type":"ping"}}`, `{"type":"ping"`, `{"TYPE":1`, "\x00",
}

// babble sends some of them.
func (a *actor) babble(c *conn, d dice) { a.babbles(c, int(1+d.amount%3), d) }

// flood sends so many that the server has enough.
func (a *actor) flood(c *conn, d dice) {
	a.babbles(c, 25, d)
	c.awaitEnd()
}

func (a *actor) babbles(c *conn, count int, d dice) {
	var frames []byte
	for i := range uint64(count) {
		frames = appendFrame(frames, 0x80|opText, []byte(bad[(d.detail+i)%uint64(len(bad))]))
	}
	a.trace.note("babbles", "", count)
	c.mu.Lock()
	c.badSent += count
	if c.badSent >= 20 {
		c.verdict.allow(core.CloseTooManyBad, "bad messages")
	}
	c.mu.Unlock()
	_ = c.write(frames)
}
