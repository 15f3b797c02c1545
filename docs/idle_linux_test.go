package docs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// BenchmarkIdleConnection measures what the README's first program needs for each connection that is authenticated,
// subscribed to a channel, and idle: resident memory as the system counts it, after a garbage collection.
func BenchmarkIdleConnection(b *testing.B) {
	const connections = 2000
	s := newSnippets(b, ".")
	for _, block := range read(b, english).blocks {
		if strings.HasPrefix(block.code, "package main") {
			s.add("idle", block)
			break
		}
	}
	s.build()
	settled := newSettler(b)
	p := start(b, s, "idle", settled.wire)
	join := func() {
		c := p.connect("/ws?token=alice")
		c.say(`{"id":"1","type":"subscribe","channel":"room:1"}`)
		c.hears(`{"id":"1","type":"receive","meta":{"time":0}}`)
	}
	for range 100 { // what the first ones need once
		join()
	}
	before := settled.memory(p)
	for range connections {
		join()
	}
	after := 0
	for b.Loop() {
		after = settled.memory(p)
	}
	b.ReportMetric(float64(after-before)/connections, "B/connection")
	b.ReportMetric(0, "ns/op")
}

// settler lets a program collect its garbage: a line in, a line out.
type settler struct {
	b             *testing.B
	ask, answer   *os.File
	stdin, stdout *os.File
}

func newSettler(b *testing.B) *settler {
	b.Helper()
	s := &settler{b: b}
	var err, err2 error
	s.stdin, s.ask, err = os.Pipe()
	s.answer, s.stdout, err2 = os.Pipe()
	if err := errors.Join(err, err2); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, f := range []*os.File{s.stdin, s.ask, s.answer, s.stdout} {
			_ = f.Close()
		}
	})
	return s
}

func (s *settler) wire(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout = s.stdin, s.stdout }

// memory returns the resident bytes of the program, its garbage collected.
func (s *settler) memory(p *process) int {
	s.b.Helper()
	if _, err := io.WriteString(s.ask, "\n"); err != nil {
		s.b.Fatal(err)
	}
	_ = s.answer.SetReadDeadline(time.Now().Add(patience))
	if _, err := bufio.NewReader(s.answer).ReadString('\n'); err != nil {
		s.b.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		s.b.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		s.b.Fatal(err)
	}
	return resident * os.Getpagesize()
}
