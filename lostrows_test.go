package lifeguard_test

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

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
			db, pool, reports := openReported(t, srv, limit(2))
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
			assert.Contains(t, leak.Stack[0].Function, "lifeguard_test.lose"+strings.TrimSuffix(name, "WithoutCancel"))

			for range 3 {
				require.True(t, keep.Next(), "rows that somebody reads are left alone")
			}
			require.NoError(t, keep.Close())
			_, err = db.Exec("SELECT 1")
			require.NoError(t, err)
		})
	}
}

func TestThousandLosses(t *testing.T) {
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, limit(2))
	defer collecting()()
	rounds := 1000
	if testing.Short() {
		rounds = 100
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

// The pool's own request for a collection: nobody else runs one here, and who waits is served all the same.
func TestWaiterAsksForCollection(t *testing.T) {
	srv := fakedriver.New()
	db, pool, _ := openReported(t, srv, limit(2))
	for round := range 3 {
		loseRows(t, db)
		loseRow(t, db)
		start := time.Now()
		_, err := db.Exec("SELECT 1")
		require.NoError(t, err)
		t.Logf("round %d: served after %v", round, time.Since(start))
		assert.Less(t, time.Since(start), 10*time.Second)
		assert.Eventually(t, func() bool { return pool.Stats().LostRows == uint64(2*round+2) }, 10*time.Second, time.Millisecond)
	}
}

// Rows that are only slow cost a collection now and then, not one a second.
func TestCollectionsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of real time")
	}
	db, _, _ := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { limit(1)(c); c.PoolTimeout = 5 * time.Second })
	rows, err := db.Query("rows 3")
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = db.Exec("SELECT 1")
	require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.NumForcedGC-before.NumForcedGC, uint32(4))
	require.True(t, rows.Next())
	require.NoError(t, rows.Close())
}

// What a sql.Conn holds besides its rows may still be needed, such as a lock: it is reported and left alone. (It can
// never be returned, because its Close waits for the rows.)
func TestLostRowsOfConn(t *testing.T) {
	cfg := lifeguard.DefaultConfig()
	cfg.LeakThreshold, cfg.LeakReclaimAfter = 100*time.Millisecond, 300*time.Millisecond
	reports := &leakReports{}
	db, err := lifeguard.OpenDB(fakedriver.New().Connector(), append(reports.options(), lifeguard.WithConfig(cfg))...)
	require.NoError(t, err)
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)
	c := take(t, db)
	loseRowsOfConn(t, c)
	var found []lifeguard.Leak
	require.Eventually(t, func() bool {
		runtime.GC()
		leaks, _ := reports.take()
		for _, l := range leaks {
			if l.Kind == lifeguard.LeakLostRows {
				found = append(found, l)
			}
		}
		return len(found) > 0 && pool.Stats().LostRows == 1
	}, 10*time.Second, time.Millisecond)
	assert.False(t, found[0].Reclaimed)
	_, err = c.ExecContext(t.Context(), "SELECT pg_advisory_unlock(1)")
	assert.NoError(t, err, "a sql.Conn goes on without its rows")
	// With leak_reclaim_after it is taken back like any other that lies unused.
	assert.Eventually(t, func() bool { return pool.Stats().Reclaimed == 1 }, 10*time.Second, time.Millisecond)
	assert.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
}

//go:noinline
func loseRowsOfConn(t *testing.T, c *sql.Conn) {
	_, err := c.QueryContext(context.Background(), "rows 3")
	require.NoError(t, err)
}

// Rows that were closed, in whatever order, and are garbage afterwards are not lost.
func TestClosedRowsAreNotLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db, pool, _ := openReported(t, fakedriver.New(), limit(4))
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
	loseRows(t, db)
	assert.Eventually(t, func() bool { runtime.GC(); return pool.Stats().LostRows > 0 }, 10*time.Second, time.Millisecond)
	assert.EqualValues(t, 1, pool.Stats().LostRows)
}

// Of rows that were open at the same time only one is kept for the next query. The others become garbage while their
// connection is still held.
func TestClosedRowsOfHeldConnection(t *testing.T) {
	db, pool, _ := openReported(t, fakedriver.New(), limit(2))
	c := take(t, db)
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
		limit(4)(c)
		c.MaxConnectionLifetime = 20 * time.Millisecond
	})
	defer collecting()()
	var lost atomic.Uint64
	var wg sync.WaitGroup
	for w := range 8 {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range 400 {
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
