//go:build !race

package crowd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
)

// The test binary plays three parts: the test, the server, and the crowd of clients.
func TestMain(m *testing.M) {
	switch os.Getenv("CROWD_ROLE") {
	case "server":
		serve(os.Args[1:])
	case "readers":
		readers(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
}

// mark stands in each message once, and in no header of these frames.
var mark = []byte("|")

// readers opens n clients of a channel, prints "ready", and when its standard input ends what each of them got:
// args are address, channel, n.
func readers(args []string) {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		fatal(err)
	}
	got := make([]atomic.Int64, n)
	var closed atomic.Int64
	for i := range n {
		c, err := dial(args[0], "reader-"+strconv.Itoa(i))
		if err != nil {
			fatal(err)
		}
		if err := c.do("subscribe", args[1]); err != nil {
			fatal(err)
		}
		go func() { // ends with the process
			// Counting marks costs the clients less than parsing frames.
			buf := make([]byte, 16<<10)
			for {
				m, err := c.in.Read(buf)
				got[i].Add(int64(bytes.Count(buf[:m], mark)))
				if err != nil {
					closed.Add(1)
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() { // each line asks for the least and the most that a client has got, and how many were closed
		least, most := got[0].Load(), got[0].Load()
		for i := range got {
			least, most = min(least, got[i].Load()), max(most, got[i].Load())
		}
		fmt.Println(least, most, closed.Load())
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// process is a part that this test binary plays in a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t *testing.T, role string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CROWD_ROLE="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
}

func (p *process) line() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatal("the other process ended")
	}
	return p.out.Text()
}

// counts asks readers for the least and the most that one has got, and how many were closed.
func (p *process) counts() (least, most, closed int) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Sscan(p.line(), &least, &most, &closed); err != nil {
		p.t.Fatal(err)
	}
	return least, most, closed
}

// memory returns the resident memory of the process now (VmRSS) or at most (VmHWM), in bytes.
func (p *process) memory(which string) int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), which+":")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		p.t.Fatal(err)
	}
	return kib << 10
}

func stats(t *testing.T, addr string) (s core.Stats) {
	t.Helper()
	response, err := http.Get("http://" + addr + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// client is a plain socket that speaks just enough.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(addr, token string) (*client, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(nc, "GET /ws?token="+token+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		return nil, err
	}
	c := &client{nc, bufio.NewReaderSize(nc, 512)}
	response, err := http.ReadResponse(c.in, nil) //nolint:bodyclose // a 101 has no body
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("no upgrade: %s", response.Status)
	}
	return c, nil
}

// masked is a text frame with a mask of zeros, which the protocol allows.
func masked(text string) []byte {
	b := []byte{0x81}
	if len(text) < 126 {
		b = append(b, 0x80|byte(len(text)))
	} else {
		b = append(b, 0x80|126, byte(len(text)>>8), byte(len(text)))
	}
	return append(append(b, 0, 0, 0, 0), text...)
}

func (c *client) say(text string) error {
	_, err := c.Write(masked(text))
	return err
}

// hear returns the payload of the next frame.
func (c *client) hear() (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:2]); err != nil {
		return "", err
	}
	n := int(head[1] & 127)
	if n == 126 {
		if _, err := io.ReadFull(c.in, head[2:]); err != nil {
			return "", err
		}
		n = int(head[2])<<8 | int(head[3])
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(c.in, payload)
	return string(payload), err
}

func (c *client) do(verb, channel string) error {
	if err := c.say(`{"id":"1","type":"` + verb + `","channel":"` + channel + `"}`); err != nil {
		return err
	}
	answer, err := c.hear()
	if err == nil && !strings.Contains(answer, `"receive"`) {
		err = fmt.Errorf("%s: %s", verb, answer)
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func join(t *testing.T, addr, name, channel string) *client {
	t.Helper()
	c, err := dial(addr, name)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.do("subscribe", channel))
	return c
}

// eventually waits until there holds.
func eventually(t *testing.T, what string, there func() bool) {
	t.Helper()
	for deadline, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond); !there(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited a minute for " + what)
		}
	}
}

func TestAFloodClosesNobodyAndTheChannelBesideItStaysQuick(t *testing.T) {
	const crowd = 1000
	server := start(t, "server", "net/http")
	addr := server.line()
	room := start(t, "readers", addr, "flooded", strconv.Itoa(crowd))
	if got := room.line(); got != "ready" {
		t.Fatal(got)
	}
	flooder, err := dial(addr, "flooder")
	must(t, err)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		defer flooder.Close()
		burst := bytes.Repeat(masked(`{"type":"message","channel":"flooded","message":"|`+strings.Repeat("x", 127)+`"}`), 64)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := flooder.Write(burst); err != nil {
				t.Error("the flooder was cut off:", err)
				return
			}
		}
	})
	// Something else may have kept the machine busy: one of three windows has to be quick.
	prober := join(t, addr, "prober", "quiet")
	p99 := prober.roundTrips(t)
	for range 2 {
		if p99 > quick {
			p99 = min(p99, prober.roundTrips(t))
		}
	}
	close(stop)
	flood.Wait()
	after := stats(t, addr)
	peak := server.memory("VmHWM")
	t.Logf("%d frames delivered; peak memory %d MB", after.Delivered, peak>>20)
	if _, most, closed := room.counts(); closed != 0 || most == 0 || after.Slow != 0 || after.Gaps != 0 {
		t.Errorf("%d readers were closed, %d as too slow, %d gaps, the quickest got %d", closed, after.Slow, after.Gaps, most)
	}
	if peak > 64<<20 {
		t.Errorf("peak memory %d bytes, 64 MB at most", peak)
	}
	if p99 > quick {
		t.Errorf("p99 of the round trip beside the flood %v, %v at most", p99, quick)
	}
}

// quick is what a round trip on a channel of one may take beside a flooded one, in 99 of 100 cases.
const quick = 10 * time.Millisecond

// roundTrips publishes to the client's own channel "quiet" for a while and returns the p99 of the time until it is back.
func (c *client) roundTrips(t *testing.T) time.Duration {
	t.Helper()
	var trips []time.Duration
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		began := time.Now()
		must(t, c.say(`{"type":"message","channel":"quiet","message":"probe"}`))
		_, err := c.hear()
		must(t, err)
		trips = append(trips, time.Since(began))
		<-time.After(5 * time.Millisecond)
	}
	slices.Sort(trips)
	p50, p99 := trips[len(trips)/2], trips[len(trips)*99/100]
	t.Logf("round trips beside the flood: p50 %v, p99 %v of %d", p50, p99, len(trips))
	return p99
}

func TestTheOthersGetEverythingWhileOneOfTenThousandNeverReads(t *testing.T) {
	const crowd, messages, size = 9999, 600, 8 << 10
	server := start(t, "server", "net/http")
	addr := server.line()
	deaf := join(t, addr, "deaf", "room")
	room := start(t, "readers", addr, "room", strconv.Itoa(crowd))
	if got := room.line(); got != "ready" {
		t.Fatal(got)
	}
	publisher, err := dial(addr, "publisher")
	must(t, err)
	defer publisher.Close()
	text := `{"id":"1","type":"message","channel":"room","message":"|` + strings.Repeat("x", size) + `"}`
	for range messages {
		must(t, publisher.say(text))
		_, err := publisher.hear() // its receipt
		must(t, err)
	}
	eventually(t, "every message to arrive at the others", func() bool {
		least, most, closed := room.counts()
		if closed > 0 || most > messages {
			t.Fatalf("%d were closed, one got %d of %d", closed, most, messages)
		}
		return least == messages
	})
	eventually(t, "the one that never reads to be closed as too slow", func() bool { return stats(t, addr).Slow == 1 })
	_ = deaf.Close()
	t.Logf("peak memory of the server %d MB", server.memory("VmHWM")>>20)
}
