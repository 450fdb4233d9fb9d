package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
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

// Demand that lasts fills the pool within a few rounds of dials.
func TestGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil })
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(64))
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				c, err := db.Conn(t.Context())
				if assert.NoError(t, err) {
					time.Sleep(10 * time.Second)
					c.Close()
				}
			})
		}
		time.Sleep(401 * time.Millisecond)
		assert.Equal(t, 64, pool.Stats().InUse)
		wg.Wait()
		assert.Equal(t, 64, srv.Dials())
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

func TestServerDown(t *testing.T) {
	refused := fmt.Errorf("dial tcp 192.0.2.1:5432: connect: %w", syscall.ECONNREFUSED)
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(time.Millisecond); return refused })
		db, pool := pooltest.OpenFake(t, srv, nil)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				start := time.Now()
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				assert.Equal(t, 20*time.Second, time.Since(start))
				assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
				assert.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.ErrorContains(t, err, "within 20s: dial tcp 192.0.2.1:5432: connect: connection refused")
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, srv.MaxDialing(), 2)
		assert.Less(t, srv.Dials(), 20*4, "a few attempts a second")

		// A server that comes back is found within the back-off.
		done := make(chan time.Duration)
		go func() {
			start := time.Now()
			_, err := db.ExecContext(t.Context(), "SELECT 1")
			assert.NoError(t, err)
			done <- time.Since(start)
		}()
		time.Sleep(5 * time.Second)
		srv.OnDial(nil)
		assert.LessOrEqual(t, <-done, 5*time.Second+500*time.Millisecond)
		assert.Zero(t, pool.Stats().Waiting)
	})
}

// What waiting cannot mend is told at once, as on the plain driver, and with the driver's own error.
func TestDialRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		wrong := errors.New("password authentication failed")
		srv.OnDial(func(context.Context) error { return wrong })
		db, _ := pooltest.OpenFake(t, srv, nil)
		start := time.Now()
		assert.Equal(t, wrong, db.PingContext(t.Context()))
		assert.Zero(t, time.Since(start))

		// With a connection open, it serves the waiters.
		time.Sleep(time.Second)
		srv.OnDial(nil)
		c := pooltest.Take(t, db)
		srv.OnDial(func(context.Context) error { return wrong })
		go func() { time.Sleep(5 * time.Second); c.Close() }()
		assert.NoError(t, db.PingContext(t.Context()))
	})
}

func TestDialHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		db, _ := pooltest.OpenFake(t, srv, nil)
		start := time.Now()
		err := db.PingContext(t.Context())
		assert.Equal(t, 20*time.Second, time.Since(start))
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.Regexp(t, `within 20s: connecting to \S* (has not finished|was given up) after 20s`, err.Error())
		assert.Error(t, errors.Unwrap(err))

		// One that hangs does not keep the others from trying.
		srv.OnDial(func(ctx context.Context) error {
			if srv.Dialing() <= 2 {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		time.Sleep(time.Minute)
		start = time.Now()
		assert.NoError(t, db.PingContext(t.Context()))
		assert.LessOrEqual(t, time.Since(start), 2*time.Second)
	})
}

// Dials that were lost make room for others once a second, so that a server which is back is found, whatever the limit.
func TestLostDialsMakeRoom(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		t.Run(fmt.Sprint("Limit=", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				lost := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				srv.OnDial(lost)
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				answered := make(chan error, 1)
				go func() { answered <- db.PingContext(t.Context()) }()
				time.Sleep(15*time.Second + time.Millisecond)
				assert.Equal(t, n, srv.Dialing())
				assert.LessOrEqual(t, srv.Dials(), 17, "about one a second")
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
			srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				pooltest.Limit(5)(c)
				c.PoolTimeout = time.Second
			})
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
				srv.OnDial(func(ctx context.Context) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(3 * time.Second):
						return nil
					}
				})
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(n))
				start := time.Now()
				require.NoError(t, db.PingContext(t.Context()))
				assert.Equal(t, want, time.Since(start))
			})
		})
	}
}

// However many connections of a handle have gone silent, its caller waits for all of them together no longer than
// pool_timeout, though database/sql makes three attempts.
func TestSilentConnectionsShareOnePatience(t *testing.T) {
	for _, dials := range []bool{true, false} {
		t.Run(fmt.Sprint("Dials=", dials), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(4))
				broken, lost := pooltest.Take(t, db), []*sql.Conn{pooltest.Take(t, db), pooltest.Take(t, db), pooltest.Take(t, db)}
				for _, c := range lost {
					require.NoError(t, c.Close())
				}
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return driver.ErrBadConn })
				_, err := broken.ExecContext(t.Context(), "UPDATE")
				require.ErrorIs(t, err, driver.ErrBadConn)
				broken.Close()
				srv.OnQuery(nil)

				srv.OnPing(func(ctx context.Context, _ *fakedriver.Conn) error { <-ctx.Done(); return ctx.Err() })
				if !dials {
					srv.OnDial(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				}
				start := time.Now()
				_, err = db.ExecContext(t.Context(), "UPDATE")
				if dials {
					require.NoError(t, err)
					assert.LessOrEqual(t, time.Since(start), 10*time.Second)
					return
				}
				require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
				assert.Equal(t, 20*time.Second, time.Since(start))
				assert.ErrorContains(t, err, "has not")
			})
		})
	}
}

// tooMany is what lib/pq's error for it looks like to lifeguard.
type tooMany struct{}

func (tooMany) Error() string { return "sorry, too many clients already" }

func (tooMany) SQLState() string { return "53300" }

func TestTooManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, nil)
		c := pooltest.Take(t, db)
		srv.OnDial(func(context.Context) error { return tooMany{} })
		go func() { time.Sleep(3 * time.Second); c.Close() }()
		start := time.Now()
		assert.NoError(t, db.PingContext(t.Context()), "served by the connection there is")
		assert.Equal(t, 3*time.Second, time.Since(start))
	})
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { return tooMany{} })
		db, _ := pooltest.OpenFake(t, srv, nil)
		err := db.PingContext(t.Context())
		var cause tooMany
		require.ErrorAs(t, err, &cause)
		assert.ErrorContains(t, err, "too many clients already")
		assert.ErrorContains(t, err, "lower connection_limit, or raise max_connections")
	})
}
