package frame

import "encoding/binary"

const (
	finBit       = 0x80
	reservedBits = 0x70
	opBits       = 0x0f
	maskBit      = 0x80
	lengthBits   = 0x7f

	length16 = 126
	length64 = 127

	maxHeader  = 14
	maxControl = 125
)

type header struct {
	length uint64
	key    [4]byte // zero when the frame is not masked
	op     Op
	fin    bool
}

// parseHeader reads the header that b starts with, and returns its size. A size of 0 means that b is too short. What it
// says about a header does not change as more of it arrives.
func (p *Parser) parseHeader(b []byte) (h header, size int, err *Error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	if err := p.checkStart(b[0], b[1]); err != nil {
		return h, 0, err
	}
	h.op, h.fin = Op(b[0]&opBits), b[0]&finBit != 0

	h.length, size = uint64(b[1]&lengthBits), 2
	switch {
	case h.length == length16 && len(b) >= 4:
		h.length, size = uint64(binary.BigEndian.Uint16(b[2:])), 4
		if h.length < length16 {
			return h, 0, errNotMinimal
		}
	case h.length == length64 && len(b) >= 10:
		h.length, size = binary.BigEndian.Uint64(b[2:]), 10
		if h.length>>63 != 0 {
			return h, 0, errLengthBit
		}
		if h.length <= 0xffff {
			return h, 0, errNotMinimal
		}
	case h.length >= length16:
		return h, 0, nil
	}

	if !p.Unmasked {
		if len(b) < size+4 {
			return h, 0, nil
		}
		h.key = [4]byte(b[size:])
		size += 4
	}
	if !h.op.control() && !p.fits(h.length) {
		return h, 0, errTooLarge(p.MaxMessage)
	}
	return h, size, nil
}

// checkStart judges the first two bytes of a frame (RFC 6455, sections 5.1, 5.2, 5.4 and 5.5).
func (p *Parser) checkStart(b0, b1 byte) *Error {
	if b0&reservedBits != 0 {
		return errReservedBits
	}
	fin, assembling := b0&finBit != 0, p.part != nil && p.part.op != 0
	switch op := Op(b0 & opBits); op {
	case Continuation:
		if !assembling {
			return errNothingToGoOn
		}
	case Text, Binary:
		if assembling {
			return errInterrupted
		}
	case Close, Ping, Pong:
		if !fin {
			return errControlParts
		}
		if b1&lengthBits > maxControl {
			return errControlLong
		}
	default:
		return errReservedOp(op)
	}
	switch masked := b1&maskBit != 0; {
	case masked && p.Unmasked:
		return errMasked
	case !masked && !p.Unmasked:
		return errUnmasked
	}
	return nil
}

// fits reports whether length more bytes keep the message within MaxMessage. The sum cannot overflow: length is below 1<<63.
func (p *Parser) fits(length uint64) bool {
	if p.part != nil {
		length += uint64(len(p.part.data))
	}
	return p.MaxMessage <= 0 || length <= uint64(p.MaxMessage)
}
