package drivertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// TestPgxOf fails when pgx moves the methods by which its socket is found.
func TestPgxOf(t *testing.T) {
	db, err := sql.Open("pgx", pgtest.DSN(t))
	require.NoError(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Raw(func(dc any) error {
		own := dc.(*stdlib.Conn)
		found := libpq.PgxOf(own)
		require.NotNil(t, found)
		assert.Same(t, own.Conn().PgConn().Conn(), found.Conn())
		assert.Equal(t, own.Conn().PgConn().PID(), found.PID())
		assert.False(t, found.IsClosed())
		return nil
	}))
}

// openOverProxy opens a handle over pgx, with a bad network between it and the server.
func openOverProxy(t *testing.T, params ...string) (*sql.DB, *lifeguard.Pool, *faultproxy.Proxy) {
	t.Helper()
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	proxy, err := faultproxy.New(u.Host)
	require.NoError(t, err)
	u.Host = proxy.Addr()
	dsn := u.String()
	for _, p := range params {
		dsn = withParam(dsn, p)
	}
	db, err := lifeguard.Open("pgx", dsn, quiet)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, proxy.Close()) // first: it ends what hangs
		_ = db.Close()
	})
	pool, _ := lifeguard.PoolOf(db)
	return db, pool, proxy
}

// TestPgxHalfOpen has each call that waits for an answer do so in vain. Plain pgx waits for as long as its context allows,
// which for the begin and the end of a transaction is that of the whole.
func TestPgxHalfOpen(t *testing.T) {
	ctx := context.Background()
	const timeout, grace = 300 * time.Millisecond, 5 * time.Second
	resets := map[string]bool{"exec": true, "query": true, "begin": true}
	for name, call := range map[string]func(db *sql.DB, lose func()) error{
		"exec": func(db *sql.DB, lose func()) error { lose(); _, err := db.Exec("SELECT 1"); return err },
		"query": func(db *sql.DB, lose func()) error {
			lose()
			return db.QueryRow("SELECT $1::int", 1).Scan(new(int))
		},
		"begin": func(db *sql.DB, lose func()) error {
			lose()
			tx, err := db.BeginTx(ctx, nil)
			if err == nil {
				err = tx.Rollback()
			}
			return err
		},
		"commit": func(db *sql.DB, lose func()) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			lose()
			return tx.Commit()
		},
		"rollback": func(db *sql.DB, lose func()) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			lose()
			return tx.Rollback()
		},
		"rows": func(db *sql.DB, lose func()) error {
			rows, err := db.Query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
			if err != nil {
				return err
			}
			defer rows.Close()
			lose()
			for rows.Next() {
			}
			return rows.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, pool, proxy := openOverProxy(t, "connection_limit=1", "pool_timeout=5", fmt.Sprint("socket_timeout=", timeout))
			require.NoError(t, db.Ping())
			began, lost := time.Now(), time.Now()
			err := call(db, func() { proxy.Lose(faultproxy.Both); lost = time.Now() })
			if err != nil || !resets[name] { // pgx pings a connection that was idle: then the pool has dialled another
				assert.ErrorIs(t, err, lifeguard.ErrSocketTimeout)
			}
			assert.GreaterOrEqual(t, time.Since(began), timeout)
			assert.Less(t, time.Since(lost), 2*timeout+grace)
			require.NoError(t, proxy.Heal())
			assert.NoError(t, db.Ping(), "the slot is back")
			assert.Equal(t, 1, pool.Stats().Open)
		})
	}
}

// TestPgxOwnDeadline has the caller's deadline end a call on a connection that has gone silent.
func TestPgxOwnDeadline(t *testing.T) {
	db, _, proxy := openOverProxy(t, "connection_limit=1", "socket_timeout=20")
	require.NoError(t, db.Ping())
	proxy.Lose(faultproxy.Both)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := db.ExecContext(ctx, "SELECT 1")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotErrorIs(t, err, lifeguard.ErrSocketTimeout)
}

// TestPgxDeadlineIsLifted runs longer than socket_timeout in several operations.
func TestPgxDeadlineIsLifted(t *testing.T) {
	db, pool, _ := openOverProxy(t, "connection_limit=1", "socket_timeout=400ms")
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	for range 4 {
		_, err = tx.Exec("SELECT pg_sleep(0.2)")
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	var broken *pgconn.PgError
	_, err = db.Exec("SELECT 1/0")
	require.ErrorAs(t, err, &broken)
	_, err = db.Exec("SELECT pg_sleep(0.2)")
	require.NoError(t, err)
	assert.EqualValues(t, 1, pool.Stats().Opened)
}

// TestPgxShutdownCuts has a shutdown end what runs at once.
func TestPgxShutdownCuts(t *testing.T) {
	db, pool, _ := openOverProxy(t, "connection_limit=1")
	require.NoError(t, db.Ping())
	ended := make(chan error, 1)
	go func() { _, err := db.Exec("SELECT pg_sleep(60)"); ended <- err }()
	eventually(t, "it runs", func() bool {
		h := pool.Holders()
		return len(h) == 1 && h[0].Busy
	})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	require.ErrorIs(t, lifeguard.Shutdown(over, db), context.Canceled)
	assert.Error(t, <-ended)
	assert.Less(t, time.Since(began), 10*time.Second)
}

// TestPgxCancelledCleansUp: pgx ends a cancelled connection in the background, with a deadline of its own, which must stay.
func TestPgxCancelledCleansUp(t *testing.T) {
	db, _, proxy := openOverProxy(t, "connection_limit=2", "socket_timeout=20")
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	var own *pgconn.PgConn
	require.NoError(t, conn.Raw(func(dc any) error {
		own = lifeguard.Unwrap(dc).(*stdlib.Conn).Conn().PgConn()
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = conn.ExecContext(ctx, "SELECT pg_sleep(60)")
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	require.NoError(t, conn.Close())
	select {
	case <-own.CleanupDone():
	case <-time.After(20 * time.Second):
		t.Error("the cancelled connection is not cleaned up")
	}
	assert.NotZero(t, proxy.Counts().Accepted)
}
