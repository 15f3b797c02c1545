package core_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// A program is a life of one or two nodes: its first byte sets them up, and every three bytes behind it are an operation,
// who does it and what it is about. Any bytes are a program. world carries it out, keeps in mind what is to be true, and
// compares after each operation.

// maxOperations bounds a program: what goes wrong does so with few.
const maxOperations = 60

// FuzzLifecycle: whatever happens to connections, in whatever order, what the public API shows is what the model says.
func FuzzLifecycle(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(anyProgram(seed))
	}
	f.Add(badAcrossASecond())
	f.Fuzz(live)
}

func TestAnyLifeGoesAsTheModelSays(t *testing.T) {
	t.Parallel()
	lives := uint64(500)
	if testing.Short() {
		lives = 50
	}
	for seed := range lives {
		live(t, anyProgram(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func anyProgram(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	program := make([]byte, 1+3*(5+rng.IntN(maxOperations-5)))
	for i := range program {
		program[i] = byte(rng.Uint32())
	}
	for i := range min(4, (len(program)-1)/6) { // somebody is there
		program[1+3*i] = opConnect
	}
	return program
}

// badAcrossASecond is as many bad messages as are allowed, a second, and one more.
func badAcrossASecond() []byte {
	program := []byte{0, opConnect, 0, 0}
	for range maxBad {
		program = append(program, opGarbage, 0, 0)
	}
	return append(program, opTime, 0, 1, opGarbage, 0, 0)
}

func live(t *testing.T, program []byte) {
	t.Helper()
	if len(program) < 4 {
		return
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, program[0])
		rest := program[1:]
		for range maxOperations {
			if len(rest) < 3 || t.Failed() {
				break
			}
			w.do(rest[0], int(rest[1]), int(rest[2]))
			w.compare()
			rest = rest[3:]
		}
		w.end()
		if t.Failed() {
			t.Logf("the program %x:\n%s", program, w.story())
		}
	})
}

// The operations, each with what the model says about it.
const (
	opConnect = iota
	opSubscribe
	opUnsubscribe
	opPublish
	opPresence
	opClientSub
	opClientUnsub
	opClientPush
	opClientSend
	opClientClose
	opPush
	opFlood
	opSend
	opBroadcast
	opServiceSubscribe
	opServiceUnsubscribe
	opDisconnect
	opPeerCloses
	opCut
	opGarbage
	opHook
	opTime
	opShutdown
	operations
)

var (
	ids      = []string{"ann", "bob", "cat"}
	channels = []string{"a", "b", "told"} // joins and leaves are told in the last
)

// do carries out one operation. It does nothing when nobody is there to do it.
func (w *world) do(op byte, who, what int) {
	op %= operations
	node, id, channel := who%len(w.nodes), ids[who/2%len(ids)], channels[what%len(channels)]
	switch op {
	case opConnect:
		w.connect(node, id, what)
	case opPush, opFlood, opBroadcast, opSend:
		w.push(op, node, id, channel, what)
	case opServiceSubscribe, opServiceUnsubscribe, opDisconnect:
		w.command(op, node, id, channel, what)
	case opTime:
		w.pass(what)
	case opShutdown:
		if what%4 == 0 {
			w.shutdown(node)
		}
	default:
		if open := w.open(); len(open) > 0 {
			w.doOne(op, open[who%len(open)], channel, what)
		}
	}
}

// doOne carries out an operation of one connection.
func (w *world) doOne(op byte, l *life, channel string, what int) {
	switch op {
	case opSubscribe:
		w.noteLine("%s subscribes to %s", l, channel)
		w.ask(l, "subscribe", channel, "")
		w.join(l, channel)
	case opUnsubscribe:
		w.noteLine("%s unsubscribes from %s", l, channel)
		w.ask(l, "unsubscribe", channel, "")
		w.leave(l, channel)
	case opPublish:
		w.noteLine("%s publishes to %s", l, channel)
		w.published(channel, w.ask(l, "message", channel, ""), l.id, nil)
	case opPresence:
		w.presence(l, channel)
	case opClientSub, opClientUnsub, opClientPush, opClientSend, opClientClose:
		w.callClient(op, l, channel, what)
	case opPeerCloses:
		w.noteLine("%s says goodbye", l)
		l.peer.closes(1000)
		w.over(1000, l)
	case opCut:
		w.noteLine("%s is cut", l)
		l.peer.cut()
		w.over(0, l)
	case opGarbage:
		w.garbage(l, what)
	case opHook:
		w.hook(l, channel, what)
	}
}
