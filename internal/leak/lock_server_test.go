package leak_test

import (
	"context"
	"database/sql"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// A session holds a lock that its owner counts on, and the result of the call that took it is lost: it is void, so
// nobody scans it. The loss is reported, and no other session gets the lock.
func TestLockOfLostRowOnServer(t *testing.T) {
	s := openLeaky(t, "connection_limit=2&leak_threshold=50ms")
	leader, err := s.Conn(t.Context())
	require.NoError(t, err)
	lead(t, leader)
	// All that may ever happen to the connection has happened when its leak was reported again and again.
	for begin := time.Now(); s.pool.Stats().LostRows == 0 || time.Since(begin) < time.Second; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		require.Less(t, time.Since(begin), 20*time.Second, "the row was not found")
		var taken bool
		require.NoError(t, s.plain.QueryRow("SELECT pg_try_advisory_lock(42)").Scan(&taken))
		require.False(t, taken, "another session has the lock")
	}
	// So has another caller that finds the pool full.
	other, err := s.Conn(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, s.PingContext(ctx), lifeguard.ErrPoolTimeout)
	assert.NoError(t, other.Close())

	st := s.pool.Stats()
	assert.EqualValues(t, 1, st.LostRows)
	assert.Zero(t, st.Reclaimed)
	var held int
	require.NoError(t, s.plain.QueryRow("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND granted").Scan(&held))
	assert.Equal(t, 1, held)
	over, end := context.WithCancel(t.Context())
	end()
	// database/sql would wait for the lost rows in leader.Close, for ever.
	assert.Error(t, lifeguard.Shutdown(over, s.DB))
	runtime.KeepAlive(leader)
}

//go:noinline
func lead(t *testing.T, conn *sql.Conn) {
	require.NoError(t, conn.QueryRowContext(context.Background(), "SELECT pg_advisory_lock($1)", 42).Err())
}
