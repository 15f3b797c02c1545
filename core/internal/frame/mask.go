package frame

import (
	"encoding/binary"
	"math/bits"
)

// Mask masks or unmasks b in place (RFC 6455, section 5.3). pos is the number of payload bytes masked before b with the
// same key; Mask returns that of the bytes behind b, modulo 4.
func Mask(b []byte, key [4]byte, pos int) int {
	end := (pos + len(b)) & 3
	k := bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*(pos&3))
	if k == 0 {
		return end
	}
	wide := uint64(k)<<32 | uint64(k)

	// Unrolled, because a loop that masks one word at a time spends half its time on itself.
	for len(b) >= 64 {
		c := (*[64]byte)(b)
		xor(c[0:8], wide)
		xor(c[8:16], wide)
		xor(c[16:24], wide)
		xor(c[24:32], wide)
		xor(c[32:40], wide)
		xor(c[40:48], wide)
		xor(c[48:56], wide)
		xor(c[56:64], wide)
		b = b[64:]
	}
	for len(b) >= 8 {
		xor(b[:8], wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(wide)
		wide >>= 8
	}
	return end
}

func xor(b []byte, wide uint64) {
	binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
}
