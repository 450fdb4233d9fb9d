package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestPoolTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(2))
		first := holdForTest(t, db)
		time.Sleep(time.Minute)
		second := pooltest.Take(t, db)
		defer first.Close()
		defer second.Close()
		_, err := first.ExecContext(t.Context(), "UPDATE customers SET name = 'secret'")
		require.NoError(t, err)

		before := pool.Stats() // opening the two was a wait as well
		start := time.Now()
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.Equal(t, 20*time.Second, time.Since(start), "not before pool_timeout, and not after")
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.NotErrorIs(t, err, driver.ErrBadConn, "database/sql would wait twice more")
		var timeout *lifeguard.PoolTimeoutError
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
		assert.Equal(t, "fake", timeout.Pool)
		assert.Equal(t, 20*time.Second, timeout.Waited)
		assert.Equal(t, []int{2, 2, 0}, []int{timeout.Limit, timeout.InUse, timeout.Waiting})
		assert.NoError(t, timeout.Err, "the pool was full, no dial failed")
		require.Len(t, timeout.Holders, 2)
		assert.Equal(t, 80*time.Second, timeout.Holders[0].Held, "longest first")
		assert.Equal(t, 20*time.Second, timeout.Holders[1].Held)
		assert.Regexp(t, `^lifeguard: no connection from pool "fake" within 20s \(connection_limit=2, 2 in use, 0 waiting\); `+
			`1 of 2 by pool_test\.holdForTest \(wait_test\.go:\d+\), idle; 1 of 2 by pool_test\.TestPoolTimeout\.func1 \(wait_test\.go:\d+\), idle; `+
			`longest held 1m20s by pool_test\.holdForTest \(wait_test\.go:\d+\), idle, last query "UPDATE customers SET name = \?"$`,
			err.Error())
		st := pool.Stats()
		assert.EqualValues(t, 1, st.Timeouts)
		assert.EqualValues(t, 1, st.Waits-before.Waits)
		assert.Equal(t, 20*time.Second, st.WaitDuration-before.WaitDuration)
		assert.Zero(t, st.Waiting)
	})
}

// holdForTest is a name to be found in the error.
func holdForTest(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	return c
}

func TestContextEndsSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		defer pooltest.Take(t, db).Close()

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := db.ExecContext(ctx, "SELECT 1")
		assert.Equal(t, 3*time.Second, time.Since(start))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualValues(t, 1, pool.Stats().Canceled)
	})
}

// A lateContext is one whose end is noticed late, as on a machine that is busy.
type lateContext struct {
	context.Context
	ends time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.ends, true }

func (c lateContext) Err() error {
	if time.Now().Before(c.ends) {
		return nil
	}
	return context.DeadlineExceeded
}

// A caller that finds both ends passed, of its context and of pool_timeout, is told of the earlier one.
func TestBothEndsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = time.Second })
		held := pooltest.Take(t, db)
		defer held.Close()
		for _, tt := range []struct {
			deadline time.Duration
			timeout  bool
		}{{500 * time.Millisecond, false}, {999 * time.Millisecond, false}, {2 * time.Second, true}} {
			_, err := db.ExecContext(lateContext{context.Background(), time.Now().Add(tt.deadline)}, "SELECT 1")
			assert.Equal(t, tt.timeout, errors.Is(err, lifeguard.ErrPoolTimeout) && !errors.Is(err, context.DeadlineExceeded), "%v: %v", tt.deadline, err)
			assert.Equal(t, !tt.timeout, errors.Is(err, context.DeadlineExceeded), "%v: %v", tt.deadline, err)
		}
	})
}

func TestNoPoolTimeoutWaitsForContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = 0 })
		c := pooltest.Take(t, db)
		go func() { time.Sleep(24 * time.Hour); c.Close() }()
		start := time.Now()
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
		assert.Equal(t, 24*time.Hour, time.Since(start))
	})
}

// A waiter whose context ends in the same instant in which a connection comes free must not run its query.
func TestConnectionIsNotGivenToWhoHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		for range 100 {
			c := pooltest.Take(t, db)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := db.ExecContext(ctx, "late"); done <- err }()
			synctest.Wait()
			before := srv.Queries()
			cancel()
			c.Close()
			assert.Equal(t, context.Canceled, <-done)
			assert.Equal(t, before, srv.Queries())
		}
		synctest.Wait()
		assert.Zero(t, pool.Stats().InUse)
	})
}
