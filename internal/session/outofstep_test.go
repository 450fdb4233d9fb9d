package session_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// asker is what a question can be asked through.
type asker interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// TestOutOfStep has lib/pq stop in the middle of a reply, after which it goes on with the connection as if it had read
// all of it. On a healthy network, each of the questions that follow would get the answer to the one before, or none.
func TestOutOfStep(t *testing.T) {
	dsn := pgtest.DSN(t)
	long := strings.Repeat("x", 40_000) // the server puts it into its error, for which lib/pq has 30,000 bytes
	read := func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() || rows.NextResultSet() {
		}
		return rows.Err()
	}
	const copyAmongOthers = "SELECT 1; COPY (SELECT 1 WHERE false) TO STDOUT; SELECT 42"
	ways := []struct {
		name  string
		spoil func(ctx context.Context, on asker) error
	}{
		{"COPY TO STDOUT after another statement", func(ctx context.Context, on asker) error {
			return read(on.QueryContext(ctx, copyAmongOthers))
		}},
		{"COPY TO STDOUT met by Close", func(ctx context.Context, on asker) error {
			rows, err := on.QueryContext(ctx, copyAmongOthers)
			if err != nil {
				return err
			}
			return rows.Close()
		}},
		{"long error", func(ctx context.Context, on asker) error {
			return on.QueryRowContext(ctx, "SELECT '"+long+"'::int").Scan(new(int))
		}},
		{"long error of an Exec", func(ctx context.Context, on asker) error {
			_, err := on.ExecContext(ctx, "SELECT '"+long+"'::int")
			return err
		}},
		{"long error about an argument", func(ctx context.Context, on asker) error {
			return on.QueryRowContext(ctx, "SELECT $1::int", long).Scan(new(int))
		}},
		{"long error about an argument of an Exec", func(ctx context.Context, on asker) error {
			_, err := on.ExecContext(ctx, "SELECT $1::int", long)
			return err
		}},
		{"long error after rows", func(ctx context.Context, on asker) error {
			return read(on.QueryContext(ctx, "SELECT (CASE WHEN i > 2 THEN $1 ELSE '' END || i)::int FROM generate_series(1, 5) AS i", long))
		}},
		{"long error after rows that a Close meets", func(ctx context.Context, on asker) error {
			rows, err := on.QueryContext(ctx, "SELECT (CASE WHEN i > 2 THEN $1 ELSE '' END || i)::int FROM generate_series(1, 5) AS i", long)
			if err != nil {
				return err
			}
			return rows.Close()
		}},
	}
	for _, params := range [][]string{nil, {"statement_cache_size=0"}, {"socket_timeout=10"}} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("%s %v", way.name, params), func(t *testing.T) {
				// With a context that can end, lib/pq has a goroutine for each operation, which must not be left.
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				c := pooltest.OpenPostgres(t, "lifeguard", dsn, 1, params...)
				asked := 0
				answers := func() {
					t.Helper()
					for range 3 {
						// lib/pq's Ping does not look whether the connection is free, and makes it seem so.
						require.NoError(t, c.PingContext(ctx))
						for range 2 {
							var got int
							asked++
							require.NoError(t, c.QueryRowContext(ctx, fmt.Sprint("SELECT ", asked)).Scan(&got))
							require.Equal(t, asked, got)
							asked++
							require.NoError(t, c.QueryRowContext(ctx, "SELECT $1::int", asked).Scan(&got))
							require.Equal(t, asked, got)
						}
					}
				}
				gone := func(on asker) {
					t.Helper()
					err := on.QueryRowContext(ctx, "SELECT 1").Scan(new(int))
					assert.True(t, errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone), "%v", err)
				}
				answers()
				require.Error(t, way.spoil(ctx, c.DB))
				answers()

				conn, err := c.Conn(ctx)
				require.NoError(t, err)
				require.Error(t, way.spoil(ctx, conn))
				gone(conn)
				conn.Close()
				answers()

				tx, err := c.BeginTx(ctx, nil)
				require.NoError(t, err)
				require.Error(t, way.spoil(ctx, tx))
				gone(tx)
				assert.Error(t, tx.Commit())
				answers()
				c.AllSlots(t, 1)
			})
		}
	}
}

// TestErrorsKeepTheConnection has errors that lib/pq reads to their end, or meets before it asks.
func TestErrorsKeepTheConnection(t *testing.T) {
	ctx := t.Context()
	c := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1)
	var before, after int
	require.NoError(t, c.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&before))
	for _, query := range []string{
		"SELECT 1/0", "nonsense", "DO $$ BEGIN RAISE EXCEPTION 'pq: server error: unexpected ReadyForQuery'; END $$",
		"SELECT '" + strings.Repeat("x", 20_000) + "'::int", "SELECT 1; SELECT 1/0",
	} {
		rows, err := c.QueryContext(ctx, query)
		if err == nil {
			for rows.Next() || rows.NextResultSet() {
			}
			err = rows.Err()
			rows.Close()
		}
		assert.Error(t, err, query)
	}
	assert.Error(t, c.QueryRowContext(ctx, "SELECT $1::int", 1, 2).Scan(new(int)))
	require.NoError(t, c.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&after))
	assert.Equal(t, before, after)
}
