package lifeguard

import (
	"os"
	"strings"
	"testing"
)

// The table in docs/parameters.md has the parameters of this package in their
// order, with the same defaults, ranges, examples and versions.
func TestParameterDocumentation(t *testing.T) {
	text, err := os.ReadFile("docs/parameters.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		line, isRow := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !isRow {
			continue
		}
		row := strings.Split(strings.TrimSuffix(line, " |"), " | ")
		for i := range row {
			row[i] = strings.Trim(row[i], "`")
		}
		rows = append(rows, row)
	}
	if len(rows) != len(parameters)+1 {
		t.Fatalf("the table has %d rows and a heading, want %d", len(rows)-1, len(parameters))
	}
	if got, want := strings.Join(rows[0], " "), "parameter default accepts meaning example since"; got != want {
		t.Fatalf("the table's heading is %q, want %q", got, want)
	}
	for i, p := range parameters {
		since := p.since
		if since == "" {
			since = "not yet"
		}
		row := rows[i+1]
		if len(row) != 6 {
			t.Errorf("%s: %d columns, want 6", p.name, len(row))
			continue
		}
		if row[3] == "" {
			t.Errorf("%s: no meaning", p.name)
		}
		row[3] = ""
		want := []string{p.name, p.fallback, p.accepts, "", p.name + "=" + p.example, since}
		for j := range want {
			if row[j] != want[j] {
				t.Errorf("%s: %s is %q, want %q", p.name, rows[0][j], row[j], want[j])
			}
		}
	}
}
