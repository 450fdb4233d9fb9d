package docstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testdata gives pages of the folder of that name, as pages of the documentation.
func testdata(t *testing.T, names ...string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, name := range names {
		path := filepath.Join("testdata", name+".md")
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		texts[relative(path)] = string(text)
	}
	return texts
}

func TestGoodPage(t *testing.T) {
	t.Parallel()
	for _, p := range checked(t, testdata(t, "good")) {
		t.Errorf("%s", p)
	}
}

// Each mistake is found, in its line, and nothing else is.
func TestBrokenPages(t *testing.T) {
	t.Parallel()
	want := []string{
		"broken.md:6: undefined: lifeguard.Nothing",
		"broken.md:11: db.Pnig undefined",
		"broken.md:17: undefined: lost",
		"broken.md:22: undefined: sql.Opne",
		"broken.md:26: yaml: line",
		"broken.md:30: this is not JSON",
		"broken.md:34: promtool: exit status 1",
		"broken.md:39: promtool: exit status 1",
		"broken.md:44: lifeguard: unknown parameter",
		`broken.md:47: the language "" is not known`,
		"broken.md:52: check: serve does not go with text",
		"broken.md:57: check: skip needs its reason",
		"broken.md:61: no block follows",
		"broken.md:65: an indented block",
		"command.md:2: exit status 127; it printed:\nbash: line",
		`sql.md:2: exit status 3; it printed:` + "\npsql:",
		`output.md:2: it does not print "three"`,
		`output.md:16: it does not print "0 failed"`,
		"status.md:8: exit status 99; it printed:\nstatus 3, want 2",
		"kept.md:0: make no-such-target: exit status 2",
		"kept.md:0: go test ./internal/nowhere: lstat ",
		"kept.md:0: go test -run NoSuchTest ./internal/waitq: -run NoSuchTest matches nothing",
		"kept.md:0: go test -run ^$ -bench NoSuchBenchmark ./internal/handle: -bench NoSuchBenchmark matches nothing",
		"kept.md:0: go test -soak 1m ./internal/waitq: there is no flag -soak",
		"kept.md:0: go get github.com/go-lifeguard/lifeguard/nowhere: exit status 1",
		"served.md:3: exit status 1; it printed:\nit cannot start\nnobody listens",
	}
	found := checked(t, testdata(t, "broken", "command", "sql", "output", "status", "kept", "served"))
	for _, w := range want {
		n := 0
		for _, p := range found {
			if strings.HasPrefix(p.String(), "docstest/testdata/"+w) {
				n++
			}
		}
		assert.Equal(t, 1, n, "problems %q", w)
	}
	if !assert.Len(t, found, len(want)) {
		for _, p := range found {
			t.Log(p)
		}
	}
}

// A program that fails is found, which only shows where everything can be built.
func TestProgramThatFails(t *testing.T) {
	t.Parallel()
	page := "```go\npackage main\n\nfunc main() { panic(\"no\") }\n```\n"
	found := checked(t, map[string]string{"docs/program.md": "<!-- check: run -->\n" + page})
	if assert.Len(t, found, 1) {
		assert.Contains(t, found[0].String(), "docs/program.md:3: exit status 2; it printed:\npanic: no")
	}
}

func TestLines(t *testing.T) {
	for _, tt := range []struct {
		page, printed string
		same          bool
	}{
		{"took 3.2s", "took 998ms", true},
		{"took 3.2s", "took 1m3.5s", true},
		{"took 3.2s", "takes 3.2s", false},
		{"0 failed", "1 failed", false},
		{"10 failed", "12 failed", true},
		{"a   b", "  a b", true},
		{"time=… level=INFO", "time=2026-01-02T03:04:05Z level=INFO", true},
		{"HTTP/1.1 201 Created", "HTTP/1.1 201 Created\r", true},
		{"HTTP/1.1 201 Created", "HTTP/1.1 503 Service Unavailable", false},
		{"(a|b)", "a", false},
	} {
		assert.Equal(t, tt.same, missing(tt.page, tt.printed) == "", fmt.Sprintf("%q and %q", tt.page, tt.printed))
	}
}
