// Package frame parses and encodes the WebSocket base framing protocol (RFC 6455, sections 5 to 8) as pure functions
// over byte slices. It does no I/O, starts no goroutine and holds no lock: whoever owns the connection feeds the bytes
// that arrived to a [Parser] and writes the bytes the Append functions return.
//
// No extension is supported, so every reserved bit is a violation (section 5.2).
package frame
