// Package pgtest gives tests a PostgreSQL server of their own.
//
// The server is started by the first test that needs it, from the PostgreSQL installed on this machine, in a temporary
// folder, on a free TCP port of 127.0.0.1, and ends with the test process at the latest. The environment variable
// LIFEGUARD_TEST_POSTGRES names another server to use instead, as a URL whose user may create databases:
//
//	LIFEGUARD_TEST_POSTGRES=postgres://user:password@host:5432/postgres?sslmode=disable go test ./...
//
// A missing server fails the test, it does not skip it: a suite that passes without having run proves nothing.
package pgtest

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// Environment is the environment variable that names a server to use instead of a local one.
const Environment = "LIFEGUARD_TEST_POSTGRES"

var shared = localserver.Shared[*Server]{
	Start: func() (*Server, error) {
		if named := os.Getenv(Environment); named != "" {
			return external(named)
		}
		return start(nil)
	},
	Stop: (*Server).remove,
}

// Run is for TestMain: os.Exit(pgtest.Run(m)). It runs the tests and stops the shared server after them, also when they
// panic. Without it that server ends with the process.
func Run(m interface{ Run() int }) (code int) {
	defer func() {
		if err := removeTemplate(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}()
	return shared.Run(m)
}

// Shared returns the server that all tests of this process share. Tests that disturb others there, by restarting it or
// by changing its settings, use Start.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared.Server()
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	return s
}

// DSN returns the URL of a new, empty database on the shared server. It is dropped when the test ends, whoever is
// still connected to it.
func DSN(tb testing.TB) string {
	tb.Helper()
	return Shared(tb).Database(tb)
}

// Start starts a server for this test alone, which may restart, stop and kill it, with settings of postgresql.conf such
// as "max_connections=20". It is stopped when the test ends.
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	s, err := start(settings)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return s
}

// databases numbers the databases of this process. They start anywhere, because a server that is not started here
// may be used by other processes at the same time.
var databases = func() *atomic.Int64 {
	var n atomic.Int64
	n.Store(rand.Int64N(1<<40) << 20)
	return &n
}()

// Database is DSN on this server.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("testdb_%d", databases.Add(1))
	if err := s.create(name); err != nil {
		tb.Fatalf("pgtest: creating a database: %v", err)
	}
	tb.Cleanup(func() {
		if !s.running() {
			return
		}
		if err := s.administrate("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			tb.Errorf("pgtest: dropping database %s: %v", name, err)
		}
	})
	u := s.url
	u.Path = "/" + name
	return u.String()
}

// create makes a database as a copy of files, which costs the server a third of what its usual way does.
func (s *Server) create(name string) error {
	err := s.administrate("CREATE DATABASE " + name + " STRATEGY FILE_COPY")
	var refused *pq.Error
	if errors.As(err, &refused) && refused.Code == pqerror.SyntaxError { // PostgreSQL 14 knows no other way
		return s.administrate("CREATE DATABASE " + name)
	}
	return err
}

// administrate runs a statement in a connection that it closes, so that nothing of this package stays connected, or
// runs, while a test counts connections or goroutines.
func (s *Server) administrate(statement string) error {
	connector, err := pq.NewConnector(s.DSN())
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	_, err = db.Exec(statement)
	return errors.Join(err, db.Close())
}

// external is a server that somebody else runs.
func external(named string) (*Server, error) {
	u, err := url.Parse(named)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Hostname() == "" {
		// Without the value and without url.Parse's error: both may hold a password.
		return nil, errors.New(Environment +
			" is not the URL of a server; write postgres://user:password@host:port/database?sslmode=disable")
	}
	if u.Path == "" {
		u.Path = "/postgres"
	}
	s := &Server{url: *u}
	if err := s.administrate("SELECT 1"); err != nil {
		return nil, fmt.Errorf("the server that %s names: %w", Environment, err)
	}
	return s, nil
}
