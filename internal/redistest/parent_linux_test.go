package redistest_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/internal/redistest"
)

// isChild is set in the environment of a test process that is to be killed.
const isChild = "REDISTEST_CHILD"

func TestAServerDiesWithTheTestProcess(t *testing.T) {
	t.Parallel()
	if os.Getenv(isChild) != "" {
		fmt.Println("at", redistest.Start(t).Addr())
		_, _ = os.Stdin.Read(make([]byte, 1)) // until killed
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), isChild+"=yes", "TMPDIR="+t.TempDir())
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = child.Process.Kill()
	_ = child.Wait()
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "at ")
	if !found {
		t.Fatalf("the child says %q, %v", line, err)
	}
	eventually(t, "the server is dead", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
}
