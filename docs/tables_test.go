package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/core/coretest"
)

const upgrade = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"

const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"

// refused are the requests of the rows in the table of refusals.
var refused = map[string]string{
	"is no GET":                                                    "POST /ws HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n",
	"asks for no upgrade":                                          "GET /ws HTTP/1.1\nHost: localhost\n\n",
	"is older than HTTP/1.1":                                       "GET /ws HTTP/1.0\nHost: localhost\n" + upgrade + key + "\n",
	"has a body":                                                   "GET /ws HTTP/1.1\nHost: localhost\nContent-Length: 2\n" + upgrade + key + "\nhi",
	"has no key, or a bad one":                                     "GET /ws HTTP/1.1\nHost: localhost\n" + upgrade + "Sec-WebSocket-Key: short\n\n",
	"has another `Sec-WebSocket-Version`":                          "GET /ws HTTP/1.1\nHost: localhost\n" + strings.Replace(upgrade, "13", "8", 1) + key + "\n",
	"comes from a foreign origin":                                  "GET /ws?token=alice HTTP/1.1\nHost: localhost\nOrigin: https://example.net\n" + upgrade + key + "\n",
	"names an app that does not exist":                             "GET /ws?token=alice&app=nowhere HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"names another app than its token is for":                      "GET /ws?token=shopper&app=forum HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"was turned down by the application":                           "GET /ws HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"has a token that has expired":                                 "GET /ws?token=expired HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"met an error of the server: a database that is away, a panic": "GET /ws?token=broken HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"was given an identity that is none: no `client_id`":           "GET /ws?token=nameless HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"came while the server shuts down":                             "GET /ws?token=alice HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"found the node full":                                          "GET /ws?token=alice HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
	"found its address with as many connections as one may have":   "GET /ws?token=alice HTTP/1.1\nHost: localhost\n" + upgrade + key + "\n",
}

// limited are the rows for which a server has an option, and one connection already.
var limited = map[string]core.Option{
	"found the node full": core.WithMaxConnections(1),
	"found its address with as many connections as one may have": core.WithMaxConnectionsPerAddress(1),
}

func TestTheTableOfRefusalsIsWhatTheServerSays(t *testing.T) {
	t.Parallel()
	rows := read(t, wire).checked(t, "refusals").rows
	if len(rows) != len(refused) {
		t.Errorf("%d rows, %d requests", len(rows), len(refused))
	}
	leadingDigits := regexp.MustCompile(`^\d+`)
	for _, row := range rows {
		t.Run(row[0], func(t *testing.T) {
			t.Parallel()
			request, ok := refused[row[0]]
			if !ok {
				t.Fatal("no request for this row")
			}
			s := newServer(t, limited[row[0]])
			if limited[row[0]] != nil {
				h := coretest.Handshake()
				h.RemoteAddr, h.Token = "127.0.0.1:1", "first"
				coretest.Dial(t, s.service, h)
			}
			if strings.Contains(row[0], "shuts down") {
				if err := s.service.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			response := s.ask(request)
			head, body, _ := strings.Cut(response, "\n\n")
			var said struct {
				Status, Code int
				Reason       string
			}
			if err := json.Unmarshal([]byte(body), &said); err != nil {
				t.Fatalf("%v in %s", err, response)
			}
			if !strings.Contains(head[:len("HTTP/1.1 426 ")], " "+strconv.Itoa(said.Status)+" ") {
				t.Errorf("the body's status is not that of %s", head)
			}
			if want := leadingDigits.FindString(row[1]); want != "" && want != strconv.Itoa(said.Status) {
				t.Errorf("got status %d, want %s", said.Status, row[1])
			}
			if comesBack := said.Status == http.StatusServiceUnavailable || said.Status == http.StatusTooManyRequests; comesBack != strings.Contains(head, "\nRetry-After: ") {
				t.Errorf("Retry-After with status %d? %s", said.Status, head)
			}
			if want := strconv.Itoa(said.Code); want != row[2] {
				t.Errorf("got code %d, want %s", said.Code, row[2])
			}
			if row[3] != "its choice" && row[3] != said.Reason {
				t.Errorf("got reason %q, want %q", said.Reason, row[3])
			}
		})
	}
}

func TestTheTableOfCloseCodesIsComplete(t *testing.T) {
	t.Parallel()
	rows := map[string]string{} // code -> reconnect?
	for _, row := range read(t, wire).checked(t, "close codes").rows {
		for _, code := range regexp.MustCompile(`\d+`).FindAllString(row[0], -1) {
			rows[code] = row[2]
		}
	}
	found := 0
	for name, value := range constants(t, "../core/errors.go") {
		code, err := strconv.Atoi(value)
		if err != nil || code < 3000 || !strings.HasPrefix(name, "Close") {
			continue
		}
		found++
		word, ok := rows[value]
		if !ok {
			t.Errorf("core.%s = %s is not in the table", name, value)
		} else if strings.HasPrefix(word, "yes") != (code < 3500) {
			t.Errorf("core.%s = %s: reconnect? %s", name, value, word)
		}
	}
	if found < 10 {
		t.Errorf("only %d close codes in core", found)
	}
}

// constants returns the integer constants of a Go file.
func constants(t *testing.T, file string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
				values[spec.Names[0].Name] = lit.Value
			}
		}
		return true
	})
	return values
}

func TestTheTableOfOptionsIsCompleteAndHasTheirDefaults(t *testing.T) {
	t.Parallel()
	options := map[string]string{} // WithX -> its doc comment
	files, err := filepath.Glob("../core/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "With") {
				options[f.Name.Name] = strings.ReplaceAll(f.Doc.Text(), "\n", " ")
			}
		}
	}
	defaults := regexp.MustCompile(`Default (\d[^.;]*?|[^.;]+?)(?:[.;]|, then)`)
	for _, file := range []string{english, chinese} {
		named := map[string]bool{}
		p := read(t, file)
		for _, row := range slices.Concat(p.checked(t, "options").rows, p.checked(t, "protecting options").rows) {
			name, _, _ := strings.Cut(strings.Trim(row[0], "`"), "(")
			doc, ok := options[name]
			named[name] = true
			if !ok {
				t.Errorf("%s: core has no %s", file, name)
				continue
			}
			m := defaults.FindStringSubmatch(doc)
			if m == nil || !strings.ContainsAny(m[1], "0123456789") {
				continue // words, not a number
			}
			digits := regexp.MustCompile(`[\d,]+`)
			if !slices.Equal(digits.FindAllString(m[1], -1), digits.FindAllString(row[2], -1)) {
				t.Errorf("%s: the default of %s is %s, not %s", file, name, m[1], row[2])
			}
		}
		for name := range options {
			if !named[name] {
				t.Errorf("%s: %s is not in the table", file, name)
			}
		}
	}
}

func TestTheTableOfHooksIsComplete(t *testing.T) {
	t.Parallel()
	for _, file := range []string{english, chinese} {
		var named []string
		for _, row := range read(t, file).checked(t, "hooks").rows {
			name, _, _ := strings.Cut(strings.Trim(row[0], "`"), "(")
			if !slices.Contains(named, name) {
				named = append(named, name)
			}
		}
		var hooks []string
		for _, field := range reflect.VisibleFields(reflect.TypeFor[core.Provider]()) {
			hooks = append(hooks, field.Name)
		}
		slices.Sort(named)
		slices.Sort(hooks)
		if !slices.Equal(named, hooks) {
			t.Errorf("%s has %v, core.Provider %v", file, named, hooks)
		}
	}
}

var (
	runs    = regexp.MustCompile("`(Test\\w+)`")
	runsIn  = regexp.MustCompile("`go test \\./(\\S+) -run")
	whole   = regexp.MustCompile("`go test \\./(\\S+) -run '?([\\w|]+)")
	defines = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

func TestEveryTestThatTheDocsNameExists(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			if errors.Is(err, fs.ErrNotExist) { // what another test built and removed
				return nil
			}
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range defines.FindAllSubmatch(text, -1) {
			exists[filepath.ToSlash(filepath.Dir(path))+" "+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	check := func(file, folder, name string) {
		named++
		if !exists["../"+folder+" "+name] {
			t.Errorf("%s: there is no %s in %s", file, name, folder)
		}
	}
	for _, file := range pages {
		if file == security { // says for each test where it is, see TestEachThreatHasATestThatExists
			continue
		}
		p := read(t, file)
		rest := p.text
		for _, tab := range p.tables { // whose header says where its tests are
			in := runsIn.FindStringSubmatch(tab.head)
			if in == nil {
				continue
			}
			for _, row := range tab.rows {
				found := runs.FindAllStringSubmatch(row[len(row)-1], -1)
				if len(found) == 0 {
					t.Errorf("%s:%d: no test for %s", file, tab.line, row[0])
				}
				for _, m := range found {
					check(file, in[1], m[1])
					rest = strings.ReplaceAll(rest, m[0], "")
				}
			}
		}
		for _, m := range whole.FindAllStringSubmatch(rest, -1) {
			for name := range strings.SplitSeq(m[2], "|") {
				if strings.HasPrefix(name, "Test") {
					check(file, m[1], name)
				}
			}
		}
		for _, m := range runs.FindAllStringSubmatch(rest, -1) {
			check(file, "docs", m[1])
		}
	}
	if named < 30 {
		t.Errorf("only %d tests are named", named)
	}
}

func TestBothREADMEsSayTheSame(t *testing.T) {
	t.Parallel()
	for _, both := range readmes {
		t.Run(filepath.Dir(both[0]), func(t *testing.T) { sayTheSame(t, read(t, both[0]), read(t, both[1])) })
	}
}

func sayTheSame(t *testing.T, en, zh page) {
	t.Helper()
	if len(en.headings) != len(zh.headings) {
		t.Errorf("%d headings in English, %d in Chinese", len(en.headings), len(zh.headings))
	}
	for i := range min(len(en.headings), len(zh.headings)) {
		if en.headings[i].level != zh.headings[i].level {
			t.Errorf("%q and %q are not of the same level", en.headings[i].text, zh.headings[i].text)
		}
	}
	if len(en.tables) != len(zh.tables) {
		t.Fatalf("%d tables in English, %d in Chinese", len(en.tables), len(zh.tables))
	}
	code := regexp.MustCompile("`[^`]*`")
	for i, tab := range en.tables {
		other := zh.tables[i]
		if len(tab.rows) != len(other.rows) {
			t.Errorf("the table in line %d has %d rows, the one in line %d of the Chinese README %d", tab.line, len(tab.rows), other.line, len(other.rows))
			continue
		}
		for j, row := range tab.rows {
			if a, b := code.FindString(row[0]), code.FindString(other.rows[j][0]); a != b {
				t.Errorf("a row is about %s in English and about %s in Chinese", a, b)
			}
		}
	}
	if len(en.blocks) != len(zh.blocks) {
		t.Fatalf("%d blocks of code in English, %d in Chinese", len(en.blocks), len(zh.blocks))
	}
	for i, b := range en.blocks {
		other := zh.blocks[i]
		if b.lang != other.lang || b.note != other.note {
			t.Errorf("the block in line %d is not of the kind of the one in line %d of the Chinese README", b.line, other.line)
			continue
		}
		ours, theirs := essence(b), essence(other)
		for j, part := range ours {
			if j >= len(theirs) || part != theirs[j] {
				t.Errorf("the code in line %d and in line %d of the Chinese README differs at its part %d, %q", b.line, other.line, j, part)
				break
			}
		}
		if len(theirs) > len(ours) {
			t.Errorf("the code in line %d of the Chinese README goes on where that in line %d ends", other.line, b.line)
		}
	}
}

// essence is code without comments, and without texts that may be translated.
func essence(b block) []string {
	var parts []string
	if b.lang != "go" {
		for line := range strings.Lines(b.code) {
			line, _, _ = strings.Cut(line, " //")
			line, _, _ = strings.Cut(line, " # ")
			parts = append(parts, strings.TrimSpace(line))
		}
		return parts
	}
	for _, part := range tokens(b.code) {
		text := part.kind.String() + " " + part.text
		if part.kind == token.STRING && strings.ContainsFunc(part.text, func(r rune) bool { return r == ' ' || r > 0x7f }) {
			text = "a text"
		}
		parts = append(parts, text)
	}
	return parts
}

// failures are what the hooks of the rows in the READMEs' table of errors return.
var failures = []func() error{
	func() error { return core.Errorf(403, "text") },
	func() error { return core.Errorf(429, "text") },
	func() error { return core.Errorf(4001, "text") },
	func() error { return errors.New("text") },
	func() error { return fmt.Errorf("users: %w", &net.OpError{Op: "dial", Err: io.EOF}) },
	func() error { return fmt.Errorf("users: %w", io.ErrUnexpectedEOF) },
	func() error { panic("a mistake") },
}

func TestAnErrorOfAHookMeansWhatTheTableSays(t *testing.T) {
	t.Parallel()
	for _, file := range []string{english, chinese} {
		rows := read(t, file).checked(t, "errors").rows
		if len(rows) != len(failures) {
			t.Fatalf("%s: %d rows, %d errors", file, len(rows), len(failures))
		}
		for i, row := range rows {
			t.Run(row[0], func(t *testing.T) {
				t.Parallel()
				fail := failures[i]
				refusal := refusedBy(t, fail)
				number(t, row[1], `HTTP (\d+)`, refusal.Status)
				number(t, row[1], `(3\d\d\d)`, refusal.Code)
				quoted(t, row[1], refusal.Reason)
				answer := answerTo(t, fail)
				number(t, row[2], "`error` (\\d+)", answer.Code)
				quoted(t, row[2], answer.Message.Message)
			})
		}
	}
}

// refusedBy returns what becomes of a connection when Auth fails.
func refusedBy(t *testing.T, fail func() error) *core.Refusal {
	t.Helper()
	auth := func(string) (map[string]any, error) { return nil, fail() }
	service := coretest.Run(t, &core.Provider{Auth: auth}, core.WithLogger(nil))
	_, err := service.Admit(t.Context(), coretest.Handshake())
	var refusal *core.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("Admit: %v", err)
	}
	return refusal
}

// answerTo returns what a message gets when Message fails.
func answerTo(t *testing.T, fail func() error) coretest.Message {
	t.Helper()
	hook := func(*core.Message, *core.Client) error { return fail() }
	service := coretest.Run(t, &core.Provider{Message: hook}, core.WithLogger(nil))
	alice := coretest.Connect(t, service, map[string]any{"client_id": "alice"})
	alice.Send(core.Message{ID: "1", Type: "anything"})
	return alice.Expect("error")
}

// number compares what pattern finds in a cell, if it does, with what happened.
func number(t *testing.T, cell, pattern string, got int) {
	t.Helper()
	if m := regexp.MustCompile(pattern).FindStringSubmatch(cell); m != nil && m[1] != strconv.Itoa(got) {
		t.Errorf("got %d where the table says %s", got, cell)
	}
}

// quoted compares the text that a cell quotes, or "text", with what was sent.
func quoted(t *testing.T, cell, got string) {
	t.Helper()
	want := "text"
	if m := regexp.MustCompile(`"(.+?)"`).FindStringSubmatch(cell); m != nil && m[1] != "reconnect" {
		want = m[1]
	}
	if got != want && strings.Contains(cell, "3") { // else the cell is advice
		t.Errorf("got %q where the table says %s", got, cell)
	}
}
