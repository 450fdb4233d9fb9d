package stmtcache_test

import (
	"database/sql"
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
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
	for _, binary := range []string{"no", "yes"} {
		t.Run("binary_parameters="+binary, func(t *testing.T) { preparedOncePerConnection(t, "binary_parameters="+binary) })
	}
}

func preparedOncePerConnection(t *testing.T, param string) {
	p := pooltest.NewTap(t, pgtest.DSN(t))
	const limit, goroutines, each = 4, 32, 100
	db := pooltest.OpenPostgres(t, "lifeguard", p.DSN, limit, param)
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
	// Nothing of those that are not kept stays in memory: a text and its statement take some 500 bytes.
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

// A place comes free when a statement is stale.
func TestStatementsGoWhenStale(t *testing.T) {
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size=3")
	const a, b, c, d = "SELECT $1::int AS a", "SELECT $1::int AS b", "SELECT $1::int AS c", "SELECT $1::int AS d"
	run := func(texts ...string) {
		for _, text := range texts {
			require.NoError(t, db.QueryRow(text, 1).Scan(new(int)))
		}
	}
	run(a, a, a, b, c, d, d, d)
	assert.ElementsMatch(t, []string{a, b, c}, keptOn(t, db), "what is fresh stays")
	_, err := db.Exec("SET application_name = 'x'")
	require.NoError(t, err)
	run(a, d, d)
	assert.ElementsMatch(t, []string{a, c, d}, keptOn(t, db), "what is used often is prepared again, and what was prepared first of the rest goes")
}

// What is open is not closed for something else to fit.
func TestStatementsInUseStay(t *testing.T) {
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), 1, "statement_cache_size=2")
	ctx := t.Context()
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	const series = "SELECT generate_series(1, $1::int)"
	for range 3 { // it is kept, and used often
		_, err = conn.ExecContext(ctx, series, 1)
		require.NoError(t, err)
	}
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
	rows, err := conn.QueryContext(ctx, series, 5000)
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

// withoutNames is describePostgresError without the names of statements, which lib/pq numbers.
func withoutNames(err error) string {
	return regexp.MustCompile(`statement \\*"[0-9]+\\*"`).ReplaceAllString(pooltest.DescribeError(err), "statement N")
}

// database/sql prepares a statement of the handle again on each lease, and on a full pool each query has a new one. The server is
// asked once in each session, whoever closes the statement meanwhile: the lease at its end, or the handle while it lies idle.
func TestStatementOfHandleOnFullPool(t *testing.T) {
	const limit = 4
	db := pooltest.OpenPostgres(t, "lifeguard", pgtest.DSN(t), limit)
	st, err := db.Prepare("SELECT $1::int")
	require.NoError(t, err)
	prepared := func() (n int) {
		for range limit {
			c := pooltest.Take(t, db.DB)
			defer c.Close()
			var last string // lib/pq numbers statements
			require.NoError(t, c.QueryRowContext(t.Context(), "SELECT coalesce(max(name::int), 0) FROM pg_prepared_statements WHERE statement <> ''").Scan(&last))
			k, err := strconv.Atoi(last)
			require.NoError(t, err)
			n += k
		}
		return n
	}
	for _, callers := range []int{1, 8, 8, 32, 1, 8, 8} {
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for i := range 640 / callers {
					var n int
					if err := st.QueryRow(i).Scan(&n); err != nil || n != i {
						t.Errorf("asked for %d, got %d: %v", i, n, err)
					}
				}
			})
		}
		wg.Wait()
	}
	n := prepared()
	t.Logf("%d preparations in %d sessions", n, limit)
	assert.LessOrEqual(t, n, 10*limit, "of 4,480 queries")
	require.NoError(t, st.Close())
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
	expect("Prepare after an error asks the server", 0, 0)
	require.NoError(t, st.Close())
	st, err = db.Prepare("SELECT $1::int")
	require.NoError(t, err)
	expect("so does another, in the place of the kept one", 0, 1)
	for range 3 {
		_, err := st.Exec(2)
		require.NoError(t, err)
	}
	expect("of the handle's own", 0, 0)
	require.NoError(t, st.Close())
	for range 2 {
		query("SELECT $1::int", 1)
	}
	expect("which is kept: it was prepared after the verb that the cache does not know", 2, 0)
	query("SELECT $1::text", "b")
	expect("one more", 0, 1)
	query("SELECT $1::bool", true)
	query("SELECT $1::bool", true)
	expect("one too many", 0, 0)
	query("SELECT $1::text", "b")
	query("SELECT $1::int", 1)
	expect("the others stay", 2, 0)
	tx, err := db.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("SELECT $1::int", 1)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	expect("in a transaction", 1, 0)
	query("SET search_path = public")
	query("SELECT $1::int", 1)
	expect("used often, prepared again", 0, 1)
	query("SELECT $1::text", "b")
	expect("stale, left to the driver", 0, 0)
	query("SELECT $1::text", "b")
	expect("stale, prepared again", 0, 1)
	pool.Reset()
	expect("closed connections count", 0, 0)
	query("SELECT $1::int", 1)
	expect("new connection", 0, 1)
}

// What is turned off leaves no trace on the server.
func TestStatementsTurnedOff(t *testing.T) {
	for off, prepared := range map[string][]string{
		"statement_cache_size=0": {"1"}, // what the program prepares is prepared
		"pgbouncer=true":         nil,
	} {
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
			assert.Equal(t, prepared, named)
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
