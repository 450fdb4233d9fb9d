package docstest

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

const (
	top = ".." // the repository

)

// atOnce bounds the pages that are tried at a time. They wait for servers and for timeouts most of it.
var atOnce = make(chan struct{}, 6)

// skips are the blocks that are not tried, by page, with their reasons. TestDashboard looks at what Grafana would show.
var skips = []string{"docs/prometheus.md: it needs Docker and an image from the internet"}

func TestMain(m *testing.M) { os.Exit(pgtest.Run(runner(func() int { return mariatest.Run(m) }))) }

type runner func() int

func (r runner) Run() int {
	defer os.RemoveAll(sharedPrograms())
	return r()
}

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
	with := map[string]*substitutes{}
	of := map[string][]*block{}
	for name, text := range texts {
		blocks, wrong := read(name, text)
		problems = append(problems, wrong...)
		of[name] = slices.DeleteFunc(blocks, func(b *block) bool { return b.has("skip") })
		with[name] = substitutesFor(t, text, folder(t))
	}
	code, wrong := goCode(t, of, with)
	problems = append(problems, wrong...)

	// The pages do not wait for the compiler, but for those that run what it builds.
	found := make(chan []problem)
	built := make(chan struct{})
	go func() {
		began := time.Now()
		wrong, err := code.build()
		assert.NoError(t, err)
		t.Logf("building took %s", time.Since(began).Round(time.Millisecond))
		close(built)
		found <- wrong
	}()
	for name, blocks := range of {
		s := &session{page: name, scratch: with[name].scratch, go_: code, with: with[name]}
		go func() {
			if slices.ContainsFunc(blocks, func(b *block) bool { return b.has("run") }) {
				<-built
			}
			s.blocks = slices.DeleteFunc(slices.Clone(blocks), func(b *block) bool { return !runs(b) || b.lang == "go" && !code.has(b) })
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			began := time.Now()
			wrong, err := s.run()
			assert.NoError(t, err)
			t.Logf("%s took %s", s.page, time.Since(began).Round(time.Millisecond))
			for _, b := range blocks {
				wrong = append(wrong, parse(b, s.scratch)...)
			}
			found <- wrong
		}()
	}
	for range len(of) + 1 {
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

// goCode has the packages of all Go blocks.
func goCode(t *testing.T, of map[string][]*block, with map[string]*substitutes) (*goBlocks, []problem) {
	t.Helper()
	var code []*block
	for _, blocks := range of {
		for _, b := range blocks {
			if !b.hidden && (b.lang == "go" || b.lang == "diff") {
				code = append(code, b)
			}
		}
	}
	written, problems, err := writeGo(code, folder(t), func(b *block) (string, error) {
		prelude := slices.DeleteFunc(slices.Clone(of[b.page]), func(p *block) bool { return !p.hidden || p.lang != "go" })
		text, err := goText(b, prelude)
		return with[b.page].in(text), err
	})
	require.NoError(t, err)
	return written, problems
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
	t.Parallel()
	texts := pages(t)
	if *onlyPage != "" {
		texts = map[string]string{*onlyPage: texts[*onlyPage]}
	}
	for _, p := range checked(t, texts) {
		t.Errorf("%s", p)
	}
}

func TestOnlyTheseBlocksAreSkipped(t *testing.T) {
	var skipped []string
	for name, text := range pages(t) {
		blocks, _ := read(name, text)
		for _, b := range blocks {
			if reason, ok := b.rules["skip"]; ok {
				skipped = append(skipped, name+": "+reason)
			}
		}
	}
	assert.ElementsMatch(t, skips, skipped)
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

// Grafana can read the dashboard, and Prometheus its queries. That their metrics exist is tried in examples/.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs", "dashboard.json"))
	require.NoError(t, err)
	var dashboard struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct{ List []struct{ Name string } }
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	assert.NotEmpty(t, dashboard.Title)
	known := map[string]bool{"__rate_interval": true}
	for _, v := range dashboard.Templating.List {
		known[v.Name] = true
	}
	var queries, titles []string
	for _, panel := range dashboard.Panels {
		titles = append(titles, panel.Title)
		for _, target := range panel.Targets {
			for _, m := range variable.FindAllStringSubmatch(target.Expr, -1) {
				assert.True(t, known[m[1]], "%s: there is no variable $%s", panel.Title, m[1])
			}
			queries = append(queries, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	require.NotEmpty(t, queries)
	assert.NoError(t, promtool(t.TempDir(), asRules(strings.Join(queries, "\n\n")), "check", "rules"))

	// The pages name panels in italics, after this word.
	for name, page := range pages(t) {
		for _, line := range panelsNamed.FindAllStringSubmatch(strings.Join(strings.Fields(page), " "), -1) {
			for _, m := range italics.FindAllStringSubmatch(line[1], -1) {
				assert.Contains(t, titles, m[1], "%s names a panel", name)
			}
		}
	}
}

var (
	variable    = regexp.MustCompile(`\$(\w+)`)
	panelsNamed = regexp.MustCompile(`Panels?: ((?:\*[^*]+\*(?:, )?)+)`)
	italics     = regexp.MustCompile(`\*([^*]+)\*`)
)

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

// docs/README.md leads to every page.
func TestMap(t *testing.T) {
	texts := pages(t)
	for name := range texts {
		if page, ok := strings.CutPrefix(name, "docs/"); ok && page != "README.md" {
			assert.Contains(t, texts["docs/README.md"], "]("+page, "docs/README.md does not lead to %s", name)
		}
	}
}

// A link leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	texts := pages(t)
	ids := map[string][]string{}
	for name, text := range texts {
		ids[name] = anchors(text)
	}
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
			if _, ok := texts[target]; ok && anchor != "" {
				assert.Contains(t, ids[target], anchor, "%s links to %s", name, where)
			}
		}
	}
}
