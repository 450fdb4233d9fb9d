package pooltest

import (
	"database/sql"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// Quiet drops the pool's log: in many tests dials fail on purpose.
var Quiet = lifeguard.WithLogger(slog.New(slog.DiscardHandler))

// OpenFake opens a handle on srv. The configuration is the default one as set changes it. At the end of the test it closes
// the handle. By then every connection and statement must be closed, and the rules of the driver contract kept.
func OpenFake(t *testing.T, srv *fakedriver.Server, set func(*lifeguard.Config)) (*sql.DB, *lifeguard.Pool) {
	t.Helper()
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName = "fake"
	if set != nil {
		set(&cfg)
	}
	db, err := lifeguard.OpenDB(srv.Connector(), lifeguard.WithConfig(cfg), Quiet)
	require.NoError(t, err)
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		// A dial under way ends after Close has returned.
		assert.Eventually(t, func() bool { return srv.Open() == 0 }, 10*time.Second, time.Millisecond, "connections left open")
		assert.Zero(t, srv.Stmts(), "statements left open")
		assert.Empty(t, srv.Violations())
	})
	return db, pool
}

// Limit sets connection_limit and max_idle_connections to n.
func Limit(n int) func(*lifeguard.Config) {
	return func(c *lifeguard.Config) { c.ConnectionLimit, c.MaxIdleConnections = n, n }
}

// Take checks a connection out. The caller closes it.
func Take(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	return c
}
