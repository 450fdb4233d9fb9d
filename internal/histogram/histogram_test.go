package histogram

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestQuantileIsOffByAnEighthAtMost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 10_000 {
		d := 4*time.Microsecond + time.Duration(r.ExpFloat64()*float64(time.Second))
		var h Histogram
		h.Add(d)
		assert.InEpsilon(t, float64(d), float64(h.Quantile(0.5)), 0.125)
	}
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	assert.Zero(t, h.Quantile(0.99))
	for i := range 100 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	assert.EqualValues(t, 100, h.Count())
	assert.InEpsilon(t, 50*time.Millisecond, h.Quantile(0.5), 0.125)
	assert.InEpsilon(t, 99*time.Millisecond, h.Quantile(0.99), 0.125)
	assert.InEpsilon(t, time.Millisecond, h.Quantile(0), 0.125)
}

func TestWhatHasNoBucketGoesToTheNearest(t *testing.T) {
	var h Histogram
	h.Add(-time.Second)
	assert.Less(t, h.Quantile(1), time.Microsecond)
	h.Add(1 << 62)
	assert.Greater(t, h.Quantile(1), time.Hour)
}

func TestSince(t *testing.T) {
	var h Histogram
	h[7] = 1<<32 - 1 // about to wrap
	before := h
	h[7]++
	h[8]++
	after := h.Since(&before)
	assert.EqualValues(t, 2, after.Count())
}
