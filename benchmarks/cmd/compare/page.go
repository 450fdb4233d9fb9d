package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
)

// page is the page of results.
type page struct {
	settings
	args     []string
	machine  machine
	sections []*workload.Section
	began    time.Time
	took     time.Duration
}

// subjects are those whose losses are listed, and whom each is held against.
func (p *page) subjects() map[string]func(other string) bool {
	peer := func(other string) bool { return !strings.HasPrefix(other, "lifeguard") }
	base := p.candidates[0].Name()
	return map[string]func(string) bool{
		"lifeguard": peer,
		// Whoever turns the cache off wants what the plain driver does, and no more.
		"lifeguard (no cache)": func(other string) bool { return other == base },
		// Making no spans at all is no way of making them faster.
		"lifeguard (trace=all)": func(other string) bool { return peer(other) && other != base },
	}
}

// save writes the page and its pictures to a folder.
func (p *page) save(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "img"), 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := p.write(&text); err != nil {
		return err
	}
	for _, s := range p.sections {
		for _, picture := range s.Pictures {
			var svg bytes.Buffer
			if err := picture.Chart.WriteSVG(&svg); err != nil {
				return fmt.Errorf("%s: %w", picture.File, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "img", picture.File), svg.Bytes(), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), text.Bytes(), 0o644)
}

func (p *page) write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Comparison\n\n")
	prose(&b, "What `database/sql` does by itself, what lifeguard and other libraries make of it, and what pgx's own "+
		"pool does, on one machine, in one run. This page is written by the program that measures; `make bench` "+
		"writes it anew.")
	var warnings []string
	if p.rounds < enoughRounds {
		warnings = append(warnings, fmt.Sprintf("**This run had %s, fewer than %d: its figures are a first look, and small "+
			"differences mean nothing.**", rounds(p.rounds), enoughRounds))
	}
	if p.quick {
		warnings = append(warnings, "It was a quick run, which measures less, and for a shorter time.")
	}
	if len(warnings) > 0 {
		prose(&b, "> "+strings.Join(warnings, " "))
	}
	p.writeReading(&b)
	p.writeLosses(&b)
	for _, s := range p.sections {
		if err := p.writeSection(&b, s); err != nil {
			return err
		}
	}
	p.writeCandidates(&b)
	p.writeMachine(&b)
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// prose writes a paragraph in lines of a length that can be read in an editor.
func prose(b *strings.Builder, text string) {
	const longest = 120
	indent := ""
	if strings.HasPrefix(text, "- ") {
		indent = "  "
	}
	if strings.HasPrefix(text, "> ") {
		indent = "> "
	}
	length := 0
	for i, word := range strings.Fields(text) {
		// A character is counted as one, however many bytes it has.
		size := len([]rune(word))
		switch {
		case i == 0:
		case length+1+size > longest:
			b.WriteString("\n" + indent)
			length = len(indent)
		default:
			b.WriteString(" ")
			length++
		}
		b.WriteString(word)
		length += size
	}
	b.WriteString("\n\n")
}

func (p *page) writeReading(b *strings.Builder) {
	prose(b, fmt.Sprintf("Each figure is the median of %s. In a round the candidates take turns, in an order drawn "+
		"anew for each. ±3 %% says that the rounds lie within about 3 %% of the median, and **×1.50** that the "+
		"figure is one and a half times that of %s, as the median of the ratios of the rounds. A dash is a workload "+
		"that the candidate cannot do; why is said under the table. The [candidates](#candidates) with their "+
		"versions and the [machine](#machine-and-commands) are at the end.",
		rounds(p.rounds), p.candidates[0].Name()))
}

func (p *page) writeSection(b *strings.Builder, s *workload.Section) error {
	fmt.Fprintf(b, "## %s\n\n", s.Title)
	prose(b, s.Text)
	if p.out != "" {
		for _, picture := range s.Pictures {
			fmt.Fprintf(b, "![%s](img/%s)\n\n", picture.Alt, picture.File)
		}
	}
	for _, t := range s.Tables {
		if _, err := t.WriteTo(b); err != nil {
			return err
		}
		b.WriteString("\n")
	}
	return nil
}

// writeLosses lists every figure in which another candidate is ahead of lifeguard, by the cause.
func (p *page) writeLosses(b *strings.Builder) {
	b.WriteString("## Where lifeguard is behind\n\n")
	found := false
	for _, s := range p.sections {
		causes := p.losses(s)
		if len(causes) == 0 {
			continue
		}
		if !found {
			found = true
			prose(b, "All figures in which any other candidate was ahead by more than 5 %, in at least four rounds out of "+
				"five, with the one that was furthest ahead, and by how many times:")
		}
		title, _, _ := strings.Cut(s.Title, ":")
		for _, c := range causes {
			var seen []string
			for _, place := range c.places {
				seen = append(seen, place.name+strings.Join(place.figures, ", "))
			}
			prose(b, fmt.Sprintf("- **%s.** %s Seen in: %s.", title, c.text, strings.Join(seen, "; ")))
		}
	}
	if !found {
		prose(b, "Nowhere by more than 5 % in four rounds out of five.")
	}
}

// cause is why figures are worse than others', with those figures by table and variant.
type cause struct {
	text   string
	places []*place
}

type place struct {
	name    string
	figures []string
}

// losses are those of a section, by cause.
func (p *page) losses(s *workload.Section) (causes []*cause) {
	subjects := p.subjects()
	for _, t := range s.Tables {
		for _, name := range slices.Sorted(maps.Keys(subjects)) {
			for _, loss := range t.Losses(name, subjects[name]) {
				text := ""
				if s.Cause != nil {
					text = s.Cause(t, loss)
				}
				if text == "" {
					text = "The cause is not known yet."
				}
				i := slices.IndexFunc(causes, func(c *cause) bool { return c.text == text })
				if i < 0 {
					i = len(causes)
					causes = append(causes, &cause{text: text})
				}
				causes[i].add(t, loss)
			}
		}
	}
	return causes
}

func (c *cause) add(t *report.Table, loss report.Loss) {
	var where []string
	if t.Title != "" {
		where = append(where, t.Title)
	}
	if v := loss.Row.Variant; v != "" {
		where = append(where, strings.TrimSpace(t.Variants+" "+v))
	}
	if _, setting, ok := strings.Cut(loss.Row.Candidate, " ("); ok {
		where = append(where, "with "+strings.TrimSuffix(setting, ")"))
	}
	name := strings.Join(where, ", ")
	if name != "" {
		name += ": "
	}
	if n := len(c.places); n == 0 || c.places[n-1].name != name {
		c.places = append(c.places, &place{name: name})
	}
	last := c.places[len(c.places)-1]
	figure := fmt.Sprintf("%s %.2f (%s)", loss.Column, loss.Factor, loss.To)
	if math.IsInf(loss.Factor, 0) {
		figure = fmt.Sprintf("%s (none for %s)", loss.Column, loss.To)
	}
	last.figures = append(last.figures, figure)
}

func (p *page) writeCandidates(b *strings.Builder) {
	b.WriteString("## Candidates\n\n| | version | set up as |\n| --- | --- | --- |\n")
	for _, c := range p.candidates {
		version := p.machine.modules[c.Module()]
		if version == "" || strings.HasPrefix(version, "(") || strings.HasPrefix(version, "v0.0.0") && c.Module() == "github.com/go-lifeguard/lifeguard" {
			version = "this checkout"
			if p.machine.revision != "" {
				version += " (" + p.machine.revision + ")"
			}
		}
		fmt.Fprintf(b, "| %s | `%s` %s | %s |\n", c.Name(), c.Module(), version, c.Note())
	}
	b.WriteString("\n")
	text := "All but pgx work over lib/pq " + p.machine.modules["github.com/lib/pq"] + "."
	for _, a := range candidate.Absent() {
		text += fmt.Sprintf(" Left out is %s: %s.", a.Name, a.Reason)
	}
	prose(b, text)
}

func (p *page) writeMachine(b *strings.Builder) {
	b.WriteString("## Machine and commands\n\n")
	rows := [][2]string{
		{"processor", p.machine.cpu},
		{"memory", p.machine.memory},
		{"system", p.machine.system},
		{"Go", runtime.Version() + fmt.Sprintf(", GOMAXPROCS %d", runtime.GOMAXPROCS(0))},
		{"PostgreSQL", p.machine.postgres},
		{"load at the start", p.machine.load},
		{"began", p.began.UTC().Format("2006-01-02 15:04 UTC") + ", took " + p.took.Round(time.Second).String()},
		{"rounds", fmt.Sprint(p.rounds)},
		{"seed", fmt.Sprint(p.seed)},
	}
	b.WriteString("| | |\n| --- | --- |\n")
	for _, row := range rows {
		if row[1] != "" {
			fmt.Fprintf(b, "| %s | %s |\n", row[0], row[1])
		}
	}
	fmt.Fprintf(b, `
This page was written by

    go run ./benchmarks/cmd/compare %s

With that seed the order of the candidates, the arrivals and the identifiers are the same again; the machine is not. Other
commands, from the root of the repository:

    make bench                  # everything, about half an hour; writes this page
    make bench BENCH=quick      # less of everything, under 3 minutes
    go run ./benchmarks/cmd/compare -workloads contention,overload -candidates plain,lifeguard,pgxpool -rounds 3
    go run ./benchmarks/cmd/compare -help
`, strings.Join(p.command(), " "))
}

// command is the command line that repeats the run, seed included.
func (p *page) command() []string {
	for _, arg := range p.args {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "seed") {
			return p.args
		}
	}
	return append(slices.Clip(p.args), fmt.Sprintf("-seed=%d", p.seed))
}
