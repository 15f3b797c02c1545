package drivers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
)

func TestMemoryDriver(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		driver := drivers.NewMemoryDriver()
		return drivertest.Harness{Driver: func() core.Driver { return driver }, Answers: true}
	})
}

// room is the topic that the tests below publish in.
var room = core.Topic{App: "app", Channel: "room"}

func open(t testing.TB, driver core.Driver, node core.Node) core.Link {
	t.Helper()
	link, err := driver.Open(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return link
}

// openIn opens a node that is subscribed to room.
func openIn(t testing.TB, driver core.Driver, node core.Node) core.Link {
	t.Helper()
	link := open(t, driver, node)
	if err := link.Subscribe(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	return link
}

// publish publishes "hi" in room and returns what done was called with before Publish returned, and what that returned.
func publish(ctx context.Context, link core.Link) (done []error, err error) {
	err = link.Publish(ctx, core.Publication{Topic: room, Payload: []byte("hi")}, func(err error) { done = append(done, err) })
	return slices.Clone(done), err
}

func TestMemoryDeliversBeforePublishReturns(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	a, b := drivertest.NewNode(), drivertest.NewNode()
	link := openIn(t, driver, a)
	openIn(t, driver, b)
	done, err := publish(t.Context(), link)
	if err != nil || !slices.Equal(done, []error{nil}) {
		t.Fatalf("Publish returned %v, done was called with %v", err, done)
	}
	for _, node := range []*drivertest.Node{a, b} {
		if got := node.Got(room); !slices.Equal(got, []string{"hi"}) {
			t.Errorf("got %q", got)
		}
	}
}

func TestMemoryPublisherWaitsForRoom(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	node := drivertest.NewNode()
	link := openIn(t, driver, node)
	node.Fill(room)
	var publishing sync.WaitGroup
	publishing.Go(func() { _, _ = publish(t.Context(), link) })
	for node.Waiting(room) == 0 {
		<-time.After(time.Millisecond)
	}
	if got := node.Got(room); len(got) > 0 {
		t.Errorf("the topic is full, and yet %q came in", got)
	}
	node.Drain(room)
	publishing.Wait()
	if got := node.Got(room); !slices.Equal(got, []string{"hi"}) {
		t.Errorf("got %q", got)
	}
}

func TestMemoryPublishReturnsWhyNobodyTookIt(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	a, b := drivertest.NewNode(), drivertest.NewNode()
	link := openIn(t, driver, a)
	openIn(t, driver, b)
	for _, node := range []*drivertest.Node{a, b} {
		node.Refuse(room, core.ErrUnavailable)
	}
	done, err := publish(t.Context(), link)
	if !errors.Is(err, core.ErrUnavailable) || len(done) > 0 {
		t.Errorf("Publish returned %v, done was called with %v", err, done)
	}
	if n := a.Gaps(room) + b.Gaps(room); n > 0 {
		t.Errorf("%d gaps for what the publisher knows was refused", n)
	}
}

// A node closes its channels a little before its link.
func TestMemoryNodeThatIsClosingFailsNobodysPublish(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	a, b := drivertest.NewNode(), drivertest.NewNode()
	ofA, ofB := openIn(t, driver, a), openIn(t, driver, b)
	if err := ofA.Unsubscribe(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	b.Refuse(room, core.ErrClosed)
	if done, err := publish(t.Context(), ofA); err != nil || !slices.Equal(done, []error{nil}) {
		t.Errorf("Publish returned %v, done was called with %v", err, done)
	}
	if n := b.Gaps(room); n > 0 {
		t.Errorf("%d gaps for nobody", n)
	}
	if _, err := publish(t.Context(), ofB); !errors.Is(err, core.ErrClosed) {
		t.Errorf("the closing node's own Publish returned %v", err)
	}
}

func TestMemoryPublisherHasNoConnections(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	node := drivertest.NewNode()
	link := openIn(t, driver, node)
	publisher := open(t, driver, nil)
	m := drivertest.NewNode().Member("anna")
	_, joined := publisher.Join(t.Context(), m, room)
	for what, err := range map[string]error{
		"Subscribe": publisher.Subscribe(t.Context(), room),
		"Register":  publisher.Register(t.Context(), "app", m, func(uint64) { t.Error("it got a number") }),
		"Join":      joined,
	} {
		if err == nil {
			t.Errorf("a publisher's %s is no error", what)
		}
	}
	if n, err := link.Count(t.Context(), room); n != 0 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
	if _, err := publish(t.Context(), publisher); err != nil {
		t.Error(err)
	}
	if got := node.Got(room); !slices.Equal(got, []string{"hi"}) {
		t.Errorf("got %q", got)
	}
}

func TestMemoryIsClosedWithErrClosed(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	for name, node := range map[string]core.Node{"node": drivertest.NewNode(), "publisher": nil} {
		link := open(t, driver, node)
		if err := link.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, published := publish(t.Context(), link)
		m := drivertest.NewNode().Member("anna")
		_, joined := link.Join(t.Context(), m, room)
		_, left := link.Leave(t.Context(), m, room)
		_, listed := link.Members(t.Context(), room, 0)
		_, counted := link.Count(t.Context(), room)
		_, found := link.Find(t.Context(), "app", "anna")
		for what, err := range map[string]error{
			"Publish": published, "Join": joined, "Leave": left, "Members": listed, "Count": counted, "Find": found,
			"Subscribe":   link.Subscribe(t.Context(), room),
			"Unsubscribe": link.Unsubscribe(t.Context(), room),
			"Register":    link.Register(t.Context(), "app", m, func(uint64) {}),
			"Command":     link.Command(t.Context(), "", core.Command{}),
		} {
			if !errors.Is(err, core.ErrClosed) {
				t.Errorf("%s: %s returned %v", name, what, err)
			}
		}
	}
}

func TestMemoryKeepsNothingOfWhoHasLeft(t *testing.T) {
	t.Parallel()
	driver := drivers.NewMemoryDriver()
	node := drivertest.NewNode()
	stays := open(t, driver, drivertest.NewNode())
	before := drivers.Kept(driver)
	link := open(t, driver, node)
	for i := range 10 {
		m := node.Member(fmt.Sprint("client ", i%3))
		own := core.Topic{App: "app", Channel: strconv.Itoa(i)}
		_, joined := link.Join(t.Context(), m, own, room)
		if err := errors.Join(link.Subscribe(t.Context(), own, room), joined); err != nil {
			t.Fatal(err)
		}
		if i == 5 { // the rest does not leave before the link is closed
			continue
		}
		_, left := link.Leave(t.Context(), m, own, room, core.Topic{App: "app"})
		if err := errors.Join(link.Unsubscribe(t.Context(), own), left); err != nil {
			t.Fatal(err)
		}
	}
	if err := link.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := drivers.Kept(driver); after != before {
		t.Errorf("%d things are remembered, %d before", after, before)
	}
	if n, err := stays.Count(t.Context(), room); n != 0 || err != nil {
		t.Errorf("Count: %d, %v", n, err)
	}
}
