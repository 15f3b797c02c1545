package drivers_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
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
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// Nodes over one Redis, in this process and in others, and clients of them that note all they are told.

const (
	recovery = 10 * time.Second // after which everything is as it should, once Redis is back
	mourning = 20 * time.Second // after which everybody has been told of a node's death
	answered = 7 * time.Second  // in which a call returns whatever happens: 5 s, or 6 s, and a busy machine
)

// within waits until so is true, and reports whether it became so in time.
func within(limit time.Duration, so func() bool) bool {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !so(); <-ticker.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// passing waits for the time itself: what is tested is how long something lasts.
func passing(d time.Duration) { <-time.After(d) }

// together runs scenarios at the same time, more of them than -parallel allows: they wait for the most part.
func together(t *testing.T, scenarios map[string]func(x *trial)) {
	t.Helper()
	var all sync.WaitGroup
	for name, scenario := range scenarios {
		all.Go(func() { // ends with the scenario
			t.Run(name, func(t *testing.T) { scenario(&trial{T: t}) })
		})
	}
	all.Wait()
}

// Told is a message that a client was sent.
type Told struct {
	ID, Type, Channel, Client, Message string
	Code                               int
}

// Person is what a client knows.
type Person struct {
	ID, Node string
	Channels []string
	Outside  []string // channels that it was not let into
	Closed   string   // why; empty while it is open
	Told     []Told
}

// surfer is a client in memory that takes everything in.
type surfer struct {
	id, node string
	nc       net.Conn
	ended    chan struct{} // closed when the reader has ended

	writing sync.Mutex // held while a frame is written

	mu       sync.Mutex // guards the rest
	asked    int
	channels []string
	outside  []string
	closed   string
	told     []Told
	answers  map[string]chan Told
}

// surf connects a client, which has yet to register. It is closed when the test ends.
func surf(t testing.TB, service *core.Service, id string) *surfer {
	t.Helper()
	c, err := trySurf(service, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.hangUp)
	return c
}

func trySurf(service *core.Service, id string) (*surfer, error) {
	h := coretest.Handshake()
	h.Identity = map[string]any{"client_id": id}
	ticket, err := service.Admit(context.Background(), h)
	if err != nil {
		return nil, err
	}
	server, client := net.Pipe()
	service.Attach(server, nil, ticket)
	c := &surfer{
		id: id, node: service.Stats().Node, nc: client, ended: make(chan struct{}), answers: map[string]chan Told{},
	}
	in := bufio.NewReader(client)
	if _, err := http.ReadResponse(in, nil); err != nil { //nolint:bodyclose // a 101 has no body
		return nil, err
	}
	go c.read(in) // ends with the pipe
	return c, nil
}

func (c *surfer) hangUp() {
	_ = c.nc.Close()
	<-c.ended
}

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

func (c *surfer) read(in *bufio.Reader) {
	defer close(c.ended)
	for {
		op, payload, err := readFrame(in)
		if err != nil {
			c.end("lost: " + err.Error())
			return
		}
		switch op {
		case opText:
			c.take(payload)
		case opPing:
			go func() { _ = c.write(opPong, payload) }() // ends with the pipe
		case opClose:
			code := binary.BigEndian.Uint16(append(payload, 0, 0))
			c.end(strconv.Itoa(int(code)))
			_ = c.nc.Close()
		}
	}
}

// readFrame reads a frame as servers send them: whole and without a mask.
func readFrame(in *bufio.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1])
	if size >= 126 {
		long := make([]byte, map[uint64]int{126: 2, 127: 8}[size])
		if _, err := io.ReadFull(in, long); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(append(make([]byte, 8-len(long)), long...))
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(in, payload)
	return head[0] & 0xf, payload, err
}

func (c *surfer) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = cmp.Or(c.closed, why)
}

func (c *surfer) take(text []byte) {
	var m struct {
		ID, Type, Channel, Client, Message string
		Code                               int
	}
	if err := json.Unmarshal(text, &m); err != nil {
		m.Type = "no JSON"
	}
	told := Told(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer := c.answers[m.ID]; m.ID != "" && answer != nil && m.Type != "message" {
		delete(c.answers, m.ID)
		answer <- told
		return
	}
	c.told = append(c.told, told)
}

func (c *surfer) write(op byte, payload []byte) error {
	frame := []byte{0x80 | op, 0x80 | byte(min(len(payload), 126))}
	if len(payload) >= 126 {
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(payload)))
	}
	frame = append(frame, 0, 0, 0, 0) // the mask
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.nc.Write(append(frame, payload...))
	return err
}

// asks sends a message and waits for the answer, or the end.
func (c *surfer) asks(m core.Message) error {
	answer := make(chan Told, 1)
	c.mu.Lock()
	c.asked++
	m.ID = "ask " + strconv.Itoa(c.asked)
	c.answers[m.ID] = answer
	c.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := c.write(opText, text); err != nil {
		return err
	}
	late := time.NewTimer(4 * answered)
	defer late.Stop()
	select {
	case told := <-answer:
		if told.Type == "error" {
			return fmt.Errorf("%s %s: %d %s", m.Type, m.Channel, told.Code, told.Message)
		}
		return nil
	case <-c.ended:
		return fmt.Errorf("%s %s: closed: %s", m.Type, m.Channel, c.knows().Closed)
	case <-late.C:
		return fmt.Errorf("%s %s: no answer", m.Type, m.Channel)
	}
}

// subscribes is in the channel when it returns nil, and else not.
func (c *surfer) subscribes(channel string) error {
	err := c.asks(core.Message{Type: "subscribe", Channel: channel})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.channels = append(c.channels, channel)
	} else {
		c.outside = append(c.outside, channel)
	}
	return err
}

// registers waits until the client is one that others find, or refused.
func (c *surfer) registers() error {
	return c.asks(core.Message{Type: "ping"})
}

func (c *surfer) knows() Person {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Person{c.id, c.node, slices.Clone(c.channels), slices.Clone(c.outside), c.closed, slices.Clone(c.told)}
}

// site is a node, here or elsewhere.
type site interface {
	push(channel, text string) error
	look(q Question) (Look, error)
	people() ([]Person, error)
	health() error
}

// Question says of which channels and client ids one wants to know.
type Question struct{ Channels, IDs []string }

// Look is what a node says of them.
type Look struct {
	Counts  map[string]int
	Members map[string][]string // client id @ node
	Online  map[string]bool
}

// local is a node in this process.
type local struct {
	t       testing.TB
	service *core.Service

	mu      sync.Mutex // guards surfers
	surfers []*surfer
}

// run runs a node on a driver, which is closed when the test ends.
func run(t testing.TB, driver core.Driver, opts ...core.Option) *local {
	t.Helper()
	opts = append([]core.Option{
		provider(), core.WithLogger(nil), core.WithChannel("*", core.Rules{Presence: core.PresenceEvents}),
	}, opts...)
	return &local{t: t, service: coretest.RunOn(t, driver, opts...)}
}

// in connects a client and subscribes it to channels.
func (l *local) in(id string, channels ...string) *surfer {
	l.t.Helper()
	c := surf(l.t, l.service, id)
	if err := c.registers(); err != nil {
		l.t.Fatal(err)
	}
	for _, channel := range channels {
		if err := c.subscribes(channel); err != nil {
			l.t.Fatal(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.surfers = append(l.surfers, c)
	return c
}

func (l *local) push(channel, text string) error {
	return l.service.Push([]string{channel}, core.Message{Type: "news", Message: text})
}

func (l *local) health() error { return l.service.Health(context.Background()) }

func (l *local) people() ([]Person, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	people := make([]Person, len(l.surfers))
	for i, c := range l.surfers {
		people[i] = c.knows()
	}
	return people, nil
}

func (l *local) look(q Question) (Look, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answered)
	defer cancel()
	look := Look{map[string]int{}, map[string][]string{}, map[string]bool{}}
	var mu sync.Mutex // guards look and errs
	var errs []error
	note := func(f func(), err error) {
		mu.Lock()
		defer mu.Unlock()
		f()
		errs = append(errs, err)
	}
	var asking sync.WaitGroup // ends with the last answer
	for _, channel := range q.Channels {
		asking.Go(func() {
			n, err := l.service.Count(ctx, channel)
			note(func() { look.Counts[channel] = n }, err)
		})
		asking.Go(func() {
			members, err := l.service.Members(ctx, channel, 0)
			names := make([]string, len(members))
			for i, m := range members {
				names[i] = m.ClientID + "@" + m.Node
			}
			note(func() { look.Members[channel] = names }, err)
		})
	}
	for _, id := range q.IDs {
		asking.Go(func() {
			online, err := l.service.Online(ctx, id)
			note(func() { look.Online[id] = online }, err)
		})
	}
	asking.Wait()
	return look, errors.Join(errs...)
}

// trial is a cluster under test.
type trial struct {
	*testing.T

	sites  []site
	gone   []string // client ids that must not be online
	pushed int
	away   atomic.Bool // Redis answers nobody
}

// everybody returns what all clients know.
func (x *trial) everybody() ([]Person, error) {
	var all []Person
	for _, s := range x.sites {
		people, err := s.people()
		if err != nil {
			return nil, err
		}
		all = append(all, people...)
	}
	return all, nil
}

// crowd is a client in each of these channels on each node, another one that is on all nodes, and one who is in no
// channel.
func crowd(x *trial, nodes ...*local) {
	x.Helper()
	for i, n := range nodes {
		n.in(fmt.Sprint("both ", i), "one", "two")
		n.in(fmt.Sprint("one ", i), "one")
		n.in("everywhere", "one")
		n.in(fmt.Sprint("nowhere ", i))
		x.sites = append(x.sites, n)
	}
}

// truth says where Members, Count and Online of any node differ from who is connected to all of them, and which
// connection was lost.
func (x *trial) truth() error {
	people, err := x.everybody()
	if err != nil {
		return err
	}
	q := Question{IDs: slices.Clone(x.gone)}
	ids, members := map[string]map[string]bool{}, map[string][]string{}
	for _, p := range people {
		if p.Closed != "" {
			return fmt.Errorf("%s was closed: %s", p.ID, p.Closed)
		}
		q.IDs = append(q.IDs, p.ID)
		q.Channels = append(q.Channels, p.Outside...)
		for _, channel := range p.Channels {
			if ids[channel] == nil {
				ids[channel] = map[string]bool{}
				q.Channels = append(q.Channels, channel)
			}
			ids[channel][p.ID] = true
			members[channel] = append(members[channel], p.ID+"@"+p.Node)
		}
	}
	for i, s := range x.sites {
		got, err := s.look(q)
		if err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
		for _, channel := range q.Channels {
			want := slices.Sorted(slices.Values(members[channel]))
			if n := got.Counts[channel]; n != len(ids[channel]) {
				return fmt.Errorf("node %d: Count(%q) is %d, want %d", i, channel, n, len(ids[channel]))
			}
			if is := slices.Sorted(slices.Values(got.Members[channel])); !slices.Equal(is, want) {
				return fmt.Errorf("node %d: Members(%q) are %q, want %q", i, channel, is, want)
			}
		}
		for _, id := range q.IDs {
			if want := !slices.Contains(x.gone, id); got.Online[id] != want {
				return fmt.Errorf("node %d: Online(%q) is not %v", i, id, want)
			}
		}
	}
	return nil
}

// flows pushes a message from every node to every channel, and says who has not been told of which a second later.
func (x *trial) flows() error {
	people, err := x.everybody()
	if err != nil {
		return err
	}
	x.pushed++
	want := map[string]map[string]bool{} // texts by channel
	for _, p := range people {
		for _, channel := range p.Channels {
			want[channel] = map[string]bool{}
		}
	}
	var pushing sync.WaitGroup // ends with the last push
	failed := make(chan error, len(x.sites)*len(want))
	for i, s := range x.sites {
		for channel, texts := range want {
			text := fmt.Sprintf("%d from %d", x.pushed, i)
			texts[text] = true
			pushing.Go(func() {
				if err := s.push(channel, text); err != nil {
					failed <- fmt.Errorf("node %d: %w", i, err)
				}
			})
		}
	}
	pushing.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	err = nil
	within(time.Second, func() bool {
		if people, err = x.everybody(); err == nil {
			err = missing(people, want)
		}
		return err == nil
	})
	return err
}

// missing says what somebody has not been told.
func missing(people []Person, want map[string]map[string]bool) error {
	for _, p := range people {
		heard := map[Told]bool{}
		for _, m := range p.Told {
			heard[Told{Type: m.Type, Channel: m.Channel, Message: m.Message}] = true
		}
		for _, channel := range p.Channels {
			for text := range want[channel] {
				if !heard[Told{Type: "news", Channel: channel, Message: text}] {
					return fmt.Errorf("%s on %s has not heard %q in %q", p.ID, p.Node, text, channel)
				}
			}
		}
	}
	return nil
}

// marks is what clients knew at some time.
type marks map[string]Person

// since returns what the client has been told later.
func (m marks) since(p Person) []Told { return p.Told[len(m[p.ID+"@"+p.Node].Told):] }

// gapless says which client was not told of a gap in one of the channels that it was in, or anywhere if in none.
func gapless(people []Person, m marks) error {
	for _, p := range people {
		before, known := m[p.ID+"@"+p.Node]
		if !known {
			continue
		}
		channels := before.Channels
		if len(channels) == 0 {
			channels = []string{""}
		}
		for _, channel := range channels {
			if number(m.since(p), "gap", channel, "") == 0 {
				return fmt.Errorf("%s on %s was not told of a gap in %q", p.ID, p.Node, channel)
			}
		}
	}
	return nil
}

// number counts the messages of a type in a channel about a client, or about all.
func number(told []Told, kind, channel, client string) (n int) {
	for _, m := range told {
		if m.Type == kind && m.Channel == channel && (client == "" || m.Client == client) {
			n++
		}
	}
	return n
}

// mark returns what everybody knows now.
func (x *trial) mark() marks {
	x.Helper()
	people, err := x.everybody()
	must(x.T, err)
	m := marks{}
	for _, p := range people {
		m[p.ID+"@"+p.Node] = p
	}
	return m
}

// settles fails the test unless all is as it should be before so much time has passed since then, or if a message came
// twice.
func (x *trial) settles(since time.Time, limit time.Duration, conditions ...func() error) {
	x.Helper()
	var err error
	ok := within(time.Until(since.Add(limit)), func() bool {
		err = x.truth()
		for _, c := range conditions {
			if err == nil {
				err = c()
			}
		}
		if err == nil {
			err = x.flows()
		}
		return err == nil
	})
	if took := time.Since(since); !ok || took > limit+time.Second {
		x.Fatalf("not in %v, but %v: %v", limit, took.Round(time.Millisecond), err)
	}
	x.Logf("as it should be after %v", time.Since(since).Round(time.Millisecond))
	people, err := x.everybody()
	must(x.T, err)
	for _, p := range people {
		seen := map[Told]bool{}
		for _, m := range p.Told {
			if m.Type == "news" && seen[m] {
				x.Errorf("%s on %s was told twice: %+v", p.ID, p.Node, m)
			}
			seen[m] = true
		}
	}
}

// begins is settles at the start of a test.
func (x *trial) begins() { x.Helper(); x.settles(time.Now(), coretest.Patience) }

// healthy says which node says that its driver is away.
func (x *trial) healthy() error {
	for i, s := range x.sites {
		if err := s.health(); err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
	}
	return nil
}

// gap returns a condition: everybody has been told of one since mark.
func (x *trial) gap(mark marks) func() error {
	return func() error {
		people, err := x.everybody()
		if err != nil {
			return err
		}
		return gapless(people, mark)
	}
}

// never fails the test when somebody was told so since mark.
func (x *trial) never(kind string, mark marks) {
	x.Helper()
	people, err := x.everybody()
	must(x.T, err)
	for _, p := range people {
		for _, m := range mark.since(p) {
			if m.Type == kind {
				x.Errorf("%s on %s was told %+v", p.ID, p.Node, m)
			}
		}
	}
}

// outage lets redis go away and come back, while every node pushes and clients subscribe, and checks everything that
// holds for each outage: breaks returns when Redis is back.
func (x *trial) outage(breaks func(), nodes ...*local) {
	x.Helper()
	mark := x.mark()
	stop := make(chan struct{})
	var busy sync.WaitGroup // ends with stop
	for i, n := range nodes {
		c := n.in(fmt.Sprint("busy ", i), "busy")
		busy.Go(func() { x.pushes(n, stop) })
		busy.Go(func() { x.subscribes(c, stop) })
	}
	quiet := sync.OnceFunc(func() {
		close(stop)
		busy.Wait()
	})
	defer quiet()
	breaks()
	back := time.Now()
	x.settles(back, recovery, x.healthy, x.gap(mark))
	quiet()
	x.settles(time.Now(), recovery, x.healthy)
	x.never("leave", mark)
}

// pushes pushes until stop: each call returns in time, and an error of a driver that is away is ErrUnavailable.
func (x *trial) pushes(n *local, stop chan struct{}) {
	failed, longest := 0, time.Duration(0)
	var last error
	for i := 0; ; i++ {
		begin, away := time.Now(), x.away.Load()
		err := n.push("busy", fmt.Sprintf("%d of %s", i, n.service.Stats().Node))
		if err == nil && away && x.away.Load() {
			x.Error("a Push has succeeded while Redis was away")
		}
		if longest = max(longest, time.Since(begin)); err != nil {
			failed, last = failed+1, err
			if !errors.Is(err, core.ErrUnavailable) {
				x.Errorf("Push: %v, want ErrUnavailable", err)
			}
		}
		select {
		case <-stop:
			x.Logf("%d of %d pushes failed, the longest took %v; %v", failed, i+1, longest.Round(time.Millisecond), last)
			if longest > answered {
				x.Errorf("a Push took %v", longest)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// subscribes has a client subscribe to one channel after the other until stop. Each is answered in time; whether what was
// answered is true, truth sees.
func (x *trial) subscribes(c *surfer, stop chan struct{}) {
	failed, longest := 0, time.Duration(0)
	for i := 0; ; i++ {
		begin, away := time.Now(), x.away.Load()
		err := c.subscribes(fmt.Sprintf("%s's %d", c.id, i))
		if longest = max(longest, time.Since(begin)); err != nil {
			failed++
		} else if away && x.away.Load() {
			x.Error("a subscribe has succeeded while Redis was away")
		}
		select {
		case <-stop:
			x.Logf("%d of %d subscribes failed, the longest took %v", failed, i+1, longest.Round(time.Millisecond))
			if longest > answered {
				x.Errorf("a subscribe took %v", longest)
			}
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// childAddr is set in the environment of a test process that is to be a node.
const childAddr = "GOWS_CHILD_ADDR"

// elsewhere is a node in another process.
type elsewhere struct {
	*redistest.Child

	client *rpc.Client
}

// startElsewhere runs a node in another process.
func startElsewhere(t *testing.T, addr string) *elsewhere {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestANodeOfItsOwn$")
	cmd.Env = append(os.Environ(), childAddr+"="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	e := &elsewhere{redistest.StartChild(t, cmd), rpc.NewClient(pipes{out, in})}
	t.Cleanup(func() {
		e.Kill()
		_ = e.client.Close()
	})
	return e
}

// pipes is two pipes as one connection.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.ReadCloser.Close(), p.WriteCloser.Close()) }

// call waits for the answer, but not for ever.
func (e *elsewhere) call(method string, args, reply any) error {
	call := e.client.Go("Node."+method, args, reply, make(chan *rpc.Call, 1))
	late := time.NewTimer(coretest.Patience)
	defer late.Stop()
	select {
	case <-call.Done:
		return call.Error
	case <-late.C:
		return fmt.Errorf("the other process does not answer %s", method)
	}
}

func (e *elsewhere) in(id string, channels ...string) error {
	return e.call("In", append([]string{id}, channels...), new(int))
}

func (e *elsewhere) push(channel, text string) error {
	return e.call("Push", []string{channel, text}, new(int))
}

func (e *elsewhere) look(q Question) (look Look, err error) {
	err = e.call("Look", q, &look)
	return look, err
}

func (e *elsewhere) people() (people []Person, err error) {
	err = e.call("People", 0, &people)
	return people, err
}

func (e *elsewhere) health() error { return e.call("Health", 0, new(int)) }

// remote is a node as it is called from another process.
type remote struct{ *local }

func (r remote) In(who []string, _ *int) error {
	r.in(who[0], who[1:]...)
	return nil
}

func (r remote) Push(what []string, _ *int) error { return r.push(what[0], what[1]) }

func (r remote) Look(q Question, look *Look) (err error) {
	*look, err = r.look(q)
	return err
}

func (r remote) People(_ int, people *[]Person) (err error) {
	*people, err = r.people()
	return err
}

func (r remote) Health(int, *int) error { return r.health() }

// TestANodeOfItsOwn is no test: it is what startElsewhere runs. It ends with its standard input.
func TestANodeOfItsOwn(t *testing.T) {
	addr := os.Getenv(childAddr)
	if addr == "" {
		return
	}
	server := rpc.NewServer()
	must(t, server.RegisterName("Node", remote{run(t, at(t, addr))}))
	server.ServeConn(pipes{os.Stdin, os.Stdout})
}

// registrations returns what the nodes have registered as, and the counters.
func registrations(s *redistest.Server) map[string]string {
	fields := map[string]string{}
	lines := strings.Split(s.CLI("HGETALL", "ws:{0}:nodes"), "\n")
	for ; len(lines) > 1; lines = lines[2:] {
		fields[lines[0]] = lines[1]
	}
	return fields
}
