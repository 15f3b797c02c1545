package frame_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/duxweb/go-ws/core/internal/frame"
)

var key = [4]byte{0x11, 0x82, 0xf3, 0x04}

// event is a message that survives the next call of Next.
type event struct {
	op      frame.Op
	payload string
}

// parse feeds stream to p in pieces of the sizes that next returns. The pieces share one buffer, overwritten in between, so
// that a parser that keeps a reference to its input is found out. It checks the memory that p holds after each.
func parse(tb testing.TB, p *frame.Parser, stream []byte, next func(left int) int) (events []event, arrived int, err error) {
	tb.Helper()
	buf := make([]byte, len(stream))
	for arrived < len(stream) {
		n := next(len(stream) - arrived)
		piece := buf[:copy(buf[:n], stream[arrived:])]
		arrived += n
		for in := piece; len(in) > 0; {
			m, rest, err := p.Next(in)
			if err != nil {
				return events, arrived, err
			}
			if m.Op == frame.Continuation {
				if len(rest) > 0 {
					tb.Fatalf("Next left %d bytes without a message", len(rest))
				}
				break
			}
			if len(rest) >= len(in) {
				tb.Fatal("Next returned a message and consumed nothing")
			}
			events = append(events, event{m.Op, string(m.Payload)})
			in = rest
		}
		clear(piece)
		if p.Held() > 2*arrived+1024 {
			tb.Fatalf("parser holds %d bytes after %d", p.Held(), arrived)
		}
	}
	return events, arrived, nil
}

func whole(left int) int { return left }

func single(int) int { return 1 }

func random(rng *rand.Rand) func(int) int {
	return func(left int) int { return min(left, 1+rng.IntN(1<<rng.IntN(8))) }
}

// text is the text and code of an error, to compare it with another.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func code(tb testing.TB, err error) int {
	tb.Helper()
	if err == nil {
		return 0
	}
	var violation *frame.Error
	if !errors.As(err, &violation) {
		tb.Fatalf("%T is not a *frame.Error", err)
	}
	return int(violation.Code)
}

func masked(op frame.Op, fin bool, payload string) []byte {
	return frame.AppendMasked(nil, op, fin, key, []byte(payload))
}

func join(frames ...[]byte) (stream []byte) {
	for _, f := range frames {
		stream = append(stream, f...)
	}
	return stream
}
