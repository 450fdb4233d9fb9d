package bouncertest_test

import (
	"database/sql"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	_ "github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// BenchmarkBesideDirect has 64 callers on 20 connections ask directly and through PgBouncer, by turns, and reports how much
// is served through it of what is served directly. See docs/scale.md.
//
//	go test -run '^$' -bench BesideDirect -benchtime 5x ./internal/bouncertest
func BenchmarkBesideDirect(b *testing.B) {
	dsn := pgtest.DSN(b)
	ways := []string{dsn + "&connection_limit=20", bouncertest.Start(b, dsn) + "&connection_limit=20&pgbouncer=true"}
	for name, query := range map[string]string{"short": "SELECT $1::int", "5ms": "SELECT $1::int FROM pg_sleep(0.005)"} {
		b.Run(name, func(b *testing.B) {
			var dbs []*sql.DB
			for _, way := range ways {
				db, err := sql.Open("lifeguard", way)
				require.NoError(b, err)
				defer db.Close()
				served(b, db, query, time.Second) // opens the connections
				dbs = append(dbs, db)
			}
			all := make([][]float64, len(dbs))
			for b.Loop() {
				for i, db := range dbs {
					all[i] = append(all[i], served(b, db, query, time.Second))
				}
			}
			direct, through := median(all[0]), median(all[1])
			b.ReportMetric(direct, "direct/s")
			b.ReportMetric(through, "pgbouncer/s")
			b.ReportMetric(through/direct, "ratio")
		})
	}
}

// served is how many queries a second are answered.
func served(b *testing.B, db *sql.DB, query string, during time.Duration) float64 {
	var n atomic.Int64
	var callers sync.WaitGroup
	began := time.Now()
	for range 64 {
		callers.Go(func() {
			for time.Since(began) < during {
				var got int
				if err := db.QueryRow(query, 7).Scan(&got); err != nil || got != 7 {
					b.Errorf("%d, %v", got, err)
					return
				}
				n.Add(1)
			}
		})
	}
	callers.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
