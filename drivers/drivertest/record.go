package drivertest

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"time"

	"github.com/duxweb/go-ws/core"
)

// What a test asks a Node, and tells it.

// Got returns the payloads of the publications in topic, in the order of their arrival.
func (n *Node) Got(topic core.Topic) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var payloads []string
	for _, p := range n.delivered {
		if p.Topic == topic {
			payloads = append(payloads, string(p.Payload))
		}
	}
	return payloads
}

// Publications returns all publications, in the order of their arrival.
func (n *Node) Publications() []core.Publication {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.delivered)
}

// Commands returns the commands, in the order of their arrival.
func (n *Node) Commands() []core.Command {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.commands)
}

// Gaps returns how often the node was told of a gap in topic.
func (n *Node) Gaps(topic core.Topic) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gaps[topic]
}

// Change is what a driver has told with Changed.
type Change struct {
	Topic  core.Topic
	Member core.Member
	Joined bool
}

// Changes returns what the driver has told with Changed, in its order.
func (n *Node) Changes() []Change {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.changes)
}

// Faults returns what the driver has told with Fault, in its order.
func (n *Node) Faults() []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.faults)
}

// Outages returns how often the driver said Down, and how often Up.
func (n *Node) Outages() (downs, ups int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.downs, n.ups
}

// Running returns how many calls of the driver have not returned.
func (n *Node) Running() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running
}

// End says that the driver must not call any more; Late returns what it called all the same.
func (n *Node) End() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
}

// Late returns the methods that were called after End.
func (n *Node) Late() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.late)
}

// Fill makes Deliver wait for room in topic until Drain, as a channel does whose subscribers are slow. Once only.
func (n *Node) Fill(topic core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.full[topic] = make(chan struct{})
}

// Drain makes room in a topic that was filled.
func (n *Node) Drain(topic core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if room := n.full[topic]; room != nil {
		close(room)
		delete(n.full, topic)
	}
}

// DrainAll makes room everywhere.
func (n *Node) DrainAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for t, room := range n.full {
		close(room)
		delete(n.full, t)
	}
}

// Waiting returns how many calls of Deliver wait for room in topic.
func (n *Node) Waiting(topic core.Topic) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[topic]
}

// Refuse makes Deliver return err for topic, nil for success again.
func (n *Node) Refuse(topic core.Topic, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuses[topic] = err
}

// Answer makes Command return what answer returns.
func (n *Node) Answer(answer func(core.Command) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

// Watch makes Topics yield topics, until Unwatch.
func (n *Node) Watch(topics ...core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range topics {
		n.watched[t] = true
	}
}

// Unwatch undoes Watch.
func (n *Node) Unwatch(topics ...core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range topics {
		delete(n.watched, t)
	}
}

// Member returns a new connection of a client id, on this node.
func (n *Node) Member(clientID string) core.Member {
	return core.Member{
		ClientID: clientID, ConnID: rand.Text()[:16], Node: n.id,
		Data: json.RawMessage(`{"name":"` + rand.Text()[:6] + `"}`), Since: time.UnixMilli(time.Now().UnixMilli()),
	}
}

// Connect makes m one of the node's connections, as a service does before it calls Register with what Connect returns:
// from then on Find and Registered yield it.
func (n *Node) Connect(app string, m core.Member) (numbered func(number uint64)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.connected[m.ConnID] = connection{app, m}
	return func(number uint64) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if c, ok := n.connected[m.ConnID]; ok {
			c.Number = number
			n.connected[m.ConnID] = c
		}
	}
}

// Disconnect undoes Connect, as a service does before it calls Leave.
func (n *Node) Disconnect(m core.Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.connected, m.ConnID)
}

// Enter makes Joined yield m in topics, as a service does before it calls Join.
func (n *Node) Enter(m core.Member, topics ...core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range topics {
		if n.entered[t] == nil {
			n.entered[t] = map[string]core.Member{}
		}
		n.entered[t][m.ConnID] = m
	}
}

// Exit undoes Enter, as a service does before it calls Leave.
func (n *Node) Exit(m core.Member, topics ...core.Topic) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range topics {
		delete(n.entered[t], m.ConnID)
	}
}
