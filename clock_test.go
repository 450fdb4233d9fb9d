package lifeguard_test

import (
	"context"
	"database/sql/driver"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A handle that is used many times within microseconds is not told the time anew each time, and never one that is off
// by more than a millisecond.
func TestClockOfQuickLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		lagged := false
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
			if pause > time.Millisecond {
				assert.Zero(t, lag, "after %v", pause)
			}
			lagged = lagged || lag > 0
			require.NoError(t, c.Close())
		}
		assert.True(t, lagged, "the test is about leases that are quick enough")
	})
}

// A server on the same machine takes 12 µs at the least. Its connections are told the time anew, and start no timer.
func TestClockOfServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fakedriver.New()
		server.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(12 * time.Microsecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, server, pooltest.Limit(1))
		for range 1000 {
			_, err := db.ExecContext(t.Context(), "SELECT 1")
			require.NoError(t, err)
		}
		time.Sleep(50 * time.Microsecond)
		c := pooltest.Take(t, db)
		defer c.Close()
		time.Sleep(10 * time.Microsecond)
		assert.Equal(t, 10*time.Microsecond, time.Since(pool.Holders()[0].Since))
	})
}
