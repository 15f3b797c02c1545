package frame

import "unicode/utf8"

// minBuffer is the first size of a payload buffer: small, because a peer gets it for the first byte of a frame.
const minBuffer = 512

// partial is what has arrived of a frame, and of a message around it.
type partial struct {
	// The frame.
	gathered [maxHeader]byte
	size     uint8 // of what is gathered; 0 between frames
	open     bool  // the header is complete
	header   header
	left     uint64 // bytes of payload still to come
	pos      int    // where in the mask the next one stands
	control  []byte // its payload, when it is a control frame

	// The data message.
	op      Op // 0 when there is none
	data    []byte
	checked int // so many bytes of data are whole characters
}

func (a *partial) betweenFrames() bool { return a.size == 0 }

// assemble takes what in has of one frame, and returns the message if that completes it.
func (p *Parser) assemble(in []byte) (m Message, rest []byte, err *Error) {
	if p.part == nil {
		p.part = new(partial)
	}
	a := p.part
	if !a.open {
		if in, err = p.gatherHeader(in); err != nil || !a.open {
			return m, nil, err
		}
	}
	n := min(uint64(len(in)), a.left)
	if !a.add(in[:n]) {
		return m, nil, errText
	}
	if a.left == 0 {
		m = p.endFrame()
	}
	return m, in[n:], nil
}

// gatherHeader returns the bytes behind the header, or opens nothing when in ends within it.
func (p *Parser) gatherHeader(in []byte) (rest []byte, err *Error) {
	a := p.part
	had := int(a.size)
	a.size += uint8(copy(a.gathered[had:], in))
	h, size, err := p.parseHeader(a.gathered[:a.size])
	if err != nil || size == 0 {
		return nil, err
	}
	a.open, a.header, a.left, a.pos = true, h, h.length, 0
	if h.op == Text || h.op == Binary {
		a.op = h.op
	}
	return in[size-had:], nil
}

// add appends payload that arrived, and reports whether the text can still be UTF-8.
func (a *partial) add(chunk []byte) bool {
	buf := &a.data
	if a.header.op.control() {
		buf = &a.control
	}
	a.left -= uint64(len(chunk))
	start := len(*buf)
	*buf = append(a.room(*buf, len(chunk)), chunk...)
	a.pos = Mask((*buf)[start:], a.header.key, a.pos)
	return a.op != Text || a.header.op.control() || a.checkText()
}

// room returns buf with room for n more bytes. It grows by doubling: with the bytes that have arrived, not with the
// length that was declared. That only stops it from growing further than the end of the message.
func (a *partial) room(buf []byte, n int) []byte {
	need := len(buf) + n
	if need <= cap(buf) {
		return buf
	}
	size := max(2*need, minBuffer)
	if end := uint64(need) + a.left; a.header.fin && end < uint64(size) {
		size = int(end)
	}
	return append(make([]byte, 0, size), buf...)
}

// checkText reports whether what has arrived of a text message is the beginning of valid UTF-8 (RFC 6455, section 8.1),
// and whether it is all of it when its last byte has arrived.
func (a *partial) checkText() bool {
	end := len(a.data)
	if a.left > 0 || !a.header.fin {
		end = wholeCharacters(a.data)
	}
	valid := utf8.Valid(a.data[a.checked:end])
	a.checked = end
	return valid
}

// wholeCharacters returns the length of b without the character that more bytes may complete.
func wholeCharacters(b []byte) int {
	for i := len(b) - 1; i >= 0 && len(b)-i < utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			// To FullRune bytes that no byte can make valid are full, so they are left to the caller's check.
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

// endFrame returns the message that the frame completes, if it does, and lets go of what is no longer needed.
func (p *Parser) endFrame() Message {
	a := p.part
	a.size, a.open = 0, false
	if a.header.op.control() {
		m := Message{a.header.op, a.control}
		a.control = nil
		if a.op == 0 {
			p.part = nil
		}
		return m
	}
	if !a.header.fin {
		return Message{}
	}
	p.part = nil
	return Message{a.op, a.data}
}
