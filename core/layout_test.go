package core

import (
	"testing"
	"unsafe"
)

// Every connection holds one, and 384 bytes is a size class of the allocator: one byte more costs 32.
func TestAClientTakes384BytesAndADeliveryTouchesTwoLinesOfThem(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Log("not a system of 64 bits")
		return
	}
	var c Client
	if size := unsafe.Sizeof(c); size > 384 {
		t.Errorf("a Client has %d bytes: what few clients need belongs into extras", size)
	}
	if from, to := unsafe.Offsetof(c.socket), unsafe.Offsetof(c.own)+unsafe.Sizeof(c.socket); from/64 != (to-1)/64-1 {
		t.Errorf("what a delivery touches lies from %d to %d, over more than two lines of 64", from, to)
	}
}
