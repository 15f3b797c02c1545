package core_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

// brokenLog is a handler of a log that a test breaks.
type brokenLog struct {
	mu     sync.Mutex // guards handle
	handle func() error

	noAttrs bool // WithAttrs panics
}

func (l *brokenLog) breaks(handle func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handle = handle
}

func (*brokenLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *brokenLog) Handle(context.Context, slog.Record) error {
	l.mu.Lock()
	handle := l.handle
	l.mu.Unlock()
	if handle == nil {
		return nil
	}
	return handle()
}

func (l *brokenLog) WithAttrs([]slog.Attr) slog.Handler {
	if l.noAttrs {
		panic("a mistake in the log")
	}
	return l
}

func (l *brokenLog) WithGroup(string) slog.Handler { return l }

// The log is written by readers, drainers, the sweeper and who closes: none of them may stop for it.
func TestALogThatFailsHarmsNobody(t *testing.T) {
	t.Parallel()
	for kind, handle := range map[string]func(mended <-chan struct{}) error{
		"it panics":                  func(<-chan struct{}) error { panic("a mistake in the log") },
		"it panics before it begins": func(<-chan struct{}) error { return nil },
		"its disk is full":           func(<-chan struct{}) error { return syscall.ENOSPC },
		"nobody reads its pipe": func(mended <-chan struct{}) error {
			<-mended
			return nil
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				broken, mended := &brokenLog{noAttrs: kind == "it panics before it begins"}, make(chan struct{})
				defer close(mended)
				d := &diary{}
				p := asks(d)
				p.Message = func(m *core.Message, _ *core.Client) error {
					switch m.Type {
					case "panics":
						panic("in a hook")
					case "hangs":
						<-time.After(15 * time.Second)
					}
					return m.Reply("well")
				}
				sc := &scene{t: t, d: d, s: start(t, drivers.NewMemoryDriver(), core.WithOutboxBytes(8<<10), core.WithLogger(slog.New(broken)), p)}
				sc.settle = func(func() bool) { synctest.Wait() }
				sc.setUp()
				broken.breaks(func() error { return handle(mended) })
				server, client := net.Pipe()
				sc.s.Attach(server, nil, sc.admit("ann"))
				ann := newWitness(t, client)
				ann.say(core.Message{ID: "1", Type: "panics"})
				ann.say(core.Message{ID: "2", Type: "hangs"})
				ann.say(core.Message{ID: "3", Type: "ask"})
				wirePipe(t, sc.s, "does not read")
				if err := sc.s.Subscribe(t.Context(), "does not read", "room"); err != nil {
					t.Fatal(err)
				}
				for range 30 {
					sc.push()
					synctest.Wait()
				}
				if stats := sc.s.Stats(); stats.Slow != 1 {
					t.Errorf("%+v", stats)
				}
				vanished, _ := wirePipe(t, sc.s, "vanished")
				go func() { _, _ = io.Copy(io.Discard, vanished.nc) }() // ends with the connection
				<-time.After(time.Minute)
				if want := []string{"error1 500", "receive2", "receive3"}; !slices.Equal(ann.heard(), want) {
					t.Errorf("ann heard %v, want %v", ann.heard(), want)
				}
				for _, id := range []string{"vanished", "does not read"} {
					if len(core.FindClients(sc.s, "", id)) != 0 {
						t.Errorf("%s is still there: the sweeper has stopped", id)
					}
				}
				_ = ann.nc.Close()
				<-time.After(5 * time.Second)
				sc.unharmed()
				sc.shutDown()
			})
		})
	}
}

// What a log that hangs has not been given is counted in the next line that it takes.
func TestALogThatWasStuckSaysHowManyLinesItHasLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book, _ := keepJournal(t)
		mended := make(chan struct{})
		s := coretest.Run(t, core.WithLogger(slog.New(stuckHandler{slog.NewTextHandler(book, nil), mended})))
		knocks := func(n int) {
			for range n {
				if _, err := s.Admit(t.Context(), coretest.Handshake()); err == nil {
					t.Error("admitted without Auth")
				}
			}
		}
		begun := time.Now()
		knocks(4)
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("four lines took %v", waited)
		}
		close(mended)
		synctest.Wait()
		knocks(2)
		if lines := book.with("gows: refused"); len(lines) != 3 {
			t.Error(lines)
		}
		book.has("lost=3")
	})
}

// stuckHandler hands on lines once the log is mended.
type stuckHandler struct {
	slog.Handler
	mended <-chan struct{}
}

func (h stuckHandler) Handle(ctx context.Context, r slog.Record) error {
	<-h.mended
	return h.Handler.Handle(ctx, r)
}
