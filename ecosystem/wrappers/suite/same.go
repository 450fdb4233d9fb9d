package suite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func registerDriver(name string) func() driver.Driver {
	lifeguard.Register(name, &pq.Driver{}, quiet)
	return func() driver.Driver {
		db, err := sql.Open(name, "")
		if err != nil {
			panic(err)
		}
		defer db.Close()
		return db.Driver()
	}
}

// A transcript is what a program sees of its database.
type transcript []string

func (tr *transcript) note(format string, args ...any) {
	*tr = append(*tr, fmt.Sprintf(format, args...))
}

// failed notes an error by its kind: the library may put its own words around it.
func (tr *transcript) failed(what string, err error) {
	var e *pq.Error
	switch {
	case err == nil:
		tr.note("%s: done", what)
	case errors.As(err, &e):
		tr.note("%s: %s %s %s %s", what, e.Code, e.Message, e.Detail, e.Constraint)
	default:
		tr.note("%s: %v", what, err)
	}
}

type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

func (tr *transcript) query(ctx context.Context, q querier, text string, args ...any) {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		tr.failed(text, err)
		return
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	tr.failed("columns", err)
	for _, c := range columns {
		tr.note("%s %s", c.Name(), c.DatabaseTypeName())
	}
	for {
		for rows.Next() {
			values := make([]any, len(columns))
			to := make([]any, len(columns))
			for i := range values {
				to[i] = &values[i]
			}
			tr.failed("scan", rows.Scan(to...))
			for _, v := range values {
				if at, ok := v.(time.Time); ok {
					v = at.UTC()
				}
				tr.note("%T %v", v, v)
			}
		}
		if !rows.NextResultSet() {
			break
		}
		tr.note("next result")
	}
	tr.failed("rows", rows.Err())
}

func (tr *transcript) exec(ctx context.Context, q querier, text string, args ...any) {
	res, err := q.ExecContext(ctx, text, args...)
	tr.failed(text, err)
	if err == nil {
		n, err := res.RowsAffected()
		tr.note("%d %v", n, err)
	}
}

// play does what programs do.
func play(ctx context.Context, db *sql.DB) transcript {
	var tr transcript
	tr.failed("ping", db.PingContext(ctx))
	if _, err := db.ExecContext(ctx, "DROP TABLE IF EXISTS things"); err != nil {
		tr.failed("drop", err)
	}
	tr.exec(ctx, db, "CREATE TABLE things (id int PRIMARY KEY, name text, at timestamptz, price numeric(8, 2), raw bytea, tags text[])")
	at := time.Date(2026, 2, 28, 12, 30, 0, 123456000, time.UTC)
	for i := range 5 {
		tr.exec(ctx, db, "INSERT INTO things VALUES ($1, $2, $3, $4, $5, $6)", i, fmt.Sprint("name ", i), at, "12.50", []byte{0, 255},
			pq.Array([]string{"a", `"b"`}))
	}
	tr.exec(ctx, db, "INSERT INTO things (id) VALUES ($1)", 9)
	tr.query(ctx, db, "SELECT * FROM things ORDER BY id")
	tr.query(ctx, db, "SELECT id, name FROM things WHERE id > $1 AND name IS NOT NULL ORDER BY id", 2)
	tr.query(ctx, db, "SELECT 1; SELECT 2 AS two, 'x' AS x")
	tr.query(ctx, db, "SELECT $1::float8, $2::bool, $3::text, $4::timestamptz", 1.5, true, nil, at)
	for _, text := range []string{"SELEC 1", "SELECT 1/0", "SELECT 'x'::int", "INSERT INTO things (id) VALUES (1)", "SELECT * FROM nowhere"} {
		tr.query(ctx, db, text)
		tr.exec(ctx, db, text)
	}
	tr.exec(ctx, db, "UPDATE things SET name = $1 WHERE id < $2", "changed", 3)
	tr.failed("no rows", db.QueryRowContext(ctx, "SELECT name FROM things WHERE id = $1", 77).Scan(new(string)))
	tr.statements(ctx, db)
	tr.transactions(ctx, db)
	tr.connections(ctx, db)
	tr.query(ctx, db, "SELECT id, name FROM things ORDER BY id")
	return tr
}

func (tr *transcript) statements(ctx context.Context, db *sql.DB) {
	st, err := db.PrepareContext(ctx, "SELECT name FROM things WHERE id = $1")
	tr.failed("prepare", err)
	for i := range 4 {
		var name sql.NullString
		tr.failed("statement", st.QueryRowContext(ctx, i).Scan(&name))
		tr.note("%v", name)
	}
	tr.failed("too few", st.QueryRowContext(ctx).Scan(new(string)))
	tr.failed("close", st.Close())
	_, err = db.PrepareContext(ctx, "SELEC")
	tr.failed("prepare", err)
}

func (tr *transcript) transactions(ctx context.Context, db *sql.DB) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	tr.failed("begin", err)
	tr.query(ctx, tx, "SHOW transaction_isolation")
	tr.exec(ctx, tx, "DELETE FROM things")
	tr.failed("commit", tx.Commit())
	tx, err = db.BeginTx(ctx, nil)
	tr.failed("begin", err)
	tr.exec(ctx, tx, "SAVEPOINT here")
	tr.exec(ctx, tx, "DELETE FROM things WHERE id = $1", 1)
	tr.exec(ctx, tx, "ROLLBACK TO here")
	st, err := tx.PrepareContext(ctx, "UPDATE things SET name = $1 WHERE id = $2")
	tr.failed("prepare", err)
	_, err = st.ExecContext(ctx, "in tx", 4)
	tr.failed("statement", err)
	tr.failed("commit", tx.Commit())
	tr.failed("rollback", tx.Rollback())
	tx, err = db.BeginTx(ctx, nil)
	tr.failed("begin", err)
	tr.exec(ctx, tx, "DELETE FROM things")
	tr.failed("rollback", tx.Rollback())
	short, cancel := context.WithCancel(ctx)
	tx, err = db.BeginTx(short, nil)
	tr.failed("begin", err)
	cancel()
	for until := time.Now().Add(waitFor); !errors.Is(err, sql.ErrTxDone) && time.Now().Before(until); {
		_, err = tx.ExecContext(ctx, "SELECT 1") // which may meet the rollback under way
	}
	tr.note("over: %t", errors.Is(err, sql.ErrTxDone))
}

func (tr *transcript) connections(ctx context.Context, db *sql.DB) {
	c, err := db.Conn(ctx)
	tr.failed("conn", err)
	tr.exec(ctx, c, "SET statement_timeout = '12s'")
	tr.exec(ctx, c, "CREATE TEMPORARY TABLE mine (id int)")
	tr.exec(ctx, c, "INSERT INTO mine VALUES (1), (2)")
	tr.query(ctx, c, "SHOW statement_timeout")
	tr.query(ctx, c, "SELECT count(*) FROM mine")
	tr.exec(ctx, c, "RESET statement_timeout")
	tr.failed("close", c.Close())
	tr.failed("after close", c.PingContext(ctx))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = db.ExecContext(short, "SELECT pg_sleep(60)")
	tr.note("interrupted: %t", err != nil && short.Err() != nil)
	rows, err := db.QueryContext(ctx, "SELECT generate_series(1, 10000)")
	tr.failed("query", err)
	rows.Next()
	tr.failed("closed early", rows.Close())
}

// testSame has a program do the same through a library over lib/pq, with lifeguard between the two, and with lifeguard over
// both: it sees the same.
func testSame(t *testing.T, libraries []Library) {
	for _, l := range libraries {
		t.Run(l.Name, func(t *testing.T) {
			plain, err := l.Open("postgres", func() driver.Driver { return &pq.Driver{} }, pgtest.Shared(t).DSN())
			require.NoError(t, err)
			defer plain.Close()
			want := play(t.Context(), plain)
			require.Greater(t, len(want), 150)
			params := settings{"connection_limit=2", "pool_timeout=20"}
			assert.Equal(t, want, play(t.Context(), over(t, l, params).db), "over")
			if !l.OnlyOver {
				assert.Equal(t, want, play(t.Context(), below(t, l, params).db), "under")
			}
		})
	}
}
