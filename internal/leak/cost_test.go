package leak_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// BenchmarkLeakDetection shows what finding leaks costs a QueryRow on a driver in memory. Batches alternate on a handle
// with leak_threshold=0, the baseline, and on one with the default; the first notes holders too, for the errors of others.
// The figures are medians of the batches; more-ns and x-off are those of differences and ratios of neighbours. At full
// speed most checkouts are beyond the stacks taken in a second; at the paced rate each has its stack.
//
//	go test -run '^$' -bench LeakDetection ./internal/leak
func BenchmarkLeakDetection(b *testing.B) {
	for _, depth := range []int{1, 25} {
		b.Run(fmt.Sprintf("Rate=full/Depth=%d", depth), func(b *testing.B) {
			below(depth, func() { alternateDetection(b, 2000, 0) })
		})
		b.Run(fmt.Sprintf("Rate=2000/Depth=%d", depth), func(b *testing.B) {
			below(depth, func() { alternateDetection(b, 60, 10*time.Millisecond) })
		})
	}
}

// below calls f below as many frames of an application.
//
//go:noinline
func below(depth int, f func()) {
	if depth > 1 {
		below(depth-1, f)
		return
	}
	f()
}

func alternateDetection(b *testing.B, batch int, pause time.Duration) {
	dbs := []*sql.DB{openDetecting(b, 0), openDetecting(b, time.Minute)}
	times := make([][]float64, len(dbs))
	var ratios, more []float64
	for round := 0; b.Loop(); round++ {
		for i := range dbs {
			i = (i + round) % len(dbs) // none is always first
			time.Sleep(pause)
			start := time.Now()
			for range batch {
				var n int64
				if err := dbs[i].QueryRowContext(context.Background(), "SELECT 1").Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
			times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/float64(batch))
		}
		n := len(times[0]) - 1
		ratios = append(ratios, times[1][n]/times[0][n])
		more = append(more, times[1][n]-times[0][n])
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	b.ReportMetric(pooltest.Median(times[0]), "off-ns")
	b.ReportMetric(pooltest.Median(times[1]), "on-ns")
	b.ReportMetric(pooltest.Median(more), "more-ns")
	b.ReportMetric(pooltest.Median(ratios), "x-off")
}

func openDetecting(tb testing.TB, threshold time.Duration) *sql.DB {
	cfg := lifeguard.DefaultConfig()
	cfg.LeakThreshold = threshold
	db, err := lifeguard.OpenDB(fakedriver.Fast(), lifeguard.WithConfig(cfg))
	require.NoError(tb, err)
	tb.Cleanup(func() { db.Close() })
	return db
}

// Detection adds no allocation to a checkout.
func TestLeakDetectionAllocations(t *testing.T) {
	var allocs [2]float64
	for i, threshold := range []time.Duration{0, time.Minute} {
		db := openDetecting(t, threshold)
		allocs[i] = testing.AllocsPerRun(2000, func() {
			var n int64
			if err := db.QueryRowContext(context.Background(), "SELECT 1").Scan(&n); err != nil {
				t.Fatal(err)
			}
			// A context that can end makes database/sql start a goroutine for a query's rows; not for this.
			if _, err := db.ExecContext(t.Context(), "UPDATE customers SET seen = now()"); err != nil {
				t.Fatal(err)
			}
		})
	}
	if !pooltest.RaceEnabled && allocs[1] > allocs[0] { // the race detector allocates on its own account
		t.Errorf("%g allocations with detection, %g without", allocs[1], allocs[0])
	}
}
