package e2e

import (
	"flag"
	"os"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var screenshots = flag.String("screenshot", "", "a folder to draw the chat into: screenshot.png, dark.png, phone.png, ...")

// TestScreenshot draws the chat in all its states. The README's picture is the first of them:
//
//	go test ./e2e -run Screenshot -screenshot /tmp/chat && cp /tmp/chat/screenshot.png examples/chat/
func TestScreenshot(t *testing.T) {
	if *screenshots == "" {
		return // there is nothing to test
	}
	binary, chromium := build(t, "chat"), newBrowser(t)
	chat := newServer(t, binary)
	network := newLink(t, chat.address)

	tom, ines := chromium.join(t, chat.url, "Tom"), chromium.join(t, chat.url, "Inês")
	tom.say("Morning! The new gateway goes live at ten.")
	ines.sees("Morning! The new gateway goes live at ten.")
	ines.say("Staging has been on it since Friday. 4,800 clients, one small box.")
	tom.sees("Staging has been on it since Friday. 4,800 clients, one small box.")
	ines.say("And the way back is one command.")
	tom.sees("And the way back is one command.")

	mei := chromium.join(t, network.url, "Mei")
	mei.expect(networkErrors)
	mei.sees("And the way back is one command.")
	mei.say("Perfect. I am on the train, so I may drop in and out.")
	mei.sent()
	tom.sees("Perfect. I am on the train, so I may drop in and out.")
	ravi := chromium.join(t, chat.url, "Ravi")
	mei.wait(names + `.includes('Ravi')`)

	network.cut()
	mei.wait(state + `.startsWith('reconnecting')`)
	mei.draw("reconnecting")
	tom.say("Switching over now.")
	ravi.sees("Switching over now.")
	chat.post("/push?room=lobby", "deploy #241: gateway 1.9.0 is live, 0 errors")
	ravi.sees("deploy #241: gateway 1.9.0 is live, 0 errors")
	ravi.say("Nobody noticed. That is the best kind of release.")
	tom.sees("Nobody noticed. That is the best kind of release.")
	network.restore()
	mei.sees("Nobody noticed. That is the best kind of release.")
	mei.wait(`document.querySelector('#log .away') !== null`)
	mei.say("Tunnel! But it all came in at once when I was back.")
	mei.say("Even the names on the right are still correct.")
	mei.sent()
	tom.sees("Even the names on the right are still correct.")
	tom.say("So: lunch?")
	mei.sees("So: lunch?")
	eval[any](mei.tab, `document.querySelector('#text').value = 'Yes, the place with the'; document.querySelector('#curl').firstChild.data =
		document.querySelector('#curl').firstChild.data.replace(location.host, 'localhost:8080')`)
	mei.draw("screenshot")
	mei.scheme("dark")
	mei.draw("dark")

	mei.do(chromedp.EmulateViewport(900, 600))
	mei.scheme("light")
	mei.draw("tablet")
	mei.scheme("dark")

	mei.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateScale(2)))
	mei.draw("phone-dark")
	mei.scheme("light")
	mei.draw("phone")
	mei.click("#here summary")
	mei.draw("phone-people")
	mei.click("#here summary")
	mei.click("#rooms [data-room=private]")
	mei.wait(notice + ` !== ''`)
	mei.draw("phone-refused")
	network.hold()
	mei.do(chromedp.Focus(chromedp.CSS("#text")))
	mei.say(" corner table?")
	mei.draw("phone-pending")
	network.release()
	mei.sent()
	mei.do(chromedp.EmulateViewport(1200, 800))
	tom.say("/kick Mei")
	mei.wait(`document.querySelector('#over').open`)
	mei.draw("kicked")
	mei.scheme("dark")
	mei.draw("kicked-dark")

	door := chatter{chromium.open(t, chat.url)}
	door.expect("/login")
	door.say("?")
	door.wait(`document.querySelector('#refusal').textContent !== ''`)
	door.draw("door")
	door.scheme("dark")
	door.draw("door-dark")
}

// scheme is what the person prefers: light or dark.
func (p *tab) scheme(value string) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
	}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) draw(name string) {
	p.t.Helper()
	picture := run(p, chromedp.CaptureScreenshot())
	if err := os.WriteFile(*screenshots+"/"+name+".png", picture, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
