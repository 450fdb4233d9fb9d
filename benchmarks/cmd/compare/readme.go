package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The figures in the README stand between these lines, and nowhere else.
const (
	readmeBegin = "<!-- figures of docs/benchmarks.md, written by make bench -->"
	readmeEnd   = "<!-- end of figures -->"
)

// noFigures stands there as long as the page is not from a full run, whose figures could be quoted.
const noFigures = "`make bench` compares lifeguard with plain lib/pq, pgx and the other wrappers on your machine.\n"

// saveReadme replaces the figures in a README by those of the run, or removes them if it was not a full one.
func (p *page) saveReadme(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	replaced, err := replaceFigures(string(text), p.readmeBlock())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(replaced), 0o644)
}

// readmeBlock is what stands between the marks.
func (p *page) readmeBlock() string {
	if !p.whole() {
		return noFigures
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, PostgreSQL on the same machine | %s | lifeguard | to plain | others |\n"+
		"| --- | ---: | ---: | --- | ---: |\n", p.machine.cpu, p.candidates[0].Name())
	for _, line := range p.headlines(true) {
		b.WriteString(line + "\n")
	}
	b.WriteString("\n")
	of := ""
	if p.machine.revision != "" {
		of = " of commit " + p.machine.revision
	}
	prose(&b, fmt.Sprintf("Medians of %s%s, written by `make bench`. [Comparison](docs/benchmarks.md) has what they are figures "+
		"of, all others, and where lifeguard is behind, and why.", rounds(p.rounds), of))
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// figures returns what stands between the marks, and what is around it.
func figures(readme string) (before, block, after string, err error) {
	before, rest, ok := strings.Cut(readme, readmeBegin+"\n")
	block, after, closed := strings.Cut(rest, readmeEnd)
	if !ok || !closed {
		return "", "", "", errors.New("there is no block of figures, between " + readmeBegin + " and " + readmeEnd)
	}
	return before, strings.Trim(block, "\n") + "\n", after, nil
}

func replaceFigures(readme, block string) (string, error) {
	before, _, after, err := figures(readme)
	if err != nil {
		return "", err
	}
	return before + readmeBegin + "\n\n" + block + "\n" + readmeEnd + after, nil
}
