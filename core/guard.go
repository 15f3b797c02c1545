package core

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// What is not the core's own may panic: a driver, and the handler of a log. Neither is to end the process, in which a panic
// outside of a request's goroutine ends everybody's connection.

// guardedDriver is a driver whose panics are errors of the calls that met them, and are logged with their stack.
type guardedDriver struct {
	Driver
	log *slog.Logger
}

func (d guardedDriver) Open(ctx context.Context, node Node) (link Link, err error) {
	defer rescue(d.log, &err)
	link, err = d.Driver.Open(ctx, node)
	if err != nil {
		return nil, err
	}
	return guardedLink{link, d.log}, nil
}

type guardedLink struct {
	link Link
	log  *slog.Logger
}

// rescue makes an error of a panic.
func rescue(log *slog.Logger, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("gows: the driver panicked: %v", v)
		log.Error("gows: the driver panicked", "err", *err, "stack", string(debug.Stack()))
	}
}

func (l guardedLink) Publish(ctx context.Context, p Publication, done func(error)) (err error) {
	defer rescue(l.log, &err)
	return l.link.Publish(ctx, p, done)
}

func (l guardedLink) Subscribe(ctx context.Context, topics ...Topic) (err error) {
	defer rescue(l.log, &err)
	return l.link.Subscribe(ctx, topics...)
}

func (l guardedLink) Unsubscribe(ctx context.Context, topics ...Topic) (err error) {
	defer rescue(l.log, &err)
	return l.link.Unsubscribe(ctx, topics...)
}

func (l guardedLink) Register(ctx context.Context, app string, m Member, numbered func(uint64)) (err error) {
	defer rescue(l.log, &err)
	return l.link.Register(ctx, app, m, numbered)
}

func (l guardedLink) Join(ctx context.Context, m Member, topics ...Topic) (first []Topic, err error) {
	defer rescue(l.log, &err)
	return l.link.Join(ctx, m, topics...)
}

func (l guardedLink) Leave(ctx context.Context, m Member, topics ...Topic) (last []Topic, err error) {
	defer rescue(l.log, &err)
	return l.link.Leave(ctx, m, topics...)
}

func (l guardedLink) Members(ctx context.Context, topic Topic, limit int) (members []Member, err error) {
	defer rescue(l.log, &err)
	return l.link.Members(ctx, topic, limit)
}

func (l guardedLink) Count(ctx context.Context, topic Topic) (n int, err error) {
	defer rescue(l.log, &err)
	return l.link.Count(ctx, topic)
}

func (l guardedLink) Find(ctx context.Context, app, clientID string) (found []Member, err error) {
	defer rescue(l.log, &err)
	return l.link.Find(ctx, app, clientID)
}

func (l guardedLink) Command(ctx context.Context, node string, c Command) (err error) {
	defer rescue(l.log, &err)
	return l.link.Command(ctx, node, c)
}

func (l guardedLink) Close(ctx context.Context) (err error) {
	defer rescue(l.log, &err)
	return l.link.Close(ctx)
}

// guardedHandler is the handler of a log, which harms nobody when it panics or does not return: a pipe that nobody reads any
// more would hold up the sweeper, and Shutdown. Nobody can be told of it: this is who would be.
type guardedHandler struct {
	slog.Handler
	jam *jam
}

// jam is what a log has not taken in time.
type jam struct {
	stuck atomic.Int64 // lines it was given and has not returned from in logPatience
	lost  atomic.Int64 // lines it was not given meanwhile
}

const logPatience = time.Second

func (h guardedHandler) Enabled(ctx context.Context, level slog.Level) (on bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

// Handle waits for the log, but no longer than logPatience. While a line is stuck others are left out, and counted in the
// attribute "lost" of the next one.
func (h guardedHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.jam.stuck.Load() > 0 {
		h.jam.lost.Add(1)
		return nil
	}
	if lost := h.jam.lost.Swap(0); lost > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int64("lost", lost))
	}
	var err error
	taken := make(chan struct{})
	go func() { // ends when the log has taken the line
		defer close(taken)
		err = h.give(ctx, r)
	}()
	patience := time.NewTimer(logPatience)
	defer patience.Stop()
	select {
	case <-taken:
		return err
	case <-patience.C:
	}
	h.jam.stuck.Add(1)
	go func() { // ends when the log has taken the line
		<-taken
		h.jam.stuck.Add(-1)
	}()
	return nil
}

func (h guardedHandler) give(ctx context.Context, r slog.Record) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("gows: panic in the log: %v", v)
		}
	}()
	return h.Handler.Handle(ctx, r)
}

func (h guardedHandler) WithAttrs(attrs []slog.Attr) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return guardedHandler{h.Handler.WithAttrs(attrs), h.jam}
}

func (h guardedHandler) WithGroup(name string) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return guardedHandler{h.Handler.WithGroup(name), h.jam}
}
