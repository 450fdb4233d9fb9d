package drivertest

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// BenchmarkOverPGX compares lifeguard over pgx with pgx's own stdlib, on 10 connections. Both take turns of a tenth of a
// second within one run, so that what the machine does beside hits both. It reports queries a second of each, and the
// median of the turns' ratios; ns/op counts both.
func BenchmarkOverPGX(b *testing.B) {
	const limit, turn = 10, 100 * time.Millisecond
	dsn := pgtest.DSN(b)
	open := map[string]*sql.DB{}
	plain, err := sql.Open("pgx", dsn)
	require.NoError(b, err)
	plain.SetMaxOpenConns(limit)
	plain.SetMaxIdleConns(limit)
	open["plain"] = plain
	open["lifeguard"], err = lifeguard.Open("pgx", withLimit(dsn, limit), quiet)
	require.NoError(b, err)
	for _, db := range open {
		b.Cleanup(func() { _ = db.Close() })
	}
	queries := map[string]func(ctx context.Context, db *sql.DB) error{
		"select1": func(ctx context.Context, db *sql.DB) error {
			return db.QueryRowContext(ctx, "SELECT 1").Scan(new(int))
		},
		"argument": func(ctx context.Context, db *sql.DB) error {
			return db.QueryRowContext(ctx, "SELECT $1::int", 7).Scan(new(int))
		},
	}
	for _, what := range []string{"select1", "argument"} {
		for _, goroutines := range []int{8, 64, 100} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", what, goroutines), func(b *testing.B) {
				ctx, cancel := context.WithCancel(b.Context())
				defer cancel()
				var done [2]float64
				var ratios []float64
				for n := 0; n < b.N || len(ratios) < 3; {
					var rate [2]float64
					for i, name := range []string{"plain", "lifeguard"} {
						count, took := turnOf(b, turn, goroutines, func() error { return queries[what](ctx, open[name]) })
						rate[i] = float64(count) / took.Seconds()
						done[i] += rate[i]
						n += count
					}
					ratios = append(ratios, rate[1]/rate[0])
				}
				slices.Sort(ratios)
				b.ReportMetric(done[0]/float64(len(ratios)), "plain/s")
				b.ReportMetric(done[1]/float64(len(ratios)), "lifeguard/s")
				b.ReportMetric(ratios[len(ratios)/2], "ratio")
			})
		}
	}
}

// turnOf has goroutines run f for a while, and counts.
func turnOf(b *testing.B, length time.Duration, goroutines int, f func() error) (count int, took time.Duration) {
	var calls sync.WaitGroup
	var total atomic.Int64
	began := time.Now()
	for range goroutines {
		calls.Go(func() {
			n := int64(0)
			for ; time.Since(began) < length; n++ {
				if err := f(); err != nil {
					b.Error(err)
					break
				}
			}
			total.Add(n)
		})
	}
	calls.Wait()
	return int(total.Load()), time.Since(began)
}
