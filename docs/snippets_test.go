package docs

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The Go blocks of the docs are of three kinds. One with a package clause is a whole file. Others are fragments: either
// declarations, or statements, which are put into a function. A fragment may use the packages below without importing
// them, and the variables below without declaring them. Whatever else it needs is declared in an HTML comment in front
// of it, which readers do not see:
//
//	<!-- go: type User struct{ ID string } -->
//
// A block about a framework is built in the module e2e, which has them all, any other in the module of the library.
var packages = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http", "json": "encoding/json", "log": "log",
	"os": "os", "signal": "os/signal", "slices": "slices", "slog": "log/slog", "strings": "strings", "syscall": "syscall",
	"testing": "testing", "time": "time", "utf8": "unicode/utf8", "httptest": "net/http/httptest", "url": "net/url",
	"tls": "crypto/tls", "x509": "crypto/x509",

	"jwt":       "github.com/golang-jwt/jwt/v5",
	"redis":     "github.com/redis/go-redis/v9",
	"core":      "github.com/duxweb/go-ws/core",
	"coretest":  "github.com/duxweb/go-ws/core/coretest",
	"drivers":   "github.com/duxweb/go-ws/drivers",
	"websocket": "github.com/duxweb/go-ws",
}

const variables = `
var (
	ctx      context.Context
	mux      *http.ServeMux
	w        http.ResponseWriter
	r        *http.Request
	service  *core.Service
	provider *core.Provider
	client   *core.Client
	message  *core.Message
	t        *testing.T
)
`

// framework is what blocks about one have in addition.
type framework struct {
	name      string // of its package
	adapter   string // folder of its adapter
	packages  map[string]string
	variables string
	listens   *strings.Replacer // makes a program listen on what it inherits
}

var frameworks = []framework{
	{
		name: "gin", adapter: "gin",
		packages:  map[string]string{"gin": "github.com/gin-gonic/gin"},
		variables: "var router *gin.Engine",
		listens:   strings.NewReplacer(`router.Run(":8080")`, "router.RunListener(inherited())"),
	},
	{
		name: "echo", adapter: "echov5",
		packages: map[string]string{
			"echo": "github.com/labstack/echo/v5", "middleware": "github.com/labstack/echo/v5/middleware",
			"echojwt": "github.com/labstack/echo-jwt/v5",
		},
		variables: "var e *echo.Echo",
		listens:   strings.NewReplacer(`e.Start(":8080")`, "(&http.Server{Handler: e}).Serve(inherited())"),
	},
	{
		name: "echo", adapter: "echo",
		packages: map[string]string{
			"echo": "github.com/labstack/echo/v4", "middleware": "github.com/labstack/echo/v4/middleware",
			"echojwt": "github.com/labstack/echo-jwt/v4",
		},
		variables: "var e *echo.Echo",
		listens:   strings.NewReplacer(`e.Start(":8080")`, "(&http.Server{Handler: e}).Serve(inherited())"),
	},
	{
		name: "fiber", adapter: "fiberv3",
		packages: map[string]string{
			"fiber": "github.com/gofiber/fiber/v3", "keyauth": "github.com/gofiber/fiber/v3/middleware/keyauth",
			"logger": "github.com/gofiber/fiber/v3/middleware/logger", "jwtware": "github.com/gofiber/contrib/v3/jwt",
			"extractors": "github.com/gofiber/fiber/v3/extractors",
		},
		variables: "var app *fiber.App",
		listens:   strings.NewReplacer(`app.Listen(":8080")`, "app.Listener(inherited())"),
	},
	{
		name: "fiber", adapter: "fiber",
		packages: map[string]string{
			"fiber": "github.com/gofiber/fiber/v2", "keyauth": "github.com/gofiber/fiber/v2/middleware/keyauth",
			"logger": "github.com/gofiber/fiber/v2/middleware/logger", "jwtware": "github.com/gofiber/contrib/jwt",
			"fiberws": "github.com/gofiber/contrib/websocket",
		},
		variables: "var app *fiber.App",
		listens:   strings.NewReplacer(`app.Listen(":8080")`, "app.Listener(inherited())"),
	},
}

// frameworkOf returns the framework that a block is about, or nil: the one of its page, else the one that its code names.
func frameworkOf(b block) *framework {
	folder := filepath.Base(filepath.Dir(b.file))
	var named *framework
	for i, f := range frameworks {
		if f.adapter == folder {
			return &frameworks[i]
		}
		if strings.Contains(b.code, f.name+".") || strings.Contains(b.code, `/adapters/`+f.adapter+`"`) {
			named = &frameworks[i]
		}
	}
	return named
}

// listener replaces the address of a program: the test listens and hands its socket down, so that no port has to be free
// and nobody has to wait until the program is there. For each line that comes in the program collects its garbage.
const listener = `package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime/debug"
)

func inherited() net.Listener {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			debug.FreeOSMemory()
			fmt.Println("freed")
		}
	}()
	return l
}
`

var listens = regexp.MustCompile(`http\.ListenAndServe\(":8080", |server\.ListenAndServe\(`)

// snippets are files to be built, in a folder of a module so that they see what its packages see.
type snippets struct {
	t      testing.TB
	module string
	dir    string // in the module
	bin    string
	names  []string
	main   []string // those that are programs
	tests  []string // those that are tests
}

func newSnippets(t testing.TB, module string) *snippets {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Join(module, "testdata"), "build-") //nolint:usetesting // t.TempDir is outside the module
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	inside, err := filepath.Rel(module, dir)
	if err != nil {
		t.Fatal(err)
	}
	return &snippets{t: t, module: module, dir: inside, bin: t.TempDir()}
}

// add takes in a block under a name. Errors in it will name the document and the line.
func (s *snippets) add(name string, b block) {
	s.t.Helper()
	path, err := filepath.Abs(b.file)
	if err != nil {
		s.t.Fatal(err)
	}
	text := b.code
	file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.PackageClauseOnly)
	switch {
	case err != nil:
		s.write(name, "fragment.go", fragment(s.t, b, path))
	case strings.HasSuffix(file.Name.Name, "_test"):
		s.tests = append(s.tests, name)
		s.write(name, "whole_test.go", fmt.Sprintf("//line %s:%d\n%s", path, b.line, text))
	case file.Name.Name == "main":
		s.main = append(s.main, name)
		s.write(name, "listener.go", listener)
		changed := listens.ReplaceAllStringFunc(text, func(call string) string {
			return strings.NewReplacer("ListenAndServe(", "Serve(inherited(), ", `":8080", `, "").Replace(call)
		})
		changed = strings.ReplaceAll(changed, "inherited(), )", "inherited())")
		if f := frameworkOf(b); f != nil {
			changed = f.listens.Replace(changed)
		}
		if changed == text {
			s.t.Fatalf("%s:%d: the program does not listen on :8080 in a known way", b.file, b.line)
		}
		s.write(name, "whole.go", fmt.Sprintf("//line %s:%d\n%s", path, b.line, changed))
	default:
		s.write(name, "whole.go", fmt.Sprintf("//line %s:%d\n%s", path, b.line, text))
	}
	s.names = append(s.names, name)
}

// addAsItStands takes in a program that listens on an address of its own.
func (s *snippets) addAsItStands(name string, b block) {
	s.t.Helper()
	path, err := filepath.Abs(b.file)
	if err != nil {
		s.t.Fatal(err)
	}
	s.names, s.main = append(s.names, name), append(s.main, name)
	s.write(name, "whole.go", fmt.Sprintf("//line %s:%d\n%s", path, b.line, b.code))
}

func (s *snippets) write(name, file, text string) {
	s.t.Helper()
	dir := filepath.Join(s.module, s.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// build vets everything, which compiles it, and links the programs.
func (s *snippets) build() {
	s.t.Helper()
	s.goCommand("vet", s.names)
	s.goCommand("build", s.main, "-o", s.bin+string(filepath.Separator))
	if len(s.tests) > 0 {
		s.goCommand("test", s.tests, "-count=1")
	}
}

// goCommand runs one go command on all packages of those names. No workspace is needed.
func (s *snippets) goCommand(verb string, names []string, flags ...string) {
	s.t.Helper()
	args := append([]string{verb}, flags...)
	for _, name := range names {
		args = append(args, "./"+filepath.ToSlash(filepath.Join(s.dir, name)))
	}
	cmd := exec.CommandContext(s.t.Context(), "go", args...)
	cmd.Dir = s.module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("go %s of the docs: %v\n%s", verb, err, out)
	}
}

var leadingImports = regexp.MustCompile(`(?s)^\s*import \((.*?)\n\)\n`)

// fragment makes a whole file of a block that is none.
func fragment(t testing.TB, b block, path string) string {
	t.Helper()
	code, line := b.code, b.line
	if m := leadingImports.FindString(code); m != "" { // what it imports is found out anyway
		code = code[len(m):]
		line += strings.Count(m, "\n")
	}
	more := strings.TrimPrefix(b.note, "go:")
	if more == b.note {
		more = ""
	}
	head := "package fragment\n"
	body := fmt.Sprintf("//line %s:%d\n%s", path, line, code)
	if _, err := parser.ParseFile(token.NewFileSet(), "", head+code, parser.SkipObjectResolution); err != nil {
		body = fmt.Sprintf("func _() {\n%s%s}\n", body, uses(t, b, code))
	}
	rest := more + "\n" + body
	vars, known := variables, packages
	if f := frameworkOf(b); f != nil {
		vars += f.variables + "\n"
		known = maps.Clone(packages)
		maps.Copy(known, f.packages)
		known["gows"] = "github.com/duxweb/go-ws/adapters/" + f.adapter
	}
	for _, name := range declared(rest) { // a fragment may have its own
		vars = regexp.MustCompile(`(?m)^(\t|var )`+name+` .*\n`).ReplaceAllString(vars, "")
	}
	return head + imports(vars+rest, known) + vars + rest
}

// uses returns statements that use the variables a fragment declares for its reader alone.
func uses(t testing.TB, b block, code string) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc _() {\n"+code+"}\n", parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("%s:%d: neither a file nor declarations nor statements: %v", b.file, b.line, err)
	}
	var text strings.Builder
	for _, stmt := range file.Decls[0].(*ast.FuncDecl).Body.List { //nolint:errcheck // it is the function above
		assign, ok := stmt.(*ast.AssignStmt)
		if !ok || assign.Tok != token.DEFINE {
			continue
		}
		for _, name := range assign.Lhs {
			if name := name.(*ast.Ident).Name; name != "_" { //nolint:errcheck // := takes nothing else
				fmt.Fprintf(&text, "_ = %s\n", name)
			}
		}
	}
	return text.String()
}

// declared returns the names that code declares at the top.
func declared(code string) []string {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+code, parser.SkipObjectResolution)
	if err != nil {
		return nil // the go command will say it better
	}
	var names []string
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			if value, ok := spec.(*ast.ValueSpec); ok {
				for _, name := range value.Names {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

// imports returns the import declarations that code needs: one for each known package whose name is followed by a dot.
func imports(code string, known map[string]string) string {
	var text strings.Builder
	for _, name := range qualifiers(code) {
		if path, ok := known[name]; ok {
			fmt.Fprintf(&text, "import %s %q\n", name, path)
		}
	}
	return text.String()
}

func qualifiers(code string) []string {
	var names []string
	var before, last tok
	for _, now := range tokens(code) {
		if now.kind == token.PERIOD && last.kind == token.IDENT && before.kind != token.PERIOD &&
			!slices.Contains(names, last.text) {
			names = append(names, last.text)
		}
		before, last = last, now
	}
	return names
}

type tok struct {
	kind token.Token
	text string
}

// tokens returns the tokens of Go code, without comments.
func tokens(code string) []tok {
	fset := token.NewFileSet()
	var s scanner.Scanner
	s.Init(fset.AddFile("", fset.Base(), len(code)), []byte(code), func(token.Position, string) {}, 0)
	var all []tok
	for {
		_, kind, text := s.Scan()
		if kind == token.EOF {
			return all
		}
		all = append(all, tok{kind, text})
	}
}

// nameOf is a folder's name for a block.
func nameOf(b block) string {
	name := strings.NewReplacer("../", "", ".md", "", ".", "_", "-", "_", "/", "_").Replace(filepath.ToSlash(b.file))
	return strings.ToLower(name) + "_" + strconv.Itoa(b.line)
}

func TestTheGoCodeOfTheDocsIsFormatted(t *testing.T) {
	t.Parallel()
	for _, file := range pages {
		for _, b := range read(t, file).blocks {
			if b.lang != "go" {
				continue
			}
			formatted, err := format.Source([]byte(b.code))
			if err != nil {
				t.Errorf("%s:%d: %v", b.file, b.line, err)
			} else if !bytes.Equal(formatted, []byte(b.code)) {
				t.Errorf("%s:%d: gofmt would write\n%s", b.file, b.line, formatted)
			}
		}
	}
}
