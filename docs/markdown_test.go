package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	english = "../README.md"
	chinese = "../README.zh-CN.md"
	wire    = "protocol.md"

	deployment = "deployment.md"
)

// pages are the documents that these tests answer for.
var pages = slices.Concat([]string{wire, "guarantees.md", deployment, "benchmarks.md", security}, readmes[0][:], readmes[1][:], readmes[2][:], readmes[3][:], readmes[4][:], readmes[5][:])

// readmes are in English and in Chinese.
var readmes = [][2]string{
	{english, chinese}, of("gin"), of("echo"), of("echov5"), of("fiber"), of("fiberv3"),
}

func of(adapter string) [2]string {
	return [2]string{"../adapters/" + adapter + "/README.md", "../adapters/" + adapter + "/README.zh-CN.md"}
}

// page is what the tests need to know of one document.
type page struct {
	file     string
	text     string
	blocks   []block
	tables   []table
	headings []heading
}

// block is a fenced code block.
type block struct {
	file string
	line int    // of its first line
	lang string // "go", "text", ...
	note string // the HTML comment in front of it
	code string
}

// table is a table whose header and separator are left out.
type table struct {
	line int    // of its header
	note string // the HTML comment in front of it
	head string // the first line
	rows [][]string
}

type heading struct {
	level int
	text  string
}

// read takes a document apart. An HTML comment of one line belongs to what follows it.
func read(t testing.TB, file string) page {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := page{file: file, text: string(text)}
	lines := strings.Split(p.text, "\n")
	note := ""
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "```"):
			b := block{file: file, line: i + 2, lang: strings.TrimPrefix(line, "```"), note: note}
			end := slices.Index(lines[i+1:], "```")
			if end < 0 {
				t.Fatalf("%s:%d: the block does not end", file, i+1)
			}
			b.code = strings.Join(lines[i+1:i+1+end], "\n") + "\n"
			p.blocks = append(p.blocks, b)
			i += end + 1
			note = ""
		case strings.HasPrefix(line, "|"):
			tab := table{line: i + 1, note: note, head: line}
			for i += 2; i < len(lines) && strings.HasPrefix(lines[i], "|"); i++ {
				tab.rows = append(tab.rows, cells(lines[i]))
			}
			i--
			p.tables = append(p.tables, tab)
			note = ""
		case strings.HasPrefix(line, "#"):
			mark, words, _ := strings.Cut(line, " ")
			p.headings = append(p.headings, heading{len(mark), words})
			note = ""
		case strings.HasPrefix(line, "<!--") && strings.HasSuffix(line, "-->"):
			note = strings.TrimSpace(line[len("<!--") : len(line)-len("-->")])
		case line != "":
			note = ""
		}
	}
	return p
}

func cells(row string) []string {
	const pipe = "\x00"
	row = strings.Trim(strings.ReplaceAll(row, `\|`, pipe), "| ")
	parts := strings.Split(row, "|")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(strings.ReplaceAll(part, pipe, "|"))
	}
	return parts
}

// checked returns the table with the note "check: what".
func (p page) checked(t *testing.T, what string) table {
	t.Helper()
	at := slices.IndexFunc(p.tables, func(tab table) bool { return tab.note == "check: "+what })
	if at < 0 {
		t.Fatalf("%s: no table with the comment <!-- check: %s -->", p.file, what)
	}
	return p.tables[at]
}

var (
	links  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	inline = regexp.MustCompile("`[^`]*`")
	marks  = regexp.MustCompile(`[^\pL\pN _-]`)
)

func TestEveryLinkOfTheDocsLeadsSomewhere(t *testing.T) {
	t.Parallel()
	for _, file := range pages {
		p := read(t, file)
		text := p.text
		for _, b := range p.blocks {
			text = strings.ReplaceAll(text, b.code, "")
		}
		text = inline.ReplaceAllString(text, "")
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := p
			if target != "" {
				path := filepath.Join(filepath.Dir(file), target)
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s: the link %s leads nowhere: %v", file, m[1], err)
					continue
				}
				if anchor != "" {
					to = read(t, path)
				}
			}
			if anchor != "" && !slices.ContainsFunc(to.headings, func(h heading) bool { return h.anchor() == anchor }) {
				t.Errorf("%s: %s has no heading for the link %s", file, to.file, m[1])
			}
		}
	}
}

// anchor is the name that GitHub gives a heading.
func (h heading) anchor() string {
	return strings.ReplaceAll(marks.ReplaceAllString(strings.ToLower(h.text), ""), " ", "-")
}
