package lifeguard_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A handle that is used many times within microseconds is not told the time anew each time, and never one that is off
// by more than a millisecond.
func TestClockOfQuickLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := openFake(t, fakedriver.New(), limit(1))
		lagged := false
		for _, pause := range []time.Duration{0, 500 * time.Microsecond, 2 * time.Millisecond, 300 * time.Millisecond} {
			for range 100 {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
			}
			time.Sleep(pause)
			c := take(t, db)
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
