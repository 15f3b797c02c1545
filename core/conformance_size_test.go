package core_test

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/duxweb/go-ws/core"
)

// sizes is family 9. The limit of the service is 16 MiB, so that the largest message just passes.
func sizes() []row {
	var rows []row
	const large, medium, octets = 4 << 20 / scale, 1 << 20 / scale, 64 << 10 / scale
	answer := func(number, says string, size int, sent func() [][]byte) {
		rows = append(rows, answered(number, says, nil, echoed(filled(size))).ofSize(sent))
	}
	refuse := func(number, says string, sent func() [][]byte) {
		rows = append(rows, violating(number, says, nil, 1003, noBinary).ofSize(sent))
	}
	binary := func(size int) string { return strings.Repeat("\xfe", size) }
	for i, size := range []int{64 << 10, 256 << 10, 1 << 20 / scale, 4 << 20 / scale, 8 << 20 / scale, 16 << 20 / scale} {
		answer(fmt.Sprint("9.1.", i+1), fmt.Sprint("5.2: ", size, " octets of text"), size, func() [][]byte { return each(enveloped(filled(size))) })
		refuse(fmt.Sprint("9.2.", i+1), fmt.Sprint("7.4.1: ", size, " octets of binary, refused when all is there"), func() [][]byte { return each(sealed(bin, binary(size))) })
	}
	for i, n := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		answer(fmt.Sprint("9.3.", i+1), fmt.Sprint("5.4: 4 MiB of text in fragments of ", n), large, func() [][]byte { return gathered(fragmented(n, opText, envelope(filled(large)))) })
		refuse(fmt.Sprint("9.4.", i+1), fmt.Sprint("5.4: 4 MiB of binary in fragments of ", n), func() [][]byte { return gathered(fragmented(n, opBinary, binary(large))) })
	}
	for i, n := range []int{64, 128, 256, 512, 1 << 10, 2 << 10} {
		answer(fmt.Sprint("9.5.", i+1), fmt.Sprint("5.2: 1 MiB of text in writes of ", n), medium, func() [][]byte { return cut(n, enveloped(filled(medium))) })
		refuse(fmt.Sprint("9.6.", i+1), fmt.Sprint("5.2: 1 MiB of binary in writes of ", n), func() [][]byte { return cut(n, sealed(bin, binary(medium))) })
	}
	for i, size := range []int{0, 16, 64, 256, 1 << 10, 4 << 10} {
		number := fmt.Sprint("9.8.", i+1)
		rows = append(rows, violating(number, "7.4.1: the first of 1000 binary messages", each(sealed(bin, binary(size))), 1003, noBinary))
		if size > 0 { // Autobahn's sizes count the text, ours does not
			rows = append(rows, roundTrips(fmt.Sprint("9.7.", i+1), 1000/scale, strings.Repeat("*", size)))
		}
	}
	return append(rows, emptyRoundTrips("9.7.1"),
		answered("9.3 single octets", "5.4: 64 KiB of text in fragments of 1", gathered(fragmented(1, opText, envelope(filled(octets)))), echoed(filled(octets))),
		answered("9.5 single octets", "5.2: 64 KiB of text in writes of 1", cut(1, enveloped(filled(octets))), echoed(filled(octets))),
		violating("9 one octet too many, announced", "7.4.1: 1009 at the header", each(headOf(whole, maxMessage+1)), 1009, tooLarge),
		violating("9 one octet too many, binary", "7.4.1: 1009 at the header", each(headOf(bin, maxMessage+1)), 1009, tooLarge),
		violating("9 one octet too many, in fragments", "7.4.1: 1009 at the header that is too much", nil, 1009, tooLarge, ponged("full")).ofSize(func() [][]byte {
			return each(sealed(first, envelope(filled(maxMessage))), sealed(ping, "full"), wait, headOf(last, 1))
		}),
		violating("9 the largest length", "5.2: 63 bits", each(headOf(whole, 1<<63-1)), 1009, tooLarge),
		loud(violating("9 one octet too many, sent", "7.4.1: the close arrives while the peer is still writing", nil, 1009, tooLarge)).ofSize(func() [][]byte {
			return each(sealed(whole, envelope(filled(maxMessage+1))))
		}),
	)
}

// loud is a row whose peer may need longer to write than the server listens.
func loud(r row) row {
	r.late = true
	return r
}

// gathered puts frames together to writes of about 64 KiB, as a peer does that has a buffer.
func gathered(frames [][]byte) [][]byte {
	return cut(64<<10, bytes.Join(frames, nil))
}

func roundTrips(number string, n int, text string) row {
	var sent [][]byte
	var heard []string
	for range n {
		sent, heard = append(sent, enveloped(text), wait), append(heard, echoed(text))
	}
	return answered(number, fmt.Sprint("5.6: ", n, " messages of ", len(text), " octets one after the other"), sent, heard...)
}

// emptyRoundTrips ends where the library's patience with messages that are no envelope does.
func emptyRoundTrips(number string) row {
	var sent [][]byte
	var heard []string
	for range 20 {
		sent, heard = append(sent, sealed(whole, ""), wait), append(heard, refused(noJSON))
	}
	return violating(number, "7.4.2: 20 of 1000 empty messages", sent, core.CloseTooManyBad, tooManyBad, heard...)
}

// automaticFragments is family 10.
func automaticFragments() []row {
	return []row{
		answered("10.1.1", "5.4: 64 KiB in fragments of 1300", each(fragmented(1300, opText, envelope(filled(65536)))...), echoed(filled(65536))),
	}
}
