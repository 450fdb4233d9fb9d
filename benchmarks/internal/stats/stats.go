// Package stats has the few figures that the comparison reports: medians, percentiles, spread and ratios.
//
// A value that is NaN stands for a round without one, and is left out everywhere but in Percentile.
package stats

import (
	"math"
	"slices"
)

// Median returns the middle value, or the mean of the two middle ones; NaN for no values. The order of values is kept.
func Median(values []float64) float64 {
	sorted := known(values)
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	slices.Sort(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// known copies the values that there are.
func known(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}

// Range returns the smallest and the largest value; NaN for no values.
func Range(values []float64) (lowest, highest float64) {
	values = known(values)
	if len(values) == 0 {
		return math.NaN(), math.NaN()
	}
	return slices.Min(values), slices.Max(values)
}

// Spread is half of the range as a part of the median: 0.1 says that the rounds lie within about 10 % of the median.
// One value has no spread, which is NaN, and so has a median of zero unless all values are zero.
func Spread(values []float64) float64 {
	if len(known(values)) < 2 {
		return math.NaN()
	}
	lowest, highest := Range(values)
	if lowest == highest {
		return 0
	}
	if m := Median(values); m != 0 {
		return (highest - lowest) / 2 / math.Abs(m)
	}
	return math.NaN()
}

// Ratio is the median of the ratios of the rounds, value by base. Rounds are compared one by one, because what disturbs
// the machine during a round disturbs both of its values. Where the two differ in length the surplus is left out, and so
// are rounds with a base of zero; NaN if nothing is left.
func Ratio(values, base []float64) float64 {
	var ratios []float64
	for i := range min(len(values), len(base)) {
		if base[i] != 0 {
			ratios = append(ratios, values[i]/base[i])
		}
	}
	return Median(ratios)
}

// Percentile returns the smallest of the sorted values that is not exceeded by the part p of them (nearest rank), for p
// from 0 to 1; NaN for no values. Percentile(v, 1) is the maximum.
func Percentile(sorted []float64, p float64) float64 {
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	// The product of two decimals may lie a hair above the whole number that is meant.
	rank := int(math.Ceil(p*float64(n) - 1e-9))
	return sorted[min(max(rank, 1), n)-1]
}
