package frame

import (
	"encoding/binary"
	"slices"
)

// HeaderLen returns the size of the header of an unmasked frame with length bytes of payload: 2, 4 or 10
// (RFC 6455, section 5.2).
func HeaderLen(length int) int {
	switch {
	case length < length16:
		return 2
	case length <= 0xffff:
		return 4
	default:
		return 10
	}
}

// AppendHeader appends the header of a frame that is a whole message and not masked, as a server sends it
// (RFC 6455, section 5.2); length bytes of payload have to follow.
func AppendHeader(dst []byte, op Op, length int) []byte {
	return appendHeader(dst, finBit|byte(op), 0, length)
}

// AppendText appends a whole text message as a server sends it. payload has to be UTF-8 (RFC 6455, section 5.6).
func AppendText(dst, payload []byte) []byte {
	dst = slices.Grow(dst, HeaderLen(len(payload))+len(payload))
	return append(AppendHeader(dst, Text, len(payload)), payload...)
}

// AppendControl appends a control frame as a server sends it. Of payload it takes the 125 bytes that such a frame can
// carry (RFC 6455, section 5.5). Use [AppendClose] for close frames.
func AppendControl(dst []byte, op Op, payload []byte) []byte {
	payload = payload[:min(len(payload), maxControl)]
	return append(AppendHeader(dst, op, len(payload)), payload...)
}

// AppendMasked appends a frame as a client sends it (RFC 6455, section 5.3). It judges nothing, so a test can send
// invalid frames with it. payload is not changed.
func AppendMasked(dst []byte, op Op, fin bool, key [4]byte, payload []byte) []byte {
	b0 := byte(op)
	if fin {
		b0 |= finBit
	}
	dst = append(appendHeader(dst, b0, maskBit, len(payload)), key[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	Mask(dst[start:], key, 0)
	return dst
}

func appendHeader(dst []byte, b0, mask byte, length int) []byte {
	switch HeaderLen(length) {
	case 2:
		return append(dst, b0, mask|byte(length))
	case 4:
		return binary.BigEndian.AppendUint16(append(dst, b0, mask|length16), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, b0, mask|length64), uint64(length))
	}
}
