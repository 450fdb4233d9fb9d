package observe_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// Every kind of operation: no span when it is fast, exactly one with the true times when it is slow.
func TestSlowSpans(t *testing.T) {
	pause := func() error { time.Sleep(time.Second); return nil }
	for _, op := range []struct {
		name string
		slow func(*fakedriver.Server)
		run  func(*traced) error
		want shown
	}{
		{
			name: "exec",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: func(d *traced) error { _, err := d.ExecContext(d.ctx, "UPDATE t SET a = 'x' WHERE b = 7"); return err },
			want: shown{name: "UPDATE t", attributes: map[string]any{
				"db.operation.name": "UPDATE", "db.query.summary": "UPDATE t", "db.query.text": "UPDATE t SET a = ? WHERE b = ?",
			}},
		},
		{
			name: "query",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: readRows,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
				"db.response.returned_rows": int64(1),
			}},
		},
		{
			name: "rows",
			slow: func(s *fakedriver.Server) {
				s.OnNext(func(*fakedriver.Conn, int) error { time.Sleep(500 * time.Millisecond); return nil })
			},
			run: readRows,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
				"db.response.returned_rows": int64(1),
			}},
		},
		{
			name: "prepare",
			slow: func(s *fakedriver.Server) {
				s.OnPrepare(func(context.Context, *fakedriver.Conn, string) error { return pause() })
			},
			run: useStmt,
			want: shown{name: "PREPARE SELECT t", attributes: map[string]any{
				"db.operation.name": "PREPARE", "db.query.summary": "PREPARE SELECT t", "db.query.text": "SELECT a FROM t",
			}},
		},
		{
			name: "statement",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: useStmt,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
			}},
		},
		{
			name: "begin",
			slow: func(s *fakedriver.Server) {
				s.OnBegin(func(context.Context, *fakedriver.Conn, driver.TxOptions) error { return pause() })
			},
			run:  commit,
			want: shown{name: "BEGIN", attributes: map[string]any{"db.operation.name": "BEGIN"}},
		},
		{
			name: "commit",
			slow: func(s *fakedriver.Server) { s.OnCommit(func(*fakedriver.Conn) error { return pause() }) },
			run:  commit,
			want: shown{name: "COMMIT", attributes: map[string]any{"db.operation.name": "COMMIT"}},
		},
		{
			name: "rollback",
			slow: func(s *fakedriver.Server) { s.OnRollback(func(*fakedriver.Conn) error { return pause() }) },
			run: func(d *traced) error {
				tx, err := d.BeginTx(d.ctx, nil)
				return errors.Join(err, tx.Rollback())
			},
			want: shown{name: "ROLLBACK", attributes: map[string]any{"db.operation.name": "ROLLBACK"}},
		},
		{
			name: "ping",
			slow: func(s *fakedriver.Server) { s.OnPing(func(context.Context, *fakedriver.Conn) error { return pause() }) },
			run:  func(d *traced) error { return d.PingContext(d.ctx) },
			want: shown{name: "PING", attributes: map[string]any{"db.operation.name": "PING"}},
		},
	} {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openTraced(t, nil)
				d.srv.OnQuery(nil)
				d.warm()
				time.Sleep(time.Minute)
				d.warm() // the lease of a minute ago is gone
				d.none(func() { require.NoError(t, op.run(d)) })
				op.slow(d.srv)
				got := d.one(func() { require.NoError(t, op.run(d)) })
				got = got.caller(t, "(TestSlowSpans|readRows|useStmt|commit)")
				op.want.attributes["db.system.name"] = "other_sql"
				op.want.took = time.Second
				assert.Equal(t, op.want, got)
				assert.EqualValues(t, 1, d.pool.Stats().SlowQueries)
			})
		})
	}
}

// A connect that takes long has a span of its own, and the operation it was for says how long it waited, once.
func TestWaitShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, pooltest.Limit(1))
		holder, err := d.Conn(d.ctx)
		require.NoError(t, err)
		go func() { time.Sleep(3 * time.Second); holder.Close() }()
		var tx *sql.Tx
		spans := d.step(func() {
			tx, err = d.BeginTx(d.ctx, nil)
			require.NoError(t, err)
		})
		require.Len(t, spans, 1)
		assert.Equal(t, shown{name: "CONNECT", took: 3 * time.Second, attributes: map[string]any{
			"db.system.name": "other_sql", "db.operation.name": "CONNECT", "lifeguard.connection.wait_time": 3.0,
		}}, spans[0].caller(t, "TestWaitShows"))
		assert.Zero(t, d.pool.Stats().SlowQueries, "a wait is no query")
		assert.NotContains(t, d.one(func() { _, _ = tx.ExecContext(d.ctx, "UPDATE slow") }).attributes,
			"lifeguard.connection.wait_time", "the begin had it")
		require.NoError(t, tx.Rollback())

		holder, err = d.Conn(d.ctx)
		require.NoError(t, err)
		go func() { time.Sleep(100 * time.Millisecond); holder.Close() }()
		assert.Equal(t, 0.1, d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") }).attributes["lifeguard.connection.wait_time"])
		assert.NotContains(t, d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") }).attributes, "lifeguard.connection.wait_time")
	})
}

type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }

func (timeoutError) Timeout() bool { return true }
