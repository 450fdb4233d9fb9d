package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// DISCARD ALL takes a connection's lock, and not its token: the fleet session has that too. When the fleet session is lost
// afterwards, nobody can vouch for the connection any more, and it is closed at its return.
func TestDiscardAll(t *testing.T) {
	dsn := pgtest.DSN(t) + "&fleet_limit=1&pool_timeout=1"
	first, pool := open(t, dsn+"&application_name=discards")
	second, _ := open(t, dsn)
	conn, err := first.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "DISCARD ALL")
	require.NoError(t, err)
	assert.ErrorIs(t, second.PingContext(t.Context()), lifeguard.ErrPoolTimeout, "the token is not free")

	_, err = conn.ExecContext(t.Context(), `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.objid BETWEEN 1000000 AND 2000000 AND a.application_name = 'discards'`)
	require.NoError(t, err)
	eventually(t, 10*time.Second, "the process has no token", func() bool { return pool.Stats().FleetHeld == 0 })
	require.NoError(t, conn.Close())
	eventually(t, 5*time.Second, "the connection is closed", func() bool { return pool.Stats().Open == 0 })
	assert.NoError(t, second.PingContext(t.Context()))
	eventually(t, 10*time.Second, "the token comes back", func() bool { return first.PingContext(t.Context()) == nil })
}

// A server that is full is waited for, whatever the fleet still has. No token is lost with the dials that fail.
func TestFullServer(t *testing.T) {
	const tokens = 8
	a := newArena(t, tokens, 1)
	a.exec(t, "ALTER ROLE app CONNECTION LIMIT 4")
	db, pool := open(t, a.dsn(tokens, "&pool_timeout=30"))
	require.NoError(t, db.Ping()) // a pool that has never been connected fails at once
	load := func(until func() bool) {
		ctx, stop := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		for range 3 * tokens {
			callers.Go(func() {
				for ctx.Err() == nil {
					_, err := db.Exec(work)
					assert.NoError(t, err)
				}
			})
		}
		eventually(t, 20*time.Second, "enough connections are open", until)
		stop()
		callers.Wait()
	}
	load(func() bool { st := pool.Stats(); return st.Open == 3 && st.DialErrors > 1 })
	a.exec(t, "ALTER ROLE app CONNECTION LIMIT 20")
	load(func() bool { return pool.Stats().Open == tokens })
	assert.Equal(t, tokens, pool.Stats().FleetHeld)
}

// Connections and the fleet session have to be on the same server. After a failover, and one back, they are.
func TestFailover(t *testing.T) {
	servers := []*pgtest.Server{pgtest.Start(t), pgtest.Start(t)}
	dsn := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=lifeguard password=secret dbname=postgres sslmode=disable "+
		"fleet_limit=2 connection_limit=2 connect_timeout=2", servers[0].Port(), servers[1].Port())
	db, pool := open(t, dsn)
	port := func() (n int) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if db.QueryRowContext(ctx, "SELECT inet_server_port()").Scan(&n) != nil {
			return 0
		}
		return n
	}
	require.Equal(t, servers[0].Port(), port())
	servers[0].Stop(t, "immediate")
	eventually(t, 20*time.Second, "the second server is used", func() bool { return port() == servers[1].Port() })
	assert.Equal(t, 1, pool.Stats().FleetHeld)
	servers[0].Start(t)
	pool.Reset() // or the connections to the second would be used on
	eventually(t, 20*time.Second, "the first is used again", func() bool { return port() == servers[0].Port() })
	eventually(t, 20*time.Second, "with its token", func() bool { return pool.Stats().FleetHeld == 1 })
}

// The fleet session connects as the connections do, with what WithBeforeConnect says.
func TestBeforeConnect(t *testing.T) {
	dsn := strings.Replace(pgtest.DSN(t), ":secret@", ":outdated@", 1) + "&fleet_limit=2"
	db, pool := open(t, dsn, lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) {
		return strings.Replace(dsn, ":outdated@", ":secret@", 1), nil
	}))
	require.NoError(t, db.Ping())
	assert.Equal(t, 1, pool.Stats().FleetHeld)
	assert.Equal(t, 1, pool.Stats().FleetProcesses)
}
