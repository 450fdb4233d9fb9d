// Package report turns measurements into the tables of the page of results.
package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// A Table has a value per round for each row and column.
type Table struct {
	Title    string
	Baseline string // the candidate that ratios refer to
	Variants string // heads the column of variants; "" if the rows have none
	Columns  []Column

	rows    []Row
	values  map[place][]float64
	reasons map[place]string
	leftOut []string
}

// A Row is a candidate, or one of several variants of a workload on a candidate.
type Row struct{ Variant, Candidate string }

// A Column is a quantity.
type Column struct {
	Name   string
	Unit   Unit
	Better Direction
}

// Direction says which values of a quantity are good.
type Direction int

// The directions. Neither is for quantities that have no ratio either.
const (
	Neither Direction = iota
	Higher
	Lower
)

type place struct {
	row    Row
	column string
}

// Add adds the value of a round.
func (t *Table) Add(row Row, column string, value float64) {
	t.note(row)
	if t.values == nil {
		t.values = map[place][]float64{}
	}
	p := place{row, column}
	t.values[p] = append(t.values[p], value)
}

// Missing has the row show a dash in the column, or in all columns that have no value if column is "", with a reason
// under the table.
func (t *Table) Missing(row Row, column, reason string) {
	t.note(row)
	if t.reasons == nil {
		t.reasons = map[place]string{}
	}
	t.reasons[place{row, column}] = reason
}

// LeaveOut says under the table why candidates have no row at all.
func (t *Table) LeaveOut(candidates []string, reason string) {
	if len(candidates) > 0 {
		t.leftOut = append(t.leftOut, strings.Join(candidates, ", ")+": "+reason+".")
	}
}

func (t *Table) note(row Row) {
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
	}
}

// Values are those of all rounds so far.
func (t *Table) Values(row Row, column string) []float64 { return t.values[place{row, column}] }

// Ratio is how a row compares to the baseline, NaN if that cannot be said.
func (t *Table) Ratio(row Row, column string) float64 {
	return stats.Ratio(t.Values(row, column), t.Values(Row{row.Variant, t.Baseline}, column))
}

// Sort puts the rows into the order of the candidates, variant by variant: rounds begin with different ones.
func (t *Table) Sort(variants, candidates []string) {
	slices.SortStableFunc(t.rows, func(a, b Row) int {
		if d := slices.Index(variants, a.Variant) - slices.Index(variants, b.Variant); d != 0 {
			return d
		}
		return slices.Index(candidates, a.Candidate) - slices.Index(candidates, b.Candidate)
	})
}

// WriteTo writes the table as Markdown.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	if t.Title != "" {
		fmt.Fprintf(&b, "**%s**\n\n", t.Title)
	}
	var head, rule []string
	if t.Variants != "" {
		head, rule = append(head, t.Variants), append(rule, "---")
	}
	head, rule = append(head, ""), append(rule, "---")
	for _, c := range t.Columns {
		head, rule = append(head, c.Name), append(rule, "---:")
	}
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(rule)
	var reasons []string
	for i, row := range t.rows {
		var cells []string
		if t.Variants != "" {
			variant := row.Variant
			if i > 0 && t.rows[i-1].Variant == variant {
				variant = ""
			}
			cells = append(cells, variant)
		}
		name := row.Candidate
		if strings.HasPrefix(name, "lifeguard") {
			name = "**" + name + "**"
		}
		cells = append(cells, name)
		for _, c := range t.Columns {
			cell, reason := t.cell(row, c)
			if reason != "" {
				text := fmt.Sprintf("%s: %s.", row.Candidate, reason)
				if !slices.Contains(reasons, text) {
					reasons = append(reasons, text)
				}
			}
			cells = append(cells, cell)
		}
		line(cells)
	}
	reasons = append(reasons, t.leftOut...)
	for i, r := range reasons {
		if i == 0 {
			b.WriteString("\n— ")
		} else {
			b.WriteString(" ")
		}
		b.WriteString(r)
	}
	if len(reasons) > 0 {
		b.WriteString("\n")
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (t *Table) cell(row Row, c Column) (text, reason string) {
	values := t.Values(row, c.Name)
	if math.IsNaN(stats.Median(values)) {
		reason = t.reasons[place{row, c.Name}]
		if reason == "" {
			reason = t.reasons[place{row, ""}]
		}
		return "—", reason
	}
	text = c.Unit.Format(stats.Median(values))
	if s := stats.Spread(values); !math.IsNaN(s) && c.Unit.spreads() {
		text += fmt.Sprintf(" ±%.0f %%", 100*s)
	}
	if c.Better != Neither && row.Candidate != t.Baseline {
		if r := t.Ratio(row, c.Name); !math.IsNaN(r) {
			text += fmt.Sprintf(", **×%s**", Ratio(r))
		}
	}
	return text, ""
}

// Ratio writes a ratio, with more digits where it is close to 1.
func Ratio(r float64) string {
	switch {
	case r >= 100:
		return fmt.Sprintf("%.0f", r)
	case r >= 10 || r < 0.1:
		return fmt.Sprintf("%.2g", r)
	default:
		return fmt.Sprintf("%.2f", r)
	}
}

// Unit is how values are written.
type Unit int

// The units. Times are in seconds.
const (
	Count Unit = iota
	Allocations
	PerSecond
	Seconds
	Percent // of 1
	Bytes
)

// spreads says whether the spread of such values is worth showing.
func (u Unit) spreads() bool { return u != Allocations && u != Percent }

// Format writes a value with three significant digits.
func (u Unit) Format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "—"
	case u == Percent:
		return fmt.Sprintf("%.3g %%", 100*v)
	case u == Seconds:
		return seconds(v)
	case u == PerSecond:
		return grouped(v) + "/s"
	case u == Bytes:
		return grouped(v) + " B"
	default:
		return grouped(v)
	}
}

func seconds(v float64) string {
	for _, scale := range []struct {
		size float64
		name string
	}{{1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}} {
		if math.Abs(v) >= scale.size*0.9995 {
			return significant(v/scale.size) + " " + scale.name
		}
	}
	return significant(v*1e9) + " ns"
}

// significant writes three significant digits, and all digits before the point.
func significant(v float64) string {
	digits := 0
	for limit := 99.95; digits < 2 && math.Abs(v) < limit; limit /= 10 {
		digits++
	}
	s := fmt.Sprintf("%.*f", digits, v)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// grouped is significant with the thousands set apart.
func grouped(v float64) string {
	s := significant(v)
	whole, fraction, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}

// Duration writes d as a table does.
func Duration(d time.Duration) string { return seconds(d.Seconds()) }
