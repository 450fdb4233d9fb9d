package drivertest

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// Two pools of pgx's connections share one limit under load, though the fleet session is lib/pq's. The DSN leaves sslmode
// to the driver: lib/pq's default would not reach this server.
func TestPgxFleet(t *testing.T) {
	const tokens = 4
	plain := pgtest.DSN(t)
	dsn := strings.Replace(plain, "sslmode=disable", "", 1)
	require.NotEqual(t, plain, dsn)
	admin, err := sql.Open("pgx", plain)
	require.NoError(t, err)
	defer func() { assert.NoError(t, admin.Close()) }()

	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	defer working.Wait()
	defer stop()
	start := func() *lifeguard.Pool {
		db, err := lifeguard.Open("pgx", dsn, quiet, lifeguard.WithFleetLimit(tokens), lifeguard.WithConnectionLimit(2*tokens))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		for range 2 * tokens {
			working.Go(func() {
				for ctx.Err() == nil {
					if _, err := db.ExecContext(ctx, "SELECT pg_sleep($1)", 0.01); ctx.Err() == nil {
						assert.NoError(t, err)
					}
				}
			})
		}
		pool, ok := lifeguard.PoolOf(db)
		require.True(t, ok)
		return pool
	}
	eventually := func(what string, is func() bool) {
		pooltest.Eventually(t, what, func() bool {
			// Tokens, and connections that hold one: the fleet sessions are neither.
			var held, open int
			require.NoError(t, admin.QueryRow(`SELECT count(DISTINCT objid), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM pg_locks p
				WHERE p.pid = l.pid AND p.locktype = 'advisory' AND p.objid BETWEEN 1000001 AND 1099999)) FROM pg_locks l
				WHERE locktype = 'advisory' AND objsubid = 2 AND objid < 1000000 AND mode = 'ShareLock'
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&held, &open))
			require.LessOrEqual(t, held, tokens)
			require.LessOrEqual(t, open, tokens)
			return is()
		})
	}
	first := start()
	eventually("the first has all", func() bool { return first.Stats().Open == tokens })
	second := start()
	began := time.Now()
	eventually("each has its share", func() bool { return first.Stats().Open == tokens/2 && second.Stats().Open == tokens/2 })
	t.Logf("each had its share after %v", time.Since(began).Round(time.Millisecond))
	assert.Equal(t, 2, second.Stats().FleetProcesses)
}

// What only pgx reads in a DSN is an error of Open that names it, and not of the first query.
func TestPgxFleetRefusals(t *testing.T) {
	for param, says := range map[string]string{
		"channel_binding=prefer": "only pgx knows channel_binding", "require_auth=scram-sha-256": "only pgx knows require_auth",
		"sslcertmode=disable": "only pgx knows sslcertmode", "sslpassword=hunter3": "only pgx knows sslpassword",
		"default_query_exec_mode=exec": "only pgx knows default_query_exec_mode", "pool_max_conns=4": "only pgxpool knows pool_max_conns",
	} {
		_, err := lifeguard.Open("pgx", "postgres://app:hunter2@db.example/shop?fleet_limit=4&"+param, quiet)
		if assert.ErrorContains(t, err, says) {
			assert.NotContains(t, err.Error(), "hunter")
		}
	}
}
