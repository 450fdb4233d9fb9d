package workload

import (
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
)

// table has one column of rates or times, the same in each of five rounds.
func table(title, variant string, column report.Column, values map[string]float64) *report.Table {
	t := &report.Table{Title: title, Baseline: baseline, Columns: []report.Column{column}}
	for name, v := range values {
		for range 5 {
			t.Add(report.Row{Variant: variant, Candidate: name}, column.Name, v)
		}
	}
	return t
}

// only is the loss of a candidate against another.
func only(t *testing.T, tab *report.Table, candidate, other string) report.Loss {
	t.Helper()
	losses := tab.Losses(candidate, func(name string) bool { return name == other })
	if len(losses) != 1 {
		t.Fatalf("losses %+v, want one", losses)
	}
	return losses[0]
}

// A cause that is given whatever the figures are would outlive the loss that it once explained.
func TestCausesOfPostgresGoByTheFigures(t *testing.T) {
	rate := func(clients int) report.Column {
		return report.Column{Name: goroutines(clients), Unit: report.PerSecond, Better: report.Higher}
	}
	noDelay := ", " + part{}.name()
	for _, c := range []struct {
		name, title, candidate, to string
		clients                    int
		ownCost                    float64
		rates                      map[string]float64
		want, note                 string
	}{
		{
			name: "pgx alone is ahead", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: "pgxpool", clients: 64,
			rates: map[string]float64{baseline: 30_000, "lifeguard": 30_000, "pgxpool": 40_000}, want: "pgx needs less",
		},
		{
			name: "a goroutine for each query", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: "pgxpool", clients: 1,
			rates: map[string]float64{baseline: 14_000, "lifeguard": 16_000, "pgxpool": 30_000}, want: "starts a goroutine",
		},
		{
			name: "no goroutine", title: jobs[2].title + noDelay, candidate: "lifeguard", to: "pgxpool", clients: 1,
			rates: map[string]float64{baseline: 7_000, "lifeguard": 20_000, "pgxpool": 30_000}, want: "pgx needs less",
		},
		{
			name: "pgx is no further ahead than plain", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: "pgxpool",
			clients: 64, rates: map[string]float64{baseline: 40_000, "lifeguard": 30_000, "pgxpool": 40_000}, want: "changes hands",
		},
		{
			name: "somebody waits", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: baseline, clients: 64,
			rates: map[string]float64{baseline: 40_000, "lifeguard": 30_000}, want: "changes hands",
		},
		{
			name: "prepared again", title: preparedTitle + noDelay, candidate: "lifeguard (no cache)", to: baseline,
			clients: 64, rates: map[string]float64{baseline: 30_000, "lifeguard (no cache)": 10_000}, want: "three round trips for one",
		},
		{
			name: "prepared again over pgx", title: preparedTitle + noDelay, candidate: overPGX, to: "pgx stdlib",
			clients: 64, rates: map[string]float64{baseline: 30_000, "pgx stdlib": 30_000, overPGX: 10_000}, want: "three round trips for one",
		},
		{
			name: "prepared, hardly slower", title: preparedTitle + noDelay, candidate: "lifeguard (no cache)", to: baseline,
			clients: 64, rates: map[string]float64{baseline: 30_000, "lifeguard (no cache)": 25_000}, want: "changes hands",
		},
		{
			name: "two idle connections", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: baseline, clients: 8,
			rates: map[string]float64{baseline: 40_000, "lifeguard": 30_000}, want: "keep two connections idle",
		},
		{
			name: "more than lifeguard takes", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: baseline, clients: 1,
			ownCost: 200e-9, rates: map[string]float64{baseline: 10_000, "lifeguard": 8_000}, want: "too small for the difference",
			note: "25 µs more, lifeguard's own part about 200 ns",
		},
		{
			name: "what lifeguard takes", title: "SELECT 1" + noDelay, candidate: "lifeguard", to: baseline, clients: 1,
			ownCost: 1e-6, rates: map[string]float64{baseline: 1_000_000, "lifeguard": 500_000}, want: "visible part", note: "1 µs more",
		},
	} {
		tab := table(c.title, "", rate(c.clients), c.rates)
		got, note := postgres{}.cause(&Run{ownCost: c.ownCost}, tab, only(t, tab, c.candidate, c.to))
		if !strings.Contains(got, c.want) || !strings.Contains(note, c.note) {
			t.Errorf("%s: %q (%s) does not say %q (%s)", c.name, got, note, c.want, c.note)
		}
	}
}

func TestCausesOfOverloadGoByTheLoad(t *testing.T) {
	build := func(load float64, answered, median map[string]float64) *report.Table {
		tab := &report.Table{Baseline: baseline, Columns: []report.Column{
			{Name: overloadAnswered, Better: report.Higher}, {Name: overloadMedian, Better: report.Lower},
		}}
		for range 5 {
			for name := range answered {
				tab.Add(report.Row{Variant: variantOf(load), Candidate: name}, overloadAnswered, answered[name])
				tab.Add(report.Row{Variant: variantOf(load), Candidate: name}, overloadMedian, median[name])
			}
		}
		return tab
	}
	tab := build(0.9, map[string]float64{baseline: 100, "lifeguard": 100}, map[string]float64{baseline: 0.02, "lifeguard": 0.03})
	if got := (overload{}).cause(tab, only(t, tab, "lifeguard", baseline)); !strings.Contains(got, "serves in turn") {
		t.Errorf("a median near the capacity: %q", got)
	}
	tab = build(2, map[string]float64{baseline: 50, "lifeguard": 100}, map[string]float64{baseline: 0.02, "lifeguard": 0.03})
	if got := (overload{}).cause(tab, only(t, tab, "lifeguard", baseline)); !strings.Contains(got, "answers fewer: 50 a second") {
		t.Errorf("a median of fewer answers: %q", got)
	}
	tab = build(2, map[string]float64{baseline: 100, "lifeguard": 80}, map[string]float64{baseline: 1, "lifeguard": 1})
	if got := (overload{}).cause(tab, only(t, tab, "lifeguard", baseline)); !strings.Contains(got, "end too late") {
		t.Errorf("fewer answers: %q", got)
	}
}
