package core_test

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// crowd subscribes so many clients to the channel "room" that no publisher runs its turn by the way, and so few that a
// reader does. Each tells took what it is written.
func crowd(t testing.TB, s *core.Service, n int, took func(frames []byte)) {
	t.Helper()
	for i := range n {
		sub(t, core.AttachStub(s, "crowd "+strconv.Itoa(i), took), "room")
	}
}

func inRoom(id, text string) core.Message {
	return core.Message{Type: "message", ID: id, Channel: "room", Message: text}
}

func TestAPublisherIsAnsweredBeforeItsMessageIsWrittenToEverybody(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, permissive())
	release := make(chan struct{})
	crowd(t, s, 10, func(frames []byte) {
		if bytes.Contains(frames, []byte("hello")) {
			<-release
		}
	})
	p, _ := wireTCP(t, s, "ann")
	p.send(inRoom("1", "hello"))
	if got := p.text(); !bytes.Contains([]byte(got), []byte(`"receive"`)) {
		t.Errorf("got %s", got)
	}
	close(release)
}

func TestAMessageDoesNotWaitForTheHookOfTheOneBehindIt(t *testing.T) {
	t.Parallel()
	provider := permissive()
	release, delivered := make(chan struct{}), make(chan struct{}, 10)
	provider.Publish = func(_ *core.Client, m *core.Message) error {
		if m.Message == "slow" {
			<-release
		}
		return nil
	}
	s := coretest.Run(t, provider)
	crowd(t, s, 10, func(frames []byte) {
		if bytes.Contains(frames, []byte("quick")) {
			delivered <- struct{}{}
		}
	})
	p, _ := wireTCP(t, s, "ann")
	p.write(1, []byte(`{"type":"message","channel":"room","message":"quick"}`), `{"type":"message","channel":"room","message":"slow"}`)
	for range 10 {
		<-delivered
	}
	close(release)
	p.ping()
}

// A driver may keep a publication, and deliver it when the reader that could have run its turn has gone on.
func TestAPublicationThatIsDeliveredLateHasItsTurn(t *testing.T) {
	t.Parallel()
	d := &later{Driver: drivers.NewMemoryDriver()}
	s := coretest.RunOn(t, d, permissive())
	delivered := make(chan struct{}, 10)
	crowd(t, s, 10, func(frames []byte) {
		if bytes.Contains(frames, []byte("hello")) {
			delivered <- struct{}{}
		}
	})
	p, _ := wireTCP(t, s, "ann")
	p.send(inRoom("", "hello"))
	p.ping() // the reader has handled it
	d.settle(1)
	for range 10 {
		<-delivered
	}
}

func TestABatchGrowsWhileItsTurnWaitsForASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coretest.Run(t, permissive())
		var writes atomic.Int64
		crowd(t, s, 100, func([]byte) { writes.Add(1) })
		synctest.Wait() // they have been told of each other
		writes.Store(0)
		release := core.HoldSlots(s)
		for n := range 10 {
			push(t, s, "room", number(n))
			synctest.Wait()
		}
		release()
		synctest.Wait()
		if got := writes.Load(); got != 100 {
			t.Errorf("%d writes, want one to each of the 100", got)
		}
	})
}
