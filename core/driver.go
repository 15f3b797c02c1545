package core

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// Topic names a channel of an app across all nodes. An empty Channel stands for every connection of the app.
type Topic struct{ App, Channel string }

// Driver joins nodes to one another. It is what New takes; drivers.NewMemoryDriver and drivers.NewRedisDriver make one.
// One Driver value may be given to several services: each becomes a node of its own.
type Driver interface {
	// Open links a node to the others. A nil node is a publisher without connections: its Link publishes, commands and
	// reads, but receives nothing and is no node to others. Open may be called concurrently and returns when the link
	// works or ctx ends. The driver calls node only between Open and the return of Link.Close.
	Open(ctx context.Context, node Node) (Link, error)
}

// Link is one node's end of a Driver. Every method may be called concurrently, returns when ctx ends at the latest,
// retains none of its arguments after it returned (strings aside), and returns an error after Close. Errors are returned
// as they are; the core wraps them. None of them is called while the core holds a lock.
type Link interface {
	// Publish hands a publication to every node subscribed to its topic, the own one included, in order per publisher
	// and topic. An error means it was refused. Else done is called exactly once, from any goroutine and perhaps before
	// Publish returns, with nil once the driver has accepted the publication, or with the error that may have lost it.
	// ctx bounds the call; what follows it, the driver bounds itself (5 s).
	Publish(ctx context.Context, p Publication, done func(error)) error

	// Subscribe makes the node receive the publications of topics; when it returns nil everything published from then
	// on arrives. Of topics that are subscribed already everything accepted before should have arrived then, if that can be
	// known: Shutdown asks, so that clients get it before they are closed. It takes all or none. Unsubscribe ends that;
	// publications on their way may still arrive. Topics already subscribed, or not subscribed, are no error. Topics without
	// a channel are subscribed like others.
	Subscribe(ctx context.Context, topics ...Topic) error
	Unsubscribe(ctx context.Context, topics ...Topic) error

	// Register makes a connection known to Find on all nodes under the next number of its client id: of two connections
	// the later one has the higher number, and finds the earlier one. It calls numbered with it once, before Register
	// returns, or later if that returned an error; Find on other nodes may show the connection a moment earlier. Numbers
	// start at 1. Leave of Topic{App: app} takes it back.
	Register(ctx context.Context, app string, m Member, numbered func(number uint64)) error

	// Join adds a connection to the members of topics and returns those of them in which its client id had no
	// connection before, on any node. Leave takes it out of topics and returns those in which its client id has no
	// connection any more. Joining twice and leaving what was not joined is no error and is reported by neither. What is
	// returned beside an error holds, too.
	Join(ctx context.Context, m Member, topics ...Topic) (first []Topic, err error)
	Leave(ctx context.Context, m Member, topics ...Topic) (last []Topic, err error)

	// Members returns at most limit connections in topic, on all nodes, in no order; limit <= 0 means all.
	Members(ctx context.Context, topic Topic, limit int) ([]Member, error)
	// Count returns how many client ids are in topic, on all nodes.
	Count(ctx context.Context, topic Topic) (int, error)
	// Find returns the registered connections of a client id, on all nodes.
	Find(ctx context.Context, app, clientID string) ([]Member, error)

	// Command carries a command to the node of that id, or to every node when node is "". It returns ErrOffline when there
	// is no such node, another error when there is one that cannot be reached, and what the node answered where the driver
	// can tell. Commands to one node about one client id are carried out in order.
	Command(ctx context.Context, node string, c Command) error

	// Close ends the link and takes back what the node has registered and joined, of which nobody is told. It returns when
	// the driver will not call the node again, or when ctx ends.
	Close(ctx context.Context) error
}

// Node is what a driver calls and reads of the service it serves. All methods may be called concurrently.
type Node interface {
	// ID is random, unique and the same for the life of the node.
	ID() string
	// Deliver gives a publication to the node's subscribers of its topic. It never waits for a subscriber, but while a
	// channel is full (256 KiB not yet written) it waits for room until ctx ends and then returns ErrUnavailable, the
	// publication not delivered. A driver whose other publications would have to wait behind it passes a context that has
	// ended and calls Gap on an error. The payload is not retained.
	Deliver(ctx context.Context, p Publication) error
	// Gap tells the subscribers of topics that publications may have been lost.
	Gap(topics ...Topic)
	// Command carries out a command on the node's own connections. It returns ErrOffline when none was meant.
	Command(ctx context.Context, c Command) error
	// Down says that the driver has lost what Subscribe, Register or Join set up for the topics of a part, nil for all, and
	// Up that all of it is in force again: subscribers are told of the gap then. Several parts may be down at a time; to each
	// Down belongs one Up.
	Down(err error, part func(Topic) bool)
	Up(part func(Topic) bool)
	// Changed says that the first connection of a client id is in topic, or that the last one is gone, without a Join or
	// Leave that has returned so: its node died, or came back. The driver says it to one node, which tells the subscribers.
	Changed(topic Topic, m Member, joined bool)
	// Fault tells what went wrong and has no caller to be returned to. It is counted, and logged once a minute.
	Fault(err error)
	// Topics yields what the node is subscribed to, Registered its connections by app, and Joined who is in a topic here:
	// for a driver that answers from the node instead of a table of its own, or must register everything again.
	Topics() iter.Seq[Topic]
	Registered() iter.Seq2[string, Member]
	Joined(topic Topic) iter.Seq[Member]
	// Find yields the node's connections of one client id.
	Find(app, clientID string) iter.Seq[Member]
}

// Publication is one message on its way to the subscribers of a topic.
type Publication struct {
	Topic   Topic
	Payload []byte   // the JSON text as subscribers get it
	Except  []string // ConnIDs that do not get it

	owed *owed // set by a publisher that can run the turn itself
}

// Member is a connection in a channel, as Members lists it.
type Member struct {
	ClientID string          `json:"client"`
	ConnID   string          `json:"conn"`
	Node     string          `json:"-"`              // id of the node that holds the connection
	Number   uint64          `json:"-"`              // from Find: see Link.Register
	Data     json.RawMessage `json:"data,omitempty"` // the identity keys named by WithPresenceData
	Since    time.Time       `json:"since"`          // when it joined the channel; from Find, when it connected
}

// Action says what a Command does.
type Action string

// The commands that nodes send one another. All of them concern the connections of Command.ClientID.
const (
	ActionSend        Action = "send"        // write Payload
	ActionClose       Action = "close"       // close with Code and Reason, but for the connections in Except
	ActionSubscribe   Action = "subscribe"   // Sub Channels
	ActionUnsubscribe Action = "unsubscribe" // Unsub Channels
	ActionReplace     Action = "replace"     // close those with a number lower than Number
)

// Command is an order of one node to others about the connections of one client id.
type Command struct {
	Action   Action          `json:"action"`
	App      string          `json:"app,omitempty"`
	ClientID string          `json:"client"`
	Channels []string        `json:"channels,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
	Code     int             `json:"code,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Except   []string        `json:"except,omitempty"`
	Number   uint64          `json:"number,omitempty"`
}
