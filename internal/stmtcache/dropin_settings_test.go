package stmtcache_test

import (
	"database/sql"
	"database/sql/driver"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard"
)

func (s *stmtScript) searchPath() {
	s.MustExec("CREATE TABLE script.items (v int); INSERT INTO script.items VALUES (1);" +
		"CREATE TABLE other.items (v text); INSERT INTO other.items VALUES ('other')")
	use := func(q querier) {
		for range 3 {
			s.on(q, "SELECT * FROM items WHERE $1::int > 0", 1)
		}
	}
	use(s)
	for _, path := range []string{"SET search_path = other", "SET search_path TO script", "set session search_path='other'",
		"RESET search_path", "SET LOCAL search_path = other", "SELECT set_config('search_path', 'other', false)", "SET search_path = script, other; SELECT 1",
		"SET\nsearch_path = other", "SET SESSION\n search_path = script", "/* x */ SET -- y\n search_path = other"} {
		s.do(s, path)
		use(s)
		s.inTx(use, (*sql.Tx).Commit)
	}
	s.on(s, "SELECT set_config($1, $2, false)", "search_path", "script")
	use(s)
	s.on(s, "SELECT set_config('search_path', $1, false)", "other")
	use(s)
	s.MustExec("SET search_path = script")
	for _, path := range []string{"SET LOCAL search_path = other", "SET search_path = other", "SELECT set_config('search_path', 'other', true)"} {
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
			s.inTx(func(tx querier) {
				use(tx)
				s.do(tx, "SAVEPOINT before")
				s.do(tx, path)
				use(tx)
				s.do(tx, "ROLLBACK TO before")
				use(tx)
				s.do(tx, path)
				use(tx)
			}, end)
			s.inTx(use, end)
			use(s)
			s.MustExec("SET search_path = script")
		}
	}
	// By hand.
	for _, end := range []string{"ROLLBACK", "COMMIT", "end", "abort work"} {
		for _, begin := range [][]string{{"BEGIN", "SET LOCAL search_path = other"}, {"start transaction; SET LOCAL search_path = other"}} {
			conn, err := s.Conn(s.Ctx)
			s.Must(err)
			use(conn)
			for _, statement := range begin {
				s.do(conn, statement)
			}
			use(conn)
			s.do(conn, end)
			use(conn)
			s.Must(conn.Close())
			s.inTx(use, (*sql.Tx).Commit)
		}
	}
}

// settingsThatMatter are those on which the value of a literal depends.
func (s *stmtScript) settingsThatMatter() {
	use := func(q querier) {
		for range 3 {
			s.on(q, "SELECT extract(epoch FROM timestamptz '2024-03-04 12:00')::int8, $1::int", 1)
			s.on(q, "SELECT date '03/04/2024' - date '2024-01-01', 'a\\\\b', $1::int", 1)
			s.on(q, "SELECT count(*) FROM (VALUES (1), (NULL)) v(x) WHERE x = NULL AND $1", true)
		}
	}
	for _, set := range []string{"SET TimeZone = 'Asia/Tokyo'", "SET TIME ZONE 'America/New_York'", "SET timezone TO 'UTC'",
		"SET DateStyle = 'DMY'", "SET datestyle = 'MDY'", "SET standard_conforming_strings = off", "RESET standard_conforming_strings",
		"SET transform_null_equals = on", "RESET ALL", "SET application_name = 'x'", "SET app.tenant = '7'",
		"SELECT set_config('timezone', 'Asia/Tokyo', false)", "SELECT set_config('app.tenant', '8', false)"} {
		use(s)
		s.do(s, set)
		use(s)
		s.inTx(use, (*sql.Tx).Commit)
	}
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
		s.inTx(func(tx querier) {
			use(tx)
			s.do(tx, "SET LOCAL TimeZone = 'Europe/London'")
			use(tx)
		}, end)
		use(s)
		s.inTx(func(tx querier) { s.do(tx, "SET TimeZone = 'Europe/Moscow'"); use(tx) }, end)
		use(s)
	}
	const tenant = "SELECT current_setting('app.tenant'), $1::int"
	s.inTx(func(tx querier) {
		s.do(tx, "SELECT set_config('app.tenant', $1, true)", "9")
		s.on(tx, tenant, 1)
	}, (*sql.Tx).Commit)
	s.on(s, tenant, 1)
}

// settingsInDisguise are changes that are not at the beginning of a text, or hard to read.
func (s *stmtScript) settingsInDisguise() {
	use := func() {
		for range 3 {
			s.on(s, "SELECT extract(epoch FROM timestamptz '2024-03-04 12:00')::int8, $1::int", 1)
		}
	}
	for _, set := range []string{
		"-- don't; really\nSET TimeZone = 'Asia/Tokyo'",
		"/* a; b */ SET TimeZone = 'Asia/Tokyo'",
		"/* a /* b */ c */ SET TimeZone = 'Asia/Tokyo'",
		"-- a\rSET TimeZone = 'Asia/Tokyo'",
		"SELECT 1; /* x */ /*;*/ SET TIME ZONE 'Asia/Tokyo'",
		"SELECT '--'; SET TimeZone = 'Asia/Tokyo'",
		"SELECT '/*'; SET TimeZone = 'Asia/Tokyo' -- */",
		"SELECT E'a\\'--;'; SET TimeZone = 'Asia/Tokyo'",
		"SELECT 'it''s'; SET TimeZone = 'Asia/Tokyo'",
		"SELECT 1 AS \"a;'\"; SET TimeZone = 'Asia/Tokyo'",
		"SELECT $$'$$; SET TimeZone = 'Asia/Tokyo'",
		"SELECT $a$ $$ ' $b$ $a$; SET TimeZone = 'Asia/Tokyo'",
		"SELECT 1 AS a$b; SET TimeZone = 'Asia/Tokyo'; SELECT 2 AS b$",
		"SET\tTimeZone = 'Asia/Tokyo'",
		"SET \"timezone\" = 'Asia/Tokyo'",
		"SET/**/TimeZone = 'Asia/Tokyo'",
		"SET SESSION /* x */ TimeZone = 'Asia/Tokyo'",
		"SET SESSION\nTIME ZONE 'Asia/Tokyo'",
		"DO $$BEGIN SET TimeZone = 'Asia/Tokyo'; END$$",
		"WITH x AS (SELECT set_config('timezone', 'Asia/Tokyo', false)) SELECT * FROM x",
		"VALUES (set_config('timezone', 'Asia/Tokyo', false))",
		"SELECT/*x*/pg_catalog.\"set_config\"('timezone', 'Asia/Tokyo', false)",
		"EXPLAIN ANALYZE SELECT set_config('timezone', 'Asia/Tokyo', false)",
		"PREPARE p AS SELECT set_config('timezone', 'Asia/Tokyo', false); EXECUTE p",
	} {
		use()
		s.do(s, set)
		use()
		s.do(s, "SET TimeZone = 'UTC'")
	}
	for _, query := range []string{
		"WITH x AS (SELECT set_config('timezone', $1, false)) SELECT * FROM x",
		"VALUES (set_config('timezone', $1, false))",
		"SELECT (SELECT set_config('timezone', $1, false))",
	} {
		for _, zone := range []string{"Asia/Tokyo", "UTC", "America/New_York"} {
			use()
			s.on(s, query, zone)
			use()
		}
	}
}

// transactionsByHand end and go on in ways that are easily taken for others: whether a statement that failed may be
// tried again depends on it.
func (s *stmtScript) transactionsByHand() {
	s.MustExec("CREATE TABLE items (v int); INSERT INTO items VALUES (1)")
	use := func() {
		for range 3 {
			s.on(s, "SELECT * FROM items WHERE $1::int > 0", 1)
		}
	}
	for _, texts := range [][]string{
		{"BEGIN", "SAVEPOINT a", "ROLLBACK WORK TO SAVEPOINT a"},
		{"BEGIN", "SAVEPOINT a", "ROLLBACK TRANSACTION TO a"},
		{"BEGIN", "COMMIT AND CHAIN"},
		{"BEGIN", "ROLLBACK AND CHAIN"},
		{"BEGIN", "DO $$BEGIN PERFORM 1; END$$"},
		{"BEGIN; SELECT 1"},
		{"BEGIN", "SELECT ';END'"},
		{"BEGIN", "/*;*/COMMIT"},
		{"/*;*/ BEGIN"},
		{"BEGIN", "PREPARE TRANSACTION 'x'"}, // fails, and ends it all the same
	} {
		use()
		for _, text := range texts {
			s.do(s, text)
		}
		s.do(s, "DEALLOCATE ALL")
		use()
		s.do(s, "SELECT 1")
		s.do(s, "ROLLBACK")
		use()
	}
}

// onTheDriver changes settings where nobody sees it.
func (s *stmtScript) onTheDriver() {
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	use := func(q querier) {
		for range 3 {
			s.on(q, "SELECT extract(epoch FROM timestamptz '2024-03-04 12:00')::int8, $1::int", 1)
		}
	}
	set := func(statement string) {
		s.Must(conn.Raw(func(dc any) error {
			_, err := lifeguard.Unwrap(dc).(driver.ExecerContext).ExecContext(s.Ctx, statement, nil)
			return err
		}))
	}
	use(conn)
	set("SET TimeZone = 'Asia/Tokyo'")
	use(conn)
	tx, err := conn.BeginTx(s.Ctx, nil)
	s.Must(err)
	use(tx)
	set("SET LOCAL TimeZone = 'America/New_York'")
	use(tx)
	s.Must(tx.Commit())
	use(conn)
	s.Must(conn.Close())
	use(s)
}

func (s *stmtScript) temporaryTables() {
	s.MustExec("CREATE TABLE items (v int); INSERT INTO items VALUES (1)")
	use := func(q querier) {
		for range 3 {
			s.on(q, "SELECT * FROM items WHERE $1::int > 0", 1)
			s.do(q, "UPDATE items SET v = v WHERE $1::int > 0", 1)
		}
	}
	use(s)
	for _, create := range []string{"CREATE TEMP TABLE items (v text)", "CREATE TEMPORARY TABLE items AS SELECT 2 AS v, 3 AS w",
		"SELECT 'into' AS v INTO TEMP items", "CREATE TEMP VIEW items AS SELECT 9 AS v",
		"SELECT 4 AS v\nINTO\nTEMP items", "WITH x AS (SELECT 5 AS v) SELECT v INTO TEMP items FROM x", "SELECT 6 AS v/**/INTO TEMP items",
		"EXPLAIN ANALYZE CREATE TEMP TABLE items AS SELECT 7 AS v"} {
		s.do(s, create)
		use(s)
		s.inTx(use, (*sql.Tx).Commit)
		s.do(s, "DISCARD TEMP")
		use(s)
		s.inTx(func(tx querier) { s.do(tx, create); use(tx) }, (*sql.Tx).Rollback)
		use(s)
	}
	s.inTx(func(tx querier) {
		s.do(tx, "CREATE TEMP TABLE items (v text) ON COMMIT DROP")
		use(tx)
	}, (*sql.Tx).Commit)
	s.inTx(use, (*sql.Tx).Commit)
	for _, query := range []string{"SELECT $1::int AS v INTO TEMP items", "WITH x AS (SELECT $1::int AS v) SELECT v\nINTO TEMP items FROM x"} {
		s.on(s, query, 7)
		use(s)
		s.do(s, "DISCARD TEMP")
	}
}

func (s *stmtScript) argumentTypes() {
	s.MustExec("CREATE TABLE items (i int, t text, j jsonb, b bytea, at timestamptz, f float8)")
	var nilPointer *int
	values := []any{1, "2", nil, int64(3), []byte("4"), sql.NullInt64{}, sql.NullString{String: "5", Valid: true}, 6.5, true, nilPointer,
		"x", time.Unix(7, 0).UTC(), []byte(nil), pq.Array([]int{1, 2}), struct{}{}, uint8(8), "", "NaN"}
	for _, query := range []string{"SELECT $1", "SELECT $1::int", "SELECT $1::text", "SELECT $1::float8", "SELECT $1::bool", "SELECT pg_typeof($1)",
		"SELECT * FROM items WHERE i = $1", "INSERT INTO items (t) VALUES ($1) RETURNING t", "INSERT INTO items (b) VALUES ($1) RETURNING b",
		"SELECT coalesce($1, 'none')", "SELECT 1 WHERE $1 = 1"} {
		for range 2 {
			for _, v := range values {
				s.on(s, query, v)
			}
		}
	}
	for _, args := range [][]any{{}, {1}, {1, 2}, {1, 2, 3}} {
		s.on(s, "SELECT $1::int + $2::int", args...)
		s.on(s, "SELECT 1", args...)
		s.do(s, "UPDATE items SET i = 1", args...)
		s.on(s, "SELECT $1::int + $2::int", sql.Named("a", 1), 2)
	}
}
