package fleet_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// Two pools share one limit under load where all connections are encrypted, that of the fleet session too.
func TestEncryptedPoolsShareOneLimit(t *testing.T) {
	const tokens = 4
	dsn := pgtest.StartTLS(t).Database(t)
	connector, err := pq.NewConnector(dsn)
	require.NoError(t, err)
	watcher := sql.OpenDB(connector)
	defer func() { assert.NoError(t, watcher.Close()) }()

	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	start := func() *lifeguard.Pool {
		db, pool := open(t, dsn+"&fleet_limit=4&connection_limit=8")
		for range 2 * tokens {
			callers.Go(func() {
				for ctx.Err() == nil {
					if _, err := db.ExecContext(ctx, work); ctx.Err() == nil {
						assert.NoError(t, err)
					}
				}
			})
		}
		return pool
	}
	within := func() bool {
		var held, plain int
		require.NoError(t, watcher.QueryRow("SELECT ("+heldTokens+`), (SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
			WHERE client_addr IS NOT NULL AND NOT ssl)`).Scan(&held, &plain))
		return assert.LessOrEqual(t, held, tokens) && assert.Zero(t, plain)
	}
	first := start()
	eventually(t, 10*time.Second, "the first has all", func() bool { return within() && first.Stats().Open == tokens })
	second := start()
	eventually(t, 10*time.Second, "each has its share", func() bool {
		return within() && first.Stats().Open == tokens/2 && second.Stats().Open == tokens/2
	})
	assert.Equal(t, 2, second.Stats().FleetProcesses)
}
