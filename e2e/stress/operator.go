package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/duxweb/go-ws/core"
)

// operator is a part of the server's program that pushes and gives orders, on one node.
type operator struct {
	stage  *stage
	node   *node
	number int
	latest bool // it alone publishes to channels that have one publisher
	places []*place
	rng    *rand.Rand
	life   *life // of this step
	place  *place
}

const (
	operatorThink = 12 * time.Millisecond // on average
	restartEvery  = 10 * time.Second
)

//nolint:contextcheck // a step that has begun is finished: what it did must be known
func (o *operator) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		d := dice{o.rng.Uint64(), o.rng.Uint64(), o.rng.Uint64(), o.rng.Uint64()}
		think := time.Duration(o.rng.Int64N(int64(2 * operatorThink)))
		o.stage.gate.RLock()
		if ctx.Err() == nil {
			o.life, o.place = o.node.life.Load(), o.places[d.detail%uint64(len(o.places))]
			o.step(d)
		}
		o.stage.gate.RUnlock()
		timer.Reset(think)
	}
}

func (o *operator) step(d dice) {
	p := o.place
	switch n := d.action % 1000; {
	case n < 500:
		o.push(d, p.slim[d.channel%uint64(len(p.slim))])
	case n < 530:
		for i := range 64 + d.amount%100 {
			o.push(dice{amount: 1 + i%50, channel: d.channel}, p.slim[d.channel%uint64(len(p.slim))])
		}
	case n < 650:
		for range 1 + d.amount%8 {
			o.push(d, p.fat[d.channel%uint64(len(p.fat))])
		}
	case n < 700:
		o.push(d, p.slim[d.channel%uint64(len(p.slim))], p.slim[d.amount%uint64(len(p.slim))], p.list[d.action/7%uint64(len(p.list))])
	case n < 710:
		o.push(d, p.hall)
	case n < 715:
		o.broadcast(d)
	case n < 800:
		o.send(d)
	case n < 815:
		o.kick(d)
	case n < 880:
		o.takeIn(d)
	case n < 940:
		o.takeOut(d)
	default:
		o.look(d)
	}
}

// push pushes a message to some channels; to the same only once, so that the order is known.
func (o *operator) push(d dice, channels ...*channel) {
	if o.latest && d.amount%3 == 0 {
		channels = []*channel{o.place.latest[d.channel%uint64(len(o.place.latest))]}
	}
	for _, ch := range channels {
		publisher := fmt.Sprintf("%s-%d", o.life.name, o.number)
		if ch.kind.latest {
			if !o.latest {
				continue
			}
			publisher = "latest" // the same on the next life of the node
		}
		n := ch.begin(publisher)
		text := stamp{int(o.stage.epoch.Load()), ch.place, ch.name, publisher, n}.text(o.stage.padding(ch, d.amount))
		var err error
		if m := (&core.Message{Type: "load", Message: text}); ch.name == "" {
			ctx, cancel := o.soon()
			err = o.life.app(o.place.app).Broadcast(ctx, m)
			cancel()
		} else {
			err = o.life.app(o.place.app).Push([]string{ch.name}, m)
		}
		ch.end(publisher, n, err)
		o.check("push to "+ch.name, err)
		o.stage.count.pushed.Add(1)
	}
}

func (o *operator) broadcast(d dice) { o.push(dice{amount: d.amount | 1}, o.place.broadcasts) }

func (o *operator) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

// check fails on an error that a node in its life may not return.
func (o *operator) check(what string, err error) {
	if errors.Is(err, core.ErrUnavailable) { // the machine cannot keep up with its own load
		o.stage.count.unavailable.Add(1)
		return
	}
	if err != nil && !o.life.isEnd(err) {
		o.stage.fail(o.life.name, fmt.Errorf("%s: %w", what, err))
	}
}

// whom returns an actor of the place.
func (o *operator) whom(d dice) *actor {
	for i := range uint64(len(o.stage.actors)) {
		a := o.stage.actors[(d.amount+i)%uint64(len(o.stage.actors))]
		if a.place == o.place {
			return a
		}
	}
	return nil
}

// ready returns the connections of a client id that have been answered and are open.
func (a *actor) ready() []*conn {
	var ready []*conn
	for _, c := range a.identity.all() {
		c.mu.Lock()
		if c.ready && !c.ended {
			ready = append(ready, c)
		}
		c.mu.Unlock()
	}
	return ready
}

func (o *operator) send(d dice) {
	a := o.whom(d)
	n := int(o.stage.sends.Add(1))
	text := stamp{int(o.stage.epoch.Load()), o.place.name, a.identity.id, "send", n}.text(int(d.detail % 300))
	ready := a.ready()
	ctx, cancel := o.soon()
	defer cancel()
	err := o.life.app(o.place.app).Send(ctx, a.identity.id, &core.Message{Type: "sent", Message: text})
	if err != nil {
		o.refused("send", ready, err)
		return
	}
	o.stage.count.sent.Add(1)
	for _, c := range ready {
		c.mu.Lock()
		c.owed[n] = true
		c.mu.Unlock()
	}
}

// refused looks at the error of a verb: nobody is offline who was there before and is there still.
func (o *operator) refused(verb string, ready []*conn, err error) {
	if !errors.Is(err, core.ErrOffline) {
		if !o.anyEnds() {
			o.check(verb, err)
		}
		return
	}
	for _, c := range ready {
		c.mu.Lock()
		c.doomed = verb + " said that it is offline"
		c.mu.Unlock()
	}
}

// anyEnds reports whether a node of the group ends: a command to it may fail.
func (o *operator) anyEnds() bool {
	for _, n := range o.node.group.nodes {
		if n.life.Load().closing.Load() {
			return true
		}
	}
	return false
}

func (o *operator) kick(d dice) {
	a := o.whom(d)
	reason := o.stage.kick(a.identity.id)
	ready := a.ready()
	ctx, cancel := o.soon()
	defer cancel()
	err := o.life.app(o.place.app).Disconnect(ctx, a.identity.id, int(d.detail%2)*core.CloseKicked, reason)
	if err != nil {
		o.refused("disconnect", ready, err)
		return
	}
	o.stage.count.kicks.Add(1)
	for _, c := range ready {
		c.mu.Lock()
		c.doomed = reason
		c.mu.Unlock()
	}
}

// seize returns a connection whose subscriptions nobody else changes until release, or nil.
func (o *operator) seize(d dice) (c *conn, release func()) {
	a := o.whom(d)
	if a == nil || a.identity.shared || a.room != nil || !a.mu.TryLock() {
		return nil, nil
	}
	if c = a.conn; c == nil || !c.isReady() {
		a.mu.Unlock()
		return nil, nil
	}
	return c, a.mu.Unlock
}

// takeIn subscribes somebody to a channel.
func (o *operator) takeIn(d dice) {
	c, release := o.seize(d)
	if c == nil {
		return
	}
	defer release()
	ch := o.place.pick(c.actor.temper, d.channel)
	r := newReception(ch)
	c.mu.Lock()
	if c.ended || c.subs[ch.name] != nil {
		c.mu.Unlock()
		return
	}
	c.subs[ch.name] = r
	c.mu.Unlock()
	c.actor.trace.note("is taken into", ch.name, 0)
	ctx, cancel := o.soon()
	defer cancel()
	if err := o.life.app(o.place.app).Subscribe(ctx, c.id, ch.name); err != nil {
		o.unsure("subscribe", c, err)
		return
	}
	c.actor.trace.note("has been taken into", ch.name, 0)
	c.mu.Lock()
	r.settle()
	c.mu.Unlock()
	o.stage.count.subscribes.Add(1)
}

// takeOut unsubscribes somebody, and waits until it has heard of it.
func (o *operator) takeOut(d dice) {
	c, release := o.seize(d)
	if c == nil {
		return
	}
	defer release()
	ch := c.one(d.channel)
	if ch == nil {
		return
	}
	c.mu.Lock()
	if r := c.subs[ch.name]; r != nil {
		r.leaving = true
	}
	c.mu.Unlock()
	c.actor.trace.note("is taken out of", ch.name, 0)
	ctx, cancel := o.soon()
	defer cancel()
	if err := o.life.app(o.place.app).Unsubscribe(ctx, c.id, ch.name); err != nil {
		o.unsure("unsubscribe", c, err)
		return
	}
	c.actor.trace.note("has been taken out of", ch.name, 0)
	o.stage.count.unsubscribes.Add(1)
	err := eventually(patience, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.subs[ch.name] != nil {
			return fmt.Errorf("unsubscribed from %s, and not told", ch.name)
		}
		return nil
	})
	if err != nil {
		c.fail("%w", err)
	}
}

// unsure ends a connection of which nobody knows what it is subscribed to.
func (o *operator) unsure(verb string, c *conn, err error) {
	o.refused(verb, nil, err)
	c.tear()
	c.awaitEnd()
}

// look asks what quiet points compare: here only that it answers.
func (o *operator) look(d dice) {
	ctx, cancel := o.soon()
	defer cancel()
	app, ch := o.life.app(o.place.app), o.place.list[d.channel%uint64(len(o.place.list))]
	var err error
	switch d.detail % 3 {
	case 0:
		_, err = app.Count(ctx, ch.name)
	case 1:
		_, err = app.Members(ctx, ch.name, 10)
	case 2:
		_, err = app.Online(ctx, o.whom(d).identity.id)
	}
	o.check("look", err)
}

// restarter ends one node of a group after the other, and starts it again.
type restarter struct {
	group *group
	rng   *rand.Rand
}

//nolint:contextcheck // as above
func (r *restarter) run(ctx context.Context) {
	s := r.group.stage
	for number := 1; ; number++ {
		timer := time.NewTimer(restartEvery/2 + time.Duration(r.rng.Int64N(int64(restartEvery))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		n := r.group.nodes[r.rng.IntN(len(r.group.nodes))]
		s.gate.RLock()
		if ctx.Err() == nil && len(r.group.nodes) > 1 {
			if err := r.restart(n, number); err != nil {
				s.fail(n.name, err)
			}
		}
		s.gate.RUnlock()
	}
}

func (r *restarter) restart(n *node, number int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.end(ctx); err != nil {
		return err
	}
	r.group.stage.count.restarts.Add(1)
	return n.begin(number)
}

// eventually asks until there is no error, and returns the last one.
func eventually(limit time.Duration, ask func() error) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); ; <-ticker.C {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
