package core_test

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/core/internal/frame"
)

// The server's half of RFC 6455 as one table: the cases of the Autobahn test suite under their numbers, each with what is
// sent to the last octet and everything that comes back. Rows whose number ends in a word are ours.
//
//	conformance_framing_test.go    1 framing, 2 pings and pongs, 3 reserved bits, 4 opcodes, 5 fragments, 12 and 13 compression
//	conformance_text_test.go       6 UTF-8
//	conformance_close_test.go      7 closing
//	conformance_size_test.go       9 limits and performance, 10 automatic fragments
//	conformance_peer_test.go       who plays the rows
//	conformance_serveconn_test.go  the rows on connections that gorilla has upgraded
//
// The service echoes the text in {"type":"echo","message":text}. Where Autobahn's server echoes what this library has no
// use for, the row says what it does instead: text that is no envelope is answered with error 400, and a binary message is
// closed with 1003. Compression is never accepted.
//
// Frames are written and read here by hand: a mistake of package frame must not cancel itself out.

// row is one case. Each row is played with its writes as they are and cut otherwise, on each kind of connection.
type row struct {
	number string // of Autobahn's case
	says   string // what is expected and why, with the section of RFC 6455
	offer  string // Sec-WebSocket-Extensions of the handshake
	sent   [][]byte
	heard  []string        // frames, the last one being the close; the end of the connection comes behind them
	failed bool            // the server closes, and the peer answers; else it is the other way round
	large  func() [][]byte // what is sent of a row that is not to be kept in memory
	late   bool            // the peer still writes when the server has hung up: TCP may answer that with a reset
}

// answered is a case in which the connection stays open: the peer closes it in the end.
func answered(number, says string, sent [][]byte, heard ...string) row {
	return row{number: number, says: says, sent: append(slices.Clip(sent), bye), heard: append(slices.Clip(heard), closed(1000, ""))}
}

// closing is a case in which the peer's close is in sent.
func closing(number, says string, sent [][]byte, heard ...string) row {
	return row{number: number, says: says, sent: sent, heard: heard}
}

// violating is a case in which the server closes the connection.
func violating(number, says string, sent [][]byte, code int, reason string, heard ...string) row {
	return row{number: number, says: says, sent: sent, heard: append(slices.Clip(heard), closed(code, reason)), failed: true}
}

// ofSize is the row with what is sent made only for the time in which it is played.
func (r row) ofSize(sent func() [][]byte) row {
	r.large = sent
	return r
}

var largeRows = make(chan struct{}, 2) // that are played at a time

// loaded returns the row to be played, and what is to be called afterwards.
func (r row) loaded() (row, func()) {
	if r.large == nil {
		return r, func() {}
	}
	largeRows <- struct{}{}
	r.sent = append(r.large(), r.sent...)
	return r, func() { <-largeRows }
}

// What is sent. The first octet of a frame is fin, reserved bits and opcode.
const (
	fin, rsv1, rsv2, rsv3    = 0x80, 0x40, 0x20, 0x10
	opMore, opText, opBinary = 0x0, 0x1, 0x2
	opClose, opPing, opPong  = 0x8, 0x9, 0xa

	whole, first, more, last = fin | opText, opText, opMore, fin | opMore
	bin                      = fin | opBinary
	ping, pong, closeFrame   = fin | opPing, fin | opPong, fin | opClose
)

// The service.
const (
	maxMessage                 = 16 << 20 / scale
	envelopeHead, envelopeTail = `{"type":"echo","message":"`, `"}`
)

// Why it refuses what it gets.
const (
	badBits           = "reserved bit set without an extension"
	badText           = "text message is not UTF-8"
	badReason         = "close reason is not UTF-8"
	controlParts      = "fragmented control frame"
	halfCode          = "close frame with half a code"
	insideMessage     = "new message inside a fragmented one"
	lengthBit         = "64-bit length with its highest bit set"
	longControl       = "control frame larger than 125 bytes"
	noBinary          = "binary messages are not supported: send JSON as text"
	noJSON            = "not JSON: unexpected end of JSON input"
	notMasked         = "frame from a client is not masked"
	notMinimal        = "length not in its shortest form"
	nothingToContinue = "continuation frame without a message to continue"
	tooManyBad        = "too many bad messages"
)

var tooLarge = fmt.Sprintf("message larger than %d bytes", maxMessage)

var bye = sealed(closeFrame, "\x03\xe8")

// sealed is a masked frame.
func sealed(b0 byte, payload string) []byte {
	return append(headOf(b0, uint64(len(payload))), veiled(payload, 0)...)
}

var veil = [4]byte{0x37, 0xfa, 0x21, 0x3d} // the one of section 5.7

// veiled is payload masked, of which the first octet is the one at that place in the frame.
func veiled(payload string, at int) []byte {
	b := make([]byte, len(payload))
	subtle.XORBytes(b, []byte(payload), bytes.Repeat(slices.Concat(veil[at%4:], veil[:at%4]), len(b)/4+1))
	return b
}

// headOf is the header of a masked frame, its length in the shortest form.
func headOf(b0 byte, length uint64) []byte {
	b := []byte{b0}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return append(b, veil[:]...)
}

// envelope is a message that is echoed, and enveloped a frame with one.
func envelope(text string) string { return envelopeHead + text + envelopeTail }

func enveloped(text string) []byte { return sealed(whole, envelope(text)) }

// filled is a text whose envelope is of that size, which is not below 28.
func filled(size int) string {
	return strings.Repeat("BAsd7&jh23", size/10+1)[:size-len(envelope(""))]
}

// wait stands between two writes for: when one more frame has been heard.
var wait []byte

// atOnce is all in one write, each is a write per frame, cut a write per n octets.
func atOnce(frames ...[]byte) [][]byte { return [][]byte{bytes.Join(frames, nil)} }

func each(frames ...[]byte) [][]byte { return frames }

func cut(n int, frames ...[]byte) [][]byte {
	return slices.Collect(slices.Chunk(bytes.Join(frames, nil), n))
}

// fragmented is a message of that opcode in frames of n octets.
func fragmented(n int, op byte, message string) [][]byte {
	var frames [][]byte
	for b0 := op; len(message) > 0; b0 = opMore {
		part := message[:min(n, len(message))]
		if message = message[len(part):]; message == "" {
			b0 |= fin
		}
		frames = append(frames, sealed(b0, part))
	}
	return frames
}

// What is heard.
func echoed(text string) string { return "echo " + brief(text) }

func ponged(payload string) string { return "pong " + brief(payload) }

func refused(message string) string { return "error 400 " + message }

func closed(code int, reason string) string {
	return strings.TrimSpace(fmt.Sprint("close ", code, " ", reason))
}

const closedWithoutCode = "close"

func brief(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%d bytes with the sum %08x", len(s), crc32.ChecksumIEEE([]byte(s)))
	}
	return strconv.QuoteToASCII(s)
}

// echoing is a service whose clients hear what they say.
func echoing(t *testing.T) *core.Service {
	t.Helper()
	return coretest.Run(t, core.WithLogger(nil), core.WithMessageBytes(maxMessage), core.WithPushBytes(2*maxMessage), &core.Provider{
		Auth: core.Anonymous,
		Message: func(m *core.Message, c *core.Client) error {
			return c.Send(core.Message{Type: "echo", Message: m.Message})
		},
	})
}

// sites are servers of one service that differ in the connections they hand to it.
func sites(t *testing.T) map[string]*httptest.Server {
	t.Helper()
	service := echoing(t)
	wrapping := httptest.NewUnstartedServer(service)
	wrapping.Listener = wrapped{wrapping.Listener}
	wrapping.Start()
	t.Cleanup(wrapping.Close)
	return map[string]*httptest.Server{"tcp": mount(t, service), "wrapped tcp": wrapping, "tls": mountTLS(t, service)}
}

// wrapped hands out connections of which the core knows no more than that they are some.
type wrapped struct{ net.Listener }

func (w wrapped) Accept() (net.Conn, error) {
	nc, err := w.Listener.Accept()
	return struct{ net.Conn }{nc}, err
}

// How the writes of a row are cut.
func asWritten(sent [][]byte) [][]byte { return sent }

func inOneWrite(sent [][]byte) [][]byte { return atOnce(sent...) }

func octetByOctet(sent [][]byte) [][]byte {
	var octets [][]byte
	for _, b := range sent {
		if b == nil {
			octets = append(octets, wait)
		}
		octets = append(octets, cut(1, b)...)
	}
	return octets
}

// way is how a row is played; early: the first write is in that of the handshake.
type way struct {
	site  string
	cut   func([][]byte) [][]byte
	joins bool // cut drops the waits
	early bool
	upTo  int // octets in the row
}

var ways = []struct {
	name string
	way
}{ // the first one is what the others are compared with
	{"tcp", way{site: "tcp", cut: asWritten, upTo: 1 << 30}},
	{"tcp, in one write", way{site: "tcp", cut: inOneWrite, joins: true, upTo: 1 << 20}},
	{"tcp, in one write with the handshake", way{site: "tcp", cut: inOneWrite, joins: true, early: true, upTo: 128 << 10}},
	{"tcp, octet by octet", way{site: "tcp", cut: octetByOctet, upTo: 2 << 10}},
	{"wrapped tcp", way{site: "wrapped tcp", cut: asWritten, upTo: 1 << 30}},
	{"wrapped tcp, octet by octet", way{site: "wrapped tcp", cut: octetByOctet, upTo: 512}},
	{"tls", way{site: "tls", cut: asWritten, upTo: 1 << 30}},
	{"tls, octet by octet", way{site: "tls", cut: octetByOctet, upTo: 512}},
}

func table() []row {
	return slices.Concat(framing(), pings(), reservedBits(), opcodes(), fragments(), compression(), texts(), closes(), sizes(), automaticFragments())
}

func TestEveryCaseOfAutobahnIsAnsweredAsTheRFCSays(t *testing.T) {
	t.Parallel()
	servers := sites(t)
	for _, r := range table() {
		t.Run(r.number, func(t *testing.T) {
			t.Parallel()
			r, free := r.loaded()
			defer free()
			size := 0
			for _, b := range r.sent {
				size += len(b)
			}
			var on []string // plain TCP as the row is written
			for i, w := range ways {
				if size > w.upTo || r.late && w.joins { // it would change what is late
					continue
				}
				got := r.play(servers[w.site], w.cut(r.sent), w.early)
				if want := append(slices.Clone(r.heard), "end"); i == 0 && !slices.Equal(got, want) {
					t.Errorf("%s\nheard %q\nwant  %q", r.says, got, want)
				}
				if i == 0 {
					on = got
				}
				if !slices.Equal(got, on) {
					t.Errorf("%s behaves differently\nheard   %q\non tcp: %q", w.name, got, on)
				}
			}
		})
	}
}

// A violation ends the reading, so the answer to the close frame is not recognised: the server waits for a moment.
func TestAPeerThatNeverAnswersACloseIsHungUpOn(t *testing.T) {
	t.Parallel()
	servers := sites(t)
	seen := map[string]bool{}
	for _, r := range table() {
		why := r.heard[len(r.heard)-1]
		if !r.failed || seen[why] || r.large != nil {
			continue
		}
		seen[why] = true
		for name, server := range servers {
			begun := make(chan []string, 1)
			go func() { // ends with the connection, which has a deadline
				silent := r
				silent.failed = false
				begun <- silent.play(server, r.sent, false)
			}()
			t.Cleanup(func() {
				if got, want := <-begun, append(slices.Clone(r.heard), "end"); !slices.Equal(got, want) {
					t.Errorf("%s, %s:\nheard %q\nwant  %q", r.number, name, got, want)
				}
			})
		}
	}
	if len(seen) < 15 {
		t.Errorf("only %d reasons to close", len(seen))
	}
}

func TestTheTableHoldsEveryCaseOfAutobahn(t *testing.T) {
	t.Parallel()
	cases := map[string]int{
		"1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20,
		"6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2, "6.9": 4, "6.10": 3, "6.11": 5,
		"6.12": 8, "6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3, "6.17": 5, "6.18": 5, "6.19": 5, "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
		"7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2,
		"9.1": 6, "9.2": 6, "9.3": 9, "9.4": 9, "9.5": 6, "9.6": 6, "9.7": 6, "9.8": 6, "10.1": 1, "12": 5, "13": 7,
	}
	numbers := map[string]bool{}
	for _, r := range table() {
		if numbers[r.number] {
			t.Error("twice:", r.number)
		}
		numbers[r.number] = true
	}
	for family, n := range cases {
		for i := range n + 1 {
			if number := family + "." + strconv.Itoa(i+1); numbers[number] != (i < n) {
				t.Errorf("%s: %v", number, numbers[number])
			}
		}
	}
}

// The parser must not wait for the end of a message to find that its text is not UTF-8 (section 8.1 leaves that open;
// Autobahn calls it strict), nor find it too soon.
func TestInvalidTextIsFoundAtTheOctetThatMakesItInvalid(t *testing.T) {
	t.Parallel()
	for _, s := range strings8() {
		at := spoiledAt(s.octets)
		if s.valid != (at == 0) {
			t.Errorf("%s: %q is valid: %v, yet spoiled at %d", s.number, s.octets, s.valid, at)
		}
		if at == 0 || at > len(s.octets) {
			continue
		}
		stream := append(headOf(whole, 125), veiled(s.octets, 0)...)
		var p frame.Parser
		for i := range stream {
			_, _, err := p.Next([]byte{stream[i]})
			if found := i - len(headOf(whole, 125)) + 1; (err != nil) != (found >= at) {
				t.Errorf("%s: %q: octet %d of which %d is wrong: %v", s.number, s.octets, found, at, err)
			}
		}
	}
}
