package histogram

import (
	"math"
	"math/bits"
	"time"
)

// buckets are four for each doubling of the duration. The last one holds everything from 71 minutes on.
const buckets = 128

// A Histogram counts durations. The zero Histogram is empty. It takes 512 bytes, and none elsewhere.
type Histogram [buckets]uint32

// Add counts a duration. A negative one counts as 0.
func (h *Histogram) Add(d time.Duration) { h[bucket(d)]++ }

func bucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	exp := bits.Len64(us) - 1
	return min((exp-1)*4+int(us>>(exp-2)&3), buckets-1)
}

// middle is the duration that stands for all in a bucket. It is off by an eighth at most, from 4 µs on.
func middle(i int) time.Duration {
	if i < 4 {
		return time.Duration(i)*time.Microsecond + time.Microsecond/2
	}
	return time.Duration(9+2*(i%4)) * time.Microsecond << (i / 4) >> 2
}

// Since is what was counted after an earlier reading of the same histogram. Counts that have wrapped are right all the same.
func (h *Histogram) Since(earlier *Histogram) (counted Histogram) {
	for i := range h {
		counted[i] = h[i] - earlier[i]
	}
	return counted
}

// Count is the number of durations.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h {
		n += uint64(c)
	}
	return n
}

// Quantile is the duration that a share of q, from 0 to 1, of all do not exceed; 0 for an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.Count())))
	seen := uint64(0)
	for i, c := range h {
		if seen += uint64(c); c > 0 && seen >= rank {
			return middle(i)
		}
	}
	return 0
}
