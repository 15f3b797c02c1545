package frame

// Op is the opcode of a frame (RFC 6455, section 5.2).
type Op byte

// The opcodes that RFC 6455, section 11.8 assigns; all others are reserved.
const (
	Continuation Op = 0
	Text         Op = 1
	Binary       Op = 2
	Close        Op = 8
	Ping         Op = 9
	Pong         Op = 10
)

func (op Op) control() bool { return op&8 != 0 }

// Message is a data message put together from its fragments (RFC 6455, section 5.4), or one control frame (section 5.5).
type Message struct {
	// Op is Text, Binary, Close, Ping or Pong; Continuation says that there is no message.
	Op Op
	// Payload is unmasked. The payload of a Text message is valid UTF-8.
	Payload []byte
}
