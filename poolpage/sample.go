package poolpage

import (
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/histogram"
	"github.com/go-lifeguard/lifeguard/internal/look"
	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// kept is how many seconds are remembered. A look takes 56 bytes, all of them 16.8 KB.
const kept = 300

// sample is one look. It holds no pointers, so that the collector does not read the ring.
type sample struct {
	at                                    int64 // Unix time, in ns
	limit, open, inUse, waiting           int32
	acquired, waits, timeouts, dialErrors uint32 // since the look before
	p50, p99                              time.Duration
}

// ring has the last looks at one pool. A look locks the pool for as long as Stats does, and takes
// a few microseconds: BenchmarkLook.
type ring struct {
	mu      sync.Mutex // guards all
	samples [kept]sample
	n       int // looks taken

	last     pool.Stats
	acquired uint64
	waits    histogram.Histogram
}

// take looks at the pool. acquired counts its checkouts.
func (r *ring) take(from *look.Pool, acquired uint64, now time.Time) {
	st, waits := from.Glance()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 { // what happened before the first look did not happen in its second
		r.last, r.acquired, r.waits = st, acquired, waits
	}
	ended := waits.Since(&r.waits)
	r.samples[r.n%kept] = sample{
		at: now.UnixNano(), limit: int32(st.Limit), open: int32(st.Open), inUse: int32(st.InUse), waiting: int32(st.Waiting),
		acquired: uint32(acquired - r.acquired), waits: uint32(ended.Count()),
		timeouts: uint32(st.Timeouts - r.last.Timeouts), dialErrors: uint32(st.DialErrors - r.last.DialErrors),
		p50: ended.Quantile(0.5), p99: ended.Quantile(0.99),
	}
	r.n++
	r.last, r.acquired, r.waits = st, acquired, waits
}

// history copies the looks, oldest first.
func (r *ring) history() []Second {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Second, 0, min(r.n, kept))
	for i := max(r.n-kept, 0); i < r.n; i++ {
		s := &r.samples[i%kept]
		all = append(all, Second{
			At: time.Unix(0, s.at).UTC(), Limit: int(s.limit), Open: int(s.open), InUse: int(s.inUse), Waiting: int(s.waiting),
			Acquired: int(s.acquired), Waits: int(s.waits), WaitP50: seconds(s.p50), WaitP99: seconds(s.p99),
			Timeouts: int(s.timeouts), DialErrors: int(s.dialErrors),
		})
	}
	return all
}
