package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var command string // the built one

type servers struct{ m *testing.M }

func (s servers) Run() int { return mariatest.Run(s.m) }

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lifeguard-cli-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	command = filepath.Join(dir, "lifeguard")
	if out, err := exec.Command("go", "build", "-o", command, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	return pgtest.Run(servers{m})
}

type outcome struct {
	out, errs string
	status    int
}

// start runs the command without DATABASE_URL, and with stdin.
func start(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, command, args...)
	c.Env = append(os.Environ(), "DATABASE_URL=")
	c.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	o := outcome{out.String(), errs.String(), c.ProcessState.ExitCode()}
	if args[0] != "dsn" {
		assert.NotContains(t, o.out+o.errs, "secret", "%v shows a password", args)
	}
	return o
}

func with(dsn, parameter string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + parameter
	}
	return dsn + "?" + parameter
}

func decoded[T any](t *testing.T, o outcome) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(o.out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&v), o.out+o.errs)
	return v
}

func valueOf(r report, name string) parameter {
	for _, p := range r.Parameters {
		if p.Name == name {
			return p
		}
	}
	return parameter{}
}

func TestCheckPostgres(t *testing.T) {
	server := pgtest.Start(t, "max_connections=23", "idle_session_timeout=60s", "idle_in_transaction_session_timeout=20s")
	dsn := with(server.Database(t), "connection_limit=7&application_name=shop")
	db, err := sql.Open("postgres", server.DSN())
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Ping())

	fits := start(t, dsn, "check", "-", "--json", "--instances=2")
	assert.Equal(t, 0, fits.status, fits.errs)
	r := decoded[report](t, fits)
	assert.True(t, r.Fits)
	assert.Equal(t, 14, r.Needed)
	assert.Equal(t, 20, *r.Room, "23 less 3 reserved")
	assert.Contains(t, r.Version, "PostgreSQL 15")
	assert.Equal(t, "none", r.Pooler)
	assert.Equal(t, "none", r.TLS)
	assert.Positive(t, r.Dial)
	assert.Positive(t, r.RoundTrip)
	assert.Equal(t, parameter{"connection_limit", "7", "DSN"}, valueOf(r, "connection_limit"))
	assert.Equal(t, parameter{"max_idle_connections", "7", "derived"}, valueOf(r, "max_idle_connections"))
	assert.Equal(t, parameter{"pool_timeout", "20s", "default"}, valueOf(r, "pool_timeout"))
	assert.Equal(t, parameter{"fleet_limit", "none", "default"}, valueOf(r, "fleet_limit"))
	assert.Contains(t, r.Connections, usage{User: "lifeguard", Application: "-", Connections: 1})
	assert.Contains(t, fits.out, "max_idle_connection_lifetime=48s")
	assert.Contains(t, fits.out, "leak_threshold=10s")

	not := start(t, "", "check", dsn, "--instances=3")
	assert.Equal(t, 1, not.status, not.errs)
	assert.Contains(t, not.out, "3 × connection_limit 7 = 21 connections do not fit into the 20")
	assert.Contains(t, not.out, "write connection_limit=6")
	assert.Contains(t, not.out, "it does not fit")

	fleet := start(t, "", "check", with(dsn, "fleet_limit=14"), "--instances=3")
	assert.Equal(t, 0, fleet.status, fleet.errs)
	assert.Contains(t, fleet.out, "fleet_limit 14 + 2 × 3 processes = 20\n")
	fleet = start(t, "", "check", with(dsn, "fleet_limit=15"), "--instances=3")
	assert.Equal(t, 1, fleet.status, fleet.errs)
	assert.Contains(t, fleet.out, "fleet_limit 15 + 2 × 3 processes = 21 connections do not fit into the 20")
	assert.Contains(t, fleet.out, "write fleet_limit=14")
	fleet = start(t, "", "check", with(dsn, "fleet_limit=40"), "--instances=2")
	assert.Contains(t, fleet.out, "2 × connection_limit 7 + 2 × 2 processes = 18\n", "the lower limit counts")
}

func TestCheckBehindPgBouncer(t *testing.T) {
	dsn := bouncertest.Start(t, pgtest.DSN(t))
	o := start(t, "", "check", dsn, "--json")
	assert.Equal(t, 0, o.status, o.errs)
	r := decoded[report](t, o)
	assert.Contains(t, r.Pooler, "yes")
	assert.Nil(t, r.Room)
	assert.Contains(t, o.out, "write pgbouncer=true")
	assert.NotContains(t, start(t, "", "check", with(dsn, "pgbouncer=true")).out, "write pgbouncer=true")

	b := start(t, "", "bench", dsn, "--limits=2", "--duration=100ms", "--json", "--clients=4")
	assert.Equal(t, 0, b.status, b.errs)
	assert.Positive(t, decoded[result](t, b).Levels[0].Throughput)
}

func TestCheckMariaDB(t *testing.T) {
	dsn := mariatest.Start(t, "max_connections=12", "wait_timeout=100")
	o := start(t, "", "check", with(dsn, "connection_limit=5"), "--json", "--instances=3")
	assert.Equal(t, 1, o.status, o.errs)
	r := decoded[report](t, o)
	assert.Equal(t, 12, *r.Room)
	assert.Contains(t, r.Version, "MariaDB")
	assert.Contains(t, o.out, "write connection_limit=4")
	assert.Contains(t, o.out, "max_idle_connection_lifetime=1m20s")
	assert.Equal(t, 0, start(t, "", "check", with(dsn, "connection_limit=5"), "--instances=2").status)
}

func TestCheckSQLite(t *testing.T) {
	path := sqliteFile(t)
	o := start(t, "", "check", path, "--json")
	assert.Equal(t, 0, o.status, o.errs)
	assert.Contains(t, o.out, "busy_timeout(5000)")
	assert.Equal(t, parameter{"max_connection_lifetime", "0s", "derived"}, valueOf(decoded[report](t, o), "max_connection_lifetime"))
	assert.Equal(t, 1, start(t, "", "check", "file::memory:").status)
	missing := filepath.Join(t.TempDir(), "none.db")
	gone := start(t, "", "check", missing)
	assert.Equal(t, 1, gone.status)
	assert.Contains(t, gone.errs, "does not exist")
	assert.NoFileExists(t, missing)
}

func sqliteFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.db")
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	return path
}

func TestDSN(t *testing.T) {
	const dsn = "postgres://app:secret@db/shop?sslmode=require&connection_limit=5"
	assert.Equal(t, outcome{out: "postgres://app:secret@db/shop?sslmode=require\n"}, start(t, dsn, "dsn", "-"))
}

func TestWrongUse(t *testing.T) {
	const dsn = "postgres://app:secret@127.0.0.1:1/shop"
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"check"}, "DATABASE_URL"},
		{[]string{dsn}, "write lifeguard check"},
		{[]string{"check", dsn, dsn}, "takes one DSN"},
		{[]string{"check", dsn + "?connection_limt=5"}, "connection_limit"},
		{[]string{"check", dsn + "?connection_limit=0"}, "write 1 to 65535"},
		{[]string{"check", dsn, "--instances=0"}, "write 1 or more"},
		{[]string{"check", "--instances=" + dsn}, "--help lists them"},
		{[]string{"check", "-x" + dsn}, "--help"},
		{[]string{"check", dsn, "--driver=oracle"}, "--driver=postgres"},
		{[]string{"check", "mysql://app:secret@db/shop"}, "tcp(host:3306)"},
		{[]string{"bench", dsn, "--limits=two"}, "--limits=2,4,8"},
		{[]string{"bench", dsn, "--clients=0"}, "write 1 to 10000"},
		{[]string{"bench", dsn, "--duration=0s"}, "write 10ms"},
	} {
		o := start(t, "", c.args...)
		assert.Equal(t, 2, o.status, "%v: %s", c.args, o.errs)
		assert.Contains(t, o.errs, c.says)
		assert.Empty(t, o.out)
	}
}

// What a driver says is of little use to who does not know it, so what to write stands behind it.
func TestHints(t *testing.T) {
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	at := func(user *url.Userinfo, path, query string) string {
		return (&url.URL{Scheme: "postgres", User: user, Host: u.Host, Path: path, RawQuery: query}).String()
	}
	for dsn, says := range map[string]string{
		"postgres://app:secret@127.0.0.1:1/shop":                                    "connection refused; write the host and port",
		"app:secret@tcp(127.0.0.1:1)/shop":                                          "connection refused; write the host and port",
		"app:secret@127.0.0.1:1/shop?parseTime=true":                                "write user:password@tcp(host:3306)/database",
		at(u.User, u.Path, ""):                                                      "write sslmode=disable",
		at(u.User, "/none", u.RawQuery):                                             "write the name of a database that is there",
		at(url.UserPassword(u.User.Username(), "secret wrong"), u.Path, u.RawQuery): "write another user or password",
	} {
		args := []string{"check", dsn}
		if !strings.HasPrefix(dsn, "postgres:") {
			args = append(args, "--driver=mysql")
		}
		o := start(t, "", args...)
		assert.Equal(t, 1, o.status)
		assert.Contains(t, o.errs, says)
		args[0] = "bench"
		assert.Contains(t, start(t, "", args...).errs, says)
	}
}

// Nothing is written unless told to, whatever the statement looks like.
func TestBenchRefusesToWrite(t *testing.T) {
	path := sqliteFile(t)
	for driver, dsn := range map[string]string{postgres: pgtest.DSN(t), mysql: mariatest.DSN(t), sqlite: path} {
		t.Run(driver, func(t *testing.T) {
			db, err := sql.Open(driver, dsn)
			require.NoError(t, err)
			defer db.Close()
			if driver != sqlite {
				_, err = db.Exec("CREATE TABLE counter (n int)")
				require.NoError(t, err)
				_, err = db.Exec("INSERT INTO counter VALUES (0)")
				require.NoError(t, err)
			}
			writes := []string{"UPDATE counter SET n = n + 1", "/* SELECT */ DELETE FROM counter", "CREATE TABLE other (n int)",
				"DROP TABLE counter", "SELECT 1; DELETE FROM counter"}
			other, made := sqliteFile(t), filepath.Join(t.TempDir(), "made.db")
			if driver == sqlite {
				attach := "ATTACH '" + other + "' AS o; PRAGMA query_only = OFF; "
				writes = append(writes, attach+"DELETE FROM o.counter", "PRAGMA query_only = OFF; DELETE FROM counter",
					"PRAGMA user_version = 7", "VACUUM INTO '"+made+"'", "ATTACH '"+made+"' AS o")
			} else {
				writes = append(writes, "COMMIT; DELETE FROM counter", "TRUNCATE TABLE counter", "SET autocommit = 1")
			}
			if driver == postgres {
				writes = append(writes, "WITH d AS (DELETE FROM counter RETURNING 1) SELECT * FROM d",
					"DO $$ BEGIN DELETE FROM counter; END $$", "SET TRANSACTION READ WRITE", "EXPLAIN ANALYZE DELETE FROM counter")
			}
			for _, w := range writes {
				o := start(t, "", "bench", dsn, "--query", w, "--limits=1", "--duration=20ms", "--clients=1")
				assert.Equal(t, 2, o.status, "%s: %s%s", w, o.out, o.errs)
				assert.Contains(t, o.errs, "--allow-writes", w)
			}
			var n, rows int
			require.NoError(t, db.QueryRow("SELECT count(*), max(n) FROM counter").Scan(&rows, &n))
			assert.Equal(t, [2]int{1, 0}, [2]int{rows, n})
			assert.NoFileExists(t, made)
			beside, err := sql.Open(sqlite, other)
			require.NoError(t, err)
			defer beside.Close()
			require.NoError(t, beside.QueryRow("SELECT count(*) FROM counter").Scan(&rows))
			assert.Equal(t, 1, rows)
			for _, query := range map[string][]string{postgres: {"SELECT $1::int"}, mysql: {"SELECT ?"}, sqlite: {"SELECT ?", "SELECT $a"}}[driver] {
				assert.Contains(t, start(t, "", "bench", dsn, "--query", query).errs, "--query has arguments")
			}

			o := start(t, "", "bench", dsn, "--query", writes[0], "--allow-writes", "--limits=1", "--duration=50ms", "--clients=1")
			assert.Equal(t, 0, o.status, o.errs)
			require.NoError(t, db.QueryRow("SELECT max(n) FROM counter").Scan(&n))
			assert.Positive(t, n)
		})
	}
}

func TestBench(t *testing.T) {
	short := start(t, "", "bench", pgtest.DSN(t), "--query=SELECT pg_sleep(1)", "--limits=1", "--clients=1", "--duration=100ms")
	assert.Equal(t, 1, short.status)
	assert.Contains(t, short.errs, "write a longer --duration")
	assert.NotContains(t, short.out, "connection_limit=", "nothing is recommended")

	picture := filepath.Join(t.TempDir(), "bench.svg")
	args := []string{"bench", pgtest.DSN(t), "--query=SELECT pg_sleep(0.01)", "--limits=1,8", "--clients=8", "--duration=400ms"}
	o := start(t, "", append(args, "--json", "--svg="+picture)...)
	require.Equal(t, 0, o.status, o.errs)
	r := decoded[result](t, o)
	require.Len(t, r.Levels, 2)
	assert.Equal(t, 8, r.Recommended)
	assert.InDelta(t, 1, *r.Levels[0].Load, 0.5, "one connection")
	assert.Greater(t, r.Levels[1].Throughput, 2*r.Levels[0].Throughput)
	text, err := os.ReadFile(picture)
	require.NoError(t, err)
	assert.Contains(t, string(text), "connection_limit")

	table := start(t, "", args...)
	assert.Contains(t, table.out, "smallest within 5 % of it: connection_limit=8")
	assert.Contains(t, table.out, "█")
	assert.Empty(t, table.errs, "no progress bar beside a terminal")
}

// A limit is measured when it is reached. Here a dial takes as long as a measurement.
func TestBenchOpensConnectionsFirst(t *testing.T) {
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	proxy, err := faultproxy.New(u.Host)
	require.NoError(t, err)
	defer proxy.Close()
	proxy.SetShape(faultproxy.ToClient, faultproxy.Shape{Delay: 100 * time.Millisecond}) // some round trips to a dial
	u.Host = proxy.Addr()
	o := start(t, "", "bench", u.String(), "--query=SELECT 1", "--limits=1,8", "--clients=8", "--duration=800ms", "--json")
	require.Equal(t, 0, o.status, o.errs)
	levels := decoded[result](t, o).Levels
	require.Len(t, levels, 2)
	assert.Greater(t, levels[1].Throughput, 5*levels[0].Throughput, "eight at once from the beginning")

	many := start(t, "", "bench", pgtest.Start(t, "max_connections=12").DSN(), "--limits=2,64", "--clients=4", "--duration=50ms")
	assert.Equal(t, 1, many.status)
	assert.Contains(t, many.out, "connection_limit=2")
	assert.Contains(t, many.errs, "of 64 connections have answered")
	assert.Contains(t, many.errs, "raise the server's limit")
}

// A path has no percent signs and fragments, as a URL has.
func TestBenchOfAFileWithAnOddName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "50%41 #1.db")
	require.NoError(t, os.Rename(sqliteFile(t), path))
	o := start(t, "", "bench", path, "--query=SELECT n FROM counter", "--limits=1", "--clients=1", "--duration=20ms")
	assert.Equal(t, 0, o.status, o.errs)
}

// Ctrl-C is sent when the server has seen the second limit's connections.
func TestCtrlC(t *testing.T) {
	dsn := pgtest.DSN(t)
	c := exec.CommandContext(t.Context(), command, "bench", with(dsn, "application_name=bench"), "--limits=1,2", "--clients=4", "--duration=3s")
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, io.MultiWriter(&errs)
	require.NoError(t, c.Start())
	db, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	defer db.Close()
	require.Eventually(t, func() bool {
		var n int
		err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bench'").Scan(&n)
		return err == nil && n >= 3 // two, and the one beside the pool
	}, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, c.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, c.Wait(), &exit)
	assert.Equal(t, 130, exit.ExitCode())
	assert.Contains(t, out.String(), "queries/s")
	assert.Contains(t, out.String(), "connection_limit=1")
	assert.Contains(t, errs.String(), "interrupted")
	assert.NotContains(t, out.String()+errs.String(), "secret")
}

// A server that takes connections and never answers is waited for no longer than it is told.
func TestSilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	for _, dsn := range []string{"postgres://app:secret@" + silent.Addr().String() + "/shop?sslmode=disable", "app:secret@tcp(" + silent.Addr().String() + ")/shop"} {
		began := time.Now()
		o := start(t, "", "check", dsn, "--timeout=300ms")
		before, err := silent.Accept()
		require.NoError(t, err)
		require.NoError(t, before.Close())
		assert.Less(t, time.Since(began), 10*time.Second)
		assert.Equal(t, 1, o.status)
		assert.Contains(t, o.errs, "has not answered in time")
		for _, name := range []string{"check", "bench"} {
			c := exec.CommandContext(t.Context(), command, name, dsn)
			var errs bytes.Buffer
			c.Stderr = &errs
			require.NoError(t, c.Start())
			conn, err := silent.Accept()
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, c.Process.Signal(syscall.SIGINT))
			began := time.Now()
			var exit *exec.ExitError
			require.ErrorAs(t, c.Wait(), &exit)
			assert.Equal(t, 130, exit.ExitCode(), errs.String())
			assert.Less(t, time.Since(began), 5*time.Second)
		}
	}
}
