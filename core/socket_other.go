//go:build !unix

package core

import "net"

// newRawSocket serves nothing here: every connection is a stream.
func newRawSocket(net.Conn) socket { return nil }

// duplicate makes none here: the connection stays with its server.
func duplicate(net.Conn) net.Conn { return nil }

func (w *writer) writeOnce(uintptr) bool { return true }
