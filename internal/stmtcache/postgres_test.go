package stmtcache

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// wire is a connection of lib/pq's that counts what the cache asks of it.
type wire struct {
	raw      driver.Conn
	prepared int
}

func (w *wire) Prepare(ctx context.Context, query string) (driver.Stmt, error) {
	w.prepared++
	return w.raw.(driver.ConnPrepareContext).PrepareContext(ctx, query)
}

func (w *wire) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return w.raw.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (w *wire) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return w.raw.(driver.ExecerContext).ExecContext(ctx, query, args)
}

// party is a pool of real sessions with a clock of its own.
type party struct {
	t      testing.TB
	dsn    string
	now    int64
	shared *Shared
	logged strings.Builder
}

func newParty(t testing.TB, dsn string) *party {
	p := &party{t: t, dsn: dsn, now: int64(time.Hour)}
	p.shared = NewShared(Config{Size: 100, Name: "shop", Log: slog.New(slog.NewTextHandler(&p.logged, nil)), Now: func() int64 { return p.now }})
	return p
}

// pgSession does with a cache what the session does; without one it is the plain driver.
type pgSession struct {
	*wire
	t     testing.TB
	cache *Cache
}

func (p *party) session() *pgSession {
	s := plainSession(p.t, p.dsn)
	s.cache = p.shared.New(libpq.LibPQ, s.raw, s.wire, false)
	return s
}

func plainSession(t testing.TB, dsn string) *pgSession {
	t.Helper()
	connector, err := pq.NewConnector(dsn)
	require.NoError(t, err)
	conn, err := connector.Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &pgSession{wire: &wire{raw: conn}, t: t}
}

func (s *pgSession) named(args []any) []driver.NamedValue {
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		v, err := driver.DefaultParameterConverter.ConvertValue(a)
		require.NoError(s.t, err)
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}

// exec and query run a statement and give its error.
func (s *pgSession) exec(query string, args ...any) error {
	named, handled := s.named(args), false
	var err error
	if s.cache != nil {
		_, handled, err = s.cache.Exec(s.t.Context(), query, named)
	}
	if !handled {
		_, err = s.wire.Exec(s.t.Context(), query, named)
	}
	return err
}

func (s *pgSession) query(query string, args ...any) (string, error) {
	named, handled := s.named(args), false
	var rows driver.Rows
	var k *Statement
	var err error
	if s.cache != nil {
		rows, k, handled, err = s.cache.Query(s.t.Context(), query, named)
	}
	if !handled {
		rows, err = s.wire.Query(s.t.Context(), query, named)
	}
	if err != nil {
		return "", err
	}
	if s.cache != nil {
		s.cache.Opened(k)
		defer s.cache.Closed(k)
	}
	return readAll(rows)
}

// readAll reads and closes rows.
func readAll(rows driver.Rows) (string, error) {
	values := make([]driver.Value, len(rows.Columns()))
	lines := []string{strings.Join(rows.Columns(), " ")}
	for {
		err := rows.Next(values)
		if err == io.EOF {
			return strings.Join(lines[1:], "|"), rows.Close()
		}
		if err != nil {
			_ = rows.Close()
			return "", err
		}
		var fields []string
		for _, v := range values {
			if b, ok := v.([]byte); ok {
				v = string(b)
			}
			fields = append(fields, fmt.Sprint(v))
		}
		lines = append(lines, strings.Join(fields, ","))
	}
}

func (s *pgSession) do(query string, args ...any) {
	s.t.Helper()
	require.NoError(s.t, s.exec(query, args...), query)
}

func (s *pgSession) get(query string, args ...any) string {
	s.t.Helper()
	got, err := s.query(query, args...)
	require.NoError(s.t, err, query)
	return got
}

// commit ends a transaction as the handle does.
func (s *pgSession) end(query string) {
	s.t.Helper()
	_, err := s.wire.Exec(s.t.Context(), query, nil)
	require.NoError(s.t, err)
	if s.cache != nil {
		s.cache.Ended()
	}
}

func (s *pgSession) begin() {
	_, err := s.wire.Exec(s.t.Context(), "BEGIN", nil)
	require.NoError(s.t, err)
}

// keptOn counts what the server has.
func (s *pgSession) keptOn() string {
	got, err := s.wire.Query(s.t.Context(), "SELECT count(*) FROM pg_prepared_statements", nil)
	require.NoError(s.t, err)
	n, err := readAll(got)
	require.NoError(s.t, err)
	return n
}

func code(err error) string { return libpq.Code(err) }

func TestPostgresKept(t *testing.T) {
	s := newParty(t, pgtest.DSN(t)).session()
	for i := range 10 {
		require.Equal(t, fmt.Sprint(i+1), s.get("SELECT $1::int + 1", i))
	}
	require.Equal(t, 1, s.prepared)
	require.Equal(t, "1", s.keptOn())
}

// Literals that are read as a time when the text is parsed.
func TestPostgresTimes(t *testing.T) {
	s := newParty(t, pgtest.DSN(t)).session()
	for _, text := range []string{
		"SELECT 'now'::timestamptz::text || $1::text", "SELECT ('['||$1||',)')::text, '[n\"o\"w,)'::tstzrange::text", `SELECT E'n\x6fw'::timestamptz::text || $1`,
		`SELECT U&'n\006fw'::timestamptz::text || $1`, "SELECT 'n'\n'ow'::timestamptz::text || $1", "SELECT $$now$$::timestamptz::text || $1",
		"SELECT timestamptz 'NOW'::text || $1", "SELECT ('{now}'::timestamptz[])::text || $1", "SELECT ('(n\"ow\",1)'::moment).at::text || $1",
	} {
		if strings.Contains(text, "moment") {
			s.do("CREATE TYPE moment AS (at timestamptz, n int)")
		}
		seen := map[string]bool{}
		for range 5 {
			seen[s.get(text, "x")] = true
		}
		require.Len(t, seen, 5, text)
	}
	for _, text := range []string{"SELECT now()::text || $1", "SELECT clock_timestamp()::text || $1"} {
		seen := map[string]bool{}
		for range 5 {
			seen[s.get(text, "x")] = true
		}
		require.Len(t, seen, 5, text)
		require.Contains(t, s.cache.byText, text)
	}
}

// The type of a parameter, changed by another session of the pool: no statement means the old one any more.
func TestPostgresTypeChangedInPool(t *testing.T) {
	server := pgtest.Start(t, "max_prepared_transactions=5")
	for name, migrate := range map[string]func(*pgSession){
		"alone":            func(m *pgSession) { m.do(toTimestamptz) },
		"in a transaction": func(m *pgSession) { m.begin(); m.do(toTimestamptz); m.end("COMMIT") },
		"by hand":          func(m *pgSession) { m.do("BEGIN"); m.do(toTimestamptz); m.do("COMMIT") },
		"as a query":       func(m *pgSession) { m.get(toTimestamptz + "; SELECT 1") },
		"in a block":       func(m *pgSession) { m.do("DO $$BEGIN " + toTimestamptz + "; END$$") },
		"in two phases": func(m *pgSession) {
			m.do("BEGIN")
			m.do(toTimestamptz)
			m.do("PREPARE TRANSACTION 'x'")
			m.do("COMMIT PREPARED 'x'")
		},
		"among other things": func(m *pgSession) { m.do("/* ; */ SELECT ';'; " + toTimestamptz) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t, strings.Replace(server.Database(t), "?", "?timezone=UTC&", 1))
			s, migrator := p.session(), p.session()
			s.do("CREATE TABLE t (v timestamp)")
			at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.FixedZone("", 5*3600))
			const insert = "INSERT INTO t VALUES ($1)"
			for range 3 {
				s.do(insert, at)
			}
			// Somebody prepares against the old catalogue while the change is not yet visible.
			s.do("DELETE FROM t WHERE $1", true)
			migrate(migrator)
			s.do(insert, at)
			require.Equal(t, "2026-01-01 07:00:00", s.get("SELECT (v AT TIME ZONE 'UTC')::text FROM t"))
		})
	}
}

const toTimestamptz = "ALTER TABLE t ALTER v TYPE timestamptz USING v AT TIME ZONE 'UTC'"

// Changed by a client that the pool does not know, it may be misread for five seconds, and not longer.
func TestPostgresTypeChangedByOthers(t *testing.T) {
	dsn := strings.Replace(pgtest.DSN(t), "?", "?timezone=UTC&", 1)
	p := newParty(t, dsn)
	s, foreign := p.session(), plainSession(t, dsn)
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.FixedZone("", 5*3600))
	const insert = "INSERT INTO t VALUES ($1)"
	s.do("CREATE TABLE t (v timestamp)")
	for range 5 {
		s.do(insert, at)
	}
	foreign.do(toTimestamptz)
	foreign.do("DELETE FROM t")
	p.now += int64(validity)
	s.do(insert, at)
	require.Equal(t, "2026-01-01 07:00:00", s.get("SELECT (v AT TIME ZONE 'UTC')::text FROM t"))
}

// An error tells of it at once, outside a transaction.
func TestPostgresTypeError(t *testing.T) {
	dsn := pgtest.DSN(t)
	p := newParty(t, dsn)
	s, other, foreign := p.session(), p.session(), plainSession(t, dsn)
	const insert, large = "INSERT INTO t VALUES ($1)", int64(1) << 40
	s.do("CREATE TABLE t (v int)")
	for range 3 {
		s.do(insert, 1)
		other.do(insert, 1)
	}
	require.Equal(t, "22003", code(s.exec(insert, large)))
	p.now += int64(recheck)
	foreign.do("ALTER TABLE t ALTER v TYPE bigint")
	s.do(insert, large)
	_, _, retries := p.shared.Counts()
	require.EqualValues(t, 1, retries)
	other.do(insert, large) // knows already
	_, _, retries = p.shared.Counts()
	require.EqualValues(t, 1, retries)

	// In a transaction the error is the answer, and the next one is right.
	foreign.do("ALTER TABLE t ALTER v TYPE int USING 1")
	p.now += int64(validity)
	for range 3 {
		s.do(insert, 1)
	}
	foreign.do("ALTER TABLE t ALTER v TYPE bigint")
	s.begin()
	require.Equal(t, "22003", code(s.exec(insert, large)))
	require.Equal(t, "25P02", code(s.exec(insert, large)))
	s.end("ROLLBACK")
	s.do(insert, large)
}

// Columns that a migration adds under "SELECT *".
func TestPostgresResultChanged(t *testing.T) {
	dsn := pgtest.DSN(t)
	p := newParty(t, dsn)
	s, foreign := p.session(), plainSession(t, dsn)
	foreign.do("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
	const all = "SELECT * FROM t WHERE id = $1"
	for i := range 5 {
		require.Len(t, strings.Split(s.get(all, 1), ","), i+1)
		require.Len(t, strings.Split(s.get(all, 1), ","), i+1)
		foreign.do(fmt.Sprintf("ALTER TABLE t ADD c%d int", i))
		p.now += int64(recheck)
	}
	foreign.do("DROP TABLE t")
	p.now += int64(recheck)
	_, err := s.query(all, 1)
	require.Equal(t, "42P01", code(err))
	foreign.do("CREATE TABLE t (name text, id bigint); INSERT INTO t VALUES ('x', 1)")
	require.Equal(t, "x,1", s.get(all, 1))
}

// A predicate in an argument finds its index only in a custom plan.
func TestPostgresUpsert(t *testing.T) {
	for _, target := range []string{"(owner) WHERE scope = $4", "((owner || $4))"} {
		p := newParty(t, pgtest.DSN(t))
		s := p.session()
		s.do("CREATE TABLE prof (owner text, scope text, v int); CREATE UNIQUE INDEX ON prof (owner) WHERE scope = 'p'; CREATE UNIQUE INDEX ON prof ((owner || 'p'))")
		for i := range 20 {
			if i%7 == 6 {
				s.begin()
			}
			s.do("INSERT INTO prof VALUES ($1, $2, $3) ON CONFLICT "+target+" DO UPDATE SET v = excluded.v", "1", "p", i, "p")
			if i%7 == 6 {
				s.end("COMMIT")
			}
		}
	}
}

// A generic plan that fails where a custom one does not, in a text that says nothing of it.
func TestPostgresMisplanned(t *testing.T) {
	p := newParty(t, pgtest.DSN(t))
	s := p.session()
	const upsert = "INSERT INTO prof VALUES ($1, $2) ON CONFLICT (owner) WHERE scope = $2 DO NOTHING"
	s.do("CREATE TABLE prof (owner int, scope text); CREATE UNIQUE INDEX ON prof (owner) WHERE scope = 'p'")
	s.cache.follow()
	err := s.cache.keep(t.Context(), &Statement{cache: s.cache, text: upsert})
	require.NoError(t, err)
	for range 30 {
		s.do(upsert, 1, "p")
	}
	_, _, retries := p.shared.Counts()
	require.Greater(t, retries, uint64(0))
	require.LessOrEqual(t, retries, uint64(30/5)) // the server plans five times for the arguments before it tries a generic plan
}

// A table that comes first in the search_path from its transaction's end on: what is prepared before is stale then.
func TestPostgresPreparedDuringMigration(t *testing.T) {
	for _, end := range []string{"COMMIT by the handle", "COMMIT"} {
		dsn := strings.Replace(pgtest.DSN(t), "?", "?search_path=a,b&", 1)
		p := newParty(t, dsn)
		s, migrator := p.session(), p.session()
		migrator.do("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE b.t AS SELECT 'old' AS v")
		const get = "SELECT v FROM t WHERE $1"
		require.Equal(t, "old", s.get(get, true))
		migrator.do("BEGIN")
		migrator.do("CREATE TABLE a.t AS SELECT 'new' AS v")
		for range 4 {
			require.Equal(t, "old", s.get(get, true))
		}
		require.True(t, s.cache.byText[get].fresh())
		if end == "COMMIT" {
			migrator.do("COMMIT")
		} else {
			migrator.end("COMMIT")
		}
		require.Equal(t, "new", s.get(get, true), end)
	}
}

// What fails while it runs runs once, whatever its error. The server counts.
func TestPostgresFailingRunsOnce(t *testing.T) {
	p := newParty(t, pgtest.DSN(t))
	s := p.session()
	s.do("CREATE SEQUENCE runs; CREATE TABLE u (id int UNIQUE)")
	s.do(`CREATE FUNCTION fail(state text, v int) RETURNS int LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('runs'), pg_advisory_lock(7); RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'failed'; END $$`)
	s.do("CREATE FUNCTION bump(v int) RETURNS int LANGUAGE sql AS $$ SELECT nextval('runs')::int $$")
	runs := 0
	once := func(want, text string, args ...any) {
		t.Helper()
		require.Equal(t, want, code(s.exec(text, args...)), text)
		runs++
		require.Equal(t, fmt.Sprint(runs), s.get("SELECT last_value FROM runs"), "%s: %s", want, text)
		require.Equal(t, "1", s.get("SELECT count(*) FROM pg_prepared_statements WHERE statement = $1", text))
	}
	const fails, divides, twice = "SELECT fail($1, $2)", "SELECT bump($1) / ($2::int * 0)", "INSERT INTO u SELECT $1::int FROM (SELECT bump($2)) b"
	for _, state := range []string{"22003", "22P02", "0A000", "26000", "42P10", "42P05", "53200", "XX000", "08P01", "42883", "42P01", "25P02"} {
		for range 3 {
			once(state, fails, state, 1)
		}
		p.now += int64(recheck)
	}
	for range 5 {
		once("22012", divides, 1, 2)
	}
	s.do(twice, 1, 1)
	runs++
	for range 5 {
		once("23505", twice, 1, 1)
	}
	_, _, retries := p.shared.Counts()
	require.Zero(t, retries)
	require.Equal(t, fmt.Sprint(12*3), s.get("SELECT count(*) FROM generate_series(1, 100) WHERE pg_advisory_unlock(7)"))
}

// One malformed argument after another costs at most one preparation a second.
func TestPostgresMalformedArguments(t *testing.T) {
	p := newParty(t, pgtest.DSN(t))
	s := p.session()
	require.NoError(t, s.exec("SELECT $1::uuid", "00000000-0000-0000-0000-000000000000"))
	before := s.prepared
	for range 1000 {
		require.Equal(t, "22P02", code(s.exec("SELECT $1::uuid", "x")))
		p.now += int64(3*time.Second) / 1000
	}
	require.LessOrEqual(t, s.prepared-before, 3+1)
	require.Equal(t, "1", s.keptOn())
}

func TestPostgresSearchPath(t *testing.T) {
	p := newParty(t, pgtest.DSN(t))
	s := p.session()
	s.do("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (v int); CREATE TABLE b.t (v text); INSERT INTO a.t VALUES (1); INSERT INTO b.t VALUES ('b')")
	use := func(want string) {
		t.Helper()
		for range 5 {
			require.Equal(t, want, s.get("SELECT v FROM t WHERE $1", true))
		}
	}
	for range 3 {
		s.do("SET search_path = a")
		use("1")
		s.do("SELECT set_config('search_path', $1, false)", "b")
		use("b")
		s.begin()
		s.do("SET LOCAL search_path = a")
		use("1")
		s.end("ROLLBACK")
		use("b")
		s.do("BEGIN; SET search_path = a")
		use("1")
		s.do("SAVEPOINT x; SET search_path = b")
		use("b")
		s.do("ROLLBACK TO x")
		use("1")
		s.do("ROLLBACK")
		use("b")
		s.do("CREATE TEMP TABLE t AS SELECT 'temporary' AS v")
		use("temporary")
		s.do("DISCARD ALL")
		s.do("SET search_path = b")
		use("b")
	}
	s.do("DEALLOCATE ALL")
	use("b")
}

func TestPostgresMemory(t *testing.T) {
	p := newParty(t, pgtest.DSN(t))
	const n = 2000
	p.shared.Size = n
	s := p.session()
	s.do("CREATE TABLE customers (id int, name text, region text, created_at timestamptz)")
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("SELECT id, name, region, created_at FROM customers WHERE region = $1 AND id > %d ORDER BY created_at LIMIT 20", i)
	}
	before := heap()
	for _, text := range texts {
		s.do(text, "x")
	}
	each := (heap() - before) / n
	require.Equal(t, fmt.Sprint(n), s.keptOn())
	t.Logf("%d bytes each", each)
	require.Less(t, each, 1024)
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
