package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every figure in the README is one of docs/benchmarks.md, and that is from a full run.
func TestFiguresOfREADME(t *testing.T) {
	readme, page := read(t, filepath.Join(root, "README.md")), read(t, filepath.Join(root, "docs", "benchmarks.md"))
	before, block, after, err := figures(readme)
	if err != nil {
		t.Fatal(err)
	}
	if block != noFigures {
		if strings.Contains(page, "\n> **This run") || strings.Contains(page, "quick run") {
			t.Error("the figures of README are from a run that was not a full one")
		}
		if !strings.Contains(block, "`make bench`") {
			t.Error("README does not say what writes its figures")
		}
		rows := 0
		for line := range strings.SplitSeq(block, "\n") {
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| ---") && !strings.Contains(line, "| to plain |") {
				rows++
				if !strings.Contains(page, line+"\n") {
					t.Errorf("docs/benchmarks.md does not have README's line\n%s", line)
				}
			}
		}
		if rows == 0 {
			t.Error("no figures in README's block of figures")
		}
	}
	// What looks like a measurement elsewhere would grow stale.
	rest := regexp.MustCompile("(?s)```.*?```|`[^`]*`").ReplaceAllString(before+after, "")
	measurement := regexp.MustCompile(`×\s?\d|\d\s?(%|ns|µs|ms)|\d(/s| a second)|\d( to \d+)? times`)
	for _, found := range measurement.FindAllString(rest, -1) {
		t.Errorf("README has a figure, %q, outside of its block of figures", found)
	}
}

func TestReadmeOfRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	const around = "before\n\n" + readmeBegin + "\n\nold\n\n" + readmeEnd + "\n\nafter\n"
	if err := os.WriteFile(file, []byte(around), 0o644); err != nil {
		t.Fatal(err)
	}
	p := examplePage(map[string][]float64{"plain database/sql": five(0.010), "lifeguard": five(0.005)})
	if err := p.saveReadme(file); err != nil {
		t.Fatal(err)
	}
	got := read(t, file)
	const line = "| an Exec | 10 ms | 5 ms ±0 % | **×0.50** better | — |"
	for _, want := range []string{"before\n\n" + readmeBegin, line, "| 2 cores, PostgreSQL", readmeEnd + "\n\nafter\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "old") || strings.Contains(got, "not in front") {
		t.Errorf("got\n%s", got)
	}
	if page := text(t, p); !strings.Contains(page, line) {
		t.Errorf("the page does not have the line of the README:\n%s", page)
	}

	// A run that is not a full one takes the figures away, which would not be those of the page any more.
	p.rounds = enoughRounds - 1
	if err := p.saveReadme(file); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, file), "before\n\n"+readmeBegin+"\n\n"+noFigures+"\n"+readmeEnd+"\n\nafter\n"; got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if _, err := replaceFigures("no marks", "x"); err == nil {
		t.Error("no error where there is no place for figures")
	}
}
