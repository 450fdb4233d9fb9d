package leak_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func janitors() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "anitor).run(")
}

func TestOneJanitor(t *testing.T) {
	before := janitors()
	for _, threshold := range []time.Duration{0, time.Minute} {
		cfg := lifeguard.DefaultConfig()
		cfg.LeakThreshold = threshold
		db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _ = db.ExecContext(t.Context(), "SELECT 1") })
		}
		wg.Wait()
		want := before
		if threshold > 0 {
			want++
		}
		// A goroutine that has not run yet is listed by its creator.
		assert.Eventually(t, func() bool { return janitors() == want }, 5*time.Second, time.Millisecond)
		require.NoError(t, db.Close())
		assert.Eventually(t, func() bool { return janitors() == before }, 5*time.Second, time.Millisecond)
	}
}

// realClock reads the machine's clock, which a synctest bubble hides.
func realClock(t *testing.T) time.Duration {
	var tv syscall.Timeval
	require.NoError(t, syscall.Gettimeofday(&tv))
	return time.Duration(tv.Nano())
}

// In a pool where nothing is leased nothing wakes up: virtual time passes in one step.
func TestJanitorRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _, _ := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.MaxIdleConnectionLifetime = 0 })
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		require.NoError(t, err)
		start := time.Now()
		real := realClock(t)
		time.Sleep(1000 * 24 * time.Hour)
		assert.Equal(t, 1000*24*time.Hour, time.Since(start))
		// 86 million looks would take minutes.
		assert.Less(t, realClock(t)-real, 10*time.Second)
		// It is there again when it is needed.
		c := pooltest.Take(t, db)
		defer c.Close()
		pool, _ := lifeguard.PoolOf(db)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 1, pool.Stats().Leaks)
	})
}

// Detection off: nothing is reported, and holders are still known.
func TestNoLeakThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = 0 })
		c := holdUnreported(t, db)
		time.Sleep(24 * time.Hour)
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		require.Len(t, pool.Holders(), 1)
		assert.Equal(t, 24*time.Hour, pool.Holders()[0].Held)
		assert.Contains(t, pool.Holders()[0].Stack[0].Function, "holdUnreported")
		assert.NoError(t, c.Close())
	})
}

func holdUnreported(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	return c
}

// nested calls f below that many frames of itself.
//
//go:noinline
func nested(frames int, f func()) {
	if frames > 1 {
		nested(frames-1, f)
		return
	}
	f()
}

// Each goroutine checks connections out below a number of frames of its own, and the holder's stack must show that number.
// This holds for connections that are handed on, checked out again, or opened by a goroutine of database/sql.
func TestHolderStacksUnderContention(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, handleLimit := range []int{0, 4} {
		t.Run(fmt.Sprintf("SetMaxOpenConns=%d", handleLimit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(8))
				db.SetMaxOpenConns(handleLimit)
				var wg sync.WaitGroup
				for i := range 20 {
					rnd := rand.New(rand.NewPCG(seed, uint64(i)))
					ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
						TraceID: trace.TraceID{1, byte(i)}, SpanID: trace.SpanID{1},
					}))
					hold := func(turn int) {
						c, err := db.Conn(ctx)
						if !assert.NoError(t, err) {
							return
						}
						// The marker finds this hold among those of the others.
						marker := fmt.Sprintf("SELECT marker_%d_%d", i, turn)
						time.Sleep(time.Duration(rnd.Int64N(int64(2 * time.Millisecond))))
						_, err = c.ExecContext(ctx, marker)
						assert.NoError(t, err)
						time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Millisecond))))
						holders := pool.Holders()
						at := slices.IndexFunc(holders, func(h lifeguard.Holder) bool { return h.LastQuery == marker })
						if assert.GreaterOrEqual(t, at, 0, "a holder who is not listed") {
							h := holders[at]
							frames := 0
							for _, f := range h.Stack {
								if strings.HasSuffix(f.Function, ".nested") {
									frames++
								}
							}
							assert.Equal(t, i+1, frames, "%v", h.Stack)
							if assert.NotEmpty(t, h.Stack) {
								assert.Contains(t, h.Stack[0].Function, "TestHolderStacksUnderContention")
							}
							assert.Equal(t, trace.TraceID{1, byte(i)}, h.SpanContext.TraceID())
						}
						assert.NoError(t, c.Close())
					}
					wg.Go(func() {
						for turn := range 50 {
							nested(i+1, func() { hold(turn) })
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// The application is found, and a few of its callers with it, below however many frames of libraries.
func TestStackBelowLibraries(t *testing.T) {
	for layers := range 6 {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(1))
		begin := db.Begin
		for range layers {
			begin = sync.OnceValues(begin)
		}
		tx, err := beginForTest(begin)
		require.NoError(t, err)
		h := pool.Holders()[0]
		require.GreaterOrEqual(t, len(h.Stack), 4, "%d layers: %v", layers, h.Stack)
		// Without the race detector, layers are inlined into the test and count as its own.
		i := slices.IndexFunc(h.Stack, func(f runtime.Frame) bool { return strings.HasSuffix(f.Function, ".beginForTest") })
		require.GreaterOrEqual(t, i, 0, "%d layers: %v", layers, h.Stack)
		assert.Contains(t, h.Stack[i+1].Function, "TestStackBelowLibraries")
		require.NoError(t, tx.Rollback())
	}
}

//go:noinline
func beginForTest(begin func() (*sql.Tx, error)) (*sql.Tx, error) { return begin() }

// A checkout that got no stack, because there were too many at its moment, gets one at its next operation, if it lasts.
func TestLateStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(2))
		c := pooltest.Take(t, db)
		for len(pool.Holders()[0].Stack) > 0 { // in one moment of virtual time
			require.NoError(t, c.Close())
			c = pooltest.Take(t, db)
		}
		defer c.Close()
		time.Sleep(61 * time.Second) // the janitor has looked at it
		require.Empty(t, pool.Holders()[0].Stack)
		pingForTest(t, c)
		h := pool.Holders()[0]
		require.NotEmpty(t, h.Stack)
		assert.Contains(t, h.Stack[0].Function, "pingForTest")
		assert.Equal(t, time.Now(), h.LastUsed)
		assert.Equal(t, 61*time.Second, h.Held)
	})
}

func pingForTest(t *testing.T, c *sql.Conn) { require.NoError(t, c.PingContext(t.Context())) }

func TestPoolTimeoutDoesNotStopThePool(t *testing.T) {
	// Holders are read while checkouts go on at full speed, by many at once.
	db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(4))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.NoError(t, err)
			}
		})
	}
	looks := 0
	for ctx.Err() == nil && (looks < 100 || pool.Stats().Acquired < 2000) {
		for _, h := range pool.Holders() {
			assert.LessOrEqual(t, h.Operations, 1)
		}
		looks++
	}
	assert.NoError(t, ctx.Err(), "the looks stop the pool")
	cancel()
	wg.Wait()
	t.Logf("%d looks at the holders, %d checkouts", looks, pool.Stats().Acquired)
}

// A holder is dated at its checkout, however many quick operations came before it.
func TestHoldersAreDated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, _ := openReported(t, fakedriver.New(), pooltest.Limit(1))
		for _, pause := range []time.Duration{0, 500 * time.Microsecond, 2 * time.Millisecond, 300 * time.Millisecond} {
			for range 100 {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
			}
			time.Sleep(pause)
			c := pooltest.Take(t, db)
			lag := time.Since(pool.Holders()[0].Since)
			assert.GreaterOrEqual(t, lag, time.Duration(0))
			assert.LessOrEqual(t, lag, time.Millisecond, "after %v", pause)
			require.NoError(t, c.Close())
		}
	})
}
