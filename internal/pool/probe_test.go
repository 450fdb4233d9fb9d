package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A pool may be full of connections that do not answer, and nobody holds them. A caller that waits in vain hears of that.
func TestTimeoutNamesSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
			c.ConnectionLimit, c.MaxIdleConnections = 1, 1
			c.PoolTimeout = 1500 * time.Millisecond // not half of the 2 s that a ping has: the second caller outlives it
		})
		db.SetMaxIdleConns(-1) // so that the connection lies in the pool, which pings one that has lain for over a second
		require.NoError(t, db.PingContext(t.Context()))
		srv.OnPing(func(ctx context.Context, _ *fakedriver.Conn) error {
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(2 * time.Second)
		_, err := db.ExecContext(t.Context(), "SELECT 1")
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.ErrorContains(t, err, "none of 1 open connections has answered a ping")

		srv.OnPing(nil)
		time.Sleep(2 * time.Second) // the ping goes on without its caller, and ends by itself
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err, "the silent one was replaced")
		assert.EqualValues(t, 2, pool.Stats().Opened)
	})
}
