package drivertest

import (
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
)

// mysqlKept opens a handle through lifeguard, and the server's count of what this connection has prepared.
func mysqlKept(t testing.TB, params ...string) (*sql.DB, *lifeguard.Pool) {
	t.Helper()
	dsn := withParam(mariatest.DSN(t), "connection_limit=1")
	for _, p := range params {
		dsn = withParam(dsn, p)
	}
	db, err := lifeguard.Open("mysql", dsn, quiet)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	return db, pool
}

// status is one of the session's counters.
func status(t testing.TB, db *sql.DB, name string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("SHOW SESSION STATUS LIKE '"+name+"'").Scan(new(string), &n))
	return n
}

func TestMySQLStatementsKept(t *testing.T) {
	db, pool := mysqlKept(t)
	for i := range 10 {
		var n int
		require.NoError(t, db.QueryRow("SELECT ? + 1", i).Scan(&n))
		require.Equal(t, i+1, n)
	}
	assert.Equal(t, 1, status(t, db, "Com_stmt_prepare"))
	assert.Equal(t, 10, status(t, db, "Com_stmt_execute"))
	assert.Equal(t, 0, status(t, db, "Com_stmt_close"))
	st := pool.Stats()
	assert.Equal(t, []uint64{9, 1}, []uint64{st.StatementHits, st.StatementMisses})
}

func TestMySQLStatementsBounded(t *testing.T) {
	const size = 10
	db, _ := mysqlKept(t, fmt.Sprint("statement_cache_size=", size))
	for i := range 1000 {
		var n int
		require.NoError(t, db.QueryRow(fmt.Sprintf("SELECT ? + %d", i), 1).Scan(&n))
		require.Equal(t, i+1, n)
		if i%50 == 0 {
			require.LessOrEqual(t, status(t, db, "Com_stmt_prepare")-status(t, db, "Com_stmt_close"), size)
		}
	}
}

func TestMySQLStatementsTurnedOff(t *testing.T) {
	for _, off := range []string{"statement_cache_size=0", "pgbouncer=true"} {
		db, pool := mysqlKept(t, off)
		for range 5 {
			require.NoError(t, db.QueryRow("SELECT ?", 1).Scan(new(int)))
		}
		assert.Equal(t, 5, status(t, db, "Com_stmt_prepare"), off)
		assert.Equal(t, 5, status(t, db, "Com_stmt_close"), off)
		assert.Zero(t, pool.Stats().StatementHits)
	}
}

// TestMySQLStatementsLikePlain changes the world under kept statements.
func TestMySQLStatementsLikePlain(t *testing.T) {
	e := *mysqlEngine
	e.scripts = []scenario{{"kept", 1, "multiStatements=true", mysqlKeptStatements}}
	fresh := e.database(t)
	lines := map[string][]string{}
	for _, w := range []way{plain, wrapped[0]} {
		dsn := withParam(fresh(t), "multiStatements=true")
		db, err := w.open(&e, dsn, 1)
		require.NoError(t, err)
		s := &script{DB: db, engine: &e, t: t, ctx: t.Context()}
		mysqlKeptStatements(s)
		lines[w.name] = s.lines
		require.NoError(t, db.Close())
	}
	require.NotEmpty(t, lines["plain"])
	require.Equal(t, lines["plain"], lines["Open"])
}

func mysqlKeptStatements(s *script) {
	var database string
	s.must(s.QueryRow("SELECT DATABASE()").Scan(&database))
	s.exec("CREATE TABLE items (id INT PRIMARY KEY, name VARCHAR(20)); INSERT INTO items VALUES (1, 'one'), (2, 'two')")
	s.exec("DROP DATABASE IF EXISTS elsewhere; CREATE DATABASE elsewhere; CREATE TABLE elsewhere.items (name VARCHAR(20), id INT); INSERT INTO elsewhere.items VALUES ('else', 1)")
	use := func() {
		for range 3 {
			s.query("SELECT * FROM items WHERE id >= ? ORDER BY id", 1)
			s.query("SELECT 'a' || ?, \"items\"", "b")
		}
	}
	use()
	for _, change := range []string{
		"ALTER TABLE items ADD COLUMN price INT DEFAULT 7", "ALTER TABLE items MODIFY price VARCHAR(9)", "ALTER TABLE items DROP COLUMN price",
		"CREATE TEMPORARY TABLE items (id BIGINT)", "DROP TEMPORARY TABLE items",
		"USE elsewhere", "USE " + database, "SELECT 1; USE elsewhere", "USE " + database,
		"SET sql_mode = 'ANSI'", "SET SESSION sql_mode = DEFAULT", "SET NAMES latin1", "SET NAMES utf8mb4", "SET @x = 1",
		"RENAME TABLE items TO gone, elsewhere.items TO items", "DROP TABLE items", "CREATE TABLE items (name INT, id DOUBLE)",
	} {
		_, err := s.Exec(change)
		s.failed(change, err)
		use()
		tx, err := s.Begin()
		s.must(err)
		rows, err := tx.Query("SELECT * FROM items WHERE id >= ? ORDER BY id", 1)
		s.rows("in a transaction", rows, err)
		s.failed("commit", tx.Commit())
	}
	for _, v := range []any{1, "2", nil, 3.5, []byte("4"), true, time.Unix(0, 0).UTC(), struct{}{}} {
		s.query("SELECT ?", v)
		s.query("SELECT ? + 1", v)
	}
	s.query("SELECT 1; SELECT ?", 1)
	s.query("SELECT ? FROM nowhere", 1)
	s.query("SELECT ?, ?", 1)
	s.query("EXPLAIN SELECT ?", 1)
	s.query("CALL nothing(?)", 1)
	s.exec("DROP DATABASE elsewhere")
}

// BenchmarkMySQLStatements shows what the statement cache gains on MariaDB, batches alternating with plain
// go-sql-driver/mysql, with ten connections. The figures are medians: microseconds an operation, and the ratio of
// throughputs.
//
//	go test -run '^$' -bench MySQLStatements -benchtime 20x .
func BenchmarkMySQLStatements(b *testing.B) {
	dsn := mariatest.DSN(b)
	open := func(w way) *sql.DB {
		db, err := w.open(mysqlEngine, dsn, 10)
		require.NoError(b, err)
		b.Cleanup(func() { assert.NoError(b, db.Close()) })
		return db
	}
	dbs := [2]*sql.DB{open(plain), open(wrapped[0])}
	_, err := dbs[0].Exec("CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(40) NOT NULL)")
	require.NoError(b, err)
	_, err = dbs[0].Exec("INSERT INTO customers SELECT seq, CONCAT('customer ', seq) FROM seq_1_to_10000")
	require.NoError(b, err)
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("Clients=%d", clients), func(b *testing.B) {
			batch := max(400/clients, 40)
			measure := func(db *sql.DB) float64 {
				start := time.Now()
				var wg sync.WaitGroup
				for g := range clients {
					wg.Go(func() {
						for i := range batch {
							var name string
							if err := db.QueryRow("SELECT name FROM customers WHERE id = ?", 1+100*g+i).Scan(&name); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				return float64(time.Since(start).Microseconds()) / float64(clients*batch)
			}
			for _, db := range dbs {
				measure(db)
			}
			var times [2][]float64
			var ratios []float64
			for b.Loop() {
				for i, db := range dbs {
					times[i] = append(times[i], measure(db))
				}
				ratios = append(ratios, times[0][len(ratios)]/times[1][len(ratios)])
			}
			middle := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
			b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
			b.ReportMetric(middle(times[0]), "plain-µs")
			b.ReportMetric(middle(times[1]), "lifeguard-µs")
			b.ReportMetric(middle(ratios), "x-throughput")
		})
	}
}
