package drivertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
)

var mysqlEngine = &engine{
	driverName: "mysql",
	driver:     func() driver.Driver { return &mysql.MySQLDriver{} },
	connector: func(dsn string) (driver.Connector, error) {
		config, err := mysql.ParseDSN(dsn)
		if err != nil {
			return nil, err
		}
		return mysql.NewConnector(config)
	},
	database: func(t *testing.T) func(*testing.T) string {
		dsn := mariatest.DSN(t)
		config, err := mysql.ParseDSN(dsn)
		require.NoError(t, err)
		admin, err := sql.Open("mysql", withParam(dsn, "multiStatements=true"))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, admin.Close()) })
		return func(t *testing.T) string {
			_, err := admin.Exec(fmt.Sprintf("DROP DATABASE %s; CREATE DATABASE %[1]s", config.DBName))
			require.NoError(t, err)
			return dsn
		}
	},
	mark:     func(int) string { return "?" },
	identity: "SELECT CONNECTION_ID()",
	endless:  "SELECT SLEEP(60)",
	stays:    true,
	describe: func(err error) string {
		var mysqlErr *mysql.MySQLError
		if !errors.As(err, &mysqlErr) {
			return ""
		}
		return fmt.Sprintf("%d %s %q", mysqlErr.Number, mysqlErr.SQLState, mysqlErr.Message)
	},
	arguments: []argument{
		{"CAST(%s AS SIGNED)", 42}, {"%s", int64(math.MinInt64)}, {"%s", uint64(math.MaxUint64)}, {"%s", int8(-8)},
		{"%s", true}, {"%s", 1.5}, {"%s", float32(0.1)}, {"%s", math.NaN()}, {"%s", "text"}, {"%s", "quote ' \\ \x00 ö"},
		{"%s", []byte{0, 255}}, {"%s", []byte{}}, {"%s", []byte(nil)}, {"%s", nil}, {"%s", json.RawMessage(`{"a": 1}`)},
		{"CAST(%s AS DATETIME(6))", time.Date(2024, 2, 29, 12, 30, 1, 123456789, time.FixedZone("CET", 3600))},
		{"CAST(%s AS DATE)", time.Date(2024, 2, 29, 23, 59, 0, 0, time.UTC)}, {"%s", time.Time{}}, {"%s", time.Minute},
		{"CAST(%s AS DECIMAL(10,3))", "123.4500"}, {"JSON_EXTRACT(%s, '$.a')", `{"a": [1, 2]}`}, {"CONCAT(%s, '!')", 42},
		{"%s", sql.NullString{}}, {"%s", sql.NullString{String: "there", Valid: true}}, {"%s", sql.Null[uint64]{V: 7, Valid: true}},
		{"%s", sql.Named("name", "x")}, {"%s", make(chan int)}, {"%s", struct{}{}}, {"%s", []int{1}},
		{"%s", strings.Repeat("long ", 20000)},
	},
	failing: []string{"", "SELECT * FROM parents WHERE", "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'own words', MYSQL_ERRNO = 3333"},
	scripts: []scenario{
		{"interpolated arguments", 1, "interpolateParams=true", (*script).bindArguments},
		{"column types", 1, "", mysqlColumnTypes},
		{"result sets", 1, "multiStatements=true", mysqlResultSets},
		{"last insert id", 1, "", mysqlLastInsertID},
		{"load data", 1, "", mysqlLoadData},
		{"session", 1, "", mysqlSession},
		{"all results", 1, "multiStatements=true", mysqlAllResults},
		{"transactions, found rows", 1, "clientFoundRows=true", (*script).transactions},
	},
}

func TestMySQL(t *testing.T) { mysqlEngine.compare(t) }

func mysqlColumnTypes(s *script) {
	s.exec(`CREATE TABLE types (i1 TINYINT, u1 TINYINT UNSIGNED, i4 INT NOT NULL, i8 BIGINT, u8 BIGINT UNSIGNED, f FLOAT, d DOUBLE,
		n DECIMAL(10, 3), b BIT(3), t TEXT, v VARCHAR(20), c CHAR(5), bi BINARY(4), vb VARBINARY(20), bl BLOB, j JSON, da DATE,
		ti TIME(3), dt DATETIME(6), ts TIMESTAMP NULL, y YEAR, e ENUM('a', 'b'), se SET('x', 'y'))`)
	s.exec(`INSERT INTO types VALUES (-1, 255, 2, 3, 18446744073709551615, 1.5, 2.5, 1234.567, b'101', 't', 'v', 'c', 'bi', 'vb', 'bl',
		'{"a": 1}', '2024-02-29', '12:34:56.789', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56', 2024, 'b', 'x,y')`)
	s.exec("INSERT INTO types (i4) VALUES (3)")
	rows, err := s.QueryContext(s.ctx, "SELECT * FROM types ORDER BY i4")
	s.columnTypes("text", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT * FROM types WHERE i4 >= ? ORDER BY i4", 2)
	s.columnTypes("binary", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT * FROM types WHERE i4 = 99")
	s.columnTypes("no rows", rows, err)
}

func mysqlResultSets(s *script) {
	s.query("SELECT 1 AS a; SELECT 'x', 'y' UNION ALL SELECT 'z', NULL; DO 1; SELECT 3 WHERE FALSE")
	s.query("SELECT 1; SELECT * FROM missing; SELECT 2")
	s.exec("CREATE TABLE numbers (id INT); INSERT INTO numbers VALUES (1), (2); INSERT INTO numbers VALUES (3)")
	s.exec("CREATE PROCEDURE twice(IN least INT) BEGIN SELECT id FROM numbers WHERE id >= least; SELECT COUNT(*) FROM numbers; END")
	s.query("CALL twice(2)")
	s.query("CALL twice(?)", 3)
	rows, err := s.QueryContext(s.ctx, "SELECT id FROM numbers; SELECT 2")
	s.must(err)
	s.note("%t", rows.Next())
	s.failed("closed before the end", rows.Close())
	s.query("SELECT 'alive'")
}

func mysqlLastInsertID(s *script) {
	s.exec("CREATE TABLE texts (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(20))")
	for _, c := range []struct {
		statement string
		args      []any
	}{
		{"INSERT INTO texts (t) VALUES ('a')", nil},
		{"INSERT INTO texts (t) VALUES (?), (?)", []any{"b", "c"}},
		{"UPDATE texts SET t = 'x' WHERE id > 1", nil},
		{"UPDATE texts SET t = 'x' WHERE id > ?", []any{1}},
		{"INSERT INTO texts (id, t) VALUES (1, 'd') ON DUPLICATE KEY UPDATE t = 'e'", nil},
		{"DELETE FROM texts WHERE id = ?", []any{1}},
		{"SELECT 1", nil},
		{"TRUNCATE texts", nil},
	} {
		res, err := s.ExecContext(s.ctx, c.statement, c.args...)
		s.failed(c.statement, err)
		n, err := res.RowsAffected()
		id, idErr := res.LastInsertId()
		s.note("%d %v, %d %v", n, err, id, idErr)
	}
	conn, err := s.Conn(s.ctx)
	s.must(err)
	defer conn.Close()
	_, err = conn.ExecContext(s.ctx, "INSERT INTO texts (t) VALUES ('last')")
	s.must(err)
	rows, err := conn.QueryContext(s.ctx, "SELECT LAST_INSERT_ID(), ROW_COUNT()")
	s.rows("on the same connection", rows, err)
}

func mysqlLoadData(s *script) {
	const name = "drivertest"
	mysql.RegisterReaderHandler(name, func() io.Reader { return strings.NewReader("1\tone\n2\t\\N\n3\tthree\n") })
	defer mysql.DeregisterReaderHandler(name)
	s.exec("CREATE TABLE loaded (id INT PRIMARY KEY, name VARCHAR(20))")
	res, err := s.ExecContext(s.ctx, "LOAD DATA LOCAL INFILE 'Reader::drivertest' INTO TABLE loaded")
	s.failed("load", err)
	if err == nil {
		n, err := res.RowsAffected()
		s.note("%d, %v", n, err)
	}
	s.query("SELECT * FROM loaded ORDER BY id")
	_, err = s.ExecContext(s.ctx, "LOAD DATA LOCAL INFILE 'Reader::unknown' INTO TABLE loaded")
	s.failed("no such reader", err)
	s.query("SELECT COUNT(*) FROM loaded")
}

func mysqlSession(s *script) {
	before := s.connection(s)
	conn, err := s.Conn(s.ctx)
	s.must(err)
	_, err = conn.ExecContext(s.ctx, "SET @mine = 7")
	s.must(err)
	_, err = conn.ExecContext(s.ctx, "CREATE TEMPORARY TABLE mine (id INT)")
	s.must(err)
	rows, err := conn.QueryContext(s.ctx, "SELECT @mine, GET_LOCK('own', 0)")
	s.rows("held", rows, err)
	s.must(conn.Close())
	s.query("SELECT @mine, RELEASE_LOCK('own'), (SELECT COUNT(*) FROM mine)") // nobody resets a connection
	s.note("kept: %t", s.connection(s) == before)
	s.exec("SET SESSION max_statement_time = 0.02")
	_, err = s.ExecContext(s.ctx, "SELECT SLEEP(60)")
	s.failed("statement timeout", err)
	s.note("kept: %t", s.connection(s) == before)
}

// mysqlAllResults uses an interface of the driver's own results.
func mysqlAllResults(s *script) {
	s.exec("CREATE TABLE numbers (id INT AUTO_INCREMENT PRIMARY KEY, n INT)")
	conn, err := s.Conn(s.ctx)
	s.must(err)
	defer conn.Close()
	s.failed("raw", conn.Raw(func(dc any) error {
		res, err := lifeguard.Unwrap(dc).(driver.ExecerContext).ExecContext(s.ctx,
			"INSERT INTO numbers (n) VALUES (1), (2); UPDATE numbers SET n = 0; INSERT INTO numbers (n) VALUES (3)", nil)
		if err != nil {
			return err
		}
		s.note("%v %v", res.(mysql.Result).AllRowsAffected(), res.(mysql.Result).AllLastInsertIds())
		return nil
	}))
}

// TestMySQLLimit does not cancel: the driver closes a cancelled connection at once, but the server goes on with the
// query, as it does without lifeguard.
func TestMySQLLimit(t *testing.T) {
	dsn := mariatest.DSN(t)
	admin, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	defer admin.Close()
	admin.SetMaxOpenConns(1)
	mysqlEngine.checkLimit(t, dsn, false, func() (n int) {
		assert.NoError(t, admin.QueryRow(
			"SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()").Scan(&n))
		return n
	})
}

func TestMySQLTimeout(t *testing.T) { mysqlEngine.checkTimeout(t, mariatest.DSN(t)) }

func TestMySQLTooManyConnections(t *testing.T) {
	mysqlEngine.checkTooMany(t, mariatest.Start(t, "max-connections=10"), func(err error) bool {
		var mysqlErr *mysql.MySQLError
		return errors.As(err, &mysqlErr) && mysqlErr.Number == 1040
	})
}

// TestMySQLRefused has errors that no waiting mends.
func TestMySQLRefused(t *testing.T) {
	good, err := mysql.ParseDSN(mariatest.DSN(t))
	require.NoError(t, err)
	for number, change := range map[uint16]func(*mysql.Config){
		1045: func(c *mysql.Config) { c.Passwd = "wr0ng-pass" },
		1049: func(c *mysql.Config) { c.DBName = "missing" },
	} {
		config := good.Clone()
		change(config)
		db, err := lifeguard.Open("mysql", withParam(config.FormatDSN(), "pool_timeout=0"), quiet)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err = db.PingContext(ctx)
		cancel()
		var mysqlErr *mysql.MySQLError
		if assert.ErrorAs(t, err, &mysqlErr) {
			assert.Equal(t, number, mysqlErr.Number)
			assert.NotContains(t, err.Error(), "wr0ng-pass")
		}
		assert.NoError(t, db.Close())
	}
}

// TestMySQLKilled kills idle connections.
func TestMySQLKilled(t *testing.T) {
	dsn := mariatest.DSN(t)
	admin, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	defer admin.Close()
	for _, w := range append([]way{plain}, wrapped...) {
		db, err := w.open(mysqlEngine, dsn, 4)
		require.NoError(t, err)
		var conns [4]*sql.Conn
		var ids [4]int64
		for i := range conns {
			conns[i], err = db.Conn(t.Context())
			require.NoError(t, err)
			require.NoError(t, conns[i].QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&ids[i]))
		}
		for i, c := range conns {
			require.NoError(t, c.Close())
			_, err := admin.Exec(fmt.Sprint("KILL ", ids[i]))
			require.NoError(t, err)
		}
		for _, id := range ids {
			eventually(t, "the connection is gone", func() (gone bool) {
				require.NoError(t, admin.QueryRow(
					"SELECT COUNT(*) = 0 FROM information_schema.processlist WHERE id = ?", id).Scan(&gone))
				return gone
			})
		}
		_, err = db.Exec("DO 1")
		assert.NoError(t, err, w.name)
		assert.NoError(t, db.Close())
	}
}

// TestMySQLRejectReadOnly has ten idle connections to a server that no longer takes writes, and to which a ping is no
// trouble. The driver answers driver.ErrBadConn before anything was done, and database/sql's last attempt needs a new
// connection.
func TestMySQLRejectReadOnly(t *testing.T) {
	for _, w := range append([]way{plain}, wrapped...) {
		for _, writers := range []int{1, 8} {
			t.Run(fmt.Sprintf("%s/Writers=%d", w.name, writers), func(t *testing.T) {
				db, err := w.open(mysqlEngine, withParam(mariatest.DSN(t), "rejectReadOnly=true"), 10)
				require.NoError(t, err)
				defer func() { assert.NoError(t, db.Close()) }()
				_, err = db.Exec("CREATE TABLE ledger (id INT)")
				require.NoError(t, err)
				var conns [10]*sql.Conn
				for i := range conns {
					conns[i], err = db.Conn(t.Context())
					require.NoError(t, err)
					_, err = conns[i].ExecContext(t.Context(), "SET SESSION TRANSACTION READ ONLY")
					require.NoError(t, err)
				}
				for _, c := range conns {
					require.NoError(t, c.Close())
				}
				errs := make(chan error)
				for g := range writers {
					go func() {
						for i := range 8 / writers {
							_, err := db.Exec("INSERT INTO ledger VALUES (?)", g*8+i)
							errs <- err
						}
					}()
				}
				for range 8 {
					assert.NoError(t, <-errs)
				}
				var n int
				require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM ledger").Scan(&n))
				assert.Equal(t, 8, n)
			})
		}
	}
}
