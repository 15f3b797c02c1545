package adaptertest

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

func (s *stage) serverCloses() {
	came := make(chan *core.Client, 1)
	provider := everybody()
	provider.Event = func(name string, client *core.Client) error {
		if name == core.EventOnline {
			came <- client
		}
		return nil
	}
	th := s.open(provider)
	quickest := time.Hour
	for range 3 { // something else may keep the machine busy
		alice := th.connect("/ws?token=alice", nil)
		client := <-came
		began := time.Now()
		if err := client.Close(4001, "bye"); err != nil {
			s.Fatal(err)
		}
		if closed := alice.closes(); closed.Code != 4001 || closed.Text != "bye" {
			s.Error(closed)
		}
		quickest = min(quickest, time.Since(began))
	}
	if quickest > 100*time.Millisecond {
		s.Errorf("the close was seen after %v", quickest)
	}
}

func (s *stage) clientCloses() {
	left := make(chan string, 2)
	provider := everybody()
	provider.Event = func(name string, client *core.Client) error {
		if name == core.EventOffline {
			left <- client.Token
		}
		return nil
	}
	th := s.open(provider)
	alice, bob := th.connect("/ws?token=alice", nil), th.connect("/ws?token=bob", nil)
	if err := alice.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(time.Second)); err != nil {
		s.Fatal(err)
	}
	if closed := alice.closes(); closed.Code != 1000 {
		s.Error(closed)
	}
	if name := <-left; name != "alice" {
		s.Error(name)
	}
	_ = bob.NetConn().Close() // without a word
	if name := <-left; name != "bob" {
		s.Error(name)
	}
}

func (s *stage) shutdown() {
	th := s.open(everybody())
	alice, bob := th.connect("/ws?token=alice", nil), th.connect("/ws?token=bob", th.page())
	ctx, cancel := context.WithTimeout(context.Background(), coretest.Patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- th.service.Shutdown(ctx) }()
	for _, c := range []*conn{alice, bob} {
		if closed := c.closes(); closed.Code != core.CloseRestart || closed.Text != "restarting" {
			s.Error(closed)
		}
	}
	if err := <-down; err != nil {
		s.Error(err)
	}
	th.knock("/ws?token=carol", nil).is(s.T, http.StatusServiceUnavailable, core.CloseRestart, "restarting")
	th.knock("/ws?token=carol", th.page()).is(s.T, http.StatusSwitchingProtocols, core.CloseRestart, "restarting")
}

// descriptors counts the open files of this process, where the system lists them.
func descriptors() int {
	files, _ := os.ReadDir("/proc/self/fd")
	return len(files)
}

func (s *stage) nothingIsLeftBehind() {
	connections := 2000
	if s.secure { // most of the time would go into cryptography
		connections = 200
	}
	th := s.open(everybody())
	visit := func(i int) {
		path, h := "/ws?token=alice", http.Header(nil)
		switch i % 4 {
		case 1:
			h = th.page()
		case 2: // refused by a status
			_ = th.knock("/ws", nil)
			return
		case 3: // refused by a close
			_ = th.knock("/ws", th.page())
			return
		}
		c := th.connect(path, h)
		if i%8 < 4 {
			c.whoami()
		}
		_ = c.Close()
	}
	settled := func() bool { return th.service.Stats().Connections == 0 }
	for i := range 16 { // what the first ones make stays
		visit(i)
	}
	eventually(s, coretest.Patience, "the first to leave", settled)
	goroutines, files := runtime.NumGoroutine(), descriptors()
	var visits sync.WaitGroup
	for worker := range 8 {
		visits.Go(func() {
			for i := worker; i < connections; i += 8 {
				visit(i)
			}
		})
	}
	visits.Wait()
	const slack = 20
	patience := 3 * coretest.Patience // fasthttp's idle workers live for 10 s
	eventually(s, patience, "goroutines and descriptors to be as many as before", func() bool {
		return settled() && runtime.NumGoroutine() <= goroutines+slack && descriptors() <= files+slack
	})
}

func (s *stage) oneGoroutineEach() {
	const connections = 100
	th := s.open(everybody())
	th.connect("/ws?token=first", nil).whoami()
	before := runtime.NumGoroutine()
	for range connections {
		th.connect("/ws?token=alice", nil).whoami()
	}
	each := 1
	if s.secure || s.host.Holds { // with Fiber, a connection on TLS is the server's until its handler returns
		each = 2
	}
	eventually(s, coretest.Patience, "the handlers to return", func() bool {
		return runtime.NumGoroutine() <= before+each*connections+connections/10
	})
}
