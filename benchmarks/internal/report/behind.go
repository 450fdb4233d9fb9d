package report

import (
	"math"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

const (
	// margin is by how much two values have to differ to be called different.
	margin = 0.05
	// most is the part of the rounds that must agree.
	most = 0.8
)

// A Verdict says how one candidate stands to another in a figure.
type Verdict int

// The verdicts. Level is a difference of at most 5 %, or one that the rounds do not agree on.
const (
	Unknown Verdict = iota // one of the two has no value
	Level
	Ahead
	Behind
)

func (v Verdict) String() string { return [...]string{"", "level", "better", "worse"}[v] }

// Compare tells whether a row is ahead of another candidate of the same variant, by more than 5 % in at least four
// rounds out of five, and by what factor: 1.2 is 20 % better where it is ahead, and 20 % worse where it is behind.
func (t *Table) Compare(row Row, other, column string) (Verdict, float64) {
	values, others := t.Values(row, column), t.Values(Row{row.Variant, other}, column)
	better := Neither
	for _, c := range t.Columns {
		if c.Name == column {
			better = c.Better
		}
	}
	if f := behind(values, others, better); !math.IsNaN(f) {
		return Behind, f
	}
	if f := behind(others, values, better); !math.IsNaN(f) {
		return Ahead, f
	}
	if better == Neither || math.IsNaN(stats.Median(values)) || math.IsNaN(stats.Median(others)) {
		return Unknown, math.NaN()
	}
	return Level, 1
}

// Rivals are other candidates that are alike. Where several of them are ahead, the one that is furthest ahead stands for
// them.
type Rivals func(candidate string) bool

// A Loss is a figure in which a row is behind another.
type Loss struct {
	Row    Row
	Column string
	To     string  // the candidate that is ahead
	Factor float64 // by how much: 1.2 is 20 % slower, or 20 % more memory
}

// Losses lists every figure in which the candidate is behind one of the rivals in the same variant: the one that is
// furthest ahead.
func (t *Table) Losses(candidate string, rivals Rivals) []Loss {
	var losses []Loss
	for _, row := range t.rows {
		if row.Candidate != candidate {
			continue
		}
		for _, c := range t.Columns {
			worst := Loss{Row: row, Column: c.Name}
			for _, other := range t.rows {
				if other.Variant != row.Variant || other.Candidate == candidate || !rivals(other.Candidate) {
					continue
				}
				verdict, factor := t.Compare(row, other.Candidate, c.Name)
				if verdict == Behind && factor > worst.Factor {
					worst.Factor, worst.To = factor, other.Candidate
				}
			}
			if worst.To != "" {
				losses = append(losses, worst)
			}
		}
	}
	return losses
}

// Tally counts the figures in which the candidate is ahead of another, level with it, and behind it.
func (t *Table) Tally(candidate, other string) (ahead, level, behind int) {
	for _, row := range t.rows {
		if row.Candidate != candidate {
			continue
		}
		for _, c := range t.Columns {
			switch verdict, _ := t.Compare(row, other, c.Name); verdict {
			case Ahead:
				ahead++
			case Level:
				level++
			case Behind:
				behind++
			}
		}
	}
	return ahead, level, behind
}

// behind is by what factor values are worse than others; NaN if they are not clearly so.
func behind(values, others []float64, better Direction) float64 {
	n := min(len(values), len(others))
	var factors []float64
	agree := 0
	for i := range n {
		f := math.NaN()
		switch better {
		case Higher:
			f = others[i] / values[i]
		case Lower:
			f = values[i] / others[i]
		}
		if math.IsNaN(f) {
			continue // there is no value in this round, or both are zero
		}
		factors = append(factors, f)
		if f > 1+margin {
			agree++
		}
	}
	// A figure that only some rounds have decides nothing, as the latency of those few that were answered.
	if len(factors) > 0 && float64(agree) >= most*float64(n) {
		return stats.Median(factors)
	}
	return math.NaN()
}
