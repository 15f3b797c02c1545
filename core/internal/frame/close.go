package frame

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

const (
	codeNone  = 1005 // stands for a close frame without a code
	maxReason = maxControl - 2
)

// ValidCloseCode reports whether code may appear in a close frame: 1000-1003, 1007-1014 or 3000-4999
// (RFC 6455, section 7.4, and the IANA registry, which added 1012 to 1014).
func ValidCloseCode(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// ParseClose reads the payload of a close frame (RFC 6455, section 5.5.1). An empty one gives 1005 (section 7.1.5). err
// is nil or an [*Error]: 1002 for half a code or one that may not be sent, 1007 for a reason that is not UTF-8.
func ParseClose(payload []byte) (code uint16, reason string, err error) {
	if len(payload) == 0 {
		return codeNone, "", nil
	}
	if len(payload) == 1 {
		return 0, "", errCloseLength
	}
	code = binary.BigEndian.Uint16(payload)
	if !ValidCloseCode(int(code)) {
		return 0, "", errCloseCode(code)
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", errCloseReason
	}
	return code, string(payload[2:]), nil
}

// AppendClose appends a close frame as a server sends it (RFC 6455, section 5.5.1). The frame is valid whatever is
// asked for: in reason the bytes that are not UTF-8 are replaced by U+FFFD, then it is cut between two characters to at
// most 123 bytes; with a code that may not be sent, such as 1005, the frame has neither code nor reason.
func AppendClose(dst []byte, code int, reason string) []byte {
	if !ValidCloseCode(code) {
		return AppendHeader(dst, Close, 0)
	}
	reason = cutReason(strings.ToValidUTF8(reason, "\uFFFD"))
	dst = AppendHeader(dst, Close, 2+len(reason))
	return append(binary.BigEndian.AppendUint16(dst, uint16(code)), reason...)
}

// cutReason needs a reason in UTF-8.
func cutReason(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	end := maxReason
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}
