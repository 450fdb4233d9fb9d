package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
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

// A subject is a candidate whose losses are listed, and those that it is held against, one group after the other.
type subject struct {
	candidate string
	rivals    []report.Rivals
}

func (p *page) subjects() []subject {
	base := p.candidates[0].Name()
	plain := func(other string) bool { return other == base }
	wrapper := func(other string) bool {
		return other != base && !workload.IsPGX(other) && !strings.HasPrefix(other, "lifeguard")
	}
	return []subject{
		{"lifeguard", []report.Rivals{plain, workload.IsPGX, wrapper}},
		// Whoever turns the cache off wants what the plain driver does, and no more.
		{"lifeguard (no cache)", []report.Rivals{plain}},
		// Making no spans at all is no way of making them faster.
		{"lifeguard (trace=all)", []report.Rivals{wrapper}},
		// On another driver that driver is the measure.
		{"lifeguard over pgx", []report.Rivals{func(other string) bool { return other == "pgx stdlib" }}},
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
	switch p.extent {
	case workload.Quick:
		warnings = append(warnings, "It was a quick run, which measures less, and for a shorter time.")
	case workload.Smoke:
		warnings = append(warnings, "It only showed that everything works: its figures mean nothing.")
	}
	if p.machine.busy > disturbed {
		warnings = append(warnings, fmt.Sprintf("The machine was not quiet: others used %s of its processors when it began.",
			report.Percent.Format(p.machine.busy)))
	}
	if len(warnings) > 0 {
		prose(&b, "> "+strings.Join(warnings, " "))
	}
	p.writeSummary(&b)
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
	indent := ""
	if strings.HasPrefix(text, "> ") {
		indent = "> "
	}
	fill(b, text, indent)
	b.WriteString("\n")
}

// item writes an item of a list.
func item(b *strings.Builder, text string) { fill(b, "- "+text, "  ") }

func fill(b *strings.Builder, text, indent string) {
	const longest = 120
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
	b.WriteString("\n")
}

func (p *page) writeReading(b *strings.Builder) {
	b.WriteString("## How to read it\n\n")
	prose(b, fmt.Sprintf("Each figure is the median of %s. In a round the candidates take turns, in an order drawn "+
		"anew for each. ±3 %% says that the rounds lie within about 3 %% of the median, and **×1.50** that the "+
		"figure is one and a half times that of %s, as the median of the ratios of the rounds. A dash is a workload "+
		"that the candidate cannot do; why is said under the table. The [candidates](#candidates) with their "+
		"versions and the [machine](#machine-and-commands) are at the end. Every candidate may have the same number of "+
		"connections open, and keeps them when they are idle, except in [Churn](#churn-the-idle-limit-nobody-set).",
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
			prose(b, "All figures in which plain `database/sql` or a pool or driver of pgx's is ahead by more than 5 % in at least "+
				"four rounds out of five, why, and by what factor: the time taken, the memory, or what is done in a second, "+
				"the other way round. A library that passes calls on to plain `database/sql` is listed only where that is "+
				"not ahead itself. lifeguard without the cache is held against plain `database/sql` alone, and with "+
				"`trace=all` against those that make spans.")
		}
		for _, c := range causes {
			prose(b, fmt.Sprintf("**%s.** %s", title(s), c.text))
			for _, place := range c.places {
				item(b, place.name+strings.Join(place.figures, ", "))
			}
			b.WriteString("\n")
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
	base := p.candidates[0].Name()
	for _, t := range s.Tables {
		for _, subject := range p.subjects() {
			known := map[string]bool{} // figures in which the baseline is ahead
			for _, rivals := range subject.rivals {
				for _, loss := range t.Losses(subject.candidate, rivals) {
					figure := loss.Row.Variant + "/" + loss.Column
					wrapper := loss.To != base && !workload.IsPGX(loss.To)
					if wrapper && known[figure] {
						continue
					}
					known[figure] = known[figure] || loss.To == base
					text, note := "", ""
					switch {
					case wrapper && subject.candidate == "lifeguard":
						text = workload.WrappersOnly
					case s.Cause != nil:
						text, note = s.Cause(t, loss)
					}
					if text == "" {
						text = unexplained
					}
					i := slices.IndexFunc(causes, func(c *cause) bool { return c.text == text })
					if i < 0 {
						i = len(causes)
						causes = append(causes, &cause{text: text})
					}
					causes[i].add(t, loss, note)
				}
			}
		}
	}
	return causes
}

// unexplained is what is said where the figures of the run do not lead to a cause.
const unexplained = "These figures alone do not lead to a cause; the spread in the table says how far to trust them."

func (c *cause) add(t *report.Table, loss report.Loss, note string) {
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
	where = append(where, "behind "+loss.To)
	name := strings.Join(where, ", ") + ": "
	i := slices.IndexFunc(c.places, func(p *place) bool { return p.name == name })
	if i < 0 {
		i = len(c.places)
		c.places = append(c.places, &place{name: name})
	}
	figure := fmt.Sprintf("%s %.2f", loss.Column, loss.Factor)
	if math.IsInf(loss.Factor, 0) {
		figure = loss.Column + " (it has none)"
	}
	if note != "" {
		figure += " (" + note + ")"
	}
	c.places[i].figures = append(c.places[i].figures, figure)
}

func (p *page) writeCandidates(b *strings.Builder) {
	b.WriteString("## Candidates\n\n| | version | set up as |\n| --- | --- | --- |\n")
	for _, c := range p.candidates {
		version := p.machine.modules[c.Module()]
		if strings.HasPrefix(c.Name(), "lifeguard") {
			version = "this checkout"
			if p.machine.revision != "" {
				version += " (" + p.machine.revision + ")"
			}
		}
		fmt.Fprintf(b, "| %s | `%s` %s | %s |\n", c.Name(), c.Module(), version, c.Note())
	}
	b.WriteString("\n")
	text := "All but the three with pgx in their name work over lib/pq " + p.machine.modules["github.com/lib/pq"] + ". The handles of all but lifeguard and " +
		"pgxpool have the `SetMaxOpenConns` and `SetMaxIdleConns` of plain `database/sql`. In memory lifeguard is opened with " +
		"`OpenDB`."
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
		{"processors in use by others at the start", report.Percent.Format(p.machine.busy)},
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

    make bench                  # everything, about half an hour; writes this page and the figures in README
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
