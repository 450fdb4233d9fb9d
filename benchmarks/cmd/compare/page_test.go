package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
)

// examplePage is a page of one section whose figures are known: times of one operation by plain database/sql, lifeguard
// and others.
func examplePage(times map[string][]float64) *page {
	const column = "Exec"
	table := &report.Table{
		Title: "Time", Baseline: candidate.All()[0].Name(),
		Columns: []report.Column{{Name: column, Unit: report.Seconds, Better: report.Lower}},
	}
	for name, values := range times {
		for _, v := range values {
			table.Add(report.Row{Candidate: name}, column, v)
		}
	}
	return &page{
		settings: settings{candidates: candidate.All(), workloads: workload.All(), rounds: enoughRounds, seed: 1},
		machine:  machine{cpu: "2 cores", busy: 0.01},
		began:    time.Unix(0, 0),
		sections: []*workload.Section{{
			Title: "Example: times", Text: "What was done.", Tables: []*report.Table{table},
			Headlines: []workload.Headline{
				{Text: "an Exec", Table: table, Row: report.Row{Candidate: "lifeguard"}, Column: column, Front: true},
				{Text: "not in front", Table: table, Row: report.Row{Candidate: "lifeguard"}, Column: column},
			},
			Cause: func(_ *report.Table, loss report.Loss) (text, note string) {
				if loss.To == "pgxpool" || loss.To == "plain database/sql" {
					return "The cause of " + loss.To + ".", "of " + loss.Column
				}
				return "", ""
			},
		}},
	}
}

func five(v float64) []float64 { return []float64{v, v, v, v, v} }

func text(t *testing.T, p *page) string {
	t.Helper()
	var b strings.Builder
	if err := p.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPageSaysWhereItLoses(t *testing.T) {
	got := text(t, examplePage(map[string][]float64{
		"plain database/sql": five(0.010), "lifeguard": five(0.012), "ngrok/sqlmw": five(0.009), "pgxpool": five(0.006),
	}))
	for _, want := range []string{
		"| an Exec | 10 ms | 12 ms ±0 % | **×1.20** worse | pgxpool: 6 ms |",
		"| [Example](#example-times) | 0 / 0 / 1 | 0 / 0 / 1 |",
		"**Example.** The cause of plain database/sql.\n\n- Time, behind plain database/sql: Exec 1.20 (of Exec)\n",
		"**Example.** The cause of pgxpool.\n\n- Time, behind pgxpool: Exec 2.00 (of Exec)\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "behind ngrok/sqlmw") {
		t.Error("a wrapper is listed where plain database/sql is ahead itself")
	}
}

func TestPageWithoutLosses(t *testing.T) {
	got := text(t, examplePage(map[string][]float64{
		"plain database/sql": five(0.010), "lifeguard": five(0.005), "pgxpool": five(0.005), "puddle": five(math.NaN()),
	}))
	for _, want := range []string{"**×0.50** better", "Nowhere by more than 5 %", "| 1 / 0 / 0 | 0 / 1 / 0 |"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "cause") {
		t.Error("a cause without a loss")
	}
}

func TestOnlyAWrapperIsAhead(t *testing.T) {
	got := text(t, examplePage(map[string][]float64{
		"plain database/sql": five(0.010), "lifeguard": five(0.010), "ngrok/sqlmw": five(0.005),
	}))
	got = strings.Join(strings.Fields(got), " ") // lines are broken anywhere
	if !strings.Contains(got, "plain `database/sql` itself is not") || !strings.Contains(got, "behind ngrok/sqlmw: Exec 2.00") {
		t.Errorf("got\n%s", got)
	}
}

func TestPageOfABusyMachine(t *testing.T) {
	p := examplePage(map[string][]float64{"plain database/sql": five(1), "lifeguard": five(1)})
	if strings.Contains(text(t, p), "not quiet") {
		t.Error("a quiet machine is called busy")
	}
	p.machine.busy = 0.5
	if !strings.Contains(text(t, p), "others used 50 % of its processors") {
		t.Error("nothing about the others")
	}
}

func TestAnchor(t *testing.T) {
	if got := anchor("Acquire and release, by size: of pool"); got != "acquire-and-release-by-size-of-pool" {
		t.Error(got)
	}
}

func TestBusyProcessors(t *testing.T) {
	total, idle, err := processorTimes()
	if err != nil {
		t.Skip(err)
	}
	if idle < 0 || total < idle {
		t.Errorf("%v of %v ticks are idle", idle, total)
	}
	if busy := busyProcessors(50 * time.Millisecond); busy < 0 || busy > 1 {
		t.Errorf("%v of the processors are busy", busy)
	}
}
