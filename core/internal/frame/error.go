package frame

import "fmt"

// Error is a violation by the peer. It ends the connection (RFC 6455, section 7.1.7).
type Error struct {
	// Code is what the close frame that answers the violation carries: 1002, 1007 or 1009 (section 7.4.1).
	Code uint16
	// Reason says what was wrong, in words the peer may read; it fits into a close frame.
	Reason string
}

// Error returns the reason, starting with "gows: ".
func (e *Error) Error() string { return "gows: " + e.Reason }

const (
	codeProtocol    = 1002
	codeInvalidText = 1007
	codeTooLarge    = 1009
)

var (
	errReservedBits  = &Error{codeProtocol, "reserved bit set without an extension"}
	errUnmasked      = &Error{codeProtocol, "frame from a client is not masked"}
	errMasked        = &Error{codeProtocol, "frame from a server is masked"}
	errControlParts  = &Error{codeProtocol, "fragmented control frame"}
	errControlLong   = &Error{codeProtocol, "control frame larger than 125 bytes"}
	errNothingToGoOn = &Error{codeProtocol, "continuation frame without a message to continue"}
	errInterrupted   = &Error{codeProtocol, "new message inside a fragmented one"}
	errNotMinimal    = &Error{codeProtocol, "length not in its shortest form"}
	errLengthBit     = &Error{codeProtocol, "64-bit length with its highest bit set"}
	errCloseLength   = &Error{codeProtocol, "close frame with half a code"}
	errText          = &Error{codeInvalidText, "text message is not UTF-8"}
	errCloseReason   = &Error{codeInvalidText, "close reason is not UTF-8"}
)

func errReservedOp(op Op) *Error {
	return &Error{codeProtocol, fmt.Sprintf("reserved opcode %d", op)}
}

func errTooLarge(limit int) *Error {
	return &Error{codeTooLarge, fmt.Sprintf("message larger than %d bytes", limit)}
}

func errCloseCode(code uint16) *Error {
	return &Error{codeProtocol, fmt.Sprintf("close code %d may not be sent", code)}
}
