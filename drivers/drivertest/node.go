package drivertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"iter"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// Node is a core.Node in the place of a service: it records what the driver does to it, and answers the driver from what
// the test tells it with Connect, Enter and Watch. All methods may be called concurrently.
type Node struct {
	id string

	mu         sync.Mutex // guards the rest
	running    int        // calls of the driver
	ended      bool       // the driver must not call any more
	late       []string   // what it called all the same
	delivered  []core.Publication
	commands   []core.Command
	gaps       map[core.Topic]int
	changes    []Change
	faults     []error
	downs, ups int

	full    map[core.Topic]chan struct{} // closed when there is room
	waiting map[core.Topic]int           // calls of Deliver that wait for room
	refuses map[core.Topic]error         // what Deliver returns
	answer  func(core.Command) error     // nil: accept

	watched   map[core.Topic]bool   // what Topics yields
	connected map[string]connection // by ConnID; what Registered and Find yield
	entered   map[core.Topic]map[string]core.Member
}

var _ core.Node = (*Node)(nil)

type connection struct {
	app string
	core.Member
}

// NewNode returns a node with a random id.
func NewNode() *Node {
	return &Node{
		id:        rand.Text()[:16],
		gaps:      map[core.Topic]int{},
		full:      map[core.Topic]chan struct{}{},
		waiting:   map[core.Topic]int{},
		refuses:   map[core.Topic]error{},
		watched:   map[core.Topic]bool{},
		connected: map[string]connection{},
		entered:   map[core.Topic]map[string]core.Member{},
	}
}

// begin counts in a call of the driver, and returns with mu held. Each needs an end.
func (n *Node) begin(call string) {
	n.mu.Lock()
	n.running++
	if n.ended {
		n.late = append(n.late, call)
	}
}

// end counts it out, and gives mu back.
func (n *Node) end() {
	n.running--
	n.mu.Unlock()
}

// ID implements core.Node.
func (n *Node) ID() string { return n.id }

// Deliver implements core.Node: it records p, unless Fill or Refuse says otherwise for its topic.
func (n *Node) Deliver(ctx context.Context, p core.Publication) error {
	n.begin("Deliver")
	defer n.end()
	if room := n.full[p.Topic]; room != nil {
		n.waiting[p.Topic]++
		n.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-ctx.Done():
			err = core.ErrUnavailable
		}
		n.mu.Lock()
		n.waiting[p.Topic]--
		if err != nil {
			return err
		}
	}
	if err := n.refuses[p.Topic]; err != nil {
		return err
	}
	p.Payload, p.Except = bytes.Clone(p.Payload), slices.Clone(p.Except)
	n.delivered = append(n.delivered, p)
	return nil
}

// Gap implements core.Node.
func (n *Node) Gap(topics ...core.Topic) {
	n.begin("Gap")
	defer n.end()
	for _, t := range topics {
		n.gaps[t]++
	}
}

// Command implements core.Node: it records c and returns what Answer has said.
func (n *Node) Command(_ context.Context, c core.Command) error {
	n.begin("Command")
	defer n.end()
	c.Channels, c.Payload, c.Except = slices.Clone(c.Channels), bytes.Clone(c.Payload), slices.Clone(c.Except)
	n.commands = append(n.commands, c)
	answer := n.answer
	if answer == nil {
		return nil
	}
	n.mu.Unlock()
	defer n.mu.Lock()
	return answer(c)
}

// Down implements core.Node.
func (n *Node) Down(error, func(core.Topic) bool) {
	n.begin("Down")
	defer n.end()
	n.downs++
}

// Up implements core.Node.
func (n *Node) Up(func(core.Topic) bool) {
	n.begin("Up")
	defer n.end()
	n.ups++
}

// Changed implements core.Node.
func (n *Node) Changed(t core.Topic, m core.Member, joined bool) {
	n.begin("Changed")
	defer n.end()
	m.Data = bytes.Clone(m.Data)
	n.changes = append(n.changes, Change{t, m, joined})
}

// Fault implements core.Node.
func (n *Node) Fault(err error) {
	n.begin("Fault")
	defer n.end()
	n.faults = append(n.faults, err)
}

// Topics implements core.Node.
func (n *Node) Topics() iter.Seq[core.Topic] {
	n.begin("Topics")
	defer n.end()
	var topics []core.Topic
	for t := range n.watched {
		topics = append(topics, t)
	}
	return slices.Values(topics)
}

// Registered implements core.Node: the connections that have a number.
func (n *Node) Registered() iter.Seq2[string, core.Member] {
	n.begin("Registered")
	defer n.end()
	var registered []connection
	for _, c := range n.connected {
		if c.Number != 0 {
			registered = append(registered, c)
		}
	}
	return func(yield func(string, core.Member) bool) {
		for _, c := range registered {
			if !yield(c.app, c.Member) {
				return
			}
		}
	}
}

// Joined implements core.Node.
func (n *Node) Joined(topic core.Topic) iter.Seq[core.Member] {
	n.begin("Joined")
	defer n.end()
	var joined []core.Member
	for _, m := range n.entered[topic] {
		joined = append(joined, m)
	}
	return slices.Values(joined)
}

// Find implements core.Node: the connections that have a number.
func (n *Node) Find(app, clientID string) iter.Seq[core.Member] {
	n.begin("Find")
	defer n.end()
	var found []core.Member
	for _, c := range n.connected {
		if c.app == app && c.ClientID == clientID && c.Number != 0 {
			found = append(found, c.Member)
		}
	}
	return slices.Values(found)
}
