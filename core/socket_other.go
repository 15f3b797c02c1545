//go:build !unix

package core

import "net"

// rawSocket serves nothing here: every connection is a stream.
type rawSocket struct{ stream }

func (s *rawSocket) take(net.Conn) bool { return false }

func (s *rawSocket) ready() bool { return false }

// duplicate makes none here: the connection stays with its server.
func duplicate(net.Conn) net.Conn { return nil }

func (w *writer) writeOnce(uintptr) bool { return true }
