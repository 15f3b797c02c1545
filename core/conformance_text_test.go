package core_test

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	greek    = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
	spoiled  = "\xf4\x90\x80\x80" // U+110000, were there one
	edited   = "edited"
	umlauts1 = "Hello-\u00b5@\u00df\u00f6\u00e4"
	umlauts2 = "\u00fc\u00e0\u00e1-UTF-8!!"
)

// texts is family 6. The invalid ones are closed with 1007 (section 8.1) at the octet that makes them invalid.
func texts() []row {
	bad := greek + "\xed\xa0\x80" + edited
	rows := []row{
		answered("6.1.1", "5.6: a text may be empty; it is no envelope", each(sealed(whole, "")), refused(noJSON)),
		answered("6.1.2", "5.4: and in three fragments", each(sealed(first, ""), sealed(more, ""), sealed(last, "")), refused(noJSON)),
		answered("6.1.3", "5.4: all of it in the middle one", each(sealed(first, ""), sealed(more, envelope("middle frame payload")), sealed(last, "")), echoed("middle frame payload")),
		answered("6.2.1", "5.6: UTF-8", each(enveloped(umlauts1+umlauts2)), echoed(umlauts1+umlauts2)),
		answered("6.2.2", "5.6: cut between characters", each(sealed(first, envelopeHead+umlauts1), sealed(last, umlauts2+envelopeTail)), echoed(umlauts1+umlauts2)),
		answered("6.2.3", "5.6: a fragment need not be UTF-8 by itself", fragmented(1, opText, envelope(umlauts1+umlauts2)), echoed(umlauts1+umlauts2)),
		answered("6.2.4", "5.6: the same", fragmented(1, opText, envelope(greek)), echoed(greek)),
		violating("6.3.1", "8.1: not UTF-8", each(sealed(whole, bad)), 1007, badText),
		violating("6.3.2", "8.1: in fragments of one octet", fragmented(1, opText, bad), 1007, badText),

		// Strict in Autobahn's sense: nothing behind the wrong octet is needed, and what is before it is accepted.
		violating("6.4.1", "8.1: at the second fragment, not at the first", each(sealed(first, greek), sealed(ping, "A"), wait, sealed(more, spoiled)), 1007, badText, ponged("A")),
		violating("6.4.2", "8.1: at the octet", each(sealed(first, (greek + spoiled)[:12]), sealed(ping, "A"), wait, sealed(more, (greek + spoiled)[12:13])), 1007, badText, ponged("A")),
		violating("6.4.3", "8.1: within one frame", each(headOf(whole, 21), veiled(greek, 0), veiled(spoiled, 11)), 1007, badText),
		violating("6.4.4", "8.1: within one frame, at the octet", each(headOf(whole, 21), veiled((greek + spoiled)[:12], 0), veiled((greek + spoiled)[12:13], 12)), 1007, badText),

		violating("6 cut by a ping", "5.4: a control frame changes nothing", each(sealed(first, "\xe2"), sealed(ping, "\xff"), wait, sealed(last, "A")), 1007, badText, ponged("\xff")),
		answered("6 continued behind a ping", "5.4: nor here", each(sealed(first, envelopeHead+"\xe2\x82"), sealed(ping, "\xff"), wait, sealed(last, "\xac"+envelopeTail)), ponged("\xff"), echoed("\u20ac")),
		violating("6 in an envelope", "8.1: before it counts that it is an envelope", each(enveloped("a\xffb"), enveloped("behind")), 1007, badText),
	}
	for _, s := range strings8() {
		rows = append(rows, s.rows()...)
	}
	return rows
}

// string8 is a string of octets that claims to be UTF-8.
type string8 struct {
	number, says string
	valid        bool
	octets       string
}

func (s string8) rows() []row {
	if s.valid {
		heard := echoed(s.octets)
		if s.octets == "\x00" {
			heard = refused(`not JSON: invalid character '\x00' in string literal`) // and so it was found to be UTF-8
		}
		return []row{
			answered(s.number, s.says, each(enveloped(s.octets)), heard),
			answered(s.number+" fragments", s.says, fragmented(1, opText, envelope(s.octets)), heard),
		}
	}
	at := spoiledAt(s.octets)
	so := "8.1: " + s.says
	rows := []row{
		violating(s.number, so, each(sealed(whole, s.octets)), 1007, badText),
		violating(s.number+" fragments", so, fragmented(1, opText, s.octets), 1007, badText),
	}
	if at <= len(s.octets) {
		rows = append(rows, violating(s.number+" only so far", so, each(headOf(whole, 1000), veiled(s.octets[:at], 0)), 1007, badText))
	}
	return rows
}

// spoiledAt returns how many octets it takes to know that no more can make this UTF-8: len+1 for those that are only cut
// short, and 0 when it is UTF-8.
func spoiledAt(octets string) int {
	if utf8.ValidString(octets) {
		return 0
	}
	for n := range len(octets) {
		if !completable(octets[:n+1], utf8.UTFMax-1) {
			return n + 1
		}
	}
	return len(octets) + 1
}

// completable tries all kinds of octets behind s.
func completable(s string, depth int) bool {
	if utf8.ValidString(s) {
		return true
	}
	for _, next := range []string{"\x80", "\x90", "\xa0"} {
		if depth > 0 && completable(s+next, depth-1) {
			return true
		}
	}
	return false
}

// strings8 are the cases from 6.5 on.
func strings8() []string8 {
	var all []string8
	add := func(family int, says string, valid bool, octets ...string) {
		n := 1
		for _, s := range all {
			if s.says == says {
				n++
			}
		}
		for i, o := range octets {
			all = append(all, string8{fmt.Sprintf("6.%d.%d", family, n+i), says, valid, o})
		}
	}
	add(5, "some valid sequences", true, "hello\x24world", "hello\xc2\xa2world", "hello\xe2\x82\xacworld", "hello\xf0\xa4\xad\xa2world", greek)
	for n := range len(greek) {
		add(6, "all prefixes of one", utf8.ValidString(greek[:n+1]), greek[:n+1])
	}
	add(7, "the first of each length", true, "\x00", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80")
	add(8, "the first of lengths that there are not", false, "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80")
	add(9, "the last of each length", true, "\x7f", "\xdf\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf")
	add(10, "the last of lengths that there are not", false, "\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf")
	add(11, "other borders", true, "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xf4\x8f\xbf\xbf")
	add(11, "other borders", false, "\xf4\x90\x80\x80")
	add(12, "unexpected continuations", false, "\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", octetsFrom(0x80, 0xbf, ""))
	add(13, "lonely starts", false, octetsFrom(0xc0, 0xdf, " "), octetsFrom(0xe0, 0xef, " "), octetsFrom(0xf0, 0xf7, " "), octetsFrom(0xf8, 0xfb, " "), octetsFrom(0xfc, 0xfd, " "))
	short := []string{"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf"}
	add(14, "the last octet is missing", false, short...)
	add(15, "all of those in a row", false, strings.Join(short, ""))
	add(16, "impossible octets", false, "\xfe", "\xff", "\xfe\xfe\xff\xff")
	add(17, "overlong slashes", false, "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf")
	add(18, "the largest overlong ones", false, "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf")
	add(19, "overlong NULs", false, "\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80")
	add(20, "surrogates", false, "\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf")
	for _, high := range []string{"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf"} {
		add(21, "pairs of surrogates", false, high+"\xed\xb0\x80", high+"\xed\xbf\xbf")
	}
	add(22, "code points that are no characters", true, "\xef\xbf\xbe", "\xef\xbf\xbf")
	for plane := 1; plane <= 16; plane++ {
		add(22, "code points that are no characters", true, string(rune(plane<<16|0xfffe)), string(rune(plane<<16|0xffff)))
	}
	add(23, "specials", true, "\xef\xbf\xb9", "\xef\xbf\xba", "\xef\xbf\xbb", "\xef\xbf\xbc", "\xef\xbf\xbd", "\xef\xbf\xbe", "\xef\xbf\xbf")
	return all
}

// octetsFrom are the octets from one up to another, with something behind each.
func octetsFrom(from, to byte, behind string) string {
	var s strings.Builder
	for b := from; b < to; b++ {
		s.WriteByte(b)
		s.WriteString(behind)
	}
	return s.String()
}
