package lifeguard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// keptOn lists the statements that the server keeps for the one connection of c, as the driver named them.
func keptOn(t testing.TB, c *pooltest.Client) (texts []string) {
	t.Helper()
	rows, err := c.Query("SELECT statement FROM pg_prepared_statements WHERE NOT from_sql ORDER BY length(name), name")
	require.NoError(t, err)
	for rows.Next() {
		var text string
		require.NoError(t, rows.Scan(&text))
		texts = append(texts, text)
	}
	require.NoError(t, rows.Err())
	return texts
}

// A cached query makes no more garbage than one that the program prepared by itself.
func TestStatementsAllocations(t *testing.T) {
	dsn := pgtest.DSN(t)
	plain, kept := pooltest.OpenPostgres(t, "postgres", dsn, 1), pooltest.OpenPostgres(t, "lifeguard", dsn, 1)
	_, err := plain.Exec("CREATE TABLE customers (id int PRIMARY KEY, name text, visits int); INSERT INTO customers VALUES (1, 'Ada', 0)")
	require.NoError(t, err)
	const read, write = "SELECT name FROM customers WHERE id = $1", "UPDATE customers SET visits = visits + $2 WHERE id = $1"
	reader, err := plain.Prepare(read)
	require.NoError(t, err)
	defer reader.Close()
	writer, err := plain.Prepare(write)
	require.NoError(t, err)
	defer writer.Close()
	scan := func(row *sql.Row) {
		var name string
		if err := row.Scan(&name); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range []struct {
		name           string
		prepared, kept func()
	}{
		{"QueryRow", func() { scan(reader.QueryRow(1)) }, func() { scan(kept.QueryRow(read, 1)) }},
		{"Exec", func() {
			if _, err := writer.Exec(1, 2); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if _, err := kept.Exec(write, 1, 2); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		want, got := testing.AllocsPerRun(500, op.prepared), testing.AllocsPerRun(500, op.kept)
		t.Logf("%s: %g allocations on a statement of plain lib/pq, %g through lifeguard", op.name, want, got)
		if got > want && !pooltest.RaceEnabled {
			t.Errorf("%s: %g allocations, %g on plain lib/pq with a prepared statement", op.name, got, want)
		}
	}
}

// A query with arguments takes one round trip, once it is kept.
func TestStatementsRoundTrips(t *testing.T) {
	p := pooltest.NewTap(t, pgtest.DSN(t))
	db := pooltest.OpenPostgres(t, "lifeguard", p.DSN, 1)
	var n int
	query := func() { require.NoError(t, db.QueryRow("SELECT $1::int + 1", 41).Scan(&n)) }
	query()
	p.Take()
	for range 10 {
		query()
	}
	parsed, _, trips := p.Take()
	assert.Empty(t, parsed)
	assert.Equal(t, 10, trips)
	assert.Equal(t, 42, n)
}

// A statement of db.Prepare is prepared at most once on each connection, however connections change hands.
func TestPreparedOncePerConnection(t *testing.T) {
	p := pooltest.NewTap(t, pgtest.DSN(t))
	const limit, goroutines, each = 4, 32, 100
	db := pooltest.OpenPostgres(t, "lifeguard", p.DSN, limit)
	texts := []string{"SELECT $1::int", "SELECT $1::int * 2", "SELECT $1::int * 3"}
	var stmts []*sql.Stmt
	for _, text := range texts {
		st, err := db.Prepare(text)
		require.NoError(t, err)
		defer st.Close()
		stmts = append(stmts, st)
	}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				which := (g + i) % len(stmts)
				var n int
				if err := stmts[which].QueryRow(i).Scan(&n); err != nil || n != i*(which+1) {
					t.Errorf("%s with %d: %d, %v", texts[which], i, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	parsed, _, _ := p.Take()
	for _, text := range texts {
		assert.LessOrEqual(t, parsed[text], limit, "%s was prepared %d times on %d connections", text, parsed[text], limit)
		assert.Positive(t, parsed[text])
	}
}

func TestStatementsBounded(t *testing.T) {
	const size, distinct = 10, 1000
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size="+strconv.Itoa(size))
	text := func(i int) string { return fmt.Sprintf("SELECT $1::int + %d", i) }
	for i := range distinct {
		var n int
		require.NoError(t, db.QueryRow(text(i), 1).Scan(&n))
		require.Equal(t, i+1, n)
		if i%37 == 0 || i == distinct-1 {
			require.LessOrEqual(t, len(keptOn(t, db)), size)
		}
	}
	// Texts that come once do not keep those out that come again.
	for range 3 {
		require.NoError(t, db.QueryRow("SELECT $1::text", "again").Scan(new(string)))
	}
	require.Contains(t, keptOn(t, db), "SELECT $1::text")
	require.Len(t, keptOn(t, db), size)

	// Nor does anything of them stay in memory: a text and its statement take some 500 bytes.
	before := heapInUse()
	for i := range 5 * distinct {
		require.NoError(t, db.QueryRow(text(distinct+i), 1).Scan(new(int)))
	}
	assert.Less(t, heapInUse()-before, int64(5*distinct*100))
}

func heapInUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Once nothing but single uses is seen, what is used again stays.
func TestStatementsNotPushedOutBySingleUses(t *testing.T) {
	p := pooltest.NewTap(t, pgtest.DSN(t))
	db := pooltest.OpenPostgres(t, "lifeguard", p.DSN, 1, "statement_cache_size=5")
	for i := range 200 {
		require.NoError(t, db.QueryRow(fmt.Sprintf("SELECT $1::int + %d", i), 1).Scan(new(int)))
	}
	_, _, before := p.Take()
	for i := range 100 {
		require.NoError(t, db.QueryRow(fmt.Sprintf("SELECT $1::int - %d", i), 1).Scan(new(int)))
	}
	_, named, after := p.Take()
	assert.Empty(t, named, "statements were kept that nobody uses again")
	assert.Equal(t, 200, after, "more round trips than the plain driver needs; %d before", before)
}

func TestStatementsLeastRecentlyUsedGoFirst(t *testing.T) {
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size=3")
	const a, b, c, d = "SELECT $1::int AS a", "SELECT $1::int AS b", "SELECT $1::int AS c", "SELECT $1::int AS d"
	for _, text := range []string{a, b, c, a, d} {
		require.NoError(t, db.QueryRow(text, 1).Scan(new(int)))
	}
	assert.ElementsMatch(t, []string{a, c, d}, keptOn(t, db))
	require.NoError(t, db.QueryRow(b, 1).Scan(new(int)))
	assert.ElementsMatch(t, []string{a, d, b}, keptOn(t, db))
}

// What is open is not closed for something else to fit.
func TestStatementsInUseStay(t *testing.T) {
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size=2")
	ctx := t.Context()
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	var open []*sql.Stmt
	for i := range 4 {
		st, err := conn.PrepareContext(ctx, fmt.Sprintf("SELECT $1::int + %d", i))
		require.NoError(t, err)
		open = append(open, st)
	}
	for round := range 3 {
		for i, st := range open {
			var n int
			require.NoError(t, st.QueryRow(round).Scan(&n))
			require.Equal(t, round+i, n)
			require.NoError(t, conn.QueryRowContext(ctx, fmt.Sprintf("SELECT $1::int * %d", 10*round+i), 2).Scan(&n))
			require.Equal(t, 2*(10*round+i), n)
		}
	}
	for _, st := range open {
		require.NoError(t, st.Close())
	}
	rows, err := conn.QueryContext(ctx, "SELECT generate_series(1, $1::int)", 5000)
	require.NoError(t, err)
	require.True(t, rows.Next())
	for i := range 5 { // nothing of this can run, and nothing is prepared or closed for it
		_, err := conn.ExecContext(ctx, fmt.Sprintf("SELECT $1::int - %d", i), 1)
		require.ErrorContains(t, err, "already a query being processed")
	}
	n := 1
	for rows.Next() {
		n++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 5000, n)
	require.NoError(t, conn.Close())
	require.LessOrEqual(t, len(keptOn(t, db)), 2)
}

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

// withoutNames is describePostgresError without the names of statements, which lib/pq numbers.
func withoutNames(err error) string {
	return regexp.MustCompile(`statement \\*"[0-9]+\\*"`).ReplaceAllString(pooltest.DescribeError(err), "statement N")
}

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

func (s *stmtScript) cancelledInTx() {
	const sleep = "SELECT pg_sleep($1)"
	s.on(s, sleep, 0)
	s.on(s, sleep, 0)
	s.inTx(func(q querier) {
		tx := q.(*sql.Tx)
		ctx, cancel := context.WithTimeout(s.Ctx, 30*time.Millisecond)
		defer cancel()
		_, err := tx.ExecContext(ctx, sleep, 60)
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
	ctx, cancel := context.WithTimeout(s.Ctx, 30*time.Millisecond)
	defer cancel()
	rows, err := conn.QueryContext(ctx, sleep, 60)
	if err == nil {
		rows.Next()
		err = rows.Err()
		rows.Close()
	}
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

func TestStatementsCounted(t *testing.T) {
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size=2")
	pool := pooltest.PoolOf(t, db.DB)
	var hits, misses uint64
	expect := func(what string, moreHits, moreMisses uint64) {
		t.Helper()
		hits, misses = hits+moreHits, misses+moreMisses
		st := pool.Stats()
		require.Equal(t, []uint64{hits, misses}, []uint64{st.StatementHits, st.StatementMisses}, what)
	}
	query := func(text string, args ...any) {
		t.Helper()
		rows, err := db.Query(text, args...)
		require.NoError(t, err)
		require.NoError(t, rows.Close())
	}
	query("SELECT 1")
	expect("without arguments", 0, 0)
	query("SELECT $1::int", 1)
	expect("first", 0, 1)
	for range 5 {
		query("SELECT $1::int", 1)
	}
	expect("again", 5, 0)
	_, err := db.Exec("SELECT $1::int", 1)
	require.NoError(t, err)
	expect("Exec", 1, 0)
	_, err = db.Exec("SELECT $1::nothing", 1)
	require.Error(t, err)
	expect("an error of preparing", 0, 1)
	query("EXPLAIN SELECT $1::int", 1)
	expect("not kept", 0, 0)
	st, err := db.Prepare("SELECT $1::int")
	require.NoError(t, err)
	expect("Prepare of a kept one", 1, 0)
	for range 3 {
		_, err := st.Exec(2)
		require.NoError(t, err)
	}
	expect("of the handle's own", 0, 0)
	require.NoError(t, st.Close())
	query("SELECT $1::text", "b")
	query("SELECT $1::bool", true)
	expect("two more", 0, 2)
	query("SELECT $1::int", 1)
	expect("pushed out", 0, 1)
	tx, err := db.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("SELECT $1::int", 1)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	expect("in a transaction", 1, 0)
	query("SET search_path = public")
	query("SELECT $1::int", 1)
	expect("stale, left to the driver", 0, 0)
	query("SELECT $1::int", 1)
	expect("stale, prepared again", 0, 1)
	pool.Reset()
	expect("closed connections count", 0, 0)
	query("SELECT $1::int", 1)
	expect("new connection", 0, 1)
}

// What is turned off leaves no trace on the server.
func TestStatementsTurnedOff(t *testing.T) {
	for _, off := range []string{"statement_cache_size=0", "pgbouncer=true"} {
		t.Run(off, func(t *testing.T) {
			p := pooltest.NewTap(t, pgtest.DSN(t))
			db := pooltest.OpenPostgres(t, "lifeguard", p.DSN, 2, off)
			for i := range 5 {
				var n int
				require.NoError(t, db.QueryRow("SELECT $1::int", i).Scan(&n))
				require.Equal(t, i, n)
				_, err := db.Exec("SELECT $1::int", i)
				require.NoError(t, err)
			}
			st, err := db.Prepare("SELECT $1::int * 2")
			require.NoError(t, err)
			for i := range 5 {
				var n int
				require.NoError(t, st.QueryRow(i).Scan(&n))
				require.Equal(t, 2*i, n)
			}
			require.NoError(t, st.Close())
			require.Empty(t, keptOn(t, db))
			_, named, _ := p.Take()
			assert.Empty(t, named)
			stats := pooltest.PoolOf(t, db.DB).Stats()
			assert.Zero(t, stats.StatementHits+stats.StatementMisses)
		})
	}
}

// With binary_parameters a query goes to the server with its arguments, however lib/pq was told. Then nothing may be tried
// on the server to look at a text: it would end a transaction.
func TestStatementsOffWithBinaryParameters(t *testing.T) {
	dsn := pgtest.DSN(t)
	binary := pooltest.AddParams(t, dsn, "binary_parameters=yes")
	connector, err := pq.NewConnector(binary)
	require.NoError(t, err)
	cfg := lifeguard.DefaultConfig()
	cfg.StatementCacheSize = 0
	given, err := lifeguard.OpenDB(connector, lifeguard.WithConfig(cfg))
	require.NoError(t, err)
	defer given.Close()
	keywords := strings.ReplaceAll(binary, "binary_parameters=yes", "binary%5Fparameters=yes") + "&statement_cache_size=0"
	parsed, err := sql.Open("lifeguard", keywords)
	require.NoError(t, err)
	defer parsed.Close()
	for _, db := range []*sql.DB{given, parsed} {
		tx, err := db.Begin()
		require.NoError(t, err)
		st, err := tx.Prepare("SELECT $1::int * 2")
		require.NoError(t, err)
		for i := range 3 {
			var n int
			require.NoError(t, st.QueryRow(i).Scan(&n))
			require.Equal(t, 2*i, n)
		}
		require.NoError(t, st.Close())
		require.NoError(t, tx.Commit())
	}
}

// poolerKnowsStatements says whether this machine's PgBouncer can keep the statements of its clients apart.
func poolerKnowsStatements(t *testing.T) bool {
	var major, minor int
	_, err := fmt.Sscanf(bouncertest.Version(t), "%d.%d", &major, &minor)
	require.NoError(t, err)
	return major > 1 || minor >= 21
}

// rawPooler starts a PgBouncer in transaction mode, with two server connections, which hands on what its clients prepare
// as it is.
func rawPooler(t *testing.T, dsn string) string {
	settings := []string{"default_pool_size=2"}
	if poolerKnowsStatements(t) {
		settings = append(settings, "max_prepared_statements=0")
	}
	return bouncertest.Start(t, dsn, settings...)
}

// atPooler is openPostgres without a look at the server, where all connections are the pooler's.
func atPooler(t *testing.T, driverName, dsn string, limit int, log *pooltest.LogBuffer, params ...string) *sql.DB {
	t.Helper()
	var db *sql.DB
	var err error
	if driverName == "postgres" {
		db, err = sql.Open("postgres", dsn)
		require.NoError(t, err)
		db.SetMaxOpenConns(limit)
	} else {
		db, err = lifeguard.Open("postgres", pooltest.AddParams(t, dsn, append(params, "connection_limit="+strconv.Itoa(limit))...),
			lifeguard.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		require.NoError(t, err)
	}
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// crossing has two clients of a pooler run a statement each, on different servers, and then the first one its own again,
// on the other's server: the pooler hands out the server that was used last.
func crossing(t *testing.T, a, b, other *sql.DB, run func(db *sql.DB, text string) (string, error)) (string, error) {
	t.Helper()
	const textA, textB = "SELECT 'a' || $1::text", "SELECT 'b' || $1::text"
	hold, err := other.Begin()
	require.NoError(t, err)
	got, err := run(a, textA)
	require.NoError(t, err)
	require.Equal(t, "a!", got)
	require.NoError(t, hold.Rollback())
	got, err = run(b, textB)
	require.NoError(t, err)
	require.Equal(t, "b!", got)
	return run(a, textA)
}

// Behind a pooler in transaction mode a name may stand for another client's statement. This is what makes looking for
// one necessary, and it is what plain lib/pq does with statements that a program prepares.
func TestStatementsRawPooler(t *testing.T) {
	t.Logf("PgBouncer %s in transaction mode, without prepared statements of its own", bouncertest.Version(t))
	dsn := rawPooler(t, pgtest.DSN(t))
	other := atPooler(t, "postgres", dsn, 1, nil)

	t.Run("hazard", func(t *testing.T) {
		stmts := map[string]*sql.Stmt{}
		a, b := atPooler(t, "postgres", dsn, 1, nil), atPooler(t, "postgres", dsn, 1, nil)
		got, err := crossing(t, a, b, other, func(db *sql.DB, text string) (got string, err error) {
			st := stmts[text]
			if st == nil {
				st, err = db.Prepare(text)
				require.NoError(t, err)
				stmts[text] = st
			}
			err = st.QueryRow("!").Scan(&got)
			return got, err
		})
		for _, st := range stmts {
			st.Close()
		}
		require.NoError(t, err)
		require.Equal(t, "b!", got, "the pooler did not cross the connections, so what follows shows nothing")
	})

	t.Run("queries", func(t *testing.T) {
		log := &pooltest.LogBuffer{}
		p := pooltest.NewTap(t, dsn)
		a, b := atPooler(t, "lifeguard", p.DSN, 1, log), atPooler(t, "lifeguard", p.DSN, 1, log)
		for range 5 {
			got, err := crossing(t, a, b, other, func(db *sql.DB, text string) (got string, err error) {
				err = db.QueryRow(text, "!").Scan(&got)
				return got, err
			})
			require.NoError(t, err)
			require.Equal(t, "a!", got)
		}
		_, named, _ := p.Take()
		assert.LessOrEqual(t, len(named), 2, "statements were named: %q", named) // one by each pool, to find out
		for _, db := range []*sql.DB{a, b} {
			st := pooltest.PoolOf(t, db).Stats()
			assert.Zero(t, st.StatementHits+st.StatementMisses)
		}
		assert.Contains(t, log.String(), "pgbouncer=true")
		assert.LessOrEqual(t, strings.Count(log.String(), "pooler stands"), 2)
	})

	t.Run("error", func(t *testing.T) {
		a, b := atPooler(t, "lifeguard", dsn, 1, &pooltest.LogBuffer{}), atPooler(t, "lifeguard", dsn, 1, &pooltest.LogBuffer{})
		var failed error
		for i := 0; i < 20 && failed == nil; i++ {
			for _, db := range []*sql.DB{a, b} {
				st, err := db.Prepare(fmt.Sprintf("SELECT %d", i)) // a name that the other has, or will have
				if err == nil {
					_, err = st.Exec()
				}
				if err != nil {
					failed = err
				}
			}
		}
		require.Error(t, failed)
		assert.Contains(t, failed.Error(), "pgbouncer=true")
		assert.IsType(t, &pq.Error{}, failed)
	})

	t.Run("pgbouncer=true", func(t *testing.T) {
		p := pooltest.NewTap(t, dsn)
		var clients []*sql.DB
		for range 2 {
			clients = append(clients, atPooler(t, "lifeguard", p.DSN, 4, &pooltest.LogBuffer{}, "pgbouncer=true"))
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				db := clients[g%2]
				st, err := db.Prepare(fmt.Sprintf("SELECT $1::int * %d", g))
				if !assert.NoError(t, err) {
					return
				}
				defer st.Close()
				for i := range 100 {
					var n int
					if err := db.QueryRow(fmt.Sprintf("SELECT $1::int + %d", g), i).Scan(&n); err != nil || n != i+g {
						t.Errorf("%d + %d = %d, %v", i, g, n, err)
						return
					}
					if err := st.QueryRow(i).Scan(&n); err != nil || n != i*g {
						t.Errorf("%d * %d = %d, %v", i, g, n, err)
						return
					}
				}
			})
		}
		wg.Wait()
		_, named, _ := p.Take()
		assert.Empty(t, named)
	})
}

// A pooler in session mode gives each client a server of its own, but that cannot be told from outside: nothing is kept,
// and all works as on the plain driver.
func TestStatementsSessionPooler(t *testing.T) {
	settings := []string{"pool_mode=session"}
	if poolerKnowsStatements(t) {
		settings = append(settings, "max_prepared_statements=0")
	}
	db := atPooler(t, "lifeguard", bouncertest.Start(t, pgtest.DSN(t), settings...), 2, &pooltest.LogBuffer{})
	for i := range 10 {
		var n int
		require.NoError(t, db.QueryRow("SELECT $1::int", i).Scan(&n))
		require.Equal(t, i, n)
	}
	assert.Zero(t, pooltest.PoolOf(t, db).Stats().StatementHits)
}

// A pooler that keeps the statements of its clients apart is no hindrance.
func TestStatementsPoolerWithStatements(t *testing.T) {
	if !poolerKnowsStatements(t) {
		t.Skipf("PgBouncer %s has no prepared statements of its own, which came with 1.21", bouncertest.Version(t))
	}
	t.Logf("PgBouncer %s in transaction mode, with prepared statements of its own", bouncertest.Version(t))
	dsn := bouncertest.Start(t, pgtest.DSN(t), "default_pool_size=2", "max_prepared_statements=100")
	var clients []*sql.DB
	for range 2 {
		clients = append(clients, atPooler(t, "lifeguard", dsn, 4, &pooltest.LogBuffer{}))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				var n int
				err := clients[g%2].QueryRow(fmt.Sprintf("SELECT $1::int + %d", i%20), g).Scan(&n)
				if err != nil || n != g+i%20 {
					t.Errorf("%d + %d = %d, %v", g, i%20, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, db := range clients {
		st := pooltest.PoolOf(t, db).Stats()
		assert.Greater(t, st.StatementHits, st.StatementMisses)
	}
}

// Queries that are cancelled at any moment do no harm to their connection, or to whoever has it next.
func TestStatementsCancelledAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 4)
	own, err := db.Prepare("SELECT $1::int FROM pg_sleep(0.0005)")
	require.NoError(t, err)
	defer own.Close()
	var cancelled, done atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				soon := rnd.IntN(2) == 0
				if soon {
					ctx, cancel = pooltest.CancelSoon(t.Context(), rnd, 1500*time.Microsecond)
				}
				var n int
				var err error
				switch rnd.IntN(3) {
				case 0:
					err = own.QueryRowContext(ctx, i).Scan(&n)
				case 1:
					err = db.QueryRowContext(ctx, "SELECT $1::int AS direct FROM pg_sleep(0.0005)", i).Scan(&n)
				default:
					_, err = db.ExecContext(ctx, "SELECT $1::int FROM pg_sleep(0.0005)", i)
					n = i
				}
				switch {
				case err == nil && n != i:
					t.Errorf("asked for %d, got %d", i, n)
				case err != nil && !soon:
					t.Errorf("not cancelled, and failed: %v", err)
				case err != nil && ctx.Err() == nil:
					t.Errorf("failed before it was cancelled: %v", err)
				case err != nil:
					cancelled.Add(1)
				default:
					done.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	t.Logf("%d cancelled, %d done", cancelled.Load(), done.Load())
	assert.Positive(t, cancelled.Load())
	pooltest.Settled(t, pooltest.PoolOf(t, db.DB))
	db.AllSlots(t, 4)
}

// Everything at once: kept statements, the program's own, transactions, more texts than fit, cancels, leases that are
// taken back, and a migration that never ends.
func TestStatementsStress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const limit, goroutines = 4, 12
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), limit, "statement_cache_size=4")
	_, err := db.Exec("CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL); INSERT INTO items SELECT g, 0 FROM generate_series(0, 99) g")
	require.NoError(t, err)
	own, err := db.Prepare("SELECT * FROM items WHERE id = $1")
	require.NoError(t, err)
	defer own.Close()

	quit := make(chan struct{})
	migrated := make(chan int)
	go func() { // ends with quit
		n := 0
		defer func() { migrated <- n }()
		for ; ; n++ {
			select {
			case <-quit:
				return
			default:
			}
			migrate := db.Server // half of it by somebody whom the pool does not see
			if n%2 == 0 {
				migrate = db.DB
			}
			for _, ddl := range []string{"ALTER TABLE items ADD COLUMN c text DEFAULT 'x'", "CREATE INDEX i ON items (v)", "DROP INDEX i", "ALTER TABLE items DROP COLUMN c"} {
				if _, err := migrate.Exec(ddl); err != nil && !pooltest.IsCode(err, "40P01") {
					t.Errorf("%s: %v", ddl, err)
					return
				}
			}
		}
	}()
	// idOf reads the first column of rows that may have two or three.
	idOf := func(rows *sql.Rows, err error) (int, error) {
		if err != nil {
			return 0, err
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			return 0, err
		}
		id, dest := 0, make([]any, len(columns))
		for i := range dest {
			dest[i] = new(any)
		}
		dest[slices.Index(columns, "id")] = &id
		if !rows.Next() {
			return 0, errors.Join(sql.ErrNoRows, rows.Err())
		}
		if err := rows.Scan(dest...); err != nil {
			return 0, err
		}
		return id, rows.Err()
	}
	var moved, increments atomic.Int64
	until := time.Now().Add(pooltest.StormLength(2 * time.Second))
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for time.Now().Before(until) {
				id, got := rnd.IntN(100), -1
				ctx, cancel := context.WithCancel(t.Context())
				var err error
				switch rnd.IntN(6) {
				case 0:
					got, err = idOf(own.QueryContext(ctx, id))
				case 1:
					got, err = idOf(db.QueryContext(ctx, "SELECT * FROM items WHERE id = $1", id))
				case 2:
					got, err = idOf(db.QueryContext(ctx, fmt.Sprintf("SELECT id, %d FROM items WHERE id = $1", rnd.IntN(9)), id))
				case 3:
					ctx, cancel = pooltest.CancelSoon(ctx, rnd, time.Millisecond)
					got, err = idOf(db.QueryContext(ctx, "SELECT id FROM items WHERE id = $1", id))
					if err != nil && ctx.Err() != nil {
						got, err = id, nil
					}
				case 4:
					var tx *sql.Tx
					if tx, err = db.BeginTx(ctx, nil); err != nil {
						break
					}
					if got, err = idOf(tx.StmtContext(ctx, own).QueryContext(ctx, id)); err == nil {
						_, err = tx.ExecContext(ctx, "UPDATE items SET v = v + $2 WHERE id = $1", id, 1)
					}
					if err != nil {
						tx.Rollback()
					} else if err = tx.Commit(); err == nil {
						increments.Add(1)
					}
				default:
					var st *sql.Stmt
					if st, err = db.PrepareContext(ctx, fmt.Sprintf("SELECT id FROM items WHERE id = $1 OR v < -%d", 1+rnd.IntN(9))); err == nil {
						got, err = idOf(st.QueryContext(ctx, id))
						st.Close()
					}
				}
				cancel()
				switch {
				case pooltest.IsCode(err, "0A000"), pooltest.IsCode(err, "40P01"):
					moved.Add(1) // in a transaction, or twice in a row
				case err != nil:
					t.Errorf("id %d: %v", id, err)
				case got != id:
					t.Errorf("asked for %d, got %d", id, got)
				}
			}
		})
	}
	wg.Wait()
	close(quit)
	t.Logf("%d migrations, %d operations met one, %d increments", <-migrated, moved.Load(), increments.Load())
	var sum int64
	require.NoError(t, db.QueryRow("SELECT sum(v) FROM items WHERE id >= $1", 0).Scan(&sum))
	assert.Equal(t, increments.Load(), sum)
	pooltest.Settled(t, pooltest.PoolOf(t, db.DB))
	db.AllSlots(t, limit)
	conns := make([]*sql.Conn, limit)
	for i := range conns {
		conns[i], err = db.Conn(t.Context())
		require.NoError(t, err)
		defer conns[i].Close()
		var n int
		require.NoError(t, conns[i].QueryRowContext(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&n))
		assert.LessOrEqual(t, n, 4+1) // own may be open besides those that are kept
	}
}

// A handle closes the statements of idle connections whenever it likes, also while these are taken back for somebody
// who waits.
func TestStatementClosedWhileLeaseIsTakenBack(t *testing.T) {
	dsn := pooltest.AddParams(t, pgtest.DSN(t), "connection_limit=2", "pool_name=taken-back")
	open := func() *sql.DB {
		db, err := lifeguard.Open("postgres", dsn, pooltest.Quiet)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
	a, b := open(), open() // two handles on one pool take leases from each other
	var wg sync.WaitGroup
	for g := range 6 {
		db := []*sql.DB{a, b}[g%2]
		wg.Go(func() {
			for i := range 150 {
				st, err := db.Prepare(fmt.Sprintf("SELECT $1::int + %d", i%7))
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := st.QueryRow(i).Scan(&n); err != nil || n != i+i%7 {
					t.Errorf("%d + %d = %d, %v", i, i%7, n, err)
				}
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	pooltest.Settled(t, pooltest.PoolOf(t, a))
}
