package drivertest

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
)

var mysqlTexts = flag.Int("mysqltexts", 60, "texts that TestMySQLTexts makes up")

// mysqlWriter makes texts up in which quotes, comments, variables and settings decide what is said.
type mysqlWriter struct{ *rand.Rand }

func (w mysqlWriter) of(list ...string) string { return list[w.IntN(len(list))] }

func (w mysqlWriter) gap() string {
	if w.IntN(6) > 0 {
		return " "
	}
	return w.of("\n", "\t", "/**/", "/* ' */", "-- ' ;\n", "--\n", "# \"\n", "/* /* */", "/*! */", "/*M! */", "/*!99999 x */", "--", "\r\n", "\v", "")
}

func (w mysqlWriter) literal() string {
	s := w.of("x", "", "it''s", "12:00", "2024-01-01", "now", "1", "-- ", "/*", "?", `\'`, `a\\b`, `\n`, "%", "é")
	return w.of("'"+s+"'", `"`+s+`"`, "N'"+s+"'", "_latin1'"+s+"'", "'a'"+w.gap()+"'"+s+"'", "x'41'", "b'1'", "1", "1.50", "-1", "--1", "NULL",
		"TRUE", "DATE'2024-01-01'", "0x41", "1e2")
}

func (w mysqlWriter) expression(depth int) string {
	if depth == 0 {
		return w.literal()
	}
	inner := func() string { return w.expression(depth - 1) }
	switch w.IntN(14) {
	case 0, 1:
		return "?"
	case 2:
		return w.of("@a", "@b", "@@sql_mode", "@@time_zone", "@@autocommit", "@`a`", "@'a'")
	case 3:
		return w.of("a", "`a`", `"a"`, "t.a")
	case 4:
		return w.of("CONCAT", "COALESCE", "IFNULL", "concat ") + "(" + inner() + "," + w.gap() + inner() + ")"
	case 5:
		return "CAST(" + inner() + " AS " + w.of("CHAR", "SIGNED", "DATETIME", "DECIMAL(10,2)", "BINARY") + ")"
	case 6:
		return "(" + inner() + w.gap() + w.of("+", "-", "||", "=", "<", "AND", "LIKE", "/", "DIV") + w.gap() + inner() + ")"
	case 7:
		return w.of("FROM_UNIXTIME(0)", "UNIX_TIMESTAMP('2024-01-01')", "DATABASE() IS NULL", "LAST_INSERT_ID()", "@a := "+w.literal(), "CHARSET("+inner()+")",
			"COLLATION('x')", "LENGTH("+inner()+")", "JSON_EXTRACT('{\"a\": 1}', '$.a')", "CONVERT_TZ('2024-01-01', '+00:00', @@time_zone)")
	}
	return w.literal()
}

func (w mysqlWriter) statement() string {
	g, e := w.gap, func() string { return w.expression(2) }
	switch w.IntN(16) {
	case 0:
		return "INSERT" + g() + "INTO" + g() + "t (a) VALUES (" + e() + ")" + w.of("", " ON DUPLICATE KEY UPDATE a = "+e(), " RETURNING a")
	case 1:
		return "UPDATE" + g() + "t SET a =" + g() + e() + w.of("", " WHERE a <> "+e(), " LIMIT 1")
	case 2:
		return w.of("DELETE FROM t WHERE a = ", "REPLACE INTO t (a) SELECT ", "REPLACE t SET a = ") + e()
	case 3:
		return "WITH" + g() + "x AS (SELECT " + e() + " AS a)" + g() + w.of("SELECT * FROM x", "SELECT a FROM x, t")
	case 4:
		return w.of("SELECT ", "DO ") + e() + w.of("", " INTO @b")
	case 5:
		return w.setting()
	case 6:
		return w.of("CREATE TEMPORARY TABLE", "CREATE/**/TEMPORARY TABLE", "CREATE TABLE", "create table if not exists") + " " + w.of("t", "made", "`made`") + " (a INT)"
	case 7:
		return w.of("ALTER TABLE t ADD COLUMN extra INT", "ALTER TABLE t MODIFY a VARBINARY(100)", "DROP TABLE IF EXISTS made", "TRUNCATE t", "SHOW VARIABLES LIKE 'sql_mode'", "CALL p()",
			"BEGIN", "COMMIT", "ROLLBACK", "START TRANSACTION", "SAVEPOINT x", "ROLLBACK TO x", "RELEASE SAVEPOINT x", "PREPARE own FROM 'SELECT 1'", "EXECUTE own",
			"DEALLOCATE PREPARE own", "EXECUTE IMMEDIATE 'SET @a = 7'", "BEGIN NOT ATOMIC SET time_zone = '+05:00'; END", "/*! SET time_zone = '+05:00' */")
	}
	s := w.of("SELECT", "select", "(SELECT", "SELECT SQL_NO_CACHE", "SELECT/*! DISTINCT */", "VALUES (1), (2);SELECT") + g() + e()
	for w.IntN(2) == 0 {
		s += "," + g() + e()
	}
	s += w.of("", g()+"FROM t", g()+"FROM t WHERE a ="+g()+e(), " FROM t ORDER BY 1", " LIMIT ?")
	if strings.HasPrefix(s, "(") {
		s += ")"
	}
	return s
}

// setting is a statement that gives the texts after it another meaning.
func (w mysqlWriter) setting() string {
	return w.of("SET", "set", "SET/**/", "SET SESSION", "/**/SET") + " " + w.of("sql_mode = 'ANSI_QUOTES'", "sql_mode = 'NO_BACKSLASH_ESCAPES'", "sql_mode = 'PIPES_AS_CONCAT'",
		"sql_mode = ''", "time_zone = '+03:00'", "time_zone = '-08:00'", "sql_mode = 'ANSI'", "autocommit = 0", "div_precision_increment = 8",
		"character_set_connection = latin1", "collation_connection = utf8mb4_bin", "character_set_results = latin1")
}

// mysqlSide is the plain driver or lifeguard, on one connection.
type mysqlSide struct {
	t testing.TB
	*sql.Conn
}

func newMySQLSide(t testing.TB, db *sql.DB, err error) *mysqlSide {
	require.NoError(t, err)
	conn, err := db.Conn(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, conn.Close())
		assert.NoError(t, db.Close())
	})
	return &mysqlSide{t, conn}
}

// run says what a text gives: columns, types and rows, or the number of the error.
func (s *mysqlSide) run(text string, args ...any) string {
	rows, err := s.QueryContext(context.Background(), text, args...)
	if err != nil {
		return mysqlOutcome(err)
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	require.NoError(s.t, err)
	var b strings.Builder
	for _, c := range columns {
		fmt.Fprintf(&b, "%s %s|", c.Name(), c.DatabaseTypeName())
	}
	values, to := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		require.NoError(s.t, rows.Scan(to...))
		fmt.Fprintf(&b, "\n%q", values)
	}
	if err := rows.Err(); err != nil {
		return b.String() + mysqlOutcome(err)
	}
	return b.String()
}

func mysqlOutcome(err error) string {
	var mysqlErr *mysql.MySQLError
	if errors.As(err, &mysqlErr) {
		return fmt.Sprint("error ", mysqlErr.Number)
	}
	return err.Error()
}

const mysqlWorld = `SELECT @@sql_mode, @@time_zone, @@autocommit, @@in_transaction, CAST(@a AS CHAR), CAST(@b AS CHAR), @@character_set_connection, @@collation_connection,
	@@character_set_results, @@div_precision_increment, (SELECT GROUP_CONCAT(table_name, column_name, column_type ORDER BY 1)
	FROM information_schema.columns WHERE table_schema = DATABASE())`

// clear makes the session and the tables what they are at the begin of each text.
func (s *mysqlSide) clear() {
	for _, statement := range []string{
		"ROLLBACK", "SET autocommit = 1", "SET NAMES utf8mb4", "SET sql_mode = DEFAULT, time_zone = '+00:00', div_precision_increment = 4, @a = NULL, @b = NULL",
		"DROP TABLE IF EXISTS t, made", "DROP TABLE IF EXISTS t, made", // temporary ones hide others
		"CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, a VARCHAR(100) UNIQUE)", "INSERT INTO t (a) VALUES ('x'), ('1')",
	} {
		_, err := s.ExecContext(context.Background(), statement)
		require.NoError(s.t, err, statement)
	}
}

// TestMySQLTexts makes texts up and runs each several times, with changes of the session in between: a statement that is
// kept must say what one says that is prepared for each run, and what the text does must not change what others say.
func TestMySQLTexts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := mysqlWriter{rand.New(rand.NewPCG(seed, 0))}

	plainDB, err := sql.Open("mysql", mariatest.DSN(t))
	plain := newMySQLSide(t, plainDB, err)
	guarded, err := lifeguard.Open("mysql", mariatest.DSN(t), quiet)
	kept := newMySQLSide(t, guarded, err)
	for _, s := range []*mysqlSide{plain, kept} {
		_, err := s.ExecContext(context.Background(), "CREATE PROCEDURE p() SET time_zone = '+05:00'")
		require.NoError(t, err)
	}
	n := *mysqlTexts
	if testing.Short() {
		n /= 20
	}
	ran := 0
	world, tidy := "", ""
	for i := range n {
		if world == "" || world != tidy {
			plain.clear()
			kept.clear()
			tidy = plain.run(mysqlWorld)
		}
		text := w.statement()
		if i == 0 {
			text = "SELECT a FROM t WHERE a = ?" // one that is kept for sure
		}
		args := make([]any, strings.Count(text, "?"))
		for i := range args {
			args[i] = []any{"x", int64(1), 1.5, nil}[w.IntN(4)]
		}
		var log []string
		both := func(text string, args ...any) string {
			log = append(log, fmt.Sprintf("%q %v", text, args))
			want, got := plain.run(text, args...), kept.run(text, args...)
			require.Equal(t, want, got, "seed %d, the last of\n%s", seed, strings.Join(log, "\n"))
			return got
		}
		for i := range 5 {
			if i == 3 {
				both(w.of(w.setting(), w.statement()))
			}
			if got := both(text, args...); i == 4 && !strings.HasPrefix(got, "error") {
				ran++
			}
			world = both(mysqlWorld)
		}
		if strings.ContainsAny(text[:1], "IUDRiudrW") {
			world = "" // rows may differ from those that clear leaves
		}
	}
	pool, _ := lifeguard.PoolOf(guarded)
	stats := pool.Stats()
	t.Logf("%d of %d texts ran, %d times on a kept statement", ran, n, stats.StatementHits)
	require.Positive(t, stats.StatementHits)
}
