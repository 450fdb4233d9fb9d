package handle_test

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// BenchmarkCost shows what lifeguard adds to database/sql, on a driver in memory that costs next to nothing itself, with
// everything at its defaults. Batches on a plain handle, the baseline, and on one of lifeguard's alternate, so that both
// see the same machine; the figures are the medians of the batches, and x-plain is the median of their ratios.
//
// It runs on one processor, so that all that an operation costs is in its time, also what the garbage collector does for
// it; with another one idle it would depend on how much of that happens there.
//
//	go test -run '^$' -bench 'Cost$' ./internal/handle
func BenchmarkCost(b *testing.B) {
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { alternate(b, costHandles, op.run, 1) })
	}
}

// BenchmarkCostParallel is BenchmarkCost with several goroutines on ten connections.
func BenchmarkCostParallel(b *testing.B) {
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { alternate(b, costHandles, op.run, 8) })
	}
}

// BenchmarkObserved shows what being observed adds: spans of slow operations, which is the default, with an SDK installed
// that samples everything, which is to cost what lifeguard costs without; metrics besides; and a span for every operation.
//
//	go test -run '^$' -bench 'Observed$' ./internal/handle
func BenchmarkObserved(b *testing.B) {
	handles := append(costHandles[:2:2],
		costHandle{"slow", func(tb testing.TB) *sql.DB { return openWithSDK(tb) }},
		costHandle{"metrics", func(tb testing.TB) *sql.DB {
			return openWithSDK(tb, lifeguard.WithMeterProvider(pooltest.NewMeasures(tb).Provider))
		}},
		costHandle{"all", func(tb testing.TB) *sql.DB {
			cfg := lifeguard.DefaultConfig()
			cfg.Trace = lifeguard.TraceAll
			return openWithSDK(tb, lifeguard.WithConfig(cfg))
		}})
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { alternate(b, handles, op.run, 1) })
	}
}

// BenchmarkAlone runs each operation on each handle by itself, for profiles; docs/performance-internals.md reads them.
//
//	go test -run '^$' -bench 'Alone/Op=QueryRow/Handle=lifeguard' -cpuprofile cpu.out ./internal/handle
func BenchmarkAlone(b *testing.B) {
	for _, op := range operations {
		for _, h := range costHandles {
			b.Run("Op="+op.name+"/Handle="+h.name, func(b *testing.B) {
				b.ReportAllocs()
				db := h.open(b)
				for b.Loop() {
					if err := op.run(context.Background(), db); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func alternate(b *testing.B, handles []costHandle, run func(context.Context, *sql.DB) error, goroutines int) {
	// As long as it takes for some milliseconds to pass: the first checkouts of each tick of the budget of captures have their
	// stacks taken, which would be a third of a short batch, and is a hundredth of what a busy pool does.
	const batch = 20000
	if goroutines == 1 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	var dbs []*sql.DB
	for _, h := range handles {
		dbs = append(dbs, h.open(b))
	}
	times := make([][]float64, len(dbs))
	ratios := make([][]float64, len(dbs))
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
			ratios[i] = append(ratios[i], times[i][len(times[i])-1]/times[0][len(times[0])-1])
		}
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	for i, h := range handles {
		b.ReportMetric(pooltest.Median(times[i]), h.name+"-ns")
		if i > 0 {
			b.ReportMetric(pooltest.Median(ratios[i]), h.name+"-x-plain")
		}
	}
}

type costHandle struct {
	name string
	open func(testing.TB) *sql.DB
}

var costHandles = []costHandle{
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
	run  func(context.Context, *sql.DB) error
}{
	{"Exec", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = now()")
		return err
	}},
	{"ExecArgs", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = $1", 7)
		return err
	}},
	{"QueryRow", func(ctx context.Context, db *sql.DB) error {
		var n int64
		return db.QueryRowContext(ctx, "SELECT 1").Scan(&n)
	}},
	{"Tx", func(ctx context.Context, db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		return tx.Commit()
	}},
}
