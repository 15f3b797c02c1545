package core_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func closeWith(code int, reason string) []byte {
	return sealed(closeFrame, string([]byte{byte(code >> 8), byte(code)})+reason)
}

// closes is family 7.
func closes() []row {
	late := func(number, says string, sent [][]byte, heard ...string) row {
		r := closing(number, says, sent, append(heard, closed(1000, ""))...)
		r.late = true
		return r
	}
	big := filled(256 << 10)
	badUTF8 := greek + "\xed\xa0\x80" + edited
	rows := []row{
		closing("7.1.1", "5.5.1: what came before is answered, then the close", atOnce(enveloped("Hello World!"), bye), echoed("Hello World!"), closed(1000, "")),
		late("7.1.2", "5.5.1: one close is answered, once", atOnce(bye, sealed(closeFrame, ""))),
		late("7.1.3", "1.4: what follows a close is discarded: no pong", atOnce(bye, sealed(ping, ""))),
		late("7.1.4", "1.4: no echo", atOnce(bye, enveloped("Hello World!"))),
		late("7.1.5", "1.4: nor of a message that ends behind it", atOnce(sealed(first, envelopeHead+"fragment1"), bye, sealed(last, "fragment2"+envelopeTail))),
		late("7.1.6", "5.5.1: 256 KiB are echoed before the close is answered", each(slices.Concat(enveloped(big), enveloped("Hello World!"), bye), wait, wait, sealed(ping, "")), echoed(big), echoed("Hello World!")),

		closing("7.3.1", "7.1.5: no code, and the answer has none", each(sealed(closeFrame, "")), closedWithoutCode),
		violating("7.3.2", "5.5.1: a code is two octets", each(sealed(closeFrame, "a")), 1002, halfCode),
		closing("7.3.3", "5.5.1: the answer echoes the code", each(closeWith(1000, "")), closed(1000, "")),
		closing("7.3.4", "5.5.1: but not the reason", each(closeWith(1000, "Hello World!")), closed(1000, "")),
		closing("7.3.5", "5.5: 123 octets of reason at most", each(closeWith(1000, strings.Repeat("*", 123))), closed(1000, "")),
		violating("7.3.6", "5.5: 124 are too many", each(closeWith(1000, strings.Repeat("*", 124))), 1002, longControl),

		violating("7.5.1", "5.5.1: the reason must be UTF-8", each(closeWith(1000, badUTF8)), 1007, badReason),
		violating("7.5 cut", "5.5.1: and not end within a character", each(closeWith(1000, "\xe2\x82")), 1007, badReason),
		violating("7.5 a bad code and a bad reason", "7.4: the code counts first", each(closeWith(1005, "\xff")), 1002, "close code 1005 may not be sent"),
		violating("7.1 behind half a character", "5.5.1: the close is taken inside a message, whatever that is", each(sealed(first, "\xe2"), closeWith(999, "")), 1002, "close code 999 may not be sent"),
	}
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		rows = append(rows, closing(fmt.Sprint("7.7.", i+1), "7.4: a code that may be sent is echoed", each(closeWith(code, "")), closed(code, "")))
	}
	for _, code := range []int{1012, 1013, 1014} {
		rows = append(rows, closing(fmt.Sprint("7.7 code ", code), "11.7: registered later", each(closeWith(code, "")), closed(code, "")))
	}
	never := func(number, says string, code int) row {
		return violating(number, says, each(closeWith(code, "")), 1002, fmt.Sprintf("close code %d may not be sent", code))
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		rows = append(rows, never(fmt.Sprint("7.9.", i+1), "7.4: must not be sent", code))
	}
	return append(rows,
		never("7.9 code 1015", "7.4.1: must not be sent", 1015),
		never("7.13.1", "7.4.2: not defined, so it is refused", 5000),
		never("7.13.2", "7.4.2: not defined, so it is refused", 65535),
	)
}

// A peer that had written behind its close was reset, which destroyed the answers on their way to it.
func TestAPeerThatWritesBehindItsCloseHearsAllThatWasSaidBefore(t *testing.T) {
	t.Parallel()
	servers := sites(t)
	text := filled(256 << 10)
	r := closing("", "", atOnce(enveloped(text), bye, enveloped(strings.Repeat("x", 50000))), echoed(text), closed(1000, ""))
	for _, name := range []string{"tcp", "tls"} {
		if got, want := r.play(servers[name], r.sent, false), append(slices.Clone(r.heard), "end"); !slices.Equal(got, want) {
			t.Errorf("%s: heard %q, want %q", name, got, want)
		}
	}
}
