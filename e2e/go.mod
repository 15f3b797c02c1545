// Tests that drive a real browser: a module of its own, so that no user of the library sees what they need.
module github.com/duxweb/go-ws/e2e

go 1.25

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/duxweb/go-ws v0.1.0
	github.com/gorilla/websocket v1.5.3
)

require github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect

replace github.com/duxweb/go-ws => ..
