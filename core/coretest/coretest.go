// Package coretest runs a service and clients of it in memory, for tests of an application's Provider:
//
//	service := coretest.Run(t, provider)
//	alice := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
//	alice.Do(core.Message{Type: "subscribe", Channel: "room:1"})
//
// There are no ports, no sleeps, and nothing to clean up. Everything works in a testing/synctest bubble too, where time
// passes at once: make the service inside of it.
package coretest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/internal/frame"
	"github.com/duxweb/go-ws/drivers"
)

// Patience is how long Do, Error, Expect and Closed wait before they fail the test.
const Patience = 10 * time.Second

// Run starts a service on a memory driver of its own, and shuts it down when the test ends.
func Run(t testing.TB, opts ...core.Option) *core.Service {
	t.Helper()
	return RunOn(t, drivers.NewMemoryDriver(), opts...)
}

// RunOn is Run on a driver: services that share one are nodes of one cluster.
func RunOn(t testing.TB, driver core.Driver, opts ...core.Option) *core.Service {
	t.Helper()
	opts = append([]core.Option{core.WithShutdownWindow(0)}, opts...) // a test does not wait for crowds to leave
	service := core.New(driver, opts...)
	if err := service.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := service.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return service
}

// Handshake returns the request of a client that asks to be connected, to be completed by a test that needs more of it.
func Handshake() *core.Handshake {
	return &core.Handshake{
		Method: http.MethodGet, Host: "example.com", RemoteAddr: "pipe", Query: url.Values{},
		Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		},
	}
}

// Connect connects a client with an identity that a middleware would have established; it needs "client_id". The
// connection is closed when the test ends.
func Connect(t testing.TB, service *core.Service, identity map[string]any) *Conn {
	t.Helper()
	h := Handshake()
	h.Identity = identity
	return Dial(t, service, h)
}

// ConnectToken connects a client with a token, which Auth or Authenticate is asked about.
func ConnectToken(t testing.TB, service *core.Service, token string) *Conn {
	t.Helper()
	h := Handshake()
	h.Token = token
	return Dial(t, service, h)
}

// Dial connects a client with any handshake. It fails the test when Admit refuses; a client that is refused by close is
// connected, and Closed says why.
func Dial(t testing.TB, service *core.Service, h *core.Handshake) *Conn {
	t.Helper()
	ticket, err := service.Admit(context.Background(), h)
	if err != nil {
		t.Fatal(err)
	}
	server, client := net.Pipe()
	service.Attach(server, nil, ticket)
	c := &Conn{t: t, nc: client, arrived: make(chan struct{}, 1)}
	in := bufio.NewReader(client)
	if response, err := http.ReadResponse(in, nil); err != nil { //nolint:bodyclose // a 101 has no body
		t.Fatal(err)
	} else if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal("connect:", response.Status)
	}
	ended := make(chan struct{})
	go func() { // ends when the pipe is closed, by either side
		defer close(ended)
		c.read(in)
	}()
	t.Cleanup(func() {
		_ = client.Close()
		<-ended
	})
	return c
}

// Conn is the client's end of a connection. It takes in everything at once; messages wait in it until a test asks for
// them. Use it from one goroutine.
type Conn struct {
	t   testing.TB
	nc  net.Conn
	ids int

	writeMu sync.Mutex // held while a frame is written

	mu      sync.Mutex // guards the rest
	queue   []Message
	closed  *core.CloseError
	arrived chan struct{} // holds a token when something has changed
}

// Message is what a client receives: the envelope, with the code of an error.
type Message struct {
	core.Message
	Code int
	Raw  string // the JSON text as it arrived
}

// UnmarshalJSON keeps Data and Meta as json.RawMessage, as the core does for messages from clients.
func (m *Message) UnmarshalJSON(text []byte) error {
	var in struct {
		core.Message
		Code int             `json:"code"`
		Data json.RawMessage `json:"data"`
		Meta json.RawMessage `json:"meta"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	m.Message, m.Code, m.Raw = in.Message, in.Code, string(text)
	if in.Data != nil {
		m.Data = in.Data
	}
	if in.Meta != nil {
		m.Meta = in.Meta
	}
	return nil
}

// Do sends a message and returns its answer; messages that arrive before it wait. It fails the test when the answer is an
// error. A message without an id is given one.
func (c *Conn) Do(m core.Message) Message {
	c.t.Helper()
	answer := c.ask(m)
	if answer.Type == "error" {
		c.t.Fatalf("%s %s: error %d %s", m.Type, m.Channel, answer.Code, answer.Message.Message)
	}
	return answer
}

// Error sends a message and returns its answer, which must be an error with that code.
func (c *Conn) Error(code int, m core.Message) Message {
	c.t.Helper()
	answer := c.ask(m)
	if answer.Type != "error" || answer.Code != code {
		c.t.Fatalf("%s %s: got %s, want error %d", m.Type, m.Channel, answer.Raw, code)
	}
	return answer
}

func (c *Conn) ask(m core.Message) Message {
	c.t.Helper()
	if m.ID == "" {
		c.ids++
		m.ID = "coretest-" + strconv.Itoa(c.ids)
	}
	c.Send(m)
	return c.next("the answer to "+m.Type, func(got Message) bool {
		return got.ID == m.ID && (got.Type == "receive" || got.Type == "error" || m.Type == "ping" && got.Type == "pong")
	})
}

// Send sends a message and waits for nothing.
func (c *Conn) Send(m core.Message) {
	c.t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.SendText(string(text))
}

// SendText sends any text as a message.
func (c *Conn) SendText(text string) {
	c.t.Helper()
	if err := c.write(frame.Text, []byte(text)); err != nil {
		c.t.Fatalf("send %s: %v", text, err)
	}
}

// Expect returns the next message, which must be of that type.
func (c *Conn) Expect(kind string) Message {
	c.t.Helper()
	got := c.next("a "+kind, func(Message) bool { return true })
	if got.Type != kind {
		c.t.Fatalf("got %s, want a %s", got.Raw, kind)
	}
	return got
}

// Nothing fails the test when a message waits, or arrives before the answer to a ping that it sends.
func (c *Conn) Nothing() {
	c.t.Helper()
	c.ids++
	id := "coretest-" + strconv.Itoa(c.ids)
	c.Send(core.Message{Type: "ping", ID: id})
	if got := c.next("a pong", func(Message) bool { return true }); got.Type != "pong" || got.ID != id {
		c.t.Fatalf("got %s, want nothing", got.Raw)
	}
}

// Closed waits until the server has closed the connection and returns why: the code is 1006 when it did so without a
// close frame.
func (c *Conn) Closed() *core.CloseError {
	c.t.Helper()
	var why *core.CloseError
	c.await("a close", func() bool {
		why = c.closed
		return why != nil
	})
	return why
}

// Close ends the connection from the client's side, with a close frame.
func (c *Conn) Close(code int, reason string) {
	payload := frame.AppendClose(nil, code, reason)[2:]
	_ = c.write(frame.Close, payload) // the server may have closed meanwhile
	_ = c.Closed()
}

// Cut ends the connection without a word, as a lost network does.
func (c *Conn) Cut() { _ = c.nc.Close() }

// next takes the first message that fits out of the queue.
func (c *Conn) next(what string, fits func(Message) bool) (m Message) {
	c.t.Helper()
	c.await(what, func() bool {
		for i, got := range c.queue {
			if fits(got) {
				m = got
				copy(c.queue[1:i+1], c.queue[:i]) // few are before it, thousands may be behind it
				c.queue = c.queue[1:]
				return true
			}
		}
		if c.closed != nil {
			c.t.Fatalf("waiting for %s: %v", what, c.closed)
		}
		return false
	})
	return m
}

// await waits until there holds; it is called with mu held.
func (c *Conn) await(what string, there func() bool) {
	c.t.Helper()
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	for {
		c.mu.Lock()
		ok := func() bool {
			defer c.mu.Unlock() // there may end the test
			return there()
		}()
		if ok {
			return
		}
		select {
		case <-c.arrived:
		case <-patience.C:
			c.t.Fatalf("waited %v for %s", Patience, what)
		}
	}
}

func (c *Conn) read(in *bufio.Reader) {
	parser := frame.Parser{Unmasked: true}
	buf := make([]byte, 4<<10)
	for {
		n, err := in.Read(buf)
		for data := buf[:n]; len(data) > 0; {
			var m frame.Message
			var broken error
			if m, data, broken = parser.Next(data); broken != nil {
				err = broken
				break
			}
			c.take(m)
		}
		if err != nil {
			c.note(func() {
				if c.closed == nil {
					c.closed = &core.CloseError{Code: 1006, Reason: err.Error()}
				}
			})
			return
		}
	}
}

func (c *Conn) take(m frame.Message) {
	switch m.Op {
	case frame.Text:
		var got Message
		if err := json.Unmarshal(m.Payload, &got); err != nil {
			got = Message{Raw: string(m.Payload)}
		}
		c.note(func() { c.queue = append(c.queue, got) })
	case frame.Ping:
		go func() { _ = c.write(frame.Pong, bytes.Clone(m.Payload)) }() // ends with the write, or the pipe
	case frame.Close:
		code, reason, _ := frame.ParseClose(m.Payload)
		c.note(func() { c.closed = &core.CloseError{Code: int(code), Reason: reason} })
		echo := bytes.Clone(m.Payload)
		go func() { _ = c.write(frame.Close, echo) }() // ends with the write, or the pipe
	case frame.Continuation, frame.Binary, frame.Pong:
	}
}

func (c *Conn) note(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *Conn) write(op frame.Op, payload []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	_, err := c.nc.Write(frame.AppendMasked(nil, op, true, [4]byte{1, 2, 3, 4}, payload))
	return err
}
