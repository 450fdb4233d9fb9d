package ecosystem

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/lifeguardtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(inMariaDB{m}))
}

type inMariaDB struct{ m *testing.M }

func (in inMariaDB) Run() int { return mariatest.Run(in.m) }

// A server is a database and a driver for it.
type server struct {
	name    string
	driver  string // as it is registered with database/sql
	dialect string
	fresh   func(testing.TB) (dsn string) // of a new, empty database
}

// Dialects.
const (
	postgresSQL = "postgres"
	mysqlSQL    = "mysql"
	sqliteSQL   = "sqlite"
)

var (
	onPQ      = &server{"lib-pq", "postgres", postgresSQL, pgtest.DSN}
	onPGX     = &server{"pgx", "pgx", postgresSQL, pgtest.DSN}
	onMariaDB = &server{"MariaDB", "mysql", mysqlSQL, mariatest.DSN}
	onSQLite  = &server{"SQLite", "sqlite", sqliteSQL, func(tb testing.TB) string {
		// What a service with several connections writes: readers beside a writer, and writers that wait for each other.
		return "file:" + filepath.Join(tb.TempDir(), "test.db") +
			"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate"
	}}

	postgresServers = []*server{onPQ, onPGX}
	allServers      = []*server{onPQ, onPGX, onMariaDB, onSQLite}
)

// sql chooses a text by dialect.
func (s *server) sql(postgres, mysql, sqlite string) string {
	return map[string]string{postgresSQL: postgres, mysqlSQL: mysql, sqliteSQL: sqlite}[s.dialect]
}

// A stage is what a program runs on, and where it writes down what it sees.
type stage struct {
	*testing.T
	*server
	db     *sql.DB
	dsn    string // the driver's own, without parameters of lifeguard's
	record []string
}

// A program is a program of a library. It calls see and fails for what its users would see.
type program func(*stage)

// run performs the program on each server, once on the plain driver and once through lifeguard, with the same limit.
func run(t *testing.T, limit int, servers []*server, p program) {
	for _, srv := range servers {
		t.Run(srv.name, func(t *testing.T) {
			var plain, ours []string
			t.Run("plain", func(t *testing.T) { plain = srv.perform(t, srv.openPlain, limit, p) })
			t.Run("lifeguard", func(t *testing.T) { ours = srv.perform(t, srv.openLifeguard, limit, p) })
			require.NotEmpty(t, plain, "the program saw nothing")
			require.Equal(t, strings.Join(plain, "\n"), strings.Join(ours, "\n"))
		})
	}
}

// databaseName is one of pgtest and mariatest, different on the two sides.
var databaseName = regexp.MustCompile(`testdb_\d+`)

// longest bounds a program, so that one which hangs is told from one that takes long.
const longest = 5 * time.Minute

func (srv *server) perform(t *testing.T, open func(*testing.T, string, int) *sql.DB, limit int, p program) []string {
	dsn := srv.fresh(t)
	s := &stage{T: t, server: srv, db: open(t, dsn, limit), dsn: dsn}
	late := time.AfterFunc(longest, func() { panic(t.Name() + " hangs: " + strings.Join(s.record, "; ")) })
	defer late.Stop()
	p(s)
	assert.LessOrEqual(t, s.opened(), limit, "connections open")
	for i, line := range s.record {
		s.record[i] = databaseName.ReplaceAllString(line, "its database")
	}
	return s.record
}

func (srv *server) openPlain(t *testing.T, dsn string, limit int) *sql.DB {
	db, err := sql.Open(srv.driver, dsn)
	require.NoError(t, err)
	db.SetMaxOpenConns(limit)
	db.SetMaxIdleConns(limit)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func (srv *server) openLifeguard(t *testing.T, dsn string, limit int) *sql.DB {
	db, err := lifeguard.Open(srv.driver, fmt.Sprintf("%s&connection_limit=%d&pool_timeout=20", dsn, limit), quiet)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	lifeguardtest.NoLeaks(t, db)
	return db
}

// quiet discards warnings: some programs make one on purpose.
var quiet = lifeguard.WithLogger(slog.New(slog.DiscardHandler))

// opened counts the connections that are open now.
func (s *stage) opened() int {
	if pool, ok := lifeguard.PoolOf(s.db); ok {
		return pool.DBStats().OpenConnections
	}
	return s.db.Stats().OpenConnections
}

// see writes down a value.
func (s *stage) see(what string, value any) {
	s.Helper()
	text, err := json.Marshal(value)
	require.NoError(s, err, what)
	s.record = append(s.record, what+": "+string(text))
}

// must ends the program at an error that no side may have.
func (s *stage) must(err error) {
	s.Helper()
	require.NoError(s, err)
}

// fails writes down the kind of an error that both sides must have.
func (s *stage) fails(what string, err error) {
	s.Helper()
	require.Error(s, err, what)
	s.record = append(s.record, what+" fails: "+kind(err))
}

// exec runs statements of the program's own, such as those that make its tables.
func (s *stage) exec(statements ...string) {
	s.Helper()
	for _, text := range statements {
		_, err := s.db.ExecContext(s.Context(), text)
		require.NoError(s, err, text)
	}
}

// kind is what a program can tell an error by: some libraries look at its type and do not unwrap it.
func kind(err error) string {
	var (
		fromPQ     *pq.Error
		fromPGX    *pgconn.PgError
		fromMySQL  *mysql.MySQLError
		fromSQLite *sqlite.Error
	)
	switch {
	case errors.As(err, &fromPQ):
		return fmt.Sprintf("%T %s", err, fromPQ.Code)
	case errors.As(err, &fromPGX):
		return fmt.Sprintf("%T %s", err, fromPGX.Code)
	case errors.As(err, &fromMySQL):
		return fmt.Sprintf("%T %d", err, fromMySQL.Number)
	case errors.As(err, &fromSQLite):
		return fmt.Sprintf("%T %d", err, fromSQLite.Code())
	}
	for _, sentinel := range []error{sql.ErrNoRows, sql.ErrTxDone, sql.ErrConnDone, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, sentinel) {
			return sentinel.Error()
		}
	}
	return fmt.Sprintf("%T %s", err, err)
}

// culprits opens a pool of limit connections for a program that needs more, and gives its error. On the plain driver that
// program hangs.
func culprits(t *testing.T, srv *server, limit int, p func(*stage) error) *lifeguard.PoolTimeoutError {
	dsn := srv.fresh(t)
	db, err := lifeguard.Open(srv.driver, fmt.Sprintf("%s&connection_limit=%d&pool_timeout=300ms", dsn, limit), quiet)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	pool, _ := lifeguard.PoolOf(db)
	require.Eventually(t, func() bool { // so that no wait is one for a dial
		return pool.Ready(t.Context()) == nil
	}, longest, time.Millisecond)
	s := &stage{T: t, server: srv, db: db, dsn: dsn}
	err = p(s)
	var timeout *lifeguard.PoolTimeoutError
	require.ErrorAs(t, err, &timeout)
	require.NotEmpty(t, timeout.Holders, "%v", err)
	t.Log(err)
	return timeout
}
