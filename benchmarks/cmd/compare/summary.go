package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
)

// writeSummary writes the figures that stand for the others, and counts those.
func (p *page) writeSummary(b *strings.Builder) {
	base := p.candidates[0].Name()
	lines := p.headlines(false)
	if len(lines) == 0 {
		return // without lifeguard there is nothing to sum up
	}
	b.WriteString("## In short\n\n")
	fmt.Fprintf(b, "| | %s | lifeguard | to plain | others |\n| --- | ---: | ---: | --- | ---: |\n", base)
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	b.WriteString("\n")
	p.writeTallies(b)
}

// headlines are the rows of the summary; the first few of each section if it is for the front page.
func (p *page) headlines(front bool) (lines []string) {
	base := p.candidates[0].Name()
	for _, s := range p.sections {
		for _, h := range s.Headlines {
			if front && !h.Front {
				continue
			}
			unit := report.Count
			for _, c := range h.Table.Columns {
				if c.Name == h.Column {
					unit = c.Unit
				}
			}
			median := func(candidate string) string {
				return unit.Format(stats.Median(h.Table.Values(report.Row{Variant: h.Row.Variant, Candidate: candidate}, h.Column)))
			}
			verdict, _ := h.Table.Compare(h.Row, base, h.Column)
			if verdict == report.Unknown {
				continue // not in this run
			}
			against := verdict.String()
			if r := h.Table.Ratio(h.Row, h.Column); !math.IsNaN(r) {
				against = fmt.Sprintf("**×%s** %s", report.Ratio(r), verdict)
			}
			peer := h.Peer
			if peer == "" {
				peer = "pgxpool"
			}
			other := median(peer)
			if other != "—" {
				other = peer + ": " + other
			}
			mine := median(h.Row.Candidate)
			if spread := stats.Spread(h.Table.Values(h.Row, h.Column)); !math.IsNaN(spread) && unit != report.Allocations {
				mine += fmt.Sprintf(" ±%.0f %%", 100*spread)
			}
			lines = append(lines, fmt.Sprintf("| %s | %s | %s | %s | %s |", h.Text, median(base), mine, against, other))
		}
	}
	return lines
}

// writeTallies counts the figures of lifeguard's that are better and worse than others', section by section.
func (p *page) writeTallies(b *strings.Builder) {
	base := p.candidates[0].Name()
	var rivals []string
	for _, name := range []string{base, "pgx stdlib", "pgxpool", "puddle"} {
		for _, s := range p.sections {
			if ahead, level, behind := tally(s, name); ahead+level+behind > 0 && !slices.Contains(rivals, name) {
				rivals = append(rivals, name)
			}
		}
	}
	prose(b, "Of all figures, those in which lifeguard is better / level / worse, by more than 5 % in at least four rounds out of "+
		"five:")
	fmt.Fprintf(b, "| | than %s |\n| --- |%s\n", strings.Join(rivals, " | than "), strings.Repeat(" ---: |", len(rivals)))
	for _, s := range p.sections {
		cells := []string{fmt.Sprintf("[%s](#%s)", title(s), anchor(s.Title))}
		for _, name := range rivals {
			ahead, level, behind := tally(s, name)
			if ahead+level+behind == 0 {
				cells = append(cells, "—")
				continue
			}
			cells = append(cells, fmt.Sprintf("%d / %d / %d", ahead, level, behind))
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	b.WriteString("\n")
}

func tally(s *workload.Section, name string) (ahead, level, behind int) {
	for _, t := range s.Tables {
		a, l, b := t.Tally("lifeguard", name)
		ahead, level, behind = ahead+a, level+l, behind+b
	}
	return ahead, level, behind
}

// title is what comes before the colon.
func title(s *workload.Section) string {
	short, _, _ := strings.Cut(s.Title, ":")
	return short
}

// anchor is how Markdown renderers name a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == ':' || r == ',' || r == '.':
			return -1
		}
		return unicode.ToLower(r)
	}, heading)
}
