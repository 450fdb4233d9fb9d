package session_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestHalfOpen has each call that waits for an answer do so in vain.
func TestHalfOpen(t *testing.T) {
	server := waterServer(t)
	open := func(t *testing.T, params ...string) *basin {
		t.Helper()
		return newBasin(t, nil, server, 2, slices.Concat([]string{"pool_timeout=1", "socket_timeout=500ms"}, params)...)
	}
	const limit = 2500 * time.Millisecond // pool_timeout + socket_timeout + 1s
	ctx := context.Background()

	t.Run("the caller's own deadline", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		require.NoError(t, b.db.Ping())
		b.proxy.Lose(faultproxy.Both)
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		b.quickly(limit, "a query", func() {
			_, err := b.db.ExecContext(ctx, "SELECT 1")
			assert.ErrorIs(t, err, context.DeadlineExceeded, "what ended it was the caller's deadline")
			assert.NotContains(t, err.Error(), "socket_timeout")
		})
	})
	t.Run("the caller's own deadline in a transaction", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		tx, err := b.db.Begin()
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		b.quickly(limit, "a query", func() {
			_, err := tx.ExecContext(ctx, "SELECT 1")
			assert.ErrorIs(t, err, context.DeadlineExceeded, "what ended it was the caller's deadline")
			assert.NotContains(t, err.Error(), "socket_timeout")
		})
		b.quickly(limit, "a rollback", func() { _ = tx.Rollback() })
	})
	t.Run("the connection is not used again", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		var before, after int
		require.NoError(t, b.db.QueryRow("SELECT pg_backend_pid()").Scan(&before))
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "a query", func() {
			assert.ErrorContains(t, b.db.QueryRow(selectEcho, 1).Scan(new(int)), "socket_timeout=500ms")
		})
		require.NoError(t, b.proxy.Heal())
		b.quickly(limit, "the next query", func() {
			assert.NoError(t, b.db.QueryRow("SELECT pg_backend_pid()").Scan(&after))
		})
		assert.NotEqual(t, before, after)
	})
	t.Run("cancellation with a long connect_timeout", func(t *testing.T) {
		t.Parallel()
		// lib/pq's statements wait for the request to cancel to be answered.
		b := open(t, "connect_timeout=20")
		require.NoError(t, b.db.QueryRow(selectEcho, 1).Scan(new(int)))
		b.admit(faultproxy.Silent)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "a query", func() {
			assert.ErrorContains(t, b.db.QueryRow(selectEcho, 2).Scan(new(int)), "socket_timeout=500ms")
		})
	})
	const notKept = "EXPLAIN SELECT $1::int" // so it is closed on the server
	t.Run("closing a statement", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		conn, err := b.db.Conn(ctx)
		require.NoError(t, err)
		st, err := conn.PrepareContext(ctx, notKept)
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "closing a statement", func() { _ = st.Close() })
		b.quickly(limit, "closing the connection", func() { _ = conn.Close() })
		b.quickly(limit, "the next query", func() { assert.NoError(t, b.db.QueryRow(selectEcho, 2).Scan(new(int))) })
	})
	t.Run("giving back a connection with open statements", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		conn, err := b.db.Conn(ctx)
		require.NoError(t, err)
		_, err = conn.PrepareContext(ctx, notKept)
		require.NoError(t, err)
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "closing the connection", func() { _ = conn.Close() })
		b.quickly(limit, "a reset, as those that were idle are lost, too", pooltest.PoolOf(t, b.db).Reset)
		b.placesBack(time.Now().Add(limit))
	})
	t.Run("a connection that may be dead", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		dead, err := b.db.Conn(ctx)
		require.NoError(t, err)
		lost, err := b.db.Conn(ctx)
		require.NoError(t, err)
		var pid int
		require.NoError(t, dead.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid))
		_, err = b.look.Exec("SELECT pg_terminate_backend($1, 20000)", pid)
		require.NoError(t, err)
		// The pool learns of one that has broken, and so it pings the other before it hands it out again.
		require.NoError(t, lost.Close())
		require.Error(t, dead.PingContext(ctx))
		dead.Close()
		b.proxy.Lose(faultproxy.Both)
		b.quickly(limit, "the next query", func() {
			// Whether it succeeds depends on how much of pool_timeout the ping leaves.
			if err := b.db.QueryRow(selectEcho, 2).Scan(new(int)); err != nil {
				assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
			}
		})
		b.quickly(limit, "a reset", pooltest.PoolOf(t, b.db).Reset)
		b.placesBack(time.Now().Add(limit))
	})
	t.Run("rows after garbage", func(t *testing.T) {
		t.Parallel()
		// Often enough for each kind of it. After some, nothing comes any more.
		times := 2
		if *allFaults {
			times = 10
		}
		for range times {
			b := open(t)
			rows, err := b.db.Query("SELECT i, repeat(chr(1), 1000) FROM generate_series(1, 20000) AS i")
			require.NoError(t, err)
			require.True(t, rows.Next())
			b.proxy.Garble()
			value, read := strings.Repeat("\x01", 1000), 1
			b.quickly(limit, "reading the rows", func() {
				// lib/pq panics over some of it: then it is the caller's panic, as without lifeguard.
				defer func() {
					if recover() == nil {
						assert.Error(t, rows.Err())
					}
				}()
				for rows.Next() {
					var i int
					var text string
					err := rows.Scan(&i, &text)
					if read++; err != nil || i != read || text != value {
						t.Errorf("row %d is %d, %q: %v", read, i, text, err)
					}
				}
			})
			b.quickly(limit, "closing the rows", func() {
				defer func() { _ = recover() }()
				_ = rows.Close()
			})
			b.quickly(limit, "the next query", func() { assert.NoError(t, b.db.QueryRow(selectEcho, 2).Scan(new(int))) })
			require.NoError(t, b.db.Close())
		}
	})
}

// TestOwnDeadlineIsNotSocketTimeout has queries end at deadlines that are sooner than socket_timeout.
func TestOwnDeadlineIsNotSocketTimeout(t *testing.T) {
	c := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 4, "socket_timeout=20")
	queries := 20
	if *allFaults {
		queries = 100
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range queries {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
				rows, err := c.QueryContext(ctx, "SELECT pg_sleep($1) FROM generate_series(1, 10)", 0.001)
				if err == nil {
					for rows.Next() {
					}
					err = rows.Err()
					rows.Close()
				}
				if err != nil {
					assert.NotContains(t, err.Error(), "socket_timeout")
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
