package report

import (
	"math"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

const (
	// margin is by how much a ratio has to differ from 1 to be called a difference.
	margin = 0.05
	// most is the part of the rounds that must agree.
	most = 0.8
)

// A Loss is a figure in which a row is behind another.
type Loss struct {
	Row    Row
	Column string
	To     string  // the candidate that is ahead
	Factor float64 // by how much: 1.2 is 20 % slower, or 20 % more memory
}

// Losses lists every figure in which the candidate is behind one of those that it is held against, in the same variant,
// by more than 5 % in at least four rounds out of five: the one that is furthest ahead.
func (t *Table) Losses(candidate string, against func(other string) bool) []Loss {
	var losses []Loss
	for _, row := range t.rows {
		if row.Candidate != candidate {
			continue
		}
		for _, c := range t.Columns {
			worst := Loss{Row: row, Column: c.Name}
			for _, other := range t.rows {
				if other.Variant != row.Variant || other.Candidate == candidate || !against(other.Candidate) {
					continue
				}
				factor := behind(t.Values(row, c.Name), t.Values(other, c.Name), c.Better)
				if math.IsNaN(factor) {
					continue
				}
				if factor > worst.Factor {
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
			continue
		}
		factors = append(factors, f)
		if f > 1 {
			agree++
		}
	}
	factor := stats.Median(factors)
	if factor > 1+margin && float64(agree) >= most*float64(len(factors)) {
		return factor
	}
	return math.NaN()
}
