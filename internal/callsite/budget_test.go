package callsite

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func takeAll(b *Budget, now int64) (taken int) {
	for b.Take(now) {
		taken++
	}
	return taken
}

func TestBudget(t *testing.T) {
	const tick = int64(10 * time.Millisecond)
	var b Budget
	total := 0
	for now := int64(0); now < int64(time.Second); now += tick / 2 {
		total += takeAll(&b, now)
	}
	assert.Equal(t, 10_000, total, "in a second")

	// An earlier reading does not refill, and neither does the one after it.
	now := int64(time.Hour)
	assert.Equal(t, 100, takeAll(&b, now))
	for range 10 {
		assert.Zero(t, takeAll(&b, now-tick))
		assert.Zero(t, takeAll(&b, now))
	}
	assert.Equal(t, 100, takeAll(&b, now+tick))
}

// Readings of several goroutines that come out of order pass hardly more than in order. One that is held up while it
// begins a tick may cost the rest of that tick.
func TestBudgetConcurrently(t *testing.T) {
	var (
		b     Budget
		clock atomic.Int64
		taken atomic.Int64
		wg    sync.WaitGroup
	)
	const ticks, goroutines = 50, 4
	for range goroutines {
		wg.Go(func() {
			for {
				now := clock.Add(int64(time.Microsecond))
				if now >= ticks*int64(10*time.Millisecond) {
					return
				}
				if b.Take(now) {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.GreaterOrEqual(t, taken.Load(), int64(ticks*100/2))
	assert.LessOrEqual(t, taken.Load(), int64(ticks*100*goroutines))
}
