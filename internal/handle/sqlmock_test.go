package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/go-lifeguard/lifeguard"
)

// go-sqlmock is what many applications test with, so it has to work as the
// wrapped driver, expectations and all. Each case runs on the mock as it is and
// behind lifeguard; both must see the same and leave the same expectations.

type mockCase struct {
	name   string
	pings  bool // are expected like everything else
	expect func(mock sqlmock.Sqlmock)
	do     func(m *mockRun)
	// want are some of the results, so that two equally wrong runs do not pass.
	want []string
}

type mockRun struct {
	t   *testing.T
	ctx context.Context
	db  *sql.DB
	out []string
}

func (m *mockRun) note(what string, err error) {
	m.out = append(m.out, what+": "+describeError(err))
}

func (m *mockRun) exec(on execer, query string, args ...any) {
	result, err := on.ExecContext(m.ctx, query, args...)
	m.note("Exec", err)
	if err != nil {
		return
	}
	id, err := result.LastInsertId()
	m.note(fmt.Sprintf("LastInsertId %d", id), err)
	n, err := result.RowsAffected()
	m.note(fmt.Sprintf("RowsAffected %d", n), err)
}

func (m *mockRun) query(on execer, query string, args ...any) {
	rows, err := on.QueryContext(m.ctx, query, args...)
	m.note("Query", err)
	m.rows(rows, err)
}

func (m *mockRun) rows(rows *sql.Rows, err error) {
	if err != nil {
		return
	}
	for {
		types, err := rows.ColumnTypes()
		m.note("ColumnTypes", err)
		for _, c := range types {
			nullable, ok := c.Nullable()
			m.out = append(m.out, fmt.Sprint("column ", c.Name(), c.DatabaseTypeName(), c.ScanType(), nullable, ok))
		}
		values := make([]any, len(types))
		dest := make([]any, len(types))
		for i := range dest {
			dest[i] = &values[i]
		}
		for rows.Next() {
			err := rows.Scan(dest...)
			m.note(fmt.Sprintf("Scan %v", values), err)
		}
		m.note("Err", rows.Err())
		if !rows.NextResultSet() {
			break
		}
	}
	m.note("Close", rows.Close())
}

func (m *mockRun) begin(opts *sql.TxOptions, do func(tx *sql.Tx)) {
	tx, err := m.db.BeginTx(m.ctx, opts)
	m.note("Begin", err)
	if err == nil {
		do(tx)
	}
}

func (m *mockRun) prepare(query string, do func(st *sql.Stmt)) {
	st, err := m.db.PrepareContext(m.ctx, query)
	m.note("Prepare", err)
	if err != nil {
		return
	}
	do(st)
	m.note("Stmt.Close", st.Close())
}

var errMock = &driverError{"mocked"}

var mockCases = []mockCase{
	{
		name: "query",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectQuery("SELECT (.+) FROM customers").WithArgs(1, "a").WillReturnRows(
				sqlmock.NewRows([]string{"id", "name"}).AddRow(1, "Ann").AddRow(2, nil))
		},
		do:   func(m *mockRun) { m.query(m.db, "SELECT id, name FROM customers", 1, "a") },
		want: []string{"Scan [1 Ann]: no error", "Scan [2 <nil>]: no error", "Close: no error"},
	},
	{
		name: "query fails",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectQuery("SELECT").WillReturnError(errMock)
			mock.ExpectQuery("SELECT").WillReturnRows(
				sqlmock.NewRows([]string{"n"}).AddRow(1).AddRow(2).RowError(1, errMock))
			mock.ExpectQuery("SELECT").WillReturnRows(
				sqlmock.NewRows([]string{"n"}).AddRow(1).CloseError(errMock))
			mock.ExpectQuery("SELECT").WillReturnRows(sqlmock.NewRows([]string{"n"}))
		},
		do: func(m *mockRun) {
			m.query(m.db, "SELECT 1")
			m.query(m.db, "SELECT 2")
			m.query(m.db, "SELECT 3")
			var n int
			m.note("QueryRow", m.db.QueryRowContext(m.ctx, "SELECT 4").Scan(&n))
		},
		want: []string{"Scan [1]: no error"},
	},
	{
		name: "result sets and column types",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectQuery("CALL").WillReturnRows(
				sqlmock.NewRowsWithColumnDefinition(
					sqlmock.NewColumn("id").OfType("INT8", int64(0)).Nullable(false),
					sqlmock.NewColumn("price").OfType("NUMERIC", "").WithPrecisionAndScale(10, 2).Nullable(true),
				).AddRow(int64(1), "9.99"),
				sqlmock.NewRows([]string{"second"}).AddRow("x"))
		},
		do:   func(m *mockRun) { m.query(m.db, "CALL two_results") },
		want: []string{"Scan [1 9.99]: no error", "Scan [x]: no error"},
	},
	{
		name: "exec",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WithArgs(sqlmock.AnyArg(), []byte("b"), nil).WillReturnResult(sqlmock.NewResult(5, 2))
			mock.ExpectExec("UPDATE").WithArgs(sql.Named("id", 1)).WillReturnResult(sqlmock.NewErrorResult(errMock))
			mock.ExpectExec("DELETE").WillReturnError(errMock)
		},
		do: func(m *mockRun) {
			m.exec(m.db, "INSERT", time.Now(), []byte("b"), sql.NullString{})
			m.exec(m.db, "UPDATE", sql.Named("id", 1))
			m.exec(m.db, "DELETE")
		},
		want: []string{"LastInsertId 5: no error", "RowsAffected 2: no error"},
	},
	{
		name: "transactions",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectBegin()
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectCommit()
			mock.ExpectBegin()
			mock.ExpectQuery("SELECT").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
			mock.ExpectRollback()
			mock.ExpectBegin().WillReturnError(errMock)
			mock.ExpectBegin()
			mock.ExpectCommit().WillReturnError(errMock)
			mock.ExpectBegin()
			mock.ExpectRollback().WillReturnError(errMock)
		},
		do: func(m *mockRun) {
			m.begin(nil, func(tx *sql.Tx) {
				m.exec(tx, "INSERT")
				m.note("Commit", tx.Commit())
				m.note("Rollback", tx.Rollback())
			})
			m.begin(&sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true}, func(tx *sql.Tx) {
				m.query(tx, "SELECT 1")
				m.note("Rollback", tx.Rollback())
			})
			m.begin(nil, func(*sql.Tx) { m.t.Error("Begin did not fail") })
			m.begin(nil, func(tx *sql.Tx) { m.note("Commit", tx.Commit()) })
			m.begin(nil, func(tx *sql.Tx) { m.note("Rollback", tx.Rollback()) })
		},
		want: []string{"Commit: no error"},
	},
	{
		name: "prepared statements",
		expect: func(mock sqlmock.Sqlmock) {
			prepared := mock.ExpectPrepare("SELECT").WillBeClosed()
			prepared.ExpectQuery().WithArgs(7).WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(7))
			prepared.ExpectExec().WithArgs(8).WillReturnResult(sqlmock.NewResult(0, 8))
			mock.ExpectPrepare("INSERT").WillReturnError(errMock)
			mock.ExpectPrepare("UPDATE").WillReturnCloseError(errMock)
			mock.ExpectBegin()
			mock.ExpectPrepare("DELETE").ExpectExec().WillReturnResult(sqlmock.NewResult(0, 1))
			mock.ExpectCommit()
		},
		do: func(m *mockRun) {
			m.prepare("SELECT ?", func(st *sql.Stmt) {
				rows, err := st.QueryContext(m.ctx, 7)
				m.note("Query", err)
				m.rows(rows, err)
				_, err = st.ExecContext(m.ctx, 8)
				m.note("Exec", err)
			})
			m.prepare("INSERT", func(*sql.Stmt) { m.t.Error("Prepare did not fail") })
			m.prepare("UPDATE", func(*sql.Stmt) {})
			m.begin(nil, func(tx *sql.Tx) {
				st, err := tx.PrepareContext(m.ctx, "DELETE")
				m.note("Prepare", err)
				_, err = st.ExecContext(m.ctx)
				m.note("Exec", err)
				m.note("Commit", tx.Commit())
			})
		},
		want: []string{"Scan [7]: no error", "Commit: no error"},
	},
	{
		name:  "ping",
		pings: true,
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectPing()
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectPing().WillReturnError(errMock)
			mock.ExpectPing()
		},
		do: func(m *mockRun) {
			m.note("Ping", m.db.PingContext(m.ctx))
			m.exec(m.db, "INSERT")
			m.note("Ping", m.db.PingContext(m.ctx))
			m.note("Ping", m.db.PingContext(m.ctx))
		},
		want: []string{"Ping: no error"},
	},
	{
		name: "close",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectClose()
		},
		do: func(m *mockRun) {
			m.exec(m.db, "INSERT")
			m.note("DB.Close", m.db.Close())
			m.exec(m.db, "INSERT")
		},
		want: []string{"DB.Close: no error"},
	},
	{
		name: "close fails",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectClose().WillReturnError(errMock)
		},
		do: func(m *mockRun) {
			m.exec(m.db, "INSERT")
			m.note("DB.Close", m.db.Close())
		},
	},
	{
		name: "what is not expected",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WithArgs(1).WillReturnResult(sqlmock.NewResult(1, 1))
		},
		do: func(m *mockRun) {
			m.query(m.db, "SELECT 1")
			m.exec(m.db, "UPDATE")
			m.exec(m.db, "INSERT", 2)
			m.begin(nil, func(*sql.Tx) { m.t.Error("Begin was not expected") })
			m.prepare("INSERT", func(*sql.Stmt) { m.t.Error("Prepare was not expected") })
			m.note("DB.Close", m.db.Close())
		},
	},
	{
		name: "an expectation that is not met",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectQuery("SELECT").WillReturnRows(sqlmock.NewRows([]string{"n"}))
		},
		do: func(m *mockRun) { m.exec(m.db, "INSERT") },
	},
	{
		name: "in any order",
		expect: func(mock sqlmock.Sqlmock) {
			mock.MatchExpectationsInOrder(false)
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
			mock.ExpectQuery("SELECT").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
		},
		do: func(m *mockRun) {
			m.query(m.db, "SELECT 1")
			m.exec(m.db, "INSERT")
		},
		want: []string{"Scan [1]: no error", "RowsAffected 1: no error"},
	},
	{
		name: "a ctx that ends in a query",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectQuery("SELECT").WillDelayFor(time.Minute).WillReturnRows(sqlmock.NewRows([]string{"n"}))
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
		},
		do: func(m *mockRun) {
			ctx, cancel := context.WithTimeout(m.ctx, time.Second)
			defer cancel()
			_, err := m.db.QueryContext(ctx, "SELECT 1")
			m.note("Query", err)
			m.exec(m.db, "INSERT")
		},
	},
	{
		name: "a transaction that its ctx ends",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectBegin()
			mock.ExpectRollback()
			// The mock has no session to reset, so the connection is not kept.
			mock.ExpectClose()
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(1, 1))
		},
		do: func(m *mockRun) {
			ctx, cancel := context.WithCancel(m.ctx)
			defer cancel()
			tx, err := m.db.BeginTx(ctx, nil)
			m.note("Begin", err)
			cancel()
			synctest.Wait()
			m.note("Commit", tx.Commit())
			m.exec(m.db, "INSERT")
		},
		want: []string{"RowsAffected 1: no error"},
	},
	{
		name: "a connection that breaks",
		expect: func(mock sqlmock.Sqlmock) {
			mock.ExpectExec("INSERT").WillReturnError(driver.ErrBadConn)
			mock.ExpectClose()
			mock.ExpectExec("INSERT").WillReturnResult(sqlmock.NewResult(9, 1))
		},
		do:   func(m *mockRun) { m.exec(m.db, "INSERT") },
		want: []string{"LastInsertId 9: no error"},
	},
}

func openMock(dsn string) (*sql.DB, error) { return sql.Open("sqlmock", dsn) }

func openMockLifeguard(dsn string) (*sql.DB, error) {
	cfg := lifeguard.DefaultConfig()
	cfg.StatementCacheSize = 0 // it prepares what the mock expects to be executed
	return lifeguard.Open("sqlmock", dsn, lifeguard.WithConfig(cfg))
}

func runMock(t *testing.T, c mockCase, open func(dsn string) (*sql.DB, error)) (out []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Its own handle keeps the mock alive when the other one closes.
		own, mock, err := sqlmock.NewWithDSN(t.Name(), sqlmock.MonitorPingsOption(c.pings))
		if err != nil {
			t.Fatal(err)
		}
		c.expect(mock)
		db, err := open(t.Name())
		if err != nil {
			t.Fatal(err)
		}
		m := &mockRun{t: t, ctx: t.Context(), db: db}
		c.do(m)
		m.note("ExpectationsWereMet", mock.ExpectationsWereMet())
		// What is closed from here on was not part of the case.
		mock.MatchExpectationsInOrder(false)
		mock.ExpectClose()
		mock.ExpectClose()
		db.Close()
		own.Close()
		out = m.out
	})
	return out
}

func TestSQLMock(t *testing.T) {
	for _, c := range mockCases {
		t.Run(c.name, func(t *testing.T) {
			plain := runMock(t, c, openMock)
			wrapped := runMock(t, c, openMockLifeguard)
			if !slices.Equal(plain, wrapped) {
				t.Errorf("plain:\n\t%s\nwrapped:\n\t%s", strings.Join(plain, "\n\t"), strings.Join(wrapped, "\n\t"))
			}
			for _, line := range c.want {
				if !slices.Contains(wrapped, line) {
					t.Errorf("no %q in:\n\t%s", line, strings.Join(wrapped, "\n\t"))
				}
			}
		})
	}
}

// lifeguard's own parameters do not reach the driver.
func TestSQLMockWithParameters(t *testing.T) {
	own, mock, err := sqlmock.NewWithDSN(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	mock.ExpectExec("INSERT").WillReturnError(errMock)
	db, err := lifeguard.Open("sqlmock", t.Name()+"?connection_limit=1&pool_timeout=1&statement_cache_size=0")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "INSERT"); !errors.Is(err, errMock) {
		t.Errorf("Exec: %v, want the mock's error", err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}
