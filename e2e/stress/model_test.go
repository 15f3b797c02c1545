package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
)

var (
	strict = &kind{prefix: "room", strict: true}
	loose  = &kind{prefix: "drop"}
	newest = &kind{prefix: "last", latest: true}
)

// pushed returns a channel to which ann has pushed so many messages, all but the failed with success.
func pushed(k *kind, count int, failed ...int) *channel {
	ch := &channel{place: "many/", name: k.prefix + ":1", kind: k, streams: map[string]*stream{}}
	push(ch, count, failed...)
	return ch
}

func push(ch *channel, count int, failed ...int) {
	for range count {
		n := ch.begin("ann")
		var err error
		if slices.Contains(failed, n) {
			err = errors.New("nobody knows")
		}
		ch.end("ann", n, err)
	}
}

func TestAReceptionSeesWhatIsLostDoubledOrReordered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what   string
		kind   *kind
		before int // pushed before subscribe was answered
		failed []int
		come   []int
		wrong  string // at one that comes
		lacks  string // at the quiet point; 9 are pushed in all
	}{
		{what: "all", kind: strict, come: []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{what: "all from the answer on", kind: strict, before: 4, come: []int{5, 6, 7, 8, 9}},
		{what: "some from before the answer", kind: strict, before: 4, come: []int{3, 4, 5, 6, 7, 8, 9}},
		{what: "the first is lost", kind: strict, before: 4, come: []int{6, 7, 8, 9}, wrong: "5 of ann did not come before 6"},
		{what: "one is lost", kind: strict, come: []int{1, 2, 4}, wrong: "3 of ann did not come before 4"},
		{what: "one is lost from before the answer, but behind others", kind: strict, before: 4, come: []int{2, 4}, wrong: "3 of ann"},
		{what: "the last is lost", kind: strict, come: []int{1, 2, 3, 4, 5, 6, 7, 8}, lacks: "9 of ann has not come"},
		{what: "nothing comes", kind: strict, before: 4, lacks: "5 of ann has not come"},
		{what: "nothing comes, and nothing must", kind: strict, before: 9},
		{what: "one that failed does not come", kind: strict, failed: []int{3, 9}, come: []int{1, 2, 4, 5, 6, 7, 8}},
		{what: "one that failed comes", kind: strict, failed: []int{3}, come: []int{1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{what: "doubled", kind: strict, come: []int{1, 2, 2}, wrong: "2 of ann came after 2"},
		{what: "reordered", kind: loose, come: []int{1, 3, 2}, wrong: "2 of ann came after 3"},
		{what: "dropped where that may be", kind: loose, come: []int{1, 5}},
		{what: "the latest", kind: newest, come: []int{1, 9}},
		{what: "not the latest", kind: newest, come: []int{1, 8}, lacks: "9 of ann has not come"},
		{what: "the latest doubled", kind: newest, come: []int{9, 9}, wrong: "9 of ann came after 9"},
	} {
		ch := pushed(c.kind, c.before, c.failed...)
		r := newReception(ch)
		for _, n := range c.come {
			if n < c.before && c.before > 0 && r.take("ann", n) != nil {
				t.Errorf("%s: %d", c.what, n)
			}
		}
		r.settle()
		push(ch, 9-c.before, c.failed...)
		var err error
		for _, n := range c.come {
			if n >= c.before || c.before == 0 {
				err = errors.Join(err, r.take("ann", n))
			}
		}
		if got := errText(err); !strings.Contains(got, c.wrong) || (c.wrong == "") != (err == nil) {
			t.Errorf("%s: take: %q, want %q", c.what, got, c.wrong)
		}
		if c.wrong != "" {
			continue
		}
		if got := errText(r.missing()); !strings.Contains(got, c.lacks) || (c.lacks == "") != (got == "") {
			t.Errorf("%s: missing: %q, want %q", c.what, got, c.lacks)
		}
	}
}

func TestAGapExcusesWhatHadBegunAndNothingElse(t *testing.T) {
	t.Parallel()
	ch := pushed(strict, 0)
	r := newReception(ch)
	r.settle()
	push(ch, 3)
	if err := r.take("ann", 1); err != nil {
		t.Fatal(err)
	}
	if r.missing() == nil {
		t.Error("2 and 3 are not missed")
	}
	r.excuse()
	if err := r.missing(); err != nil {
		t.Error("excused, but:", err)
	}
	push(ch, 2)
	if err := r.take("ann", 5); err == nil {
		t.Error("4 began behind the gap, and is not missed")
	}
}

func TestAnEpochBeginsWithNothing(t *testing.T) {
	t.Parallel()
	ch := pushed(strict, 5)
	r := newReception(ch)
	r.settle()
	push(ch, 1)
	_ = r.take("ann", 6)
	ch.forget()
	r.renew()
	push(ch, 2)
	if err := r.take("ann", 2); err == nil {
		t.Error("1 of the new epoch is not missed")
	}
}

func TestAnEndIsJudgedByBothSides(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allowed, seen, cause int
		mute, good           bool
	}{
		{allowed: core.CloseKicked, seen: core.CloseKicked, cause: core.CloseKicked, good: true},
		{allowed: core.CloseKicked, seen: 1002, cause: 1002},
		{allowed: core.CloseKicked, seen: lostCode, cause: core.CloseKicked},
		{allowed: core.CloseTooSlow, seen: lostCode, cause: core.CloseTooSlow, mute: true, good: true},
		{allowed: core.CloseTooSlow, seen: 1000, cause: core.CloseTooSlow, mute: true},
		{allowed: lostCode, seen: lostCode, cause: core.CloseInternal, mute: true},
	} {
		v := verdict{mute: c.mute}
		v.allow(c.allowed, "a reason")
		if err := v.judge(c.seen, c.cause); (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// deaf is a connection without a socket.
func deaf() (*conn, *failures) {
	f := &failures{stop: func() {}}
	s := &stage{failures: f, conns: map[string]*conn{}, kicks: map[string]string{}}
	s.epoch.Store(1)
	ch := pushed(strict, 3)
	p := &place{name: "many/", group: &group{stage: s}, channels: map[string]*channel{"": ch, ch.name: ch}}
	a := &actor{stage: s, place: p, identity: &identity{id: "bob"}, temper: tempers[0]}
	c := &conn{
		actor: a, node: &node{name: "many0"}, born: &life{}, id: "bob", token: "1.1", over: make(chan struct{}),
		asked: map[string]*question{}, got: map[int]bool{}, owed: map[int]bool{}, subs: map[string]*reception{},
	}
	return c, f
}

func TestAConnectionFailsOnWhatIsNotForIt(t *testing.T) {
	t.Parallel()
	load := func(place, channel string, epoch int) string {
		return fmt.Sprintf(`{"type":"load","channel":%q,"message":%q}`, "room:1", stamp{epoch, place, channel, "ann", 1}.text(3))
	}
	for text, want := range map[string]string{
		load("many/", "room:1", 1):                        "not subscribed",
		load("many/shop", "room:1", 1):                    "came to many/",
		load("many/", "room:2", 1):                        "came to many/",
		load("many/", "room:1", 0):                        "epoch",
		`{"type":"receive","id":"9"}`:                     "an answer to nothing",
		`{"type":"error","code":400}`:                     "without an id",
		`{"type":"strange"}`:                              "of type",
		`not json`:                                        "not JSON",
		`{"type":"unsubscribed","channel":"x"}`:           "by nobody",
		`{"type":"join","channel":"room:1","client":"x"}`: "which it is not in",
		fmt.Sprintf(`{"type":"sent","message":%q}`, stamp{1, "many/", "eve", "send", 1}.text(0)): "was sent",
	} {
		c, f := deaf()
		c.hears([]byte(text))
		if got := errText(f.err()); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestAConnectionFailsOnASecondAnswerAndASecondMessage(t *testing.T) {
	t.Parallel()
	c, f := deaf()
	c.question(nil, said{Type: "ping"}, 0, nil)
	sent := fmt.Sprintf(`{"type":"sent","message":%q}`, stamp{1, "many/", "bob", "send", 1}.text(0))
	for _, text := range []string{`{"type":"pong","id":"1"}`, sent} {
		if c.hears([]byte(text)); f.err() != nil {
			t.Fatal(f.err())
		}
	}
	for i, text := range []string{`{"type":"pong","id":"1"}`, sent} {
		if c.hears([]byte(text)); f.count != i+1 {
			t.Errorf("%s is not seen", text)
		}
	}
}

func TestAFailureTellsSeedAndWhatCameBefore(t *testing.T) {
	t.Parallel()
	c, f := deaf()
	f.replay = "go run ./stress -seed 7"
	for i := range 2 * traceSize {
		c.actor.trace.note("did", "something", i)
	}
	c.fail("broken")
	text := errText(f.err())
	for _, want := range []string{"-seed 7", "broken", "did something 99", "did something 50", "1.1"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if strings.Contains(text, "did something 49") {
		t.Error("more than the last events are told")
	}
}
