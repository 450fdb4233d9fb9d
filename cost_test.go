package lifeguard_test

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/stretchr/testify/require"
)

// BenchmarkCost shows what lifeguard adds to database/sql, on a driver in memory that costs next to nothing itself, with
// everything at its defaults. Batches on a plain handle, the baseline, and on one of lifeguard's alternate, so that both
// see the same machine; the figures are the medians of the batches, and x-plain is the median of the ratios.
//
//	go test -run '^$' -bench 'Cost$' .
func BenchmarkCost(b *testing.B) {
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { alternate(b, op.run, 1) })
	}
}

// BenchmarkCostParallel is BenchmarkCost with several goroutines on ten connections.
func BenchmarkCostParallel(b *testing.B) {
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { alternate(b, op.run, 8) })
	}
}

func alternate(b *testing.B, run func(context.Context, *sql.DB) error, goroutines int) {
	const batch = 500
	var dbs []*sql.DB
	for _, h := range costHandles {
		dbs = append(dbs, h.open(b))
	}
	times := make([][]float64, len(dbs))
	var ratios []float64
	for b.Loop() {
		for i, db := range dbs {
			start := time.Now()
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range batch {
						if err := run(context.Background(), db); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/float64(batch*goroutines))
		}
		n := len(times[0]) - 1
		ratios = append(ratios, times[1][n]/times[0][n])
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	b.ReportMetric(median(times[0]), "plain-ns")
	b.ReportMetric(median(times[1]), "lifeguard-ns")
	b.ReportMetric(median(ratios), "x-plain")
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

var costHandles = []struct {
	name string
	open func(testing.TB) *sql.DB
}{
	{"plain", func(tb testing.TB) *sql.DB {
		db := sql.OpenDB(fakedriver.Fast())
		db.SetMaxOpenConns(10)
		db.SetMaxIdleConns(10)
		tb.Cleanup(func() { db.Close() })
		return db
	}},
	{"lifeguard", func(tb testing.TB) *sql.DB {
		db, err := lifeguard.OpenDB(fakedriver.Fast())
		require.NoError(tb, err)
		tb.Cleanup(func() { db.Close() })
		return db
	}},
}

var operations = []struct {
	name string
	// more is how many allocations lifeguard may add.
	more int
	run  func(context.Context, *sql.DB) error
}{
	{"Exec", 0, func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = now()")
		return err
	}},
	{"ExecArgs", 0, func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = $1", 7)
		return err
	}},
	{"QueryRow", 0, func(ctx context.Context, db *sql.DB) error {
		var n int64
		return db.QueryRowContext(ctx, "SELECT 1").Scan(&n)
	}},
	{"Tx", 1, func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		return tx.Commit()
	}},
}

// TestAllocations holds the part of the cost that does not depend on the machine.
func TestAllocations(t *testing.T) {
	for _, op := range operations {
		allocs := map[string]float64{}
		for _, h := range costHandles {
			db := h.open(t)
			allocs[h.name] = testing.AllocsPerRun(2000, func() {
				if err := op.run(context.Background(), db); err != nil {
					t.Fatal(err)
				}
			})
		}
		if raceEnabled {
			continue // the detector allocates on its own account; what remains is that the paths are run under it
		}
		if more := allocs["lifeguard"] - allocs["plain"]; more > float64(op.more) {
			t.Errorf("%s: %g allocations more than plain database/sql, want at most %d", op.name, more, op.more)
		}
	}
}
