package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// faults are the parts that the tables of faults must have rows for.
var faults = map[string][]string{
	"faults of a node": {"accept", "read", "write", "memory", "hook", "payload", "context", "clock", "driver", "log"},
	"faults of Redis":  {"command", "subscription", "clock", "node", "garbage"},
}

// foreign are names in the tables that are not of package core.
var foreign = []string{"EMFILE", "EPIPE", "ENOBUFS", "OOM", "READONLY", "GOMEMLIMIT"}

var (
	faultPart = regexp.MustCompile(`^\*\*(\w+)\*\*: `)
	codeIn    = regexp.MustCompile(`\b[13]\d{3}\b`)
	nameIn    = regexp.MustCompile("`([A-Z]\\w+)`")
	logged    = regexp.MustCompile(`(?:ERROR|WARN) "([^"]+)"(?: and "([^"]+)")?`)
)

// That the tests in the last column exist is what TestEveryTestThatTheDocsNameExists sees to.
func TestTheTablesOfFaultsNameWhatThereIs(t *testing.T) {
	t.Parallel()
	names, source := exported(t)
	codes := read(t, wire).checked(t, "close codes").rows
	for note, parts := range faults {
		tab := read(t, "guarantees.md").checked(t, note)
		var rowsOf []string
		for _, row := range tab.rows {
			if len(row) != 4 || slices.Contains(row, "") {
				t.Fatalf("%v has an empty cell", row)
			}
			part := faultPart.FindStringSubmatch(row[0])
			if part == nil || !slices.Contains(parts, part[1]) {
				t.Errorf("%s: a row begins with one of %v", row[0], parts)
				continue
			}
			rowsOf = append(rowsOf, part[1])
			seen := row[1] + " " + row[2]
			for _, code := range codeIn.FindAllString(seen, -1) {
				if !slices.ContainsFunc(codes, func(known []string) bool { return strings.Contains(known[0], code) }) {
					t.Errorf("%s: there is no close code %s", row[0], code)
				}
			}
			for _, m := range nameIn.FindAllStringSubmatch(row[0]+seen, -1) {
				if !names[m[1]] && !slices.Contains(foreign, m[1]) {
					t.Errorf("%s: there is no %s", row[0], m[1])
				}
			}
			for _, m := range logged.FindAllStringSubmatch(seen, -1) {
				for _, text := range m[1:] {
					if !strings.Contains(source, text) {
						t.Errorf("%s: nothing is logged of %q", row[0], text)
					}
				}
			}
		}
		for _, part := range parts {
			if !slices.Contains(rowsOf, part) {
				t.Errorf("%s: no row of %s", note, part)
			}
		}
	}
}

// exported returns the exported names of package core, fields and methods included, and its text.
func exported(t *testing.T) (names map[string]bool, source string) {
	t.Helper()
	files, err := filepath.Glob("../core/*.go")
	if err != nil {
		t.Fatal(err)
	}
	names = map[string]bool{}
	var all strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[n.Name.Name] = true
			case *ast.Field:
				for _, name := range n.Names {
					names[name.Name] = true
				}
			case *ast.ValueSpec:
				for _, name := range n.Names {
					names[name.Name] = true
				}
			}
			return true
		})
	}
	return names, all.String()
}
