package docstest

import (
	"fmt"
	"regexp"
	"strings"
)

// A block is a code block of a page, or a hidden one.
type block struct {
	page   string // README.md, docs/cli.md
	line   int    // of its first line of code
	lang   string
	text   string
	hidden bool
	rules  map[string]string // from the comments before it: "serve": "4004"
}

func (b *block) at() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

func (b *block) has(rule string) bool { _, ok := b.rules[rule]; return ok }

// A problem is what a page has to mend.
type problem struct {
	page string
	line int
	text string
}

func (p problem) String() string { return fmt.Sprintf("%s:%d: %s", p.page, p.line, p.text) }

func (b *block) problem(format string, args ...any) problem {
	return problem{b.page, b.line, fmt.Sprintf(format, args...)}
}

// directives are the words after "check:", and the languages of the blocks that they may stand before.
var directives = map[string][]string{
	"in":     {"go", "diff"},
	"run":    {"go"},
	"serve":  {"sh", "console", "go"},
	"status": {"sh", "console"},
	"output": {"text"},
	"log":    {"text"},
	"rules":  {"yaml"},
	"config": {"yaml"},
	"maria":  {"sql"},
	"skip":   {"go", "diff", "sh", "console", "sql", "yaml", "json", "promql", "dsn"},
}

var languages = []string{"go", "diff", "sh", "console", "sql", "yaml", "json", "promql", "dsn", "text", "mermaid"}

var (
	fence    = regexp.MustCompile("^( {0,3})(```+)(.*)$")
	comment  = regexp.MustCompile(`(?s)^<!-- check: (\w+),?[ \n]?(.*?)\s*-->$`)
	listItem = regexp.MustCompile(`^\s*([-*+]|\d+\.) `)
)

// A reader goes through a page line by line.
type reader struct {
	page     string
	lines    []string
	n        int // lines read
	rules    map[string]string
	ruleLine int
	blocks   []*block
	problems []problem
}

// read takes a page apart.
func read(page, text string) ([]*block, []problem) {
	r := &reader{page: page, lines: strings.Split(text, "\n"), rules: map[string]string{}}
	list, before := false, ""
	for r.n < len(r.lines) {
		line := r.lines[r.n]
		r.n++
		switch m := fence.FindStringSubmatch(line); {
		case m != nil:
			r.fenced(m[1], m[2], strings.TrimSpace(m[3]))
		case strings.HasPrefix(line, "<!-- check:"):
			r.comment(line)
		case strings.TrimSpace(line) == "":
		default:
			if strings.HasPrefix(line, "    ") && !list && strings.TrimSpace(before) == "" {
				r.complain(r.n, "an indented block: write a fence, with its language")
			}
			if listItem.MatchString(line) {
				list = true
			} else if !strings.HasPrefix(line, " ") {
				list = false
			}
			r.unused()
		}
		before = line
	}
	r.unused()
	return r.blocks, r.problems
}

func (r *reader) complain(line int, text string) {
	r.problems = append(r.problems, problem{r.page, line, text})
}

// unused complains of comments that no block follows.
func (r *reader) unused() {
	if len(r.rules) > 0 {
		r.complain(r.ruleLine, "no block follows this comment")
		r.rules = map[string]string{}
	}
}

// fenced reads a block up to its closing fence.
func (r *reader) fenced(indent, ticks, lang string) {
	b := &block{page: r.page, line: r.n + 1, lang: lang, rules: r.rules}
	r.rules = map[string]string{}
	var text []string
	for ; r.n < len(r.lines); r.n++ {
		line := strings.TrimPrefix(r.lines[r.n], indent)
		if strings.TrimSpace(line) == ticks {
			r.n++
			b.text = strings.Join(text, "\n") + "\n"
			r.add(b)
			return
		}
		text = append(text, line)
	}
	r.complain(b.line-1, "a fence that is not closed")
}

// comment reads a comment, which may have several lines.
func (r *reader) comment(line string) {
	start := r.n
	for !strings.Contains(line, "-->") && r.n < len(r.lines) {
		line += "\n" + r.lines[r.n]
		r.n++
	}
	m := comment.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		r.complain(start, "a comment that cannot be read: write <!-- check: word … -->")
		return
	}
	word, rest := m[1], m[2]
	if word == "go" || word == "sh" {
		r.add(&block{page: r.page, line: start + 1, lang: word, text: rest + "\n", hidden: true, rules: map[string]string{}})
		return
	}
	if _, known := directives[word]; !known {
		r.complain(start, "check: "+word+" is not known")
		return
	}
	r.rules[word], r.ruleLine = rest, start
}

// add keeps a block whose language and rules are known.
func (r *reader) add(b *block) {
	if !contains(languages, b.lang) {
		r.complain(b.line-1, fmt.Sprintf("the language %q is not known", b.lang))
		return
	}
	for word, rest := range b.rules {
		if !contains(directives[word], b.lang) {
			r.complain(b.line-1, "check: "+word+" does not go with "+b.lang)
			return
		}
		if word == "skip" && len(strings.Fields(rest)) < 3 {
			r.complain(b.line-1, "check: skip needs its reason")
			return
		}
	}
	r.blocks = append(r.blocks, b)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
