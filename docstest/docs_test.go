package docstest

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

const (
	top = ".." // the repository

	maxSkips = 12 // blocks that are not tried, of all pages
)

// generated are pages that a program writes, with its own marks.
var generated = []string{"docs/benchmarks.md"}

func TestMain(m *testing.M) { os.Exit(pgtest.Run(runner(func() int { return mariatest.Run(m) }))) }

type runner func() int

func (r runner) Run() int { return r() }

// pages are README and the documentation, by name below the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	require.NoError(t, err)
	texts := map[string]string{}
	for _, name := range append(names, filepath.Join(top, "README.md")) {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		texts[relative(name)] = string(text)
	}
	require.Greater(t, len(texts), 10)
	return texts
}

// checked tries the blocks of pages, and gives their problems.
func checked(t *testing.T, texts map[string]string) (problems []problem) {
	t.Helper()
	var all []*block
	with := map[string]*substitutes{}
	of := map[string][]*block{}
	for name, text := range texts {
		blocks, wrong := read(name, text)
		if !slices.Contains(generated, name) {
			problems = append(problems, wrong...)
		}
		blocks = slices.DeleteFunc(blocks, func(b *block) bool { return b.has("skip") })
		with[name], of[name] = substitutesFor(t, text, folder(t)), blocks
		all = append(all, blocks...)
	}
	built, wrong := goProblems(t, all, of, with)
	problems = append(problems, wrong...)
	for _, b := range all {
		problems = append(problems, parse(b, with[b.page].scratch)...)
	}
	found := make(chan []problem)
	started := 0
	atOnce := make(chan struct{}, 3)
	for name, blocks := range of {
		s := &session{page: name, scratch: with[name].scratch, go_: built, with: with[name]}
		s.blocks = slices.DeleteFunc(slices.Clone(blocks), func(b *block) bool { return !runs(b) || b.lang == "go" && !built.has(b) })
		started++
		go func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			wrong, err := s.run()
			assert.NoError(t, err)
			found <- wrong
		}()
	}
	for range started {
		problems = append(problems, <-found...)
	}
	return problems
}

// runs says whether a block has a part in the session of its page.
func runs(b *block) bool {
	switch b.lang {
	case "sh", "console", "sql":
		return true
	case "text":
		return b.has("output") || b.has("log")
	}
	return b.has("run")
}

func goProblems(t *testing.T, all []*block, of map[string][]*block, with map[string]*substitutes) (*goBlocks, []problem) {
	t.Helper()
	code := slices.DeleteFunc(slices.Clone(all), func(b *block) bool { return b.hidden || b.lang != "go" && b.lang != "diff" })
	built, problems, err := writeGo(code, folder(t), func(b *block) (string, error) {
		prelude := slices.DeleteFunc(slices.Clone(of[b.page]), func(p *block) bool { return !p.hidden || p.lang != "go" })
		text, err := goText(b, prelude)
		return with[b.page].in(text), err
	})
	require.NoError(t, err)
	wrong, err := built.build()
	require.NoError(t, err)
	return built, append(problems, wrong...)
}

// folder is a temporary one that servers can reach.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docstest-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

var onlyPage = flag.String("page", "", "the only page that TestPages tries, such as docs/cli.md")

// Every block of the documentation does what it says.
func TestPages(t *testing.T) {
	texts := pages(t)
	if *onlyPage != "" {
		texts = map[string]string{*onlyPage: texts[*onlyPage]}
	}
	for _, p := range checked(t, texts) {
		t.Errorf("%s", p)
	}
}

func TestFewBlocksAreSkipped(t *testing.T) {
	skipped := 0
	for name, text := range pages(t) {
		blocks, _ := read(name, text)
		for _, b := range blocks {
			if b.has("skip") {
				skipped++
			}
		}
	}
	assert.LessOrEqual(t, skipped, maxSkips)
}

// README's first screen has 40 lines of 80 columns. What a reader needs to begin stands there.
func TestFirstScreen(t *testing.T) {
	var lines []string
	for _, line := range strings.Split(pages(t)["README.md"], "\n") {
		if !strings.HasPrefix(line, "<!--") {
			lines = append(lines, line)
		}
	}
	screen := lines[:40]
	for _, line := range screen {
		assert.LessOrEqual(t, len([]rune(line)), 80, line)
	}
	for _, what := range []string{
		"go get github.com/go-lifeguard/lifeguard\n", `sql.Open("lifeguard", dsn)`, "lib/pq", `lifeguard.Open("mysql", dsn)`,
		"10 of 10 by main.exportAll (export.go:88)", "SetMaxOpenConns", "\ngo run ./examples/customers\n", "\nmake test\n```",
	} {
		assert.Contains(t, strings.Join(screen, "\n"), what)
	}
	points := 0
	for _, line := range screen {
		if strings.HasPrefix(line, "- ") {
			points++
		}
	}
	assert.Equal(t, 5, points, "lines of what you get")
}

// Each alert leads to its section of the runbook.
func TestRunbook(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs", "alerts.yaml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &rules))
	sections := anchors(pages(t)["docs/runbook.md"])
	n := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			n++
			section := strings.ToLower(rule.Alert)
			assert.Contains(t, sections, section)
			assert.True(t, strings.HasSuffix(rule.Annotations["runbook_url"], "/docs/runbook.md#"+section), rule.Alert)
		}
	}
	assert.Positive(t, n)
}

var (
	link    = regexp.MustCompile(`(?m)\]\(([^)\s]+)\)|^\[\w+\]: (\S+)$`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notID   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	code    = regexp.MustCompile("(?ms)^ {0,3}```.*?^ {0,3}```|`[^`\n]*`")
)

// anchors are those that GitHub makes of a page's headings.
func anchors(text string) (ids []string) {
	for _, m := range heading.FindAllStringSubmatch(code.ReplaceAllStringFunc(text, func(s string) string {
		if strings.Contains(s, "```") {
			return ""
		}
		return strings.Trim(s, "`")
	}), -1) {
		ids = append(ids, strings.ReplaceAll(notID.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return ids
}

// A link leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	texts := pages(t)
	for name, text := range texts {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			where := m[1] + m[2]
			if strings.Contains(where, "://") {
				continue
			}
			to, anchor, _ := strings.Cut(where, "#")
			target := name
			if to != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), to))
				_, err := os.Stat(filepath.Join(top, target))
				assert.NoError(t, err, "%s links to %s", name, where)
			}
			if page, ok := texts[target]; ok && anchor != "" {
				assert.Contains(t, anchors(page), anchor, "%s links to %s", name, where)
			}
		}
	}
}
