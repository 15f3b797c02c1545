package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/duxweb/go-ws/core"
)

// station serves a page that has gows.js, and lets the test play the server frame by frame.
type station struct {
	*tab
	accepted chan *peer
}

// peer is the server's end of one connection.
type peer struct {
	t     *testing.T
	conn  *websocket.Conn
	token string
}

type frame = map[string]any

// The page's timers are quick, its dice always show the highest number, and what gows.js says is written down.
const harness = `<!doctype html><link rel="icon" href="data:,"><script type="module">
	import { connect } from '/gows.js'
	const later = setTimeout
	Math.random = () => 1
	Object.assign(window, { waits: [], states: [], heard: [], stray: [], stopped: false, patience: 1, tokens: 0 })
	window.setTimeout = (f, ms, ...rest) => {
		if (f?.name !== 'open') return later(f, ms * patience, ...rest)
		waits.push(ms) // the wait before an attempt
		return stopped ? 0 : later(f, 0, ...rest)
	}
	window.start = (token = () => 'alice') => {
		window.ws = connect('/ws', { token, onmessage: m => stray.push(m.type),
			onstate: (state, words, { code }) => states.push([words, code].join(' ').trim()) })
	}
	window.listen = channel => ws.subscribe(channel, m => heard.push([channel, m.type, m.code ?? ''].join(' ').trim()))
	window.outcome = (...request) => ws.request(...request).then(data => ({ data }), e => ({ code: e.code, text: e.message }))
	window.loaded = true
</script>`

func newStation(t *testing.T, chromium *browser) *station {
	t.Helper()
	s := &station{accepted: make(chan *peer, 1)}
	mux := http.NewServeMux()
	mux.Handle("/gows.js", http.FileServer(http.Dir("../examples/chat/page")))
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, harness) })
	upgrader := websocket.Upgrader{Subprotocols: []string{"gows"}}
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		s.accepted <- &peer{t, conn, core.Token(r.Header, nil)}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.tab = chromium.open(t, server.URL)
	s.expect(networkErrors)
	s.wait(`window.loaded`)
	return s
}

// accept returns the next connection.
func (s *station) accept() *peer {
	s.t.Helper()
	select {
	case p := <-s.accepted:
		s.t.Cleanup(func() { _ = p.conn.Close() })
		return p
	case <-time.After(patience):
		s.t.Fatalf("the page does not connect\n%s\nits states: %v", s.describe(), eval[[]string](s.tab, `states`))
		return nil
	}
}

// next reads a frame and wants it to be of a type.
func (p *peer) next(kind string) frame {
	p.t.Helper()
	var f frame
	if err := p.conn.ReadJSON(&f); err != nil {
		p.t.Fatalf("waiting for %q: %v", kind, err)
	}
	if f["type"] != kind || f["id"] == "" {
		p.t.Fatalf("the page sent %v, want %q with an id", f, kind)
	}
	return f
}

func (p *peer) send(f frame) {
	p.t.Helper()
	if err := p.conn.WriteJSON(f); err != nil {
		p.t.Fatal(err)
	}
}

// answer answers a frame.
func (p *peer) answer(to frame, kind string, more frame) {
	p.t.Helper()
	f := frame{"id": to["id"], "type": kind}
	maps.Copy(f, more)
	p.send(f)
}

// admit does what a server does that lets the page in.
func (p *peer) admit() *peer {
	p.t.Helper()
	p.answer(p.next("ping"), "pong", nil)
	return p
}

// end closes with a code; 1006 means without a word.
func (p *peer) end(code int, reason string) {
	if code != websocket.CloseAbnormalClosure {
		message := websocket.FormatCloseMessage(code, reason)
		_ = p.conn.WriteControl(websocket.CloseMessage, message, time.Now().Add(patience))
	}
	_ = p.conn.Close()
}

func TestGows(t *testing.T) {
	chromium := newBrowser(t)

	t.Run("the backoff grows up to its cap and is reset by the first message only", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start()`)
		for range 7 { // each opens, none is let in
			s.accept().end(3004, "try again")
		}
		s.wait(`waits.join() === '1000,2000,4000,8000,16000,20000,20000'`)
		s.accept().admit().end(3001, "restarting")
		s.wait(`waits.join() === '1000,2000,4000,8000,16000,20000,20000,1000'`)
		s.accept().admit()
		s.wait(`states.slice(-5).join() === 'connecting,connected,reconnecting in 1 s 3001,connecting,connected'`)
	})

	t.Run("which codes end it for good", func(t *testing.T) {
		for _, test := range []struct {
			again bool
			codes []int
		}{
			{true, []int{1000, 1001, 1006, 1011, 1012, 1013, 1014, 3000, 3001, 3005, 3499}},
			{false, []int{1002, 1003, 1007, 1008, 1009, 3500, 3503, 3999, 4000, 4999}},
		} {
			s := newStation(t, chromium)
			eval[any](s.tab, `stopped = true`)
			for _, code := range test.codes {
				eval[any](s.tab, `states.length = 0, start()`)
				s.accept().admit().end(code, "because")
				if test.again {
					s.wait(`states.at(-1) === 'reconnecting in 1 s ' + $1`, code)
					eval[any](s.tab, `ws.close()`)
					continue
				}
				s.wait(`states.at(-1) === 'closed: because ' + $1`, code)
				eval[any](s.tab, `dispatchEvent(new Event('online'))`)
				if got := eval[string](s.tab, `states.at(-1)`); got != fmt.Sprintf("closed: because %d", code) {
					t.Errorf("after %d waking up made it %q", code, got)
				}
			}
		}
	})

	t.Run("every request is settled", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start()`)
		p := s.accept().admit()
		s.wait(`states.at(-1) === 'connected'`)

		eval[any](s.tab, `void outcome({ type: 'sum', data: [1, 2] }).then(o => { window.first = o })`)
		p.answer(p.next("sum"), "receive", frame{"data": 3})
		s.wait(`window.first?.data === 3`)
		eval[any](s.tab, `void outcome({ type: 'sum', id: 'mine' }).then(o => { window.second = o })`)
		f := p.next("sum")
		p.answer(f, "error", frame{"code": 403, "message": "not you"})
		s.wait(`$1 === 'mine' && window.second?.code === 403 && window.second.text === 'not you'`, f["id"])
		if got := eval[int](s.tab, `outcome({ type: 'slow' }, 20).then(o => o.code)`); got != 504 {
			t.Errorf("a request without an answer ended with %d, want 504", got)
		}
		p.answer(p.next("slow"), "receive", nil) // late
		eval[any](s.tab, `void outcome({ type: 'sum' }).then(o => { window.third = o })`)
		p.next("sum")
		eval[any](s.tab, `stopped = true`)
		p.end(1006, "")
		s.wait(`window.third?.code === 503`)
		if got := eval[int](s.tab, `outcome({ type: 'sum' }).then(o => o.code)`); got != 503 {
			t.Errorf("a request without a connection ended with %d, want 503", got)
		}
	})

	t.Run("subscriptions outlive the connection", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start()`)
		p := s.accept().admit()
		s.wait(`states.at(-1) === 'connected'`)
		eval[any](s.tab, `['a', 'b', 'c', 'd'].forEach(listen)`)
		refusals := map[any]frame{"b": {"code": 403, "message": "no"}, "d": {"code": 503, "message": "busy"}}
		for range 4 {
			f := p.next("subscribe")
			if refusal, ok := refusals[f["channel"]]; ok {
				p.answer(f, "error", refusal)
			} else {
				p.answer(f, "receive", nil)
			}
		}
		s.wait(`heard.join() === 'a subscribed,b refused 403,c subscribed'`)
		eval[any](s.tab, `void ws.unsubscribe('c')`)
		p.next("unsubscribe")
		p.send(frame{"type": "message", "channel": "a"})
		p.send(frame{"type": "gap", "channel": "a"})
		p.send(frame{"type": "message", "channel": "c"})
		p.send(frame{"type": "system"})
		s.wait(`heard.slice(3).join() === 'a message,a gap' && stray.join() === 'message,system'`)

		p.end(1006, "")
		p = s.accept()
		p.next("ping")
		var again []any
		for range 2 {
			f := p.next("subscribe")
			again = append(again, f["channel"])
			p.answer(f, "receive", nil)
		}
		if !slices.Equal(again, []any{"a", "d"}) {
			t.Errorf("subscribed again: %v, want a and d", again)
		}
		s.wait(`heard.slice(5).join() === 'a subscribed,d subscribed'`)
		p.send(frame{"type": "unsubscribed", "channel": "a", "code": 403, "message": "removed"})
		s.wait(`heard.at(-1) === 'a unsubscribed 403'`)
		p.end(1006, "")
		p = s.accept()
		p.next("ping")
		if f := p.next("subscribe"); f["channel"] != "d" {
			t.Errorf("subscribed again: %v, want d", f)
		}
	})

	t.Run("a subscribe that failed for now is tried again", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start()`)
		p := s.accept().admit()
		s.wait(`states.at(-1) === 'connected'`)
		eval[any](s.tab, `patience = 0.01, listen('a')`)
		p.answer(p.next("subscribe"), "error", frame{"code": 503, "message": "the driver is away"})
		p.answer(p.next("subscribe"), "receive", nil)
		s.wait(`heard.join() === 'a subscribed'`)
	})

	t.Run("waking up does not wait for the backoff, and finds a dead link", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start()`)
		s.accept().end(3004, "try again")
		p := s.accept().admit()
		s.wait(`states.at(-1) === 'connected'`)
		eval[any](s.tab, `stopped = true`) // the wait is for ever
		p.end(1006, "")
		s.wait(`states.at(-1).startsWith('reconnecting')`)
		eval[any](s.tab, `dispatchEvent(new Event('online'))`)
		p = s.accept().admit()
		s.wait(`states.at(-1) === 'connected'`)

		eval[any](s.tab, `dispatchEvent(new Event('pageshow'))`)
		p.admit() // the link is alive: all stays as it is
		eval[any](s.tab, `stopped = false, patience = 0.01, document.dispatchEvent(new Event('visibilitychange'))`)
		p.next("ping") // and no answer
		s.accept()
		s.wait(`states.slice(-3).join() === 'connected,reconnecting in 1 s 1006,connecting'`)
	})

	t.Run("a server that takes the connection and says nothing is given up", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `patience = 0.01, start()`)
		s.accept()
		s.accept()
	})

	t.Run("the token is asked for every time and may take its time", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start(async () => { if (++tokens === 2) throw new Error('offline'); return '李雷???>>>~~~ ' + tokens })`)
		p := s.accept().admit()
		if p.token != "李雷???>>>~~~ 1" {
			t.Errorf("the first token is %q", p.token)
		}
		p.end(3005, "token expired")
		if p = s.accept(); p.token != "李雷???>>>~~~ 3" { // 2 failed, which was an attempt like any other
			t.Errorf("the next token is %q", p.token)
		}
		s.wait(`waits.join() === '1000,2000'`)
	})

	t.Run("a page may do without a token", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start(() => '')`)
		if p := s.accept().admit(); p.token != "" {
			t.Errorf("the token is %q", p.token)
		}
		s.wait(`states.at(-1) === 'connected'`)
	})

	t.Run("a token that is refused for good ends it, and one that fails or comes too late does not", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `window.fail = (words, code) => { throw Object.assign(new Error(words), { code }) }`)
		eval[any](s.tab, `start(() => fail('a name, please', 3500))`)
		s.wait(`states.join() === 'connecting,closed: a name, please 3500'`)
		eval[any](s.tab, `states.length = 0, start(() => ++tokens === 1 ? fail('busy', 3004) : tokens === 2 ? fail('odd', 12) : 'alice')`)
		s.accept().admit()
		s.wait(`states.join() === 'connecting,reconnecting in 1 s 1006,connecting,reconnecting in 2 s 1006,connecting,connected'`)

		eval[any](s.tab, `ws.close(), patience = 0.01, tokens = 0, states.length = 0`)
		eval[any](s.tab, `start(() => ++tokens > 1 ? 'alice' : new Promise((_, reject) => { window.reject = () => reject(new Error('late')) }))`)
		s.accept().admit() // the first attempt was given up
		s.wait(`states.at(-1) === 'connected'`)
		eval[any](s.tab, `reject(), new Promise(resolve => resolve())`)
		s.wait(`states.join() === 'connecting,reconnecting in 1 s 1006,connecting,connected'`)
	})

	t.Run("close is final, even before the first connection", func(t *testing.T) {
		s := newStation(t, chromium)
		eval[any](s.tab, `start(), ws.close()`)
		s.wait(`states.join() === 'closed: by this page 3500'`)
		eval[any](s.tab, `start(() => new Promise(resolve => { window.later = resolve }))`)
		s.wait(`window.later`)
		eval[any](s.tab, `ws.close(), later('too late')`)
		s.wait(`states.slice(1).join() === 'connecting,closed: by this page 3500'`)
		eval[any](s.tab, `start()`)
		if p := s.accept().admit(); p.token != "alice" {
			t.Errorf("a closed connection connected, with the token %q", p.token)
		}
	})
}
