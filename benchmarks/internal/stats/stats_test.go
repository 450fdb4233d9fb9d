package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, math.NaN()},
		{[]float64{7}, 7},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{1, 1000, 2, 3, 2}, 2},
		{[]float64{math.NaN(), 5, math.NaN(), 7}, 6},
		{[]float64{math.NaN()}, math.NaN()},
	} {
		before := fmt.Sprint(c.values)
		if got := Median(c.values); !same(got, c.want) {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
		if after := fmt.Sprint(c.values); after != before {
			t.Errorf("Median changed %v to %v", before, after)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, math.NaN()},
		{[]float64{5}, math.NaN()},
		{[]float64{5, 5, 5}, 0},
		{[]float64{0, 0}, 0},
		{[]float64{90, 100, 110}, 0.1},
		{[]float64{90, math.NaN(), 100, 110}, 0.1},
		{[]float64{90, math.NaN()}, math.NaN()},
		{[]float64{-1, 0, 1}, math.NaN()},
	} {
		if got := Spread(c.values); !same(got, c.want) {
			t.Errorf("Spread(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestRatioComparesRoundByRound(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		values, base []float64
		want         float64
	}{
		{nil, nil, nan},
		{[]float64{2}, nil, nan},
		{[]float64{2}, []float64{0}, nan},
		// A machine that was ten times slower in the second round says nothing about the candidates.
		{[]float64{2, 20, 2}, []float64{1, 10, 1}, 2},
		{[]float64{2, 30, 8}, []float64{1, 10, 2}, 3},
		{[]float64{2, nan, 8}, []float64{1, 10, 2}, 3},
		{[]float64{2, 8}, []float64{1, nan}, 2},
		{[]float64{3, 7, 9}, []float64{1}, 3},
	} {
		if got := Ratio(c.values, c.base); !same(got, c.want) {
			t.Errorf("Ratio(%v, %v) = %v, want %v", c.values, c.base, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{nil, 0.5, math.NaN()},
		{[]float64{7}, 0, 7},
		{[]float64{7}, 1, 7},
		{hundred, 0, 1},
		{hundred, 0.5, 50},
		{hundred, 0.95, 95},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
		{hundred, 1, 100},
		{[]float64{1, 2, 3}, 0.5, 2},
	} {
		if got := Percentile(c.values, c.p); !same(got, c.want) {
			t.Errorf("Percentile of %d values, %v = %v, want %v", len(c.values), c.p, got, c.want)
		}
	}
}

// The definition, applied literally: at least the part p of the values is not above the percentile, and no smaller value
// has that property.
func TestPercentileIsTheNearestRank(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	notAbove := func(values []float64, x float64) float64 {
		n := 0
		for _, v := range values {
			if v <= x {
				n++
			}
		}
		return float64(n) / float64(len(values))
	}
	const rounding = 1e-9
	for range 500 {
		values := make([]float64, 1+rng.IntN(50))
		for i := range values {
			values[i] = float64(rng.IntN(20))
		}
		slices.Sort(values)
		p := rng.Float64()
		got := Percentile(values, p)
		if notAbove(values, got) < p-rounding {
			t.Fatalf("percentile %v of %v is %v, but fewer values are that small", p, values, got)
		}
		for _, v := range values {
			if v < got && notAbove(values, v) >= p+rounding {
				t.Fatalf("percentile %v of %v is %v, but %v is enough", p, values, got, v)
			}
		}
	}
}
