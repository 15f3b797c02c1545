//go:build !race

package consumer

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// largest is what the zip of a module may have, in bytes. Everybody who runs go get downloads it.
const largest = 1 << 20

// shop is a module proxy in a folder.
type shop struct {
	tree, proxy string
	version     string
}

// publish makes a shop with the root module and the adapters of a tree, all in the version of the root that the adapters
// require. No git is asked, so that what is not committed yet is tested too.
func publish(t *testing.T, tree string) *shop {
	t.Helper()
	s := &shop{tree: tree, proxy: t.TempDir()}
	adapters, err := filepath.Glob(filepath.Join(tree, "adapters", "*", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, gomod := range adapters {
		if name := filepath.Base(filepath.Dir(gomod)); !slices.ContainsFunc(users, func(u user) bool { return u.name == name }) {
			t.Errorf("the adapter %s has no user", name)
		}
		required := requirements(t, gomod)[library]
		if s.version != "" && required != s.version {
			t.Fatalf("%s requires %s %s, another adapter %s: all are released together", gomod, library, required, s.version)
		}
		s.version = required
	}
	ignored, err := ignores(tree, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, gomod := range append(adapters, filepath.Join(tree, "go.mod")) {
		s.pack(t, filepath.Dir(gomod), ignored)
	}
	return s
}

// pack puts the module of a folder into the shop.
func (s *shop) pack(t *testing.T, folder string, ignored []string) {
	t.Helper()
	gomod := read(t, filepath.Join(folder, "go.mod"))
	name := modfile.ModulePath(gomod)
	escaped, err := module.EscapePath(name)
	if err != nil {
		t.Fatal(err)
	}
	files, err := list(folder, "", ignored)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	if err := zip.Create(&zipped, module.Version{Path: name, Version: s.version}, files); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: a zip of %d bytes", name, zipped.Len())
	if zipped.Len() > largest {
		t.Errorf("the zip of %s has %d bytes, more than %d: is there something in it that no user needs?", name, zipped.Len(), largest)
	}
	at := filepath.Join(s.proxy, filepath.FromSlash(escaped), "@v")
	write(t, filepath.Join(at, "list"), []byte(s.version+"\n"))
	write(t, filepath.Join(at, s.version+".info"), []byte(`{"Version":"`+s.version+`"}`))
	write(t, filepath.Join(at, s.version+".mod"), gomod)
	write(t, filepath.Join(at, s.version+".zip"), zipped.Bytes())
}

// list returns the files below a folder that git would know: what is neither in a dot-directory nor named by a .gitignore.
// zip.Create leaves nested modules out.
func list(folder, below string, ignored []string) (files []zip.File, err error) {
	here, err := ignores(folder, below)
	if err != nil {
		return nil, err
	}
	ignored = slices.Concat(ignored, here)
	entries, err := os.ReadDir(filepath.Join(folder, below))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name := path.Join(below, entry.Name())
		switch {
		case matches(ignored, name):
		case !entry.IsDir():
			files = append(files, file{folder, name})
		case !strings.HasPrefix(entry.Name(), "."):
			more, err := list(folder, name, ignored)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
		}
	}
	return files, nil
}

// ignores reads a folder's .gitignore, if there is one: "/x/" is x in this folder, "*.x" is found at any depth.
func ignores(folder, below string) (patterns []string, err error) {
	text, err := os.ReadFile(filepath.Join(folder, below, ".gitignore"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#':
		case line[0] == '/':
			patterns = append(patterns, path.Join("/", below, line))
		default:
			patterns = append(patterns, line)
		}
	}
	return patterns, nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		rooted, _ := path.Match(pattern, "/"+name)
		anywhere, _ := path.Match(pattern, path.Base(name))
		return rooted || anywhere
	})
}

// file is a file of a module to be zipped.
type file struct{ folder, name string }

func (f file) Path() string { return f.name }

func (f file) Lstat() (fs.FileInfo, error) { return os.Lstat(filepath.Join(f.folder, f.name)) }

func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.folder, f.name)) }

// requirements returns what a go.mod requires, by module path.
func requirements(t *testing.T, gomod string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, r := range parse(t, gomod).Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	return versions
}

func parse(t *testing.T, gomod string) *modfile.File {
	t.Helper()
	parsed, err := modfile.Parse(gomod, read(t, gomod), nil)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
