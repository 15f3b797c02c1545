package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const security = "../SECURITY.md"

var (
	code     = regexp.MustCompile("`([^`]+)`")
	optioned = regexp.MustCompile(`core\.(With\w+)`)
)

func TestEachThreatHasATestThatExists(t *testing.T) {
	t.Parallel()
	p := read(t, security)
	rows, named := 0, 0
	for _, tab := range p.tables {
		if tab.note != "check: threats" {
			continue
		}
		for _, row := range tab.rows {
			rows++
			if len(row) != 4 {
				t.Errorf("%s: %d cells: %s", security, len(row), row[0])
				continue
			}
			folder, shown := "", 0
			for _, m := range code.FindAllStringSubmatch(row[3], -1) {
				if !strings.HasPrefix(m[1], "Test") {
					folder = m[1]
					continue
				}
				shown++
				if !slices.Contains(testsIn(t, folder), m[1]) {
					t.Errorf("%s: there is no %s in %s", row[0], m[1], folder)
				}
			}
			if named += shown; shown == 0 {
				t.Errorf("nothing shows what is said of %s", row[0])
			}
		}
	}
	if rows < 30 || named < rows {
		t.Errorf("%d rows, %d tests", rows, named)
	}
}

// testsIn returns the names of the tests in a folder of the repository.
func testsIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range defines.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names
}

func TestEachOptionOfTheThreatsExists(t *testing.T) {
	t.Parallel()
	exists, _ := exported(t)
	found := optioned.FindAllStringSubmatch(read(t, security).text, -1)
	for _, m := range found {
		if !exists[m[1]] {
			t.Errorf("%s: core has no %s", security, m[1])
		}
	}
	if len(found) < 20 {
		t.Errorf("only %d options are named", len(found))
	}
}
