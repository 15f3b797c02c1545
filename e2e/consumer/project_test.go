//go:build !race

package consumer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// env returns the environment of a user who gets the modules of this tree from the shop, all others from the module cache
// of this machine, and needs no network. Their own module cache is a new one: another run has other modules in the same
// version.
func (s *shop) env(t *testing.T) []string {
	t.Helper()
	machine := &project{T: t, folder: s.tree, env: os.Environ()}
	cache := strings.TrimSpace(machine.run("env", "GOMODCACHE"))
	return append(
		os.Environ(),
		"GOWORK=off",
		"GOPROXY=file://"+filepath.ToSlash(s.proxy)+",file://"+filepath.ToSlash(cache)+"/cache/download",
		"GOSUMDB=off", // what is in the machine's cache has been checked
		"GOMODCACHE="+t.TempDir(),
		// TempDir wants to remove the module cache. Without the paths of its files, the build cache serves the next run too.
		"GOFLAGS=-modcacherw -trimpath",
	)
}

// stock sees to it that the machine's module cache has what a user of the library needs, and of an adapter and a version of its
// framework, if any. Only here a download may be due. It comes to the same modules as go get, with this tree in the place
// of the shop's.
func (c *customer) stock(adapter, framework string) {
	c.Helper()
	p := c.project(append(os.Environ(), "GOWORK=off", "GOFLAGS="))
	ours := []string{library}
	if adapter != "" {
		p.run("get", c.framework+"@"+framework)
		p.modules()
		ours = append(ours, adapter)
	}
	for _, module := range ours {
		folder := filepath.Join(c.shop.tree, strings.TrimPrefix(module, library))
		p.run("mod", "edit", "-require="+module+"@"+c.shop.version, "-replace="+module+"="+folder)
	}
	p.write(c.name)
	p.run("get", ".")
	p.modules()
}

// project is a module that a user writes.
type project struct {
	*testing.T

	folder string
	env    []string
}

// project returns an empty module.
func (c *customer) project(env []string) *project {
	c.Helper()
	p := &project{T: c.T, folder: c.TempDir(), env: env}
	p.run("mod", "init", "try")
	p.run("mod", "edit", "-go="+parse(c.T, filepath.Join(c.shop.tree, "go.mod")).Go.Version)
	return p
}

// run runs the go command in the project's folder and returns what it prints.
func (p *project) run(args ...string) string {
	p.Helper()
	command := exec.CommandContext(p.Context(), "go", args...)
	command.Dir, command.Env = p.folder, p.env
	output, err := command.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		p.Fatalf("%s: %v\n%s%s", command, err, output, failed.Stderr)
	} else if err != nil {
		p.Fatalf("%s: %v", command, err)
	}
	return string(output)
}

// write writes the program of testdata into the project.
func (p *project) write(program string) {
	p.Helper()
	for _, source := range []string{"main.go", filepath.Join(program, "serve.go")} {
		write(p.T, filepath.Join(p.folder, filepath.Base(source)), read(p.T, filepath.Join("testdata", source)))
	}
}

// modules returns what go list -m all names: versions by module path.
func (p *project) modules() map[string]string {
	p.Helper()
	versions := map[string]string{}
	for line := range strings.Lines(p.run("list", "-m", "-f", "{{.Path}} {{.Version}}", "all")) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		versions[path] = version
	}
	return versions
}

func (p *project) goVersion() string {
	p.Helper()
	return parse(p.T, filepath.Join(p.folder, "go.mod")).Go.Version
}
