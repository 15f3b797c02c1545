package drivertest_test

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/duxweb/go-ws/core"
)

// defect makes a sound driver a broken one.
type defect struct {
	name  string
	fails []string // cases that the broken driver must fail
	also  []string // cases that it may fail: they need what it breaks
	// apply breaks a driver. What waits or runs for ever in it ends with end.
	apply   func(d core.Driver, end <-chan struct{}) core.Driver
	restart func(d *restartable) // for a defect that shows at a restart
}

// onLinks is a defect of links: alter changes one of a node, or of a publisher, whose node is nil.
func onLinks(alter func(l *alteredLink, node core.Node)) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, _ <-chan struct{}) core.Driver {
		return &altered{Driver: d, link: func(inner core.Link, node core.Node) core.Link {
			l := &alteredLink{Link: inner}
			alter(l, node)
			return l
		}}
	}
}

// onNodes is a defect in how nodes are called.
func onNodes(alter func(n *alteredNode)) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, _ <-chan struct{}) core.Driver {
		return &altered{Driver: d, node: func(inner core.Node) core.Node {
			n := &alteredNode{Node: inner}
			alter(n)
			return n
		}}
	}
}

// fresh lets each driver have a defect with state of its own.
func fresh(make func() func(core.Driver, <-chan struct{}) core.Driver) func(core.Driver, <-chan struct{}) core.Driver {
	return func(d core.Driver, end <-chan struct{}) core.Driver { return make()(d, end) }
}

// interest is what the nodes of a driver are subscribed to, for defects that deliver what they should not.
type interest struct {
	mu   sync.Mutex
	subs map[core.Node][]core.Topic
}

func newInterest() *interest { return &interest{subs: map[core.Node][]core.Topic{}} }

func (i *interest) watch(l *alteredLink, node core.Node) {
	l.subscribe = func(ctx context.Context, topics ...core.Topic) error {
		i.mu.Lock()
		i.subs[node] = append(i.subs[node], topics...)
		i.mu.Unlock()
		return l.Link.Subscribe(ctx, topics...)
	}
	l.unsubscribe = func(ctx context.Context, topics ...core.Topic) error {
		i.mu.Lock()
		i.subs[node] = slices.DeleteFunc(i.subs[node], func(t core.Topic) bool { return slices.Contains(topics, t) })
		i.mu.Unlock()
		return l.Link.Unsubscribe(ctx, topics...)
	}
	l.end = func(ctx context.Context) error {
		i.mu.Lock()
		delete(i.subs, node)
		i.mu.Unlock()
		return l.Link.Close(ctx)
	}
}

// deliver gives p to the nodes under those of their topics that fit.
func (i *interest) deliver(ctx context.Context, p core.Publication, fits func(t core.Topic) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for node, topics := range i.subs {
		for _, t := range topics {
			if node != nil && t != p.Topic && fits(t) {
				_ = node.Deliver(ctx, core.Publication{Topic: t, Payload: p.Payload})
			}
		}
	}
}

// shared is a map for defects that all links of a driver share.
type shared[K comparable, V any] struct {
	mu     sync.Mutex // guards values
	values map[K]V
}

func (s *shared[K, V]) put(k K, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[K]V{}
	}
	s.values[k] = v
}

func (s *shared[K, V]) get(k K) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[k]
	return v, ok
}

func (s *shared[K, V]) keys() []K {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.values))
}

// origin is the key under which a context says which node a call came from.
type origin struct{}

const (
	comesBack    = "a publication comes back to the node that published it"
	everyNode    = "a publication reaches every subscribed node"
	fromBefore   = "a node gets nothing from before it subscribed"
	inOrder      = "publications of one publisher arrive in order, each once"
	fullAlone    = "a full topic holds up no other"
	gapForOne    = "a node that cannot take a publication has a gap, the others get it"
	gapForAll    = "a publication that nobody can take is not lost in silence"
	bytesIntact  = "bytes arrive as they were"
	oddNames     = "odd names are names like others"
	appsApart    = "two apps never meet in one channel name"
	broadcast    = "a topic without a channel is one like others"
	payloadAgain = "a payload is the caller's again when Publish has returned"
	exceptHolds  = "Except travels with the publication"
	doneOnce     = "done is called exactly once"
	publishEnded = "a Publish whose context has ended is refused or goes through"
	intoFull     = "a Publish into a full topic ends with its context"

	subscribedTwice = "a topic subscribed to twice arrives once, and ends with one Unsubscribe"
	inForce         = "a subscription is in force when Subscribe has returned"
	unsubscribed    = "nothing published after an Unsubscribe arrives"
	ownTopics       = "an Unsubscribe ends its own topics on its own node"

	numbersGrow   = "a later connection has a higher number, and is told it once"
	numberedAlike = "Find shows the number that a connection is told"
	findsAll      = "Find shows the connections of a client id on every node"
	laterFinds    = "of two connections that come at once the later one finds the other"
	takenBack     = "Leave of the app's topic takes a connection out of Find"

	firstAndLast   = "the first connection of a client id joins and the last one leaves"
	joinedTwice    = "joining twice and leaving twice change nothing"
	severalTopics  = "Join and Leave report each of several topics"
	joinsAtOnce    = "of joins at once one is the first, of leaves at once one is the last"
	membersAll     = "Members lists the connections on every node"
	membersLimited = "Members lists no more than its limit"
	countsOnce     = "Count counts a client id once, wherever its connections are"
	oddPresence    = "presence keeps topics and client ids with odd names apart"

	commandsOne      = "a command reaches the node it is for, and no other"
	commandsAll      = "a command for everybody reaches every node"
	commandsNobody   = "a command that no node received is ErrOffline"
	answersBack      = "what a node answers to a command comes back"
	argumentsAgain   = "arguments are the caller's again when a call has returned"
	publisherWorks   = "a publisher without a node publishes, commands and reads"
	publisherNoNode  = "a publisher without a node is no node to others"
	closedTwice      = "closing twice does no harm"
	errorsAfterClose = "after Close everything returns an error"
	silentAfterClose = "a node is not called after Close has returned"
	closeWaits       = "Close waits for the calls that are running"
	closeEnds        = "Close returns when its context ends"
	closedGone       = "a closed node is in no answer"
	comeAndGo        = "nodes come and go without harm to others"
	noGoroutine      = "no goroutine is left when every link is closed"
	allAtOnce        = "everything may be called at the same time"
	contextsEnd      = "no call outlasts its context"
	restarts         = "after a restart of the backend everything is in force again, and every node knows of the gap"
)

var defects = slices.Concat(
	publishingDefects, contentDefects, doneDefects, subscribingDefects, connectingDefects,
	joiningDefects, countingDefects, commandDefects, closingDefects, otherDefects,
)
