package drivertest

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/go-lifeguard/lifeguard"
)

var sqliteEngine = &engine{
	driverName: "sqlite",
	driver:     func() driver.Driver { return &sqlite.Driver{} },
	connector:  sqlite.NewConnector,
	database: func(*testing.T) func(*testing.T) string {
		return func(t *testing.T) string {
			return "file:" + filepath.Join(t.TempDir(), "test.db") +
				"?_pragma=busy_timeout(20000)&_pragma=synchronous(off)&_time_format=sqlite"
		}
	},
	mark:    func(int) string { return "?" },
	endless: "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c",
	stays:   true,
	describe: func(err error) string {
		var sqliteErr *sqlite.Error
		if !errors.As(err, &sqliteErr) {
			return ""
		}
		return fmt.Sprintf("%d %q", sqliteErr.Code(), sqliteErr.Error())
	},
	arguments: []argument{
		{"%s", 42}, {"%s", int64(math.MinInt64)}, {"%s", uint64(math.MaxUint64)}, {"%s", true}, {"%s", 1.5}, {"%s", math.Inf(1)},
		{"%s", math.NaN()}, {"%s", "text"}, {"%s", "nul\x00 ö"}, {"%s", []byte{0, 255}}, {"%s", []byte{}}, {"%s", []byte(nil)},
		{"%s", nil}, {"typeof(%s)", []byte("x")}, {"typeof(%s)", "1"}, {"%s + 1", "41"},
		{"%s", time.Date(2024, 2, 29, 12, 30, 1, 123456789, time.FixedZone("CET", 3600))}, {"%s", time.Minute},
		{"json_extract(%s, '$.a[1]')", `{"a": [1, "two"]}`}, {"%s", sql.NullString{}}, {"%s", sql.Null[int32]{V: 7, Valid: true}},
		{"%s", sql.Named("name", "x")}, {"%s", make(chan int)}, {"%s", struct{}{}}, {"%s", strings.Repeat("long ", 20000)},
	},
	failing: []string{"", "-- only a comment", "SELECT abs(-9223372036854775808)", "SELECT json('{')", "ROLLBACK"},
	scripts: []scenario{
		{"column types", 1, "", sqliteColumnTypes},
		{"named arguments", 1, "", sqliteNamed},
		{"several statements", 1, "", sqliteSeveral},
		{"results", 1, "", sqliteResults},
		{"own connection", 1, "", sqliteOwnConnection},
		{"transactions, immediate", 1, "_txlock=immediate", (*script).transactions},
	},
}

func TestSQLite(t *testing.T) { sqliteEngine.compare(t) }

func sqliteColumnTypes(s *script) {
	s.exec("CREATE TABLE types (i INTEGER NOT NULL, r REAL, t TEXT, b BLOB, n NUMERIC, d DATE, dt DATETIME, ts TIMESTAMP, bo BOOLEAN, v VARCHAR(20), x)")
	s.exec("INSERT INTO types VALUES (1, 1.5, 't', x'00ff', 12.5, ?, ?, ?, TRUE, 'v', 'x')",
		time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(2024, 2, 29, 12, 30, 0, 0, time.UTC), "2024-02-29 12:30:00.5+01:00")
	s.exec("INSERT INTO types (i) VALUES (2)")
	rows, err := s.QueryContext(s.ctx, "SELECT * FROM types ORDER BY i")
	s.columnTypes("rows", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT *, COUNT(*) FROM types WHERE i = ?", 1)
	s.columnTypes("argument", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT * FROM types WHERE i = 99")
	s.columnTypes("no rows", rows, err)
}

func sqliteNamed(s *script) {
	s.query("SELECT :a, @b, $c, :a", sql.Named("a", 1), sql.Named("b", "two"), sql.Named("c", nil))
	s.query("SELECT :a, :b", sql.Named("a", 1))
	s.query("SELECT :a", sql.Named("other", 1))
	s.query("SELECT ?2, ?1", "one", "two")
	stmt, err := s.PrepareContext(s.ctx, "SELECT :a || :b")
	s.must(err)
	rows, err := stmt.Query(sql.Named("b", "b"), sql.Named("a", "a"))
	s.rows("prepared", rows, err)
	s.must(stmt.Close())
}

func sqliteSeveral(s *script) {
	s.exec("CREATE TABLE a (id INTEGER); INSERT INTO a VALUES (1), (2); CREATE TABLE b (id INTEGER)")
	s.query("SELECT id FROM a; SELECT 'second'")
	s.query("INSERT INTO a VALUES (3); SELECT COUNT(*) FROM a")
	_, err := s.ExecContext(s.ctx, "INSERT INTO b VALUES (?); INSERT INTO b VALUES (?)", 1, 2)
	s.failed("arguments", err)
	_, err = s.ExecContext(s.ctx, "INSERT INTO b VALUES (9); SELECT nonsense")
	s.failed("half", err)
	s.query("SELECT id FROM b ORDER BY id")
}

func sqliteResults(s *script) {
	s.exec("CREATE TABLE texts (id INTEGER PRIMARY KEY, t TEXT)")
	for _, statement := range []string{
		"INSERT INTO texts (t) VALUES ('a'), ('b')", "UPDATE texts SET t = 'x'", "DELETE FROM texts WHERE id = 1", "SELECT 1",
		"INSERT INTO texts (t) VALUES ('c') RETURNING id", "VACUUM",
	} {
		res, err := s.ExecContext(s.ctx, statement)
		s.failed(statement, err)
		n, err := res.RowsAffected()
		id, idErr := res.LastInsertId()
		s.note("%d %v, %d %v", n, err, id, idErr)
	}
	s.query("PRAGMA table_info(texts)")
	s.query("INSERT INTO texts (t) VALUES (?) RETURNING id, t", "d")
}

// sqliteOwnConnection uses a method of the driver's own connection.
func sqliteOwnConnection(s *script) {
	s.exec("CREATE TABLE copied (id INTEGER); INSERT INTO copied VALUES (7)")
	conn, err := s.Conn(s.ctx)
	s.must(err)
	defer conn.Close()
	s.failed("raw", conn.Raw(func(dc any) error {
		image, err := lifeguard.Unwrap(dc).(interface{ Serialize() ([]byte, error) }).Serialize()
		s.note("%.15s %d", image, len(image))
		return err
	}))
}

// TestSQLiteInMemory has a database that lives as long as its connection.
func TestSQLiteInMemory(t *testing.T) {
	for _, dsn := range []string{"file::memory:?cache=shared&connection_limit=1", ":memory:?connection_limit=1"} {
		db, err := lifeguard.Open("sqlite", dsn, quiet)
		require.NoError(t, err)
		_, err = db.Exec("CREATE TABLE mine (id INTEGER)")
		require.NoError(t, err)
		done := make(chan error)
		for i := range 20 {
			go func() {
				_, err := db.ExecContext(t.Context(), "INSERT INTO mine VALUES (?)", i)
				done <- err
			}()
		}
		for range 20 {
			assert.NoError(t, <-done)
		}
		var n int
		require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM mine").Scan(&n))
		assert.Equal(t, 20, n)
		pool, ok := lifeguard.PoolOf(db)
		require.True(t, ok)
		assert.EqualValues(t, 1, pool.Stats().Opened)
		assert.NoError(t, db.Close())
	}
}

// TestSQLiteKeepsSessions lets an hour pass, longer than any default lifetime: what PRAGMA set and a database in memory
// live as long as their connection, for ever on the plain driver.
func TestSQLiteKeepsSessions(t *testing.T) {
	byConnector := way{"OpenDB", func(e *engine, dsn string, _ int) (*sql.DB, error) {
		c, err := e.connector(dsn)
		if err != nil {
			return nil, err
		}
		return lifeguard.OpenDB(c, quiet)
	}}
	for _, w := range []way{plain, wrapped[0], wrapped[1], byConnector} {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, err := w.open(sqliteEngine, ":memory:", 1)
				require.NoError(t, err)
				defer func() { assert.NoError(t, db.Close()) }()
				_, err = db.Exec("PRAGMA foreign_keys = ON; CREATE TABLE mine (id INTEGER); INSERT INTO mine VALUES (7)")
				require.NoError(t, err)
				time.Sleep(time.Hour)
				var id, keys int
				require.NoError(t, db.QueryRow("SELECT id, (SELECT foreign_keys FROM pragma_foreign_keys) FROM mine").Scan(&id, &keys))
				assert.Equal(t, []int{7, 1}, []int{id, keys})
			})
		})
	}
}

func TestSQLiteLimit(t *testing.T) {
	var opened atomic.Int64
	counting := &sqlite.Driver{}
	counting.RegisterConnectionHook(func(sqlite.ExecQuerierContext, string) error { opened.Add(1); return nil })
	e := *sqliteEngine
	e.driverName = fmt.Sprint("sqlite-", registrations.Add(1))
	sql.Register(e.driverName, counting)
	dsn := sqliteEngine.database(t)(t) + "&_txlock=immediate&_pragma=journal_mode(wal)"
	// Nothing here closes a connection, so those that were opened are those that are open.
	e.checkLimit(t, dsn, false, func() int { return int(opened.Load()) })
}

func TestSQLiteTimeout(t *testing.T) { sqliteEngine.checkTimeout(t, sqliteEngine.database(t)(t)) }
