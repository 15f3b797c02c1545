package core_test

import (
	"fmt"
	"strings"
)

const hello = "Hello, world!"

// framing is family 1: messages of all forms of the length.
func framing() []row {
	return []row{
		answered("1.1.1", "5.6: a text may be empty; it is no envelope", each(sealed(whole, "")), refused(noJSON)),
		answered("1.1.2", "5.2: the largest length in 7 bits", each(enveloped(filled(125))), echoed(filled(125))),
		answered("1.1.3", "5.2: the smallest length in 16 bits", each(enveloped(filled(126))), echoed(filled(126))),
		answered("1.1.4", "5.2: 16 bits", each(enveloped(filled(127))), echoed(filled(127))),
		answered("1.1.5", "5.2: 16 bits", each(enveloped(filled(128))), echoed(filled(128))),
		answered("1.1.6", "5.2: the largest length in 16 bits", each(enveloped(filled(65535))), echoed(filled(65535))),
		answered("1.1.7", "5.2: the smallest length in 64 bits", each(enveloped(filled(65536))), echoed(filled(65536))),
		answered("1.1.8", "5.2: the same in writes of 997 octets", cut(997, enveloped(filled(65536))), echoed(filled(65536))),

		violating("1.2.1", "7.4.1: binary cannot be accepted, 1003", each(sealed(bin, "")), 1003, noBinary),
		violating("1.2.2", "7.4.1: 125 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 125))), 1003, noBinary),
		violating("1.2.3", "7.4.1: 126 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 126))), 1003, noBinary),
		violating("1.2.4", "7.4.1: 127 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 127))), 1003, noBinary),
		violating("1.2.5", "7.4.1: 128 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 128))), 1003, noBinary),
		violating("1.2.6", "7.4.1: 65535 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 65535))), 1003, noBinary),
		violating("1.2.7", "7.4.1: 65536 octets of binary", each(sealed(bin, strings.Repeat("\xfe", 65536))), 1003, noBinary),
		violating("1.2.8", "7.4.1: the same in writes of 997 octets", cut(997, sealed(bin, strings.Repeat("\xfe", 65536))), 1003, noBinary),

		answered("1 masked with zero", "5.3: any key", each(append([]byte{whole, 0x80 | 29, 0, 0, 0, 0}, envelope("x")...)), echoed("x")),
		violating("1 not masked", "5.1: the server must close", each(append([]byte{whole, 29}, envelope("x")...), enveloped("y")), 1002, notMasked),
		violating("1 not masked, a ping", "5.1: control frames too", each([]byte{ping, 0}), 1002, notMasked),
		violating("1 125 in 16 bits", "5.2: the minimal number of octets must be used", each(append([]byte{whole, 0x80 | 126, 0, 125}, veil[:]...)), 1002, notMinimal),
		violating("1 0 in 64 bits", "5.2: the minimal number of octets must be used", each(append([]byte{whole, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 0}, veil[:]...)), 1002, notMinimal),
		violating("1 65535 in 64 bits", "5.2: the minimal number of octets must be used", each(append([]byte{whole, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, veil[:]...)), 1002, notMinimal),
		violating("1 the highest bit", "5.2: the most significant bit must be 0", each(append([]byte{whole, 0x80 | 127, 0x80, 0, 0, 0, 0, 1, 0, 0}, veil[:]...)), 1002, lengthBit),
	}
}

// pings is family 2.
func pings() []row {
	long := strings.Repeat("\xfe", 125)
	var ten [][]byte
	var ponds []string
	for i := range 10 {
		payload := fmt.Sprint("payload-", i)
		ten, ponds = append(ten, sealed(ping, payload)), append(ponds, ponged(payload))
	}
	return []row{
		answered("2.1", "5.5.2: a pong must be sent", each(sealed(ping, "")), ponged("")),
		answered("2.2", "5.5.3: with the identical payload", each(sealed(ping, hello)), ponged(hello)),
		answered("2.3", "5.5.3: which may be binary", each(sealed(ping, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), ponged("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")),
		answered("2.4", "5.5: 125 octets at most", each(sealed(ping, long)), ponged(long)),
		violating("2.5", "5.5: 126 are too many", each(sealed(ping, long+"\xfe")), 1002, longControl),
		answered("2.6", "5.5.3: 125, octet by octet", cut(1, sealed(ping, long)), ponged(long)),
		answered("2.7", "5.5.3: no response to an unsolicited pong", each(sealed(pong, ""))),
		answered("2.8", "5.5.3: nor to one with payload", each(sealed(pong, "unsolicited pong payload"))),
		answered("2.9", "5.5.3: the ping behind it is answered", each(sealed(pong, "unsolicited pong payload"), sealed(ping, "ping payload")), ponged("ping payload")),
		answered("2.10", "5.5.3: ten pings, ten pongs in order", each(ten...), ponds...),
		answered("2.11", "5.5.3: octet by octet", cut(1, ten...), ponds...),
	}
}

// reservedBits is family 3. Violations are found with the second octet of a frame.
func reservedBits() []row {
	text := enveloped(hello)
	marked := func(bits byte) []byte { return sealed(whole|bits, envelope(hello)) }
	return []row{
		violating("3.1", "5.2: RSV must be 0 without an extension", each(sealed(whole|rsv3, hello)), 1002, badBits),
		violating("3.2", "5.2: what came before is echoed, no pong", atOnce(text, marked(rsv2), sealed(ping, "")), 1002, badBits, echoed(hello)),
		violating("3.3", "5.2: frame by frame", each(text, marked(rsv2|rsv3), sealed(ping, "")), 1002, badBits, echoed(hello)),
		violating("3.4", "5.2: octet by octet", cut(1, text, marked(rsv1), sealed(ping, "")), 1002, badBits, echoed(hello)),
		violating("3.5", "5.2: before it counts that it is binary", each(sealed(bin|rsv1|rsv3, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), 1002, badBits),
		violating("3.6", "5.2: a ping with RSV 6", each(sealed(ping|rsv1|rsv2, hello)), 1002, badBits),
		violating("3.7", "5.2: a close with RSV 7", each(sealed(closeFrame|rsv1|rsv2|rsv3, "")), 1002, badBits),
		violating("3 only two octets", "7.1.7: failed before the frame is complete", each([]byte{whole | rsv1, 0x80 | 100}), 1002, badBits),
		violating("3 a continuation", "5.2: in any frame", each(sealed(first, "{"), sealed(last|rsv1, "}")), 1002, badBits),
	}
}

// opcodes is family 4.
func opcodes() []row {
	text, reserved := enveloped(hello), "reserved opcode payload"
	return []row{
		violating("4.1.1", "5.2: an unknown opcode must fail", each(sealed(fin|3, "")), 1002, "reserved opcode 3"),
		violating("4.1.2", "5.2: with payload", each(sealed(fin|4, reserved)), 1002, "reserved opcode 4"),
		violating("4.1.3", "5.2: what came before is echoed, no pong", atOnce(text, sealed(fin|5, ""), sealed(ping, "")), 1002, "reserved opcode 5", echoed(hello)),
		violating("4.1.4", "5.2: with payload", atOnce(text, sealed(fin|6, hello), sealed(ping, "")), 1002, "reserved opcode 6", echoed(hello)),
		violating("4.1.5", "5.2: octet by octet", cut(1, text, sealed(fin|7, hello), sealed(ping, "")), 1002, "reserved opcode 7", echoed(hello)),
		violating("4.2.1", "5.2: an unknown control opcode", each(sealed(fin|11, "")), 1002, "reserved opcode 11"),
		violating("4.2.2", "5.2: with payload", each(sealed(fin|12, reserved)), 1002, "reserved opcode 12"),
		violating("4.2.3", "5.2: what came before is echoed, no pong", atOnce(text, sealed(fin|13, ""), sealed(ping, "")), 1002, "reserved opcode 13", echoed(hello)),
		violating("4.2.4", "5.2: with payload", atOnce(text, sealed(fin|14, hello), sealed(ping, "")), 1002, "reserved opcode 14", echoed(hello)),
		violating("4.2.5", "5.2: octet by octet", cut(1, text, sealed(fin|15, hello), sealed(ping, "")), 1002, "reserved opcode 15", echoed(hello)),
	}
}

// fragments is family 5.
func fragments() []row {
	one, two := sealed(first, envelopeHead+"fragment1"), sealed(last, "fragment2"+envelopeTail)
	both := echoed("fragment1fragment2")
	pinged := sealed(ping, "ping payload")
	stray, unended := sealed(last, "non-continuation payload"), sealed(more, "non-continuation payload")
	text := enveloped(hello)
	twice := func(b0 byte) [][]byte {
		f := [][]byte{sealed(b0, "fragment1"), sealed(first, "fragment2"), sealed(last, "fragment3")}
		return append(f, f...)
	}
	five := [][]byte{
		sealed(first, envelopeHead+"fragment1"), sealed(more, "fragment2"), sealed(ping, "pongme 1!"), wait,
		sealed(more, "fragment3"), sealed(more, "fragment4"), sealed(ping, "pongme 2!"), sealed(last, "fragment5"+envelopeTail),
	}
	fiveHeard := []string{ponged("pongme 1!"), ponged("pongme 2!"), echoed("fragment1fragment2fragment3fragment4fragment5")}
	return []row{
		violating("5.1", "5.5: control frames must not be fragmented", atOnce(sealed(opPing, "fragment1"), sealed(last, "fragment2")), 1002, controlParts),
		violating("5.2", "5.5: nor pongs", atOnce(sealed(opPong, "fragment1"), sealed(last, "fragment2")), 1002, controlParts),
		answered("5.3", "5.4: a message in two fragments", atOnce(one, two), both),
		answered("5.4", "5.4: frame by frame", each(one, two), both),
		answered("5.5", "5.4: octet by octet", cut(1, one, two), both),
		answered("5.6", "5.4: a ping in between is answered first", atOnce(one, pinged, two), ponged("ping payload"), both),
		answered("5.7", "5.4: frame by frame", each(one, pinged, wait, two), ponged("ping payload"), both),
		answered("5.8", "5.4: octet by octet", cut(1, one, pinged, two), ponged("ping payload"), both),
		violating("5.9", "5.4: nothing to continue", atOnce(stray, text), 1002, nothingToContinue),
		violating("5.10", "5.4: frame by frame", each(stray, text), 1002, nothingToContinue),
		violating("5.11", "5.4: octet by octet", cut(1, stray, text), 1002, nothingToContinue),
		violating("5.12", "5.4: nothing to continue, without FIN", atOnce(unended, text), 1002, nothingToContinue),
		violating("5.13", "5.4: frame by frame", each(unended, text), 1002, nothingToContinue),
		violating("5.14", "5.4: octet by octet", cut(1, unended, text), 1002, nothingToContinue),
		violating("5.15", "5.4: nothing to continue behind a whole message", atOnce(one, two, sealed(more, "fragment3"), sealed(whole, "fragment4")), 1002, nothingToContinue, both),
		violating("5.16", "5.4: twice, without FIN", each(twice(more)...), 1002, nothingToContinue),
		violating("5.17", "5.4: twice, with FIN", each(twice(last)...), 1002, nothingToContinue),
		violating("5.18", "5.4: the second fragment is no continuation", atOnce(one, sealed(whole, "fragment2")), 1002, insideMessage),
		answered("5.19", "5.5.3: a ping is answered before the message ends", five, fiveHeard...),
		answered("5.20", "5.4: octet by octet", octetByOctet(five), fiveHeard...),

		violating("5 a fragmented close", "5.5: nor closes", atOnce(sealed(opClose, "\x03\xe8"), sealed(last, "")), 1002, controlParts),
		violating("5 binary inside text", "5.4: must not be interleaved", atOnce(one, sealed(bin, "x")), 1002, insideMessage),
		violating("5 binary in two fragments", "7.4.1: 1003 when it is complete", each(sealed(opBinary, "x"), sealed(ping, "open"), wait, sealed(last, "y")), 1003, noBinary, ponged("open")),
		answered("5 empty fragments", "5.4: fragments may be empty", atOnce(sealed(first, ""), sealed(more, envelope("x")), sealed(more, ""), sealed(last, "")), echoed("x")),
		closing("5 closed inside a message", "5.5.1: control frames may be in the middle", each(one, bye), closed(1000, "")),
	}
}

// compression is families 12 and 13: their 216 cases differ in what is compressed, for which there must be an extension
// first. RFC 7692 section 5.1: a server declines by leaving it out.
func compression() []row {
	const takeover, window = "; client_no_context_takeover; client_max_window_bits", "permessage-deflate"
	offers := map[string]string{
		"12.1": window + takeover, "12.2": window + takeover, "12.3": window + takeover, "12.4": window + takeover, "12.5": window + takeover,
		"13.1": window + takeover,
		"13.2": window + takeover + "; server_no_context_takeover",
		"13.3": window + takeover + "; server_max_window_bits=9",
		"13.4": window + takeover + "; server_max_window_bits=15",
		"13.5": window + takeover + "; server_no_context_takeover; server_max_window_bits=9",
		"13.6": window + takeover + "; server_no_context_takeover; server_max_window_bits=15",
		"13.7": window + takeover + "; server_no_context_takeover; server_max_window_bits=9, " + window + "; server_no_context_takeover, " + window,
	}
	const deflated = "\xf2\x48\xcd\xc9\xc9\x07\x00" // "Hello", RFC 7692 section 7.2.3.1
	var rows []row
	for number, offer := range offers {
		r := violating(number, "9.1: not accepted, so RSV1 fails", each(enveloped("plain"), wait, sealed(whole|rsv1, deflated)), 1002, badBits, echoed("plain"))
		r.offer = offer
		rows = append(rows, r)
	}
	return rows
}
