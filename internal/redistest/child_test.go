package redistest_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/duxweb/go-ws/internal/redistest"
)

func TestAChildStandsWhileItIsPausedAndDiesWhenItIsKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, toCmd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = toCmd
	child := redistest.StartChild(t, cmd)
	_ = toCmd.Close()
	lines := bufio.NewReader(out)
	says := func(line string) {
		t.Helper()
		if _, err := io.WriteString(in, line); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(want string) {
		t.Helper()
		_ = out.SetReadDeadline(time.Now().Add(patience))
		if got, err := lines.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	says("one\n")
	hears("one\n")
	for range 2 {
		child.Pause()
		says("two\n")
		_ = out.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if b, err := lines.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("while it is paused: %q, %v", b, err)
		}
		child.Resume()
		hears("two\n")
	}
	child.Pause()
	child.Kill() // paused or not
	_ = out.SetReadDeadline(time.Now().Add(patience))
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after its end: %v", err)
	}
	if state := cmd.ProcessState; state == nil || state.Success() {
		t.Errorf("it has ended with %v", state)
	}
	child.Kill() // does nothing
}

func TestAChildDiesWithItsTest(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() // later than the test below ends: it is not what ends the child
	t.Run("a test", func(t *testing.T) { redistest.StartChild(t, cmd) })
	if state := cmd.ProcessState; state == nil || state.Success() {
		t.Errorf("it has ended with %v", state)
	}
}
