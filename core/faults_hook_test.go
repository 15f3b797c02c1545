package core_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
	"github.com/duxweb/go-ws/drivers"
)

func TestAHookThatEndsItsGoroutineEndsItsConnectionOnly(t *testing.T) {
	t.Parallel()
	for hook, provoke := range causes {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				book, logged := keepJournal(t)
				d := &diary{}
				s := start(t, drivers.NewMemoryDriver(), logged, everyHook(func(name string, c *core.Client) error {
					if name == core.EventOnline || name == core.EventOffline {
						_ = d.note(name, c)
					}
					if name == hook && c.ClientID == "ann" {
						runtime.Goexit() // as t.Fatal in a hook of a test does
					}
					return nil
				}))
				bystander, _ := connect(t, s, "bystander")
				ann := coretest.Connect(t, s, user("ann"))
				provoke(ann)
				why := ann.Closed()
				if hook != core.EventOffline && why.Code != core.CloseInternal {
					t.Error(why)
				}
				<-time.After(2 * time.Second)
				if found := core.FindClients(s, "", "ann"); len(found) != 0 || s.Stats().Hooks != 0 {
					t.Errorf("%d are still there; %+v", len(found), s.Stats())
				}
				book.has("ERROR", hook+" ended its goroutine", "client=ann")
				bystander.Nothing()
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if hook != core.EventOnline { // which has not returned
					d.balanced(t)
				}
			})
		})
	}
}

// brokenError is an error type whose pointer may be nil, as that of many programs, and is then returned as an error that is not.
type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

// chainError is one that is asked for its cause, too.
type chainError struct{ cause error }

func (e *chainError) Error() string { return "a chain" }

func (e *chainError) Unwrap() error { return e.cause }

func TestAHookWhoseErrorIsANilPointerHarmsItsOwnConnectionOnly(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"of a program": (*brokenError)(nil), "of a program, with a cause": (*chainError)(nil), "of the core": (*core.Error)(nil),
		"a refusal": (*core.Refusal)(nil), "wrapped": fmt.Errorf("users: %w", (*core.Error)(nil)), "a close": (*core.CloseError)(nil),
	} {
		for hook, provoke := range causes {
			t.Run(name+" in "+hook, func(t *testing.T) {
				t.Parallel()
				s := coretest.Run(t, core.WithLogger(nil), everyHook(func(name string, c *core.Client) error {
					if name == hook && c.ClientID == "ann" {
						return err
					}
					return nil
				}))
				bystander, _ := connect(t, s, "bystander")
				ann := coretest.Connect(t, s, user("ann"))
				provoke(ann)
				switch hook {
				case core.EventOnline:
					if why := ann.Closed(); why.Code != core.CloseInternal && why.Code != core.CloseRefused {
						t.Error(why)
					}
				case core.EventPing:
					ann.Expect("pong")
				case core.EventOffline:
				default:
					if got := ann.Expect("error"); got.Code != 500 {
						t.Error(got.Raw)
					}
				}
				bystander.Nothing()
			})
		}
		t.Run(name+" in Auth", func(t *testing.T) {
			t.Parallel()
			s := coretest.Run(t, core.WithLogger(nil), &core.Provider{Auth: func(string) (map[string]any, error) { return nil, err }})
			_, refused := s.Admit(t.Context(), coretest.Handshake())
			var r *core.Refusal
			if !errors.As(refused, &r) || r.Status != 503 && r.Status != 401 {
				t.Error(refused)
			}
		})
	}
}

// The program's own goroutine meets the panic, as with json.Marshal: nothing has begun by then.
func TestAPayloadWhoseEncodingPanicsHarmsItsCallerOnly(t *testing.T) {
	t.Parallel()
	s := coretest.Run(t, core.WithLogger(nil), hooked())
	ann, client := connect(t, s, "ann")
	sub(t, client, "room")
	for name, verb := range map[string]func() error{
		"Service.Push": func() error { return s.Push([]string{"room"}, bomb{}) },
		"Broadcast":    func() error { return s.Broadcast(t.Context(), bomb{}) },
		"Service.Send": func() error { return s.Send(t.Context(), "ann", bomb{}) },
		"Client.Push":  func() error { return client.Push([]string{"room"}, bomb{}) },
		"Client.Send":  func() error { return client.Send(bomb{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			_ = verb()
		}()
	}
	ann.Nothing()
	push(t, s, "room", number(1))
	ann.Expect("n")
}

// A context that has ended is not waited beyond, whatever the driver does.
func TestACallWhoseContextIsCancelledReturnsWithIt(t *testing.T) {
	t.Parallel()
	for verb := range driverCalls {
		if verb == "Register" || verb == "Unsubscribe" || verb == "Close" || verb == "Leave" { // not of a program's call
			continue
		}
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &trigger{verb: verb, at: 1, on: true}
				s := coretest.RunOn(t, faultyDriver{drivers.NewMemoryDriver(), f, driverFaults["hangs"]}, permissive(), core.WithLogger(nil))
				connect(t, s, "ann")
				f.arm()
				ctx, cancel := context.WithCancel(t.Context())
				calls := []func() error{
					func() error { return s.PushContext(ctx, []string{"room"}, "x") },
					func() error { return s.Broadcast(ctx, "x") },
					func() error { return s.Send(ctx, "ann", "x") },
					func() error { return s.Subscribe(ctx, "ann", "room") },
					func() error {
						_, err := s.Members(ctx, "room", 0)
						return err
					},
					func() error {
						_, err := s.Count(ctx, "room")
						return err
					},
					func() error {
						_, err := s.Online(ctx, "ann")
						return err
					},
				}
				errs := make(chan error, len(calls))
				for _, call := range calls {
					go func() { errs <- call() }() // ends with ctx
				}
				<-time.After(time.Second)
				cancel()
				synctest.Wait()
				failed := 0
				for range calls {
					select {
					case err := <-errs:
						if err != nil {
							failed++
							if !errors.Is(err, context.Canceled) || !errors.Is(err, core.ErrUnavailable) {
								t.Error(err)
							}
						}
					default:
						t.Error("a call goes on")
					}
				}
				if failed == 0 {
					t.Error("no call has met the driver")
				}
				f.disarm()
			})
		})
	}
}
