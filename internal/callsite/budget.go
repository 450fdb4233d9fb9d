package callsite

import (
	"sync/atomic"
	"time"
)

const (
	budgetTick  = int64(10 * time.Millisecond)
	takenInTick = 100 // 10,000 a second
)

// Budget bounds how many stacks are captured: 10,000 a second, in portions of 100 for every 10 ms. The zero value is a
// full one. It is safe for concurrent use.
//
// A capture takes about a microsecond. Above that rate most checkouts are over before anybody could ask about them.
type Budget struct {
	tick, taken atomic.Int64
}

// Take reports whether one more stack may be captured. now is a reading of a monotonic clock in nanoseconds.
func (b *Budget) Take(now int64) bool {
	// Only a later tick refills. Readings come out of order between goroutines, so two ticks that alternate would
	// otherwise refill at every call. At the edge of a tick a few more may pass: a lock would cost more than they do.
	tick := now / budgetTick
	if last := b.tick.Load(); tick > last && b.tick.CompareAndSwap(last, tick) {
		b.taken.Store(0)
	}
	return b.taken.Load() < takenInTick && b.taken.Add(1) <= takenInTick
}
