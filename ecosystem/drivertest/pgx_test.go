package drivertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

type document struct {
	Title string   `json:"title"`
	Tags  []string `json:"tags"`
}

var pgxEngine = &engine{
	driverName: "pgx",
	driver:     func() driver.Driver { return stdlib.GetDefaultDriver() },
	connector: func(dsn string) (driver.Connector, error) {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, err
		}
		return stdlib.GetConnector(*config), nil
	},
	database: func(t *testing.T) func(*testing.T) string {
		dsn := withParam(pgtest.DSN(t), "search_path=script")
		admin, err := sql.Open("pgx", dsn)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, admin.Close()) })
		return func(t *testing.T) string {
			_, err := admin.Exec("DROP SCHEMA IF EXISTS script CASCADE; CREATE SCHEMA script")
			require.NoError(t, err)
			return dsn
		}
	},
	mark:     func(n int) string { return fmt.Sprint("$", n) },
	identity: "SELECT pg_backend_pid()",
	level:    "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')",
	endless:  "SELECT pg_sleep(60)",
	describe: func(err error) string {
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			return ""
		}
		return fmt.Sprintf("%s %s %q %q %q %q %q %q", pgErr.Severity, pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint,
			pgErr.TableName, pgErr.ColumnName, pgErr.ConstraintName)
	},
	arguments: []argument{
		{"%s::int", 42}, {"%s::bigint", int64(math.MinInt64)}, {"%s::numeric", uint64(math.MaxUint64)}, {"%s::text", 42},
		{"%s::int", "42"}, {"%s::bool", true}, {"%s::float8", math.NaN()}, {"%s::numeric", "123.4500"}, {"%s::text", "ö\x01"},
		{"%s::text", "nul\x00"}, {"%s::bytea", []byte{0, 255}}, {"%s::bytea", []byte(nil)}, {"%s::text", nil},
		{"%s::timestamptz", time.Date(2024, 2, 29, 12, 30, 1, 123456789, time.FixedZone("CET", 3600))},
		{"%s::date", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)}, {"%s::uuid", "00000000-0000-0000-0000-000000000001"},
		{"%s::uuid", [16]byte{15: 1}}, {"%s::int[]", []int32{1, 2, 3}}, {"%s::text[]", []string{"a", `"b"`, ""}},
		{"%s::text[]", [][]string{{"a", "b"}, {"c", "d"}}}, {"%s::jsonb", document{"t", []string{"x"}}},
		{"%s::jsonb", map[string]any{"a": 1, "b": nil}}, {"%s::json", []byte(`{"a": 1}`)}, {"%s::interval", time.Minute},
		{"%s::text", sql.NullString{}}, {"%s::int", sql.Null[int32]{V: 7, Valid: true}}, {"%s::inet", "::1"},
		{"%s::int4range", pgtype.Range[pgtype.Int4]{Lower: pgtype.Int4{Int32: 1, Valid: true}, LowerType: pgtype.Inclusive,
			UpperType: pgtype.Unbounded, Valid: true}},
		{"%s::numeric", pgtype.Numeric{NaN: true, Valid: true}}, {"%s::text", make(chan int)}, {"%s::int", struct{}{}},
		{"%s::text", sql.Named("name", "x")}, {"%s::text", strings.Repeat("long ", 20000)},
	},
	failing: []string{
		"", "SELECT 1/0", "SELECT 'x'::int", "SELECT 100 / (g - 3) FROM generate_series(1, 5) g",
		"DO $$ BEGIN RAISE EXCEPTION 'own words' USING ERRCODE = 'LG001', DETAIL = 'd', HINT = 'h'; END $$",
	},
	scripts: []scenario{
		{"column types", 1, "", pgxColumnTypes},
		{"own types", 1, "", pgxOwnTypes},
		{"own connection", 2, "", pgxOwnConnection},
		{"arguments, simple protocol", 1, "default_query_exec_mode=simple_protocol", (*script).bindArguments},
		{"arguments, exec", 1, "default_query_exec_mode=exec", (*script).bindArguments},
		{"statements, no cache", 1, "default_query_exec_mode=cache_describe", (*script).statements},
		{"kept after rollback by context", 1, "", pgxKept},
	},
}

func TestPgx(t *testing.T) { pgxEngine.compare(t) }

func pgxColumnTypes(s *script) {
	s.exec(`CREATE TABLE types (i2 smallint, i4 int NOT NULL, i8 bigint, d double precision, n numeric(10, 3), b boolean, t text,
		v varchar(20), c char(5), by bytea, bits bit(3), u uuid, j json, jb jsonb, da date, ti time, ts timestamp, tstz timestamptz,
		iv interval, ip inet, ia int[], ta text[][], o oid)`)
	s.exec(`INSERT INTO types VALUES (1, 2, 3, 2.5, 1234.567, true, 't', 'v', 'c', '\x00ff', '101',
		'00000000-0000-0000-0000-000000000001', '[1]', '{"a": 1}', '2024-02-29', '12:34:56', '2024-02-29 12:34:56.789',
		'2024-02-29 12:34:56.789+01', '1 day 2 hours', '::1', '{1,2}', '{{a,b},{c,d}}', 7)`)
	s.exec("INSERT INTO types (i4) VALUES (3)")
	rows, err := s.QueryContext(s.ctx, "SELECT * FROM types ORDER BY i4")
	s.columnTypes("rows", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT * FROM types WHERE i4 = $1", 2)
	s.columnTypes("argument", rows, err)
	rows, err = s.QueryContext(s.ctx, "SELECT * FROM types WHERE i4 = 99")
	s.columnTypes("no rows", rows, err)
}

func pgxOwnTypes(s *script) {
	s.exec("CREATE TABLE own (id int PRIMARY KEY, ints int[], names text[], doc jsonb)")
	s.exec("INSERT INTO own VALUES ($1, $2, $3, $4)", 1, []int64{1, 2, 3}, []string{"a", "b,c"}, document{"t", []string{"x", "y"}})
	s.exec("INSERT INTO own VALUES ($1, $2, $3, $4)", 2, []int64{}, nil, nil)
	types := pgtype.NewMap()
	rows, err := s.QueryContext(s.ctx, "SELECT ints, names, doc FROM own ORDER BY id")
	s.must(err)
	for rows.Next() {
		var ints []int64
		var names []string
		var doc sql.Null[[]byte]
		s.failed("scan", rows.Scan(types.SQLScanner(&ints), types.SQLScanner(&names), &doc))
		s.note("%v %q %s", ints, names, doc.V)
	}
	s.must(rows.Close())
	s.query("SELECT id FROM own WHERE id = ANY($1)", []int{2, 7})
}

// pgxOwnConnection does on pgx's own connection what database/sql has no words for.
func pgxOwnConnection(s *script) {
	s.exec("CREATE TABLE copied (id int, name text)")
	listener, err := s.Conn(s.ctx)
	s.must(err)
	defer listener.Close()
	s.failed("raw", listener.Raw(func(dc any) error {
		own := lifeguard.Unwrap(dc).(*stdlib.Conn).Conn()
		n, err := own.CopyFrom(s.ctx, pgx.Identifier{"copied"}, []string{"id", "name"},
			pgx.CopyFromRows([][]any{{1, "one"}, {2, nil}}))
		s.note("%d, %v", n, err)
		batch := &pgx.Batch{}
		batch.Queue("SELECT 1")
		batch.Queue("SELECT $1::text", "two")
		results := own.SendBatch(s.ctx, batch)
		var one int
		var two string
		s.must(results.QueryRow().Scan(&one))
		s.must(results.QueryRow().Scan(&two))
		s.note("%d %s", one, two)
		s.must(results.Close())
		_, err = own.Exec(s.ctx, "LISTEN news")
		return err
	}))
	s.exec("NOTIFY news, 'payload'")
	s.failed("raw", listener.Raw(func(dc any) error {
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
		defer cancel()
		n, err := lifeguard.Unwrap(dc).(*stdlib.Conn).Conn().WaitForNotification(ctx)
		if err == nil {
			s.note("%s %s", n.Channel, n.Payload)
		}
		return err
	}))
	s.query("SELECT * FROM copied ORDER BY id")
}

// pgxKept looks at what becomes of the connection: pgx cannot say whether one is valid, so database/sql gives up those
// that were rolled back by their context.
func pgxKept(s *script) {
	before := s.connection(s)
	tx, err := s.BeginTx(s.ctx, nil)
	s.must(err)
	s.must(tx.Rollback())
	s.note("after a rollback: %t", s.connection(s) == before)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	tx, err = s.BeginTx(ctx, nil)
	s.must(err)
	cancel()
	eventually(s.t, "the transaction ends", func() bool {
		_, err := tx.ExecContext(s.ctx, "SELECT 1")
		return errors.Is(err, sql.ErrTxDone)
	})
	s.note("after one by context: %t", s.connection(s) == before)
}

// TestPgxLimit does not cancel: pgx gives a connection up first and closes it later, in a goroutine of its own, as it
// does without lifeguard.
func TestPgxLimit(t *testing.T) {
	dsn := pgtest.DSN(t)
	admin, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer admin.Close()
	const name = "limited"
	pgxEngine.checkLimit(t, withParam(dsn, "application_name="+name), false, func() (n int) {
		assert.NoError(t, admin.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name).Scan(&n))
		return n
	})
}

func TestPgxTimeout(t *testing.T) { pgxEngine.checkTimeout(t, pgtest.DSN(t)) }

func TestPgxTooManyConnections(t *testing.T) {
	pgxEngine.checkTooMany(t, pgtest.Start(t, "max_connections=8").DSN(), func(err error) bool {
		var pgErr *pgconn.PgError
		return errors.As(err, &pgErr) && pgErr.Code == "53300"
	})
}

// TestPgxRefused has an error that no waiting mends.
func TestPgxRefused(t *testing.T) {
	dsn := strings.Replace(pgtest.DSN(t), "/testdb_", "/missing_", 1)
	db, err := lifeguard.Open("pgx", withParam(dsn, "pool_timeout=0"), quiet)
	require.NoError(t, err)
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var pgErr *pgconn.PgError
	require.ErrorAs(t, db.PingContext(ctx), &pgErr)
	assert.Equal(t, "3D000", pgErr.Code)
	var connectErr *pgconn.ConnectError
	assert.ErrorAs(t, db.PingContext(ctx), &connectErr)
}

// TestPgxTerminated kills idle connections.
func TestPgxTerminated(t *testing.T) {
	dsn := pgtest.DSN(t)
	admin, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer admin.Close()
	for _, w := range append([]way{plain}, wrapped...) {
		db, err := w.open(pgxEngine, withParam(dsn, "application_name=idle"), 4)
		require.NoError(t, err)
		var conns [4]*sql.Conn
		for i := range conns {
			conns[i], err = db.Conn(t.Context())
			require.NoError(t, err)
		}
		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		_, err = admin.Exec("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE application_name = 'idle'")
		require.NoError(t, err)
		_, err = db.Exec("SELECT 1")
		assert.NoError(t, err, w.name)
		assert.NoError(t, db.Close())
	}
}
