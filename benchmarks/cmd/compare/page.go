package main

import (
	"bytes"
	"fmt"
	"io"
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
	fmt.Fprintf(b, "\nThis page was written by\n\n```sh\ngo run ./benchmarks/cmd/compare %s\n```\n\n%s", strings.Join(p.command(), " "), commands)
}

// commands are those that a reader may want next.
const commands = "With that seed the order of the candidates, the arrivals and the identifiers are the same again; the machine is not. Other\n" +
	"commands, from the root of the repository:\n\n```sh\n" + `make bench                  # everything, about half an hour; writes this page and the figures in README
make bench BENCH=quick      # less of everything, under 3 minutes
go run ./benchmarks/cmd/compare -workloads contention,overload -candidates plain,lifeguard,pgxpool -rounds 3
go run ./benchmarks/cmd/compare -help
` + "```\n"

// command is the command line that repeats the run, seed included.
func (p *page) command() []string {
	for _, arg := range p.args {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "seed") {
			return p.args
		}
	}
	return append(slices.Clip(p.args), fmt.Sprintf("-seed=%d", p.seed))
}
