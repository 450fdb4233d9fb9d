package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestSpike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(150 * time.Millisecond); return nil })
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(2 * time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { pooltest.Limit(50)(c); c.MinConnections = 5 })
		time.Sleep(10 * time.Second)
		require.Equal(t, 5, pool.Stats().Idle, "min_connections are opened at the start")

		start := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, time.Since(start), 60*time.Millisecond)
		time.Sleep(time.Second)
		assert.LessOrEqual(t, srv.Dials(), 7)
		assert.Equal(t, srv.Dials(), pool.Stats().Open, "a dial nobody needed any more is an idle connection")
	})
}

func TestCallerGivesUpDuringDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		type key struct{}
		var seen any
		srv.OnDial(func(ctx context.Context) error {
			seen = ctx.Value(key{})
			time.Sleep(time.Second)
			return ctx.Err()
		})
		db, pool := pooltest.OpenFake(t, srv, nil)
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), 100*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "SELECT 1")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "value", seen, "the dial has the values of the caller's context")
		assert.Equal(t, 1, pool.Stats().Idle)

		srv.OnDial(func(context.Context) error { return errors.New("no second dial") })
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
	})
}

// An error of a dial is the driver's own, as it is.
func TestDialErrorAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		wrong := errors.New("password authentication failed")
		srv.OnDial(func(context.Context) error { return wrong })
		db, _ := pooltest.OpenFake(t, srv, nil)
		assert.Equal(t, wrong, db.PingContext(t.Context()))
	})
}

// A dial is given up after pool_timeout, together with the caller for which it began. The caller's error is always that
// of the wait.
func TestDialAndCallerGiveUpTogether(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			db, _ := pooltest.OpenFake(t, srv, nil)
			start := time.Now()
			err := db.PingContext(t.Context())
			assert.Equal(t, 20*time.Second, time.Since(start))
			require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
			assert.ErrorContains(t, err, "within 20s: connecting to other_sql has not finished after 20s")
			assert.Error(t, errors.Unwrap(err))
		})
	}
}

// loseNetwork has a pool connect, lose its connection, and dial without ever getting an answer. Before a pool has
// connected it cannot tell a lost dial from a slow one.
func loseNetwork(t *testing.T, srv *fakedriver.Server, db *sql.DB) {
	t.Helper()
	require.NoError(t, db.PingContext(t.Context()))
	srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	srv.Kill()
}

// Dials that were lost make room for others once a second, so that a server which is back is found, whatever the limit.
func TestLostDialsMakeRoom(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		t.Run(fmt.Sprint("Limit=", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				loseNetwork(t, srv, db)
				answered := make(chan error, 1)
				go func() { answered <- db.PingContext(t.Context()) }()
				time.Sleep(15*time.Second + time.Millisecond)
				assert.Equal(t, n, srv.Dialing())
				assert.LessOrEqual(t, srv.Dials(), 18, "about one a second")
				srv.OnDial(nil)
				back := time.Now()
				require.NoError(t, <-answered)
				assert.LessOrEqual(t, time.Since(back), time.Second)
				assert.LessOrEqual(t, srv.MaxDialing(), n)
			})
		})
	}
}

// Lost dials that time out one after another, when the server is back already, do not put off the next one.
func TestLostDialsDoNotHoldUp(t *testing.T) {
	for phase := range 20 {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				pooltest.Limit(5)(c)
				c.PoolTimeout = time.Second
			})
			loseNetwork(t, srv, db)
			var callers sync.WaitGroup
			var served atomic.Bool
			for range 10 {
				callers.Go(func() {
					for !served.Load() {
						if db.PingContext(t.Context()) == nil {
							served.Store(true)
						}
					}
				})
			}
			time.Sleep(10*time.Second + time.Duration(phase)*50*time.Millisecond)
			assert.LessOrEqual(t, srv.Dials(), 50, "a few a second")
			srv.OnDial(nil)
			back := time.Now()
			callers.Wait()
			assert.LessOrEqual(t, time.Since(back), 400*time.Millisecond, "phase %d", phase)
		})
	}
}

// A server that is slow is not given up for a lost one again and again.
func TestSlowDialsAreLeftTime(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1:  6 * time.Second, // the third try is the first that has three seconds
		2:  3 * time.Second,
		10: 3 * time.Second,
	} {
		t.Run(fmt.Sprint("Limit=", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				loseNetwork(t, srv, db)
				srv.OnDial(func(ctx context.Context) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(3 * time.Second):
						return nil
					}
				})
				start := time.Now()
				require.NoError(t, db.PingContext(t.Context()))
				assert.Equal(t, want, time.Since(start))
			})
		})
	}
}
