package stmtcache_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

type stmtScript struct{ *pooltest.Script }

// statementScripts are run on the plain driver and through lifeguard, on one connection, and what was taken down has to
// be the same. All of them use the same texts many times while the world changes under them.
var statementScripts = []struct {
	name string
	run  func(*stmtScript)
}{
	{"alter table", (*stmtScript).alterTable},
	{"altered by another", (*stmtScript).alteredByAnother},
	{"forgotten", (*stmtScript).forgotten},
	{"search path", (*stmtScript).searchPath},
	{"settings", (*stmtScript).settingsThatMatter},
	{"settings in disguise", (*stmtScript).settingsInDisguise},
	{"on the driver", (*stmtScript).onTheDriver},
	{"transactions by hand", (*stmtScript).transactionsByHand},
	{"temporary tables", (*stmtScript).temporaryTables},
	{"argument types", (*stmtScript).argumentTypes},
	{"never kept", (*stmtScript).neverKept},
	{"several at once", (*stmtScript).severalAtOnce},
	{"errors", (*stmtScript).errorsOfKept},
	{"cancelled in a transaction", (*stmtScript).cancelledInTx},
	{"long", (*stmtScript).longTexts},
}

// With nothing kept there is one difference: a server that is told to forget all statements has nothing to forget.
func TestStatementsLikePlain(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, s := range statementScripts {
		t.Run(s.name, func(t *testing.T) {
			run := func(name, driverName string, params ...string) []string {
				return pooltest.RunScript(t, dsn, name, driverName, 1, func(r *pooltest.Script) { s.run(&stmtScript{r}) }, params...)
			}
			plain := run("postgres", "postgres")
			compare := func(name string, got []string) {
				for i := range max(len(plain), len(got)) {
					if i >= len(plain) || i >= len(got) || plain[i] != got[i] {
						t.Fatalf("line %d differs:\nplain: %s\n%s: %s", i, at(plain, i), name, at(got, i))
					}
				}
			}
			compare("kept", run("lifeguard", "lifeguard"))
			if s.name != "forgotten" {
				compare("turned off", run("turned off", "lifeguard", "statement_cache_size=0"))
			}
		})
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

// on takes down a query; do takes down a statement.
func (s *stmtScript) on(q querier, query string, args ...any) {
	s.T.Helper()
	rows, err := q.QueryContext(s.Ctx, query, args...)
	s.NoteRows(query, rows, err)
}

func (s *stmtScript) do(q querier, statement string, args ...any) {
	s.T.Helper()
	res, err := q.ExecContext(s.Ctx, statement, args...)
	s.NoteError(statement, err)
	if err == nil {
		n, err := res.RowsAffected()
		s.Note("%d rows, %s", n, pooltest.DescribeError(err))
	}
}

// inTx runs f in a transaction and takes down how it ends.
func (s *stmtScript) inTx(f func(querier), end func(*sql.Tx) error) {
	s.T.Helper()
	tx, err := s.BeginTx(s.Ctx, nil)
	s.Must(err)
	f(tx)
	s.NoteError("end of the transaction", end(tx))
}

func (s *stmtScript) alterTable() {
	s.MustExec("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
	const all, insert = "SELECT * FROM items WHERE id >= $1 ORDER BY id", "INSERT INTO items (id, name) VALUES ($1, $2)"
	use := func(q querier) {
		for range 3 {
			s.on(q, all, 1)
		}
	}
	use(s)
	for i, ddl := range []string{
		"ALTER TABLE items ADD COLUMN price int DEFAULT 7",
		"ALTER TABLE items ALTER COLUMN price TYPE text",
		"/* a note */ alter table items drop column price",
		"ALTER TABLE items RENAME COLUMN name TO title",
		"ALTER TABLE items RENAME COLUMN title TO name; SELECT 1",
		"DROP TABLE items; CREATE TABLE items (name varchar(9), id bigint, extra bool)",
	} {
		s.do(s, ddl)
		use(s)
		s.do(s, insert, 100+i, "new")
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
			s.inTx(use, end)
		}
		// Changed inside a transaction, which is undone, and which is not.
		for n, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
			column := fmt.Sprintf("c%d_%d", i, n)
			s.inTx(func(tx querier) {
				use(tx)
				s.do(tx, "ALTER TABLE items ADD COLUMN "+column+" int DEFAULT 0")
				use(tx)
				s.do(tx, insert, 200+10*i+n, "in tx")
				use(tx)
			}, end)
			s.inTx(use, (*sql.Tx).Commit)
			use(s)
		}
	}
	s.do(s, "DROP TABLE items")
	use(s)
	s.inTx(use, (*sql.Tx).Rollback)
	s.MustExec("CREATE TABLE items (id int)")
	use(s)
}

// alteredByAnother is DDL that this connection cannot see. Outside a transaction it does not show.
func (s *stmtScript) alteredByAnother() {
	s.MustExec("CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
	const all = "SELECT * FROM script.items WHERE id >= $1 ORDER BY id"
	for i := range 4 {
		for range 3 {
			s.on(s, all, 1)
		}
		_, err := s.Server.Exec(fmt.Sprintf("ALTER TABLE script.items ADD COLUMN c%d int DEFAULT %d", i, i))
		s.Must(err)
	}
	_, err := s.Server.Exec("DROP TABLE script.items")
	s.Must(err)
	for range 3 {
		s.on(s, all, 1)
	}
	_, err = s.Server.Exec("CREATE TABLE script.items (name bytea, id float8); INSERT INTO script.items VALUES ('\\x00', 1.5)")
	s.Must(err)
	for range 3 {
		s.on(s, all, 1)
	}
	s.inTx(func(tx querier) { s.on(tx, all, 1) }, (*sql.Tx).Commit)
}

func (s *stmtScript) forgotten() {
	s.MustExec("CREATE TABLE items (id int); INSERT INTO items VALUES (1)")
	use := func(q querier) {
		s.on(q, "SELECT id, $1::int FROM items", 5)
		s.do(q, "UPDATE items SET id = $1", 6)
	}
	for _, forget := range []string{"DISCARD ALL", "DEALLOCATE ALL", "deallocate prepare all", "DISCARD PLANS", "DISCARD TEMP",
		"PREPARE own AS SELECT 1", "EXECUTE own", "DEALLOCATE own", "DEALLOCATE own", "SELECT 1; DEALLOCATE ALL", "RESET ALL"} {
		use(s)
		use(s)
		s.do(s, forget)
		s.MustExec("SET search_path = script") // DISCARD ALL took it
		use(s)
		use(s)
		s.inTx(func(tx querier) {
			use(tx)
			s.do(tx, forget)
			s.on(tx, "SELECT 1")
		}, (*sql.Tx).Rollback)
		s.MustExec("SET search_path = script")
		s.inTx(func(tx querier) { use(tx); use(tx) }, (*sql.Tx).Commit)
	}
	// A statement of the program's, inside a transaction: the server does not know it, and says so.
	st, err := s.Prepare("SELECT $1::int + 1")
	s.Must(err)
	defer st.Close()
	s.inTx(func(q querier) {
		tx := q.(*sql.Tx)
		own := tx.Stmt(st)
		rows, err := own.Query(1)
		s.NoteRows("prepared", rows, err)
		s.do(tx, "DEALLOCATE ALL")
		_, err = own.Exec(1)
		s.Note("forgotten: %s", withoutNames(err))
		_, err = own.Exec(1)
		s.Note("after that: %s", withoutNames(err))
	}, (*sql.Tx).Rollback)
}

// neverKept is what must be run as it always was.
func (s *stmtScript) neverKept() {
	s.MustExec("CREATE TABLE items (i int); INSERT INTO items SELECT generate_series(1, 20)")
	for range 3 {
		s.on(s, "EXPLAIN (COSTS off) SELECT * FROM items WHERE i = $1", 1)
		s.on(s, "SELECT 1; SELECT $1::int", 1)
		s.on(s, "SELECT 1; SELECT 2")
		s.do(s, "UPDATE items SET i = i; DELETE FROM items WHERE i = $1", 1)
		s.on(s, "SELECT ';', $1::int;", 1)
		s.on(s, "SELECT $1::int ; ; ", 1)
		s.on(s, "-- note\nSELECT $1::int", 1)
		s.on(s, "/* note */ SELECT $1::int", 1)
		s.on(s, "/* a /* nested */ note */ SELECT $1::int", 1)
		s.on(s, "((SELECT $1::int))", 1)
		s.on(s, "WITH x AS (SELECT $1::int AS y) SELECT y FROM x", 1)
		s.on(s, "WITH gone AS (DELETE FROM items WHERE i = $1 RETURNING i) SELECT count(*) FROM gone", 1000)
		s.on(s, "VALUES ($1::int)", 1)
		s.on(s, "TABLE items LIMIT $1", 2)
		s.on(s, "", 1)
		s.on(s, ";", 1)
		s.on(s, "-- nothing", 1)
		s.do(s, "LISTEN topic")
		s.do(s, "NOTIFY topic, 'x'")
		s.do(s, "LISTEN $1", "topic")
		s.do(s, "SHOW TimeZone")
		s.do(s, "CREATE TABLE IF NOT EXISTS made (i int DEFAULT $1)", 1)
		s.do(s, "DO $$BEGIN PERFORM 1; END$$")
		s.do(s, "COPY items TO STDOUT")
	}
	// The same texts, prepared.
	for _, text := range []string{"SELECT $1::int", "EXPLAIN (COSTS off) SELECT $1::int", "SHOW TimeZone", "BEGIN", "COMMIT", "SELECT 1; SELECT 2"} {
		for range 2 {
			st, err := s.Prepare(text)
			s.NoteError("prepare "+text, err)
			if err != nil {
				continue
			}
			var args []any
			if strings.Contains(text, "$1") {
				args = append(args, 1)
			}
			for range 2 {
				rows, err := st.Query(args...)
				s.NoteRows(text, rows, err)
			}
			s.NoteError("close", st.Close())
		}
	}
	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	defer conn.Close()
	for _, end := range []string{"COMMIT", "ROLLBACK"} {
		s.do(conn, "BEGIN")
		s.do(conn, "INSERT INTO items VALUES ($1)", 100)
		s.do(conn, "DECLARE c CURSOR FOR SELECT i FROM items ORDER BY i")
		s.on(conn, "FETCH 2 FROM c")
		s.on(conn, "SELECT count(*) FROM items WHERE i > $1", 5)
		s.on(conn, "FETCH 2 FROM c")
		s.do(conn, "MOVE 3 IN c")
		s.on(conn, "FETCH ALL FROM c")
		s.do(conn, "SELECT 1/$1", 0)
		s.on(conn, "SELECT count(*) FROM items WHERE i > $1", 5)
		s.do(conn, end)
		s.on(conn, "SELECT count(*) FROM items WHERE i > $1", 5)
	}
}

// severalAtOnce is what a program does on a connection that is busy, which it has to be told.
func (s *stmtScript) severalAtOnce() {
	s.MustExec("CREATE TABLE items (i int)")
	const kept = "SELECT $1::int"
	for range 2 {
		s.on(s, kept, 1)
	}
	open := func(q querier, query string) *sql.Rows {
		rows, err := q.QueryContext(s.Ctx, query)
		s.Must(err)
		if !rows.Next() {
			s.T.Fatalf("%s: no rows", query)
		}
		return rows
	}
	// Not with arguments: then lib/pq does not notice, and takes rows for the answer to the next query.
	for _, query := range []string{"SELECT generate_series(1, 9)", "SELECT generate_series(1, 100000)"} {
		s.inTx(func(tx querier) {
			rows := open(tx, query)
			s.on(tx, kept, 2)
			s.do(tx, kept, 3)
			s.do(tx, "SELECT 4")
			s.do(tx, "SELECT $1::int + 5", 5)
			s.NoteError("close", rows.Close())
			s.on(tx, kept, 6)
			s.on(tx, "SELECT $1::int + 5", 5)
		}, (*sql.Tx).Commit)
		s.on(s, kept, 7)
	}
	s.inTx(func(q querier) {
		tx := q.(*sql.Tx)
		in, err := tx.Prepare("COPY items FROM STDIN")
		s.Must(err)
		_, err = in.Exec(1)
		s.NoteError("copy", err)
		s.on(tx, kept, 8)
		s.do(tx, kept, 9)
		_, err = in.Exec(2)
		s.NoteError("copy", err)
		_, err = in.Exec()
		s.NoteError("flush", err)
		s.NoteError("close", in.Close())
		s.on(tx, kept, 10)
		s.on(tx, "SELECT count(*) FROM items WHERE i > $1", 0)
	}, (*sql.Tx).Commit)
	s.on(s, kept, 11)
}

// errorsOfKept are errors whose text, with all its detail, must not depend on where the statement ran.
func (s *stmtScript) errorsOfKept() {
	s.MustExec("CREATE TABLE items (i int PRIMARY KEY, t varchar(3) NOT NULL CHECK (t <> 'no')); INSERT INTO items VALUES (1, 'a');" +
		"CREATE FUNCTION fail(x int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''own %'', x USING HINT = ''hint'', DETAIL = ''detail'', ERRCODE = ''P0042''; END'")
	statements := []struct {
		text string
		args []any
	}{
		{"SELECT 1 / $1::int", []any{0}},
		{"SELECT 1\n / $1::int,\n 2", []any{0}},
		{"SELECT $1::int", []any{"many"}},
		{"SELECT $1::int", []any{"99999999999"}},
		{"SELECT $1::timestamptz", []any{"the other day"}},
		{"SELECT $1::jsonb", []any{"{"}},
		{"SELECT $1::text::int", []any{"words"}},
		{"INSERT INTO items VALUES ($1, $2)", []any{1, "b"}},
		{"INSERT INTO items VALUES ($1, $2)", []any{2, "long"}},
		{"INSERT INTO items VALUES ($1, $2)", []any{2, nil}},
		{"INSERT INTO items VALUES ($1, $2)", []any{2, "no"}},
		{"SELECT fail($1)", []any{7}},
		{"SELECT i / $1 FROM items", []any{0}},
		{"SELECT 10 / (5 - g) FROM generate_series(1, $1::int) g", []any{9}},
		{"SELECT * FROM nowhere WHERE i = $1", []any{1}},
		{"SELECT nothing,\n\tmore FROM items WHERE i = $1", []any{1}},
		{"SELECT FROM WHERE $1", []any{1}},
		{"INSERT INTO items VALUES ($1, $2", []any{1, 2}},
		{"SELECT $1", []any{1, 2}},
		{"SELECT $2::int", []any{1, 2}},
	}
	for _, st := range statements {
		for range 3 {
			s.on(s, st.text, st.args...)
			s.do(s, st.text, st.args...)
			s.inTx(func(tx querier) {
				s.on(tx, st.text, st.args...)
				s.on(tx, "SELECT $1::int", 1)
			}, (*sql.Tx).Commit)
			s.inTx(func(tx querier) {
				s.do(tx, "SAVEPOINT a")
				s.do(tx, st.text, st.args...)
				s.do(tx, "ROLLBACK TO a")
				s.on(tx, "SELECT $1::int", 1)
			}, (*sql.Tx).Commit)
		}
	}
	// The text was right once.
	s.MustExec("CREATE TABLE soon (i int)")
	for range 2 {
		s.on(s, "SELECT i FROM script.soon WHERE i = $1", 1)
	}
	_, err := s.Server.Exec("ALTER TABLE script.soon RENAME COLUMN i TO j")
	s.Must(err)
	for range 2 {
		s.on(s, "SELECT i FROM script.soon WHERE i = $1", 1)
	}
	_, err = s.Server.Exec("DROP TABLE script.soon")
	s.Must(err)
	for range 2 {
		s.do(s, "SELECT i FROM script.soon WHERE i = $1", 1)
	}
}

// asleep cancels the context of run when the server sleeps for it, and gives run's error.
func (s *stmtScript) asleep(run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(s.Ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- run(ctx) }()
	pooltest.Eventually(s.T, "the query sleeps", func() (is bool) {
		s.Must(s.Server.QueryRow("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND state = 'active' "+
			"AND wait_event = 'PgSleep')", s.Application).Scan(&is))
		return is
	})
	cancel()
	return <-failed
}

func (s *stmtScript) cancelledInTx() {
	const sleep = "SELECT pg_sleep($1)"
	s.on(s, sleep, 0)
	s.on(s, sleep, 0)
	s.inTx(func(q querier) {
		tx := q.(*sql.Tx)
		err := s.asleep(func(ctx context.Context) error { _, err := tx.ExecContext(ctx, sleep, 60); return err })
		s.Note("cancelled: %t", pooltest.WasCancelled(err))
		// lib/pq gives the connection up.
		s.on(tx, "SELECT $1::int", 1)
		s.do(tx, "SELECT 1")
		_, err = tx.Prepare("SELECT 1")
		s.NoteError("prepare", err)
	}, (*sql.Tx).Commit)
	s.on(s, "SELECT $1::int", 2)

	conn, err := s.Conn(s.Ctx)
	s.Must(err)
	err = s.asleep(func(ctx context.Context) error {
		rows, err := conn.QueryContext(ctx, sleep, 60)
		if err != nil {
			return err
		}
		defer rows.Close()
		rows.Next()
		return rows.Err()
	})
	s.Note("cancelled: %t", pooltest.WasCancelled(err))
	s.do(conn, "SELECT $1::int", 3)
	s.do(conn, "SELECT $1::int", 3)
	s.NoteError("close", conn.Close())
	s.on(s, "SELECT $1::int", 4)
}

func (s *stmtScript) longTexts() {
	var long strings.Builder
	long.WriteString("SELECT $1::int")
	var args []any
	args = append(args, 1)
	for i := 2; i <= 5000; i++ {
		fmt.Fprintf(&long, " + $%d::int", i)
		args = append(args, i)
	}
	for range 3 {
		s.on(s, long.String(), args...)
	}
	s.on(s, "SELECT $1::int"+strings.Repeat(" ", 100_000), 1)
}
