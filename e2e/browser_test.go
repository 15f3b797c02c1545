package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a page may take to show what it should. Generous, for busy machines: only a failure waits for it.
const patience = 20 * time.Second

// browser is a headless Chromium. Each of its tabs has cookies and storage of its own, as if it were another browser.
type browser struct{ ctx context.Context }

// newBrowser starts Chromium with an empty profile and ends it with the test. Without Chromium the test fails: a suite
// that skips what it cannot run says nothing.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("this test drives a browser and found no chromium on PATH: make deps installs it (Debian: apt-get install chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // Chromium's needs a user other than root
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(time.Minute),
	)
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the process
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium (%s) does not start: %v", path, err)
	}
	return &browser{ctx}
}

// tab is one page of one person.
type tab struct {
	t   *testing.T
	ctx context.Context
	end context.CancelFunc

	mu       sync.Mutex
	console  []string       // errors and warnings of the page and the browser
	expected *regexp.Regexp // those that belong to the test
}

// open opens url in a tab. The test fails if the page ever reports an error that was not announced with expect.
func (b *browser) open(t *testing.T, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	p := &tab{t: t, ctx: ctx, end: cancel}
	if err := chromedp.Listen(ctx, p.listen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, line := range p.console {
			if p.expected == nil || !p.expected.MatchString(line) {
				t.Errorf("the page's console: %s", line)
			}
		}
	})
	p.do(chromedp.EmulateViewport(1200, 800), chromedp.Navigate(url))
	return p
}

func (p *tab) listen(event any) {
	var line string
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		line = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			line += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			words := []string{string(e.Type)}
			for _, argument := range e.Args {
				words = append(words, string(argument.Value), argument.Description)
			}
			line = strings.Join(words, " ")
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			line = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *page.EventJavascriptDialogOpening:
		line = "a dialog opened: " + e.Message
	}
	if line != "" {
		p.mu.Lock()
		p.console = append(p.console, line)
		p.mu.Unlock()
	}
}

// expect says which console errors the test brings about on purpose.
func (p *tab) expect(pattern string) {
	p.mu.Lock()
	p.expected = regexp.MustCompile(pattern)
	p.mu.Unlock()
}

// do runs actions that return nothing.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	run(p, chromedp.Steps(steps...))
}

// run returns what an action returns.
func run[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatalf("%v\n%s", err, p.describe())
	}
	return value
}

// keys presses keys wherever the cursor is, so tests that type prove the page's focus, too.
func (p *tab) keys(keys string, options ...chromedp.KeyOption) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys, options...))
}

// enter presses Enter. chromedp.KeyEvent would press and type it in two steps, so that a page which does something else on
// the press got the line break nevertheless; no keyboard does that.
func (p *tab) enter() {
	p.t.Helper()
	for _, step := range []input.DispatchKeyEventType{"keyDown", "keyUp"} {
		_, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{
			Type: step, Key: "Enter", Code: "Enter", Text: "\r", WindowsVirtualKeyCode: 13,
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// wait blocks until a JavaScript condition holds.
func (p *tab) wait(condition string, arguments ...any) {
	p.t.Helper()
	condition = script(condition, arguments...)
	poll := chromedp.Poll[chromedp.Void](condition, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience))
	if _, err := chromedp.Run(p.ctx, poll); err != nil {
		p.t.Fatalf("waiting for %s: %v\n%s", condition, err, p.describe())
	}
}

// eval returns the value of an expression; it waits for promises.
func eval[T any](p *tab, expression string, arguments ...any) T {
	p.t.Helper()
	return run(p, chromedp.Evaluate[T](script(expression, arguments...), chromedp.EvalAwaitPromise))
}

// script puts arguments into an expression as JavaScript values.
func script(expression string, arguments ...any) string {
	for i, argument := range arguments {
		value, err := json.Marshal(argument)
		if err != nil {
			panic(err)
		}
		expression = strings.ReplaceAll(expression, fmt.Sprintf("$%d", i+1), string(value))
	}
	return expression
}

// describe is what the page shows, for failures.
func (p *tab) describe() string {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		text = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("the page shows:\n%s\nits console: %q", text, p.console)
}
