package frame

import "unicode/utf8"

// Parser turns the bytes of one direction of one connection into messages (RFC 6455, sections 5 and 6.2). The zero value
// reads what a client sends, without a limit. It takes 32 bytes; only while part of a message or frame has
// arrived does it hold more: at most twice what did, or 512 bytes. Not safe for concurrent use.
type Parser struct {
	// MaxMessage bounds a data message, all fragments together, in bytes of payload. 0 means no limit. Control frames
	// have their own (section 5.5).
	MaxMessage int
	// Unmasked makes the parser read what a server sends: frames must not be masked. Otherwise they must (section 5.1).
	Unmasked bool

	part   *partial // nil between messages
	failed *Error
}

// Next returns the next complete message or control frame of in, and the bytes behind it. A message with Op
// Continuation says that in is used up and nothing is complete yet; in need not be kept, and the next call takes the
// bytes that follow it. Control frames are returned as they arrive, also from between the fragments of a message
// (RFC 6455, section 5.4).
//
// A payload that lies in one piece in in is unmasked in place and m.Payload aliases it: nothing is copied or allocated.
// Any other is in a buffer of the parser. Either way m.Payload is valid until the next call, and appending to it does
// not reach into the bytes behind.
//
// err is nil or an [*Error]. Since no frame border can be found behind a violation, every later call returns it again.
func (p *Parser) Next(in []byte) (m Message, rest []byte, err error) {
	if p.failed != nil {
		return Message{}, nil, p.failed
	}
	for len(in) > 0 {
		if p.part == nil || p.part.betweenFrames() {
			h, size, err := p.parseHeader(in)
			if err != nil {
				return p.fail(err)
			}
			if size > 0 && h.fin && h.op != Continuation && h.length <= uint64(len(in)-size) {
				return p.whole(h, in[size:])
			}
		}
		m, rest, err := p.assemble(in)
		if err != nil {
			return p.fail(err)
		}
		if m.Op != Continuation {
			return m, rest, nil
		}
		in = rest
	}
	return Message{}, nil, nil
}

// Idle reports whether the parser holds no partial frame and no partial message.
func (p *Parser) Idle() bool { return p.part == nil }

// whole returns the message that in starts with: one frame, no fragment.
func (p *Parser) whole(h header, in []byte) (Message, []byte, error) {
	payload, rest := in[:h.length:h.length], in[h.length:]
	Mask(payload, h.key, 0)
	if h.op == Text && !utf8.Valid(payload) {
		return p.fail(errText)
	}
	return Message{h.op, payload}, rest, nil
}

func (p *Parser) fail(err *Error) (Message, []byte, error) {
	p.failed, p.part = err, nil
	return Message{}, nil, err
}
