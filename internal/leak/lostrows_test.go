package leak_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// The garbage collector works in real time, so these tests do, too.

// loseRows forgets what it has asked for. It must not be inlined, or what it drops may live as long as its caller.
//
//go:noinline
func loseRows(t testing.TB, db *sql.DB) {
	rows, err := db.Query("rows 3")
	if assert.NoError(t, err) {
		rows.Next()
	}
}

//go:noinline
func loseRow(_ testing.TB, db *sql.DB) { db.QueryRow("rows 3") }

//go:noinline
func loseRowsOfEndlessContext(t testing.TB, db *sql.DB) {
	type key struct{}
	_, err := db.QueryContext(context.WithoutCancel(context.WithValue(context.Background(), key{}, 1)), "rows 3")
	assert.NoError(t, err)
}

var losses = map[string]func(testing.TB, *sql.DB){
	"Rows": loseRows, "Row": loseRow, "WithoutCancel": loseRowsOfEndlessContext,
}

// collecting runs the garbage collector again and again until the test calls stop.
func collecting() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC()
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

func TestLostRows(t *testing.T) {
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			srv := fakedriver.New()
			db, pool, reports := openReported(t, srv, pooltest.Limit(2))
			keep, err := db.Query("rows 3")
			require.NoError(t, err)
			lose(t, db)
			require.Equal(t, 2, pool.Stats().InUse)
			require.Eventually(t, func() bool { runtime.GC(); return pool.Stats().LostRows == 1 }, 10*time.Second, time.Millisecond)
			require.Eventually(t, func() bool { return srv.Open() == 1 }, 10*time.Second, time.Millisecond)
			assert.Equal(t, 1, pool.Stats().InUse, "the rows that are in use")
			assert.EqualValues(t, 1, pool.Stats().Reclaimed)
			assert.Zero(t, pool.Stats().Leaks)
			var leaks []lifeguard.Leak
			require.Eventually(t, func() bool { leaks, _ = reports.take(); return len(leaks) == 1 }, 10*time.Second, time.Millisecond)
			leak := leaks[0]
			assert.Equal(t, lifeguard.LeakLostRows, leak.Kind)
			assert.True(t, leak.Reclaimed)
			assert.Equal(t, "rows ?", leak.LastQuery)
			assert.Equal(t, 1, leak.Operations)
			require.NotEmpty(t, leak.Stack)
			assert.Contains(t, leak.Stack[0].Function, "leak_test.lose"+strings.TrimSuffix(name, "WithoutCancel"))

			for range 3 {
				require.True(t, keep.Next(), "rows that somebody reads are left alone")
			}
			require.NoError(t, keep.Close())
			_, err = db.Exec("SELECT 1")
			require.NoError(t, err)
		})
	}
}

func TestManyLosses(t *testing.T) {
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, pooltest.Limit(2))
	defer collecting()()
	rounds := 100
	if testing.Short() || pooltest.RaceEnabled {
		rounds = 50
	}
	kinds := []func(testing.TB, *sql.DB){loseRows, loseRow, loseRowsOfEndlessContext}
	var longest time.Duration
	for i := range rounds {
		start := time.Now()
		kinds[i%len(kinds)](t, db)
		longest = max(longest, time.Since(start))
	}
	t.Logf("longest wait %v", longest)
	assert.Zero(t, pool.Stats().Timeouts)
	assert.Eventually(t, func() bool {
		st := pool.Stats()
		return st.LostRows == uint64(rounds) && st.Reclaimed == uint64(rounds) && st.InUse == 0
	}, 20*time.Second, 10*time.Millisecond, "not all of them were found")
	assert.LessOrEqual(t, srv.MaxOpen(), 2)
}

// The pool asks for a collection by itself. The test runs none, and the waiter is served all the same.
func TestWaiterAsksForCollection(t *testing.T) {
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, pooltest.Limit(2))
	loseRows(t, db)
	loseRow(t, db)
	start := time.Now()
	_, err := db.Exec("SELECT 1")
	require.NoError(t, err)
	t.Logf("served after %v", time.Since(start)) // after a second, or later if another test asked for a collection just before
	assert.Eventually(t, func() bool { return pool.Stats().LostRows == 2 }, 10*time.Second, time.Millisecond)
}

// Rows that are only slow cost a collection now and then, and no more than one in ten seconds.
func TestCollectionsAreBounded(t *testing.T) {
	db, _, _ := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = 1500 * time.Millisecond })
	rows, err := db.Query("rows 3")
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = db.Exec("SELECT 1")
	require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.NumForcedGC-before.NumForcedGC, uint32(1))
	require.True(t, rows.Next())
	require.NoError(t, rows.Close())
}

// awaitLeak waits for a report, with garbage collections.
func awaitLeak(t *testing.T, reports *leakReports, is func(lifeguard.Leak) bool) (found lifeguard.Leak) {
	t.Helper()
	require.Eventually(t, func() bool {
		runtime.GC()
		var ok bool
		found, ok = reports.next(is)
		return ok
	}, 20*time.Second, time.Millisecond)
	return found
}

// What database/sql itself refers to is no garbage: the rows of a statement are in the sql.DB's list of what depends on
// what, and rows in a transaction are watched, as the transaction is, by a goroutine that waits for its end. They are
// held too long instead, with everything that goes with that.
func TestRowsThatAreKept(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *sql.DB){
		"Stmt": loseRowsOfStmt, "StmtOfConn": loseRowsOfConnStmt, "Tx": loseRowsOfTx, "EndingContext": loseRowsOfEndingContext,
	} {
		t.Run(name, func(t *testing.T) {
			const threshold = 100 * time.Millisecond
			db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) {
				pooltest.Limit(2)(c)
				c.LeakThreshold, c.LeakReclaimAfter = threshold, 4*threshold
			})
			lose(t, db)
			leak := awaitLeak(t, reports, func(lifeguard.Leak) bool { return true })
			assert.Equal(t, lifeguard.LeakHeld, leak.Kind)
			assert.GreaterOrEqual(t, leak.Held, threshold)
			assert.Equal(t, "rows ?", leak.LastQuery)
			assert.Contains(t, leak.Stack[0].Function, "leak_test.loseRowsOf")
			leak = awaitLeak(t, reports, func(l lifeguard.Leak) bool { return l.Reclaimed })
			assert.Equal(t, lifeguard.LeakHeld, leak.Kind)
			assert.Zero(t, pool.Stats().LostRows)
			assert.EqualValues(t, 1, pool.Stats().Leaks)
			pooltest.Eventually(t, "its place is free", func() bool { return pool.Stats().InUse == 0 }) // closing it may take time
		})
	}
}

//go:noinline
func loseRowsOfStmt(t *testing.T, db *sql.DB) {
	stmt, err := db.Prepare("rows 3")
	require.NoError(t, err)
	_, err = stmt.Query()
	require.NoError(t, err)
}

//go:noinline
func loseRowsOfConnStmt(t *testing.T, db *sql.DB) {
	c, err := db.Conn(context.Background())
	require.NoError(t, err)
	stmt, err := c.PrepareContext(context.Background(), "rows 3")
	require.NoError(t, err)
	_, err = stmt.Query()
	require.NoError(t, err)
}

//go:noinline
func loseRowsOfTx(t *testing.T, db *sql.DB) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel) // ends what waits for the end of the transaction
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = tx.Query("rows 3")
	require.NoError(t, err)
}

//go:noinline
func loseRowsOfEndingContext(t *testing.T, db *sql.DB) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	_, err := db.QueryContext(ctx, "rows 3")
	require.NoError(t, err)
}

// Rows that were closed, in whatever order, and are garbage afterwards are not lost.
func TestClosedRowsAreNotLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(4))
	stop := collecting()
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range 300 {
				c, err := db.Conn(context.Background())
				if !assert.NoError(t, err) {
					return
				}
				open := make([]*sql.Rows, 1+rnd.IntN(3))
				for i := range open {
					open[i], err = c.QueryContext(context.Background(), fmt.Sprintf("rows %d", i+1))
					assert.NoError(t, err)
				}
				rnd.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
				for _, rows := range open {
					assert.True(t, rows.Next())
					assert.NoError(t, rows.Close())
				}
				assert.NoError(t, c.Close())
				done.Add(1)
			}
		})
	}
	wg.Wait()
	runtime.GC()
	stop()
	assert.EqualValues(t, 1200, done.Load())
	// Findings are worked off in no order, but all of them together: once this one is counted, the others were.
	time.Sleep(20 * time.Millisecond) // stacks are taken again, after so many checkouts: the proof of the loss
	loseRows(t, db)
	assert.Eventually(t, func() bool { runtime.GC(); return pool.Stats().LostRows > 0 }, 10*time.Second, time.Millisecond)
	assert.EqualValues(t, 1, pool.Stats().LostRows)
	assert.Eventually(t, func() bool { return pool.Stats().Reclaimed == 1 }, 10*time.Second, time.Millisecond)
}

// Of rows that were open at the same time only one is kept for the next query. The others become garbage while their
// connection is still held.
func TestClosedRowsOfHeldConnection(t *testing.T) {
	db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(2))
	c := pooltest.Take(t, db)
	openAndClose(t, c, 10)
	for range 5 {
		runtime.GC()
	}
	loseRows(t, db)
	require.Eventually(t, func() bool { runtime.GC(); return pool.Stats().LostRows > 0 }, 10*time.Second, time.Millisecond)
	assert.EqualValues(t, 1, pool.Stats().LostRows)
	assert.NoError(t, c.PingContext(t.Context()))
	assert.NoError(t, c.Close())
}

//go:noinline
func openAndClose(t *testing.T, c *sql.Conn, n int) {
	open := make([]*sql.Rows, n)
	for i := range open {
		var err error
		open[i], err = c.QueryContext(context.Background(), "rows 1")
		require.NoError(t, err)
	}
	for _, rows := range open {
		require.NoError(t, rows.Close())
	}
}

// Losses among work that goes on, with connections that are closed for their age meanwhile.
func TestLossesUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, func(c *lifeguard.Config) {
		pooltest.Limit(4)(c)
		c.MaxConnectionLifetime = 20 * time.Millisecond
	})
	defer collecting()()
	var lost atomic.Uint64
	var wg sync.WaitGroup
	for w := range 8 {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range 400 {
				time.Sleep(time.Millisecond) // fewer than 10,000 checkouts a second: each has its stack, the proof of a loss
				if rnd.IntN(20) == 0 {
					lost.Add(1)
					loseRow(t, db)
					continue
				}
				var n int64
				if err := db.QueryRow("rows 3").Scan(&n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d of 3200 lost", lost.Load())
	assert.Zero(t, pool.Stats().Timeouts)
	assert.Eventually(t, func() bool {
		st := pool.Stats()
		return st.LostRows == lost.Load() && st.Reclaimed == lost.Load() && st.InUse == 0
	}, 20*time.Second, 10*time.Millisecond)
	assert.LessOrEqual(t, srv.MaxOpen(), 4)
}

// A connection that was reported because it is held too long, and whose rows turn out to be lost, is one leak.
func TestLostRowsOfLeak(t *testing.T) {
	m := pooltest.NewMeasures(t)
	spans := tracetest.NewSpanRecorder()
	db, pool, _ := openReported(t, fakedriver.New(), func(cfg *lifeguard.Config) {
		cfg.LeakThreshold = 50 * time.Millisecond
	}, lifeguard.WithMeterProvider(m.Provider),
		lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	loseRows(t, db)
	require.Eventually(t, func() bool { return pool.Stats().Leaks == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { runtime.GC(); return pool.Stats().LostRows == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return pool.Stats().InUse == 0 }, 10*time.Second, time.Millisecond)
	assert.EqualValues(t, 1, m.Counts()["lifeguard.connection.leaks"])
	leaks := 0
	for _, s := range spans.Ended() {
		if s.Name() == "connection leak" {
			leaks++
		}
	}
	assert.Equal(t, 1, leaks)
}
