package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// What the chat's page shows, as JavaScript.
const (
	texts   = `[...document.querySelectorAll('#log .text')].map(e => e.textContent)`
	events  = `[...document.querySelectorAll('#log .event')].map(e => e.textContent)`
	names   = `[...document.querySelectorAll('#people li')].map(e => e.dataset.name)`
	pending = `[...document.querySelectorAll('#log .pending .text')].map(e => e.textContent)`
	state   = `document.querySelector('#state').textContent`
	notice  = `document.querySelector('#notice').textContent`
	title   = `document.querySelector('#room-title').textContent`
)

// chatter is a person in the chat.
type chatter struct{ *tab }

// join opens the page, gives the name and waits to be in the lobby.
func (b *browser) join(t *testing.T, url, name string) chatter {
	t.Helper()
	c := chatter{b.open(t, url)}
	c.wait(`document.activeElement === document.querySelector('#name')`)
	c.say(name)
	c.inRoom("lobby", name)
	return c
}

// inRoom waits until the page shows a room with this person in it.
func (c chatter) inRoom(room, name string) {
	c.t.Helper()
	c.wait(title+` === $1 && `+names+`.includes($2) && `+state+` === 'connected'`, room, name)
}

// say types into whatever has the cursor, which should be the composer.
func (c chatter) say(text string) { c.t.Helper(); c.keys(text); c.enter() }

func (c chatter) goTo(room string) {
	c.t.Helper()
	c.click(fmt.Sprintf(`#rooms [data-room=%s]`, room))
}

// sees waits for a text in the log, or for several in this order with others between.
func (c chatter) sees(messages ...string) {
	c.t.Helper()
	c.wait(`$1.reduce((from, text) => from < 0 ? from : `+texts+`.indexOf(text, from), 0) >= 0`, messages)
}

// sent waits until nothing of one's own is grey any more.
func (c chatter) sent() { c.t.Helper(); c.wait(pending + `.length === 0`) }

// log wants exactly these messages on screen.
func (c chatter) log(want ...string) {
	c.t.Helper()
	if got := eval[[]string](c.tab, texts); strings.Join(got, "\n") != strings.Join(want, "\n") {
		c.t.Errorf("the log shows %q, want %q", got, want)
	}
}

func (c chatter) here(want ...string) { c.t.Helper(); c.wait(names+`.join() === $1.join()`, want) }

// The network being cut shows in the console, which is how a browser reports it.
const networkErrors = `WebSocket connection to|net::ERR_`

// scenarios are what every example does.
var scenarios = []struct {
	name string
	play func(t *testing.T, chromium *browser, binary string)
}{
	{"two talk in a room and a third elsewhere hears nothing", twoTalk},
	{"the server restarts and both come back", restart},
	{"who is kicked sees it and may come back", kick},
	{"an impossible name is refused with the reason", impossibleName},
	{"a reload stays in the chat and shows what was said", reload},
}

func TestChat(t *testing.T) {
	binary, chromium := build(t, "chat"), newBrowser(t)
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.play(t, chromium, binary) })
	}

	t.Run("one's own message is grey until answered", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		network := newLink(t, chat.address)
		alice, bob := chromium.join(t, network.url, "alice"), chromium.join(t, chat.url, "bob")
		alice.wait(events + `.includes('bob joined')`)
		network.hold()
		alice.say("is this on?")
		alice.wait(pending + `.join() === 'is this on?'`)
		bob.sees("is this on?")
		network.release()
		alice.sent()
		alice.log("is this on?")
	})

	t.Run("what was missed while away appears once, and what was written while away is sent once", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		network := newLink(t, chat.address)
		alice, bob := chromium.join(t, network.url, "alice"), chromium.join(t, chat.url, "bob")
		alice.expect(networkErrors)
		bob.say("before")
		alice.sees("before")
		network.cut()
		alice.wait(`/^reconnecting in \d+ s$/.test(` + state + `)`)
		bob.here("bob")
		bob.say("one")
		bob.say("two")
		bob.sent()
		alice.say("from the tunnel")
		alice.wait(pending + `.join() === 'from the tunnel'`)
		network.restore()
		alice.sees("one", "two", "from the tunnel")
		alice.sent()
		bob.sees("from the tunnel")
		alice.wait(`document.querySelector('#log .away').textContent === '2 messages while you were away'`)
		bob.say("after")
		alice.sees("after")
		alice.log("before", "one", "two", "from the tunnel", "after")
		bob.log("before", "one", "two", "from the tunnel", "after")
	})

	t.Run("who missed more than the server remembers is told so", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		network := newLink(t, chat.address)
		alice := chromium.join(t, network.url, "alice")
		alice.expect(networkErrors)
		network.cut()
		alice.wait(state + `.startsWith('reconnecting')`)
		for i := range 51 {
			chat.post("/push?room=lobby", fmt.Sprint("message ", i))
		}
		network.restore()
		alice.wait(`document.querySelector('#log .away')?.textContent === '50 or more messages while you were away'`)
		alice.wait(texts + `.length === 50 && ` + texts + `.at(-1) === 'message 50'`)
	})

	t.Run("a message whose answer was lost is not sent twice", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		network := newLink(t, chat.address)
		alice, bob := chromium.join(t, network.url, "alice"), chromium.join(t, chat.url, "bob")
		alice.expect(networkErrors)
		network.hold()
		alice.say("once")
		bob.sees("once")
		alice.wait(pending + `.join() === 'once'`)
		network.cut()
		network.release()
		alice.wait(state + `.startsWith('reconnecting')`)
		network.restore()
		alice.sent()
		alice.say("twice")
		bob.sees("once", "twice")
		alice.sent()
		alice.log("once", "twice")
		bob.log("once", "twice")
	})

	t.Run("the private room is refused and one stays where one was", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		alice, bob := chromium.join(t, chat.url, "alice"), chromium.join(t, chat.url, "bob")
		alice.goTo("private")
		alice.wait(notice + ` === 'this room is for members only'`)
		alice.inRoom("lobby", "alice")
		alice.say("never mind")
		bob.sees("never mind")
		alice.wait(notice + ` === ''`)
	})

	t.Run("a person with two tabs is listed once", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		bob := chromium.join(t, chat.url, "bob")
		first := chromium.join(t, chat.url, "alice")
		bob.here("bob", "alice")
		second := chromium.join(t, chat.url, "alice")
		second.here("alice", "bob")
		second.say("from the second")
		first.sees("from the second")
		first.wait(`document.querySelectorAll('#log .own').length === 1`)
		second.end() // the tab is closed
		first.say("from the first")
		bob.sees("from the second", "from the first")
		bob.here("bob", "alice")
		first.end()
		bob.here("bob")
		if got := eval[[]string](bob.tab, events); strings.Join(got, ", ") != "alice joined, alice left" {
			t.Errorf("bob was told %q", got)
		}
	})

	t.Run("REST pushes into a room, with the line that the page shows", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		alice := chromium.join(t, chat.url, "alice")
		want := fmt.Sprintf("curl -d hello '%s/push?room=lobby'", chat.url)
		if got := eval[string](alice.tab, `document.querySelector('#curl').textContent`); got != want {
			t.Errorf("the page shows %q, want %q", got, want)
		}
		if status, answer := chat.post("/push?room=lobby", "hello"); status != 200 {
			t.Errorf("push: %d %s", status, answer)
		}
		alice.sees("hello")
		alice.wait(`document.querySelector('#log .message .who').textContent === 'REST'`)
		for path, body := range map[string]string{"/push?room=private": "hello", "/push?room=lobby": " ", "/kick?name=nobody": ""} {
			if status, answer := chat.post(path, body); status != 400 {
				t.Errorf("%s %q: %d %s", path, body, status, answer)
			}
		}
		alice.click("#copy")
		alice.wait(`document.querySelector('#copy').textContent === 'Copied'`)
	})

	t.Run("the keyboard is enough", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		alice := chromium.join(t, chat.url, "alice")
		alice.keys(kb.ArrowDown, chromedp.KeyModifiers(kb.ModifierAlt))
		alice.inRoom("go", "alice")
		alice.keys(kb.ArrowUp, chromedp.KeyModifiers(kb.ModifierAlt))
		alice.inRoom("lobby", "alice")
		eval[any](alice.tab, `document.activeElement.blur()`)
		alice.say("typed with the cursor nowhere")
		alice.sees("typed with the cursor nowhere")
		alice.wait(`document.querySelector('#text').value === ''`)
		alice.keys("two")
		alice.keys("\r", chromedp.KeyModifiers(kb.ModifierShift))
		alice.say("lines")
		alice.sees("two\nlines")
	})

	t.Run("a phone needs no sideways scrolling", func(t *testing.T) {
		t.Parallel()
		chat := newServer(t, binary)
		alice := chromium.join(t, chat.url, "alice")
		alice.do(chromedp.EmulateViewport(360, 640, chromedp.EmulateMobile))
		alice.say(strings.Repeat("long", 50))
		alice.sent()
		alice.wait(`document.documentElement.scrollWidth <= innerWidth`)
		alice.wait(`document.querySelector('#send').getBoundingClientRect().bottom <= innerHeight`)
		alice.click("#here summary")
		alice.wait(`document.querySelector('#people').checkVisibility() && ` + names + `.join() === 'alice'`)
	})
}

func TestTheChatBehindAFramework(t *testing.T) {
	chromium := newBrowser(t)
	for _, example := range []string{"gin", "echo", "fiber"} {
		binary := build(t, example)
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.play(t, chromium, binary) })
			}
			t.Run("a notice to a person is seen in all windows", func(t *testing.T) {
				t.Parallel()
				chat := newServer(t, binary)
				first, second := chromium.join(t, chat.url, "alice"), chromium.join(t, chat.url, "alice")
				_, token := chat.post("/login", "name=bob")
				if status, answer := chat.post("/users/alice/notify?token="+token, "lunch?"); status != 200 {
					t.Fatal(status, answer)
				}
				for _, window := range []chatter{first, second} {
					window.wait(notice + ` === 'lunch?'`)
				}
			})
			t.Run("a token in a query is not logged", func(t *testing.T) {
				t.Parallel()
				chat := newServer(t, binary)
				_, token := chat.post("/login", "name=bob")
				if status, answer := chat.call("GET", "/ws?token="+token, ""); !strings.HasPrefix(token, jwt) || status != 426 {
					t.Errorf("with the token %q: %d %s", token, status, answer)
				}
				chat.stop() // reads the log
				if !strings.Contains(chat.output.String(), "/ws") {
					t.Errorf("the log has no line:\n%s", chat.output.String())
				}
			})
		})
	}
}

func twoTalk(t *testing.T, chromium *browser, binary string) {
	t.Helper()
	t.Parallel()
	chat := newServer(t, binary)
	alice, bob, carol := chromium.join(t, chat.url, "alice"), chromium.join(t, chat.url, "bob"), chromium.join(t, chat.url, "carol")
	carol.goTo("go")
	carol.inRoom("go", "carol")
	alice.here("alice", "bob")
	alice.wait(events + `.includes('carol left')`)

	alice.say("hello <b>bob</b>")
	bob.sees("hello <b>bob</b>") // as text
	bob.say("hello alice")
	alice.sees("hello <b>bob</b>", "hello alice")
	alice.sent()
	bob.wait(`document.querySelector('#log .message .who').textContent === 'alice'`)
	bob.wait(`/^\d\d[:.]\d\d/.test(document.querySelector('#log .message time').textContent)`)

	chat.post("/push?room=go", "for carol only") // what carol was sent before this, she has
	carol.sees("for carol only")
	carol.log("for carol only")

	bob.click("#leave")
	bob.wait(`!document.querySelector('#door').hidden && document.querySelector('#refusal').textContent === ''`)
	alice.wait(events + `.includes('bob left')`)
	alice.here("alice")
}

func restart(t *testing.T, chromium *browser, binary string) {
	t.Helper()
	t.Parallel()
	chat := newServer(t, binary)
	alice, bob := chromium.join(t, chat.url, "alice"), chromium.join(t, chat.url, "bob")
	for _, c := range []chatter{alice, bob} {
		c.expect(networkErrors)
	}
	alice.say("before")
	bob.sees("before")
	chat.stop()
	for _, c := range []chatter{alice, bob} {
		c.wait(`/^(connecting|reconnecting in \d+ s)$/.test(` + state + `)`)
	}
	chat.start()
	alice.inRoom("lobby", "alice")
	bob.inRoom("lobby", "bob")
	alice.here("alice", "bob")
	bob.here("bob", "alice")
	bob.say("still there?")
	alice.sees("before", "still there?")
	alice.say("yes")
	bob.sees("before", "still there?", "yes")
	alice.sent()
	alice.log("before", "still there?", "yes") // the server has forgotten the first, the page has not
}

func kick(t *testing.T, chromium *browser, binary string) {
	t.Helper()
	t.Parallel()
	chat := newServer(t, binary)
	alice, bob := chromium.join(t, chat.url, "alice"), chromium.join(t, chat.url, "bob")
	alice.wait(names + `.includes('bob')`)
	alice.do(chromedp.Focus(chromedp.CSS(`#people [data-name=bob] .kick`)))
	alice.enter()
	bob.wait(`document.querySelector('#over').open && document.querySelector('#over-text').textContent === 'You were kicked by alice'`)
	bob.wait(state + ` === 'closed: kicked by alice'`)
	alice.wait(events + `.includes('bob left')`)
	bob.click("#back")
	bob.inRoom("lobby", "bob")
	alice.here("alice", "bob")

	bob.say("/kick alice")
	alice.wait(`document.querySelector('#over-text').textContent === 'You were kicked by bob'`)
	bob.here("bob")
	alice.keys(kb.Escape) // the other way out
	alice.wait(`!document.querySelector('#door').hidden && document.querySelector('#name').value === 'alice'`)

	bob.say("/kick nobody")
	bob.wait(notice + `.startsWith('nobody was not kicked: ')`)
	bob.expect("/kick") // the browser reports the status 404
}

func impossibleName(t *testing.T, chromium *browser, binary string) {
	t.Helper()
	t.Parallel()
	chat := newServer(t, binary)
	mallory := chatter{chromium.open(t, chat.url)}
	mallory.wait(`document.activeElement === document.querySelector('#name')`)
	mallory.say("<script>")
	mallory.expect("/login") // the browser reports the status 400
	mallory.wait(`document.querySelector('#refusal').textContent === 'a name has 1 to 24 letters or digits'`)
	mallory.wait(`document.activeElement === document.querySelector('#name')`)
	mallory.say("李雷") // in place of the refused name, which was selected
	mallory.inRoom("lobby", "李雷")
}

func reload(t *testing.T, chromium *browser, binary string) {
	t.Helper()
	t.Parallel()
	chat := newServer(t, binary)
	alice := chromium.join(t, chat.url, "alice")
	alice.say("still here?")
	alice.sent()
	alice.do(chromedp.Reload())
	alice.inRoom("lobby", "alice")
	alice.sees("still here?")
}
