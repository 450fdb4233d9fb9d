package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestCancelledQueries cancels queries at random moments and looks at what comes after them on the same connections:
// every value is asked for once, so an answer to somebody else's question shows, and so does a cancellation that hits
// the wrong query.
func TestCancelledQueries(t *testing.T) {
	const limit, callers = 16, 20
	wanted := int64(*cancels) / 2 // for each of the two
	if testing.Short() {
		wanted /= 5
	}
	rnd := pooltest.Seed(t)
	dsn := pgtest.DSN(t)
	for _, cache := range []int{100, 0} {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		t.Run(fmt.Sprint("statement_cache_size=", cache), func(t *testing.T) {
			t.Parallel()
			c := pooltest.OpenPostgres(t, "lifeguard", dsn, limit, fmt.Sprint("statement_cache_size=", cache), "pool_timeout=20")
			const slow = "SELECT $1::bigint FROM pg_sleep(0.0005)"
			kept, err := c.Prepare(slow)
			require.NoError(t, err)
			var cancelled, answered, value atomic.Int64
			kinds := []struct {
				name string
				ask  func(ctx context.Context, v int64) (int64, error)
			}{
				{"arguments", func(ctx context.Context, v int64) (got int64, err error) {
					return got, c.QueryRowContext(ctx, slow, v).Scan(&got)
				}},
				{"text", func(ctx context.Context, v int64) (got int64, err error) {
					return got, c.QueryRowContext(ctx, fmt.Sprintf("SELECT %d FROM pg_sleep(0.0005)", v)).Scan(&got)
				}},
				{"prepared", func(ctx context.Context, v int64) (got int64, err error) {
					return got, kept.QueryRowContext(ctx, v).Scan(&got)
				}},
				{"exec", func(ctx context.Context, v int64) (int64, error) {
					_, err := c.ExecContext(ctx, "SELECT pg_sleep(0.0005), $1::bigint", v)
					return v, err
				}},
				{"transaction", func(ctx context.Context, v int64) (got int64, err error) {
					tx, err := c.BeginTx(ctx, nil)
					if err != nil {
						return 0, err
					}
					defer tx.Rollback()
					if err := tx.QueryRowContext(ctx, slow, v).Scan(&got); err != nil {
						return 0, err
					}
					return got, tx.Commit()
				}},
				{"query in a transaction", func(ctx context.Context, v int64) (got int64, err error) {
					tx, err := c.BeginTx(context.Background(), nil)
					if err != nil {
						return 0, err
					}
					defer tx.Rollback()
					return got, tx.QueryRowContext(ctx, slow, v).Scan(&got)
				}},
				{"rows", func(ctx context.Context, v int64) (got int64, err error) {
					rows, err := c.QueryContext(ctx, "SELECT $1::bigint FROM generate_series(1, 200)", v)
					if err != nil {
						return 0, err
					}
					defer rows.Close()
					for rows.Next() {
						if err := rows.Scan(&got); err != nil {
							return 0, err
						}
						if got != v {
							return got, nil
						}
					}
					return got, rows.Err()
				}},
			}
			var wg sync.WaitGroup
			for range callers {
				rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
				wg.Go(func() {
					// Not those that were waiting for a connection, to which nothing can happen.
					for cancelled.Load()-int64(pooltest.PoolOf(t, c.DB).Stats().Canceled) < wanted && !t.Failed() {
						kind := kinds[rnd.IntN(len(kinds))]
						ctx, cancel := pooltest.CancelSoon(t.Context(), rnd, 3*time.Millisecond)
						v := value.Add(1)
						got, err := kind.ask(ctx, v)
						switch {
						case err == nil:
							answered.Add(1)
							assert.Equal(t, v, got, "%s: an answer to another question", kind.name)
						case ctx.Err() != nil && endOfContext(err):
							cancelled.Add(1)
						default:
							t.Errorf("%s, not cancelled yet: %v", kind.name, err)
						}
						cancel()

						// The next caller must not notice.
						kind = kinds[rnd.IntN(len(kinds))]
						v = value.Add(1)
						got, err = kind.ask(t.Context(), v)
						assert.NoError(t, err, "%s, never cancelled", kind.name)
						assert.Equal(t, v, got, "%s: an answer to another question", kind.name)
					}
				})
			}
			wg.Wait()
			t.Logf("%d cancelled, %d answered before that, %+v", cancelled.Load(), answered.Load(), pooltest.PoolOf(t, c.DB).Stats())
			assert.Positive(t, answered.Load())
			require.NoError(t, kept.Close())
			c.AllSlots(t, limit)
		})
	}
}

// quickly fails the test if f takes longer than limit, and then waits for it all the same.
func (b *basin) quickly(limit time.Duration, what string, f func()) {
	b.t.Helper()
	begin := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
		if took := time.Since(begin); took > limit {
			b.t.Errorf("%s took %v, at most %v expected", what, took, limit)
		}
	case <-time.After(limit + 2*time.Second):
		buf := make([]byte, 1<<20)
		b.t.Errorf("%s hangs; at most %v expected:\n%s", what, limit, buf[:runtime.Stack(buf, true)])
		b.proxy.Cut(faultproxy.RST)
		<-done
	}
}
