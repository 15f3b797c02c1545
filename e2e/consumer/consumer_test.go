//go:build !race

package consumer

import (
	"go/version"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/duxweb/go-ws/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const library = "github.com/duxweb/go-ws"

// compiled are the modules of which a program with the library has packages.
var compiled = []string{
	library, "github.com/redis/go-redis/v9", "github.com/cespare/xxhash/v2", "github.com/dgryski/go-rendezvous", "go.uber.org/atomic",
}

// brought are the modules that go list -m all names with the library: those, the one for its own tests, and those for the
// tests of go-redis and atomic, of which nothing is downloaded but a go.mod.
var brought = append([]string{
	"github.com/gorilla/websocket",
	"github.com/bsm/ginkgo/v2", "github.com/bsm/gomega", "github.com/klauspost/cpuid/v2", "github.com/zeebo/xxh3",
	"github.com/stretchr/testify", "github.com/davecgh/go-spew", "github.com/pmezard/go-difflib",
}, compiled...)

// user is somebody with a framework, or with none.
type user struct {
	name      string // the folder of the program in testdata, and of the adapter below adapters
	framework string
	lowest    string // version of the framework that the adapter asks for
}

var users = []user{
	{name: "nethttp"},
	{name: "gin", framework: "github.com/gin-gonic/gin", lowest: "v1.10.1"},
	{name: "echo", framework: "github.com/labstack/echo/v4", lowest: "v4.12.0"},
	{name: "echov5", framework: "github.com/labstack/echo/v5", lowest: "v5.0.0"},
	{name: "fiber", framework: "github.com/gofiber/fiber/v2", lowest: "v2.52.9"},
	{name: "fiberv3", framework: "github.com/gofiber/fiber/v3", lowest: "v3.0.0"},
}

func TestUsersGetWhatTheyAskForAndNoMore(t *testing.T) {
	t.Parallel()
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	shop := publish(t, tree)
	newest := requirements(t, filepath.Join(tree, "e2e", "go.mod"))
	for _, u := range users {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			c := &customer{T: t, user: u, shop: shop, env: shop.env(t)}
			if u.framework == "" {
				c.withoutFramework()
				return
			}
			usual := c.withLowest()
			c.withNewest(newest[u.framework], usual)
		})
	}
}

// customer is a user at the shop.
type customer struct {
	*testing.T
	user

	shop *shop
	env  []string
}

func (c *customer) withoutFramework() {
	c.stock("", "")
	p := c.project(c.env)
	before, after := c.get(p)
	c.added(after, before, brought)
	p.talk(c.name)
	var has []string
	for path := range strings.FieldsSeq(p.run("list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".")) {
		if !slices.Contains(has, path) {
			has = append(has, path)
		}
	}
	slices.Sort(has)
	if want := slices.Sorted(slices.Values(compiled)); !slices.Equal(has, want) {
		c.Errorf("the program has packages of %q, want %q", has, want)
	}
}

// withLowest are two users: one has the lowest version of the framework, the other nothing at all, and gets the same. It
// returns the modules of the framework.
func (c *customer) withLowest() (usual map[string]string) {
	adapter := library + "/adapters/" + c.name
	c.stock(adapter, c.lowest)

	p := c.project(c.env)
	p.run("get", c.framework+"@"+c.lowest)
	usual, after := c.get(p, adapter)
	c.added(after, usual, append([]string{adapter}, brought...))

	p = c.project(c.env)
	_, alone := c.get(p, adapter)
	if !maps.Equal(alone, after) {
		c.Errorf("go get %s makes of an empty module\n%v, of one with %s %s\n%v", adapter, alone, c.framework, c.lowest, after)
	}
	p.talk(c.name)
	return usual
}

// withNewest is a user of the newest version of the framework. What the adapter needed of the lowest may still be named.
func (c *customer) withNewest(newest string, usual map[string]string) {
	adapter := library + "/adapters/" + c.name
	c.stock(adapter, newest)

	p := c.project(c.env)
	p.run("get", c.framework+"@"+newest)
	before, after := c.get(p, adapter)
	known := maps.Clone(usual)
	maps.Copy(known, before)
	c.added(after, known, append([]string{adapter}, brought...))
	p.talk(c.name)
}

// get runs go get as the READMEs say: of the package drivers, with which the library comes, and of an adapter, if any. Of the
// module alone it would leave out of go.sum what drivers needs. Whatever the module had before keeps its version, and the
// module its Go.
func (c *customer) get(p *project, adapter ...string) (before, after map[string]string) {
	c.Helper()
	before, was := p.modules(), p.goVersion()
	command := []string{"get"}
	for _, path := range append([]string{library + "/drivers"}, adapter...) {
		command = append(command, path+"@"+c.shop.version)
	}
	p.run(command...)
	path := strings.Join(command[1:], " ")
	after = p.modules()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if after[name] != before[name] {
			c.Errorf("go get %s has raised %s from %s to %q", path, name, before[name], after[name])
		}
	}
	is := p.goVersion()
	if version.Lang("go"+is) != version.Lang("go"+was) {
		c.Errorf("go get %s has raised go %s to %s", path, was, is)
	}
	c.Logf("go get %s: %d modules instead of %d, go %s instead of %s", path, len(after), len(before), is, was)
	return before, after
}

// added judges which modules go list -m all names after go get that are not known.
func (c *customer) added(after, known map[string]string, want []string) {
	c.Helper()
	var got []string
	for name := range after {
		if _, ok := known[name]; !ok {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	want = slices.DeleteFunc(slices.Sorted(slices.Values(want)), func(name string) bool { return known[name] != "" })
	if !slices.Equal(got, want) {
		c.Errorf("go get has added %q, want %q", got, want)
	}
}
