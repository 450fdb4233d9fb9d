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
	"context"
	"database/sql/driver"
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
	Start: func() (s *Server, err error) {
		if named := os.Getenv(Environment); named != "" {
			s, err = external(named)
		} else {
			s, err = start(nil)
		}
		if err == nil {
			s.admin.kept = true
		}
		return s, err
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

// administrate runs a statement. The shared server keeps the connection for the next one: opening one costs four times as
// much as making a database. It is a driver's connection, because a handle of database/sql has a goroutine, and tests look
// for leaked ones. A test's own server keeps none: its tests count connections, and stop it.
func (s *Server) administrate(statement string) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	kept := s.admin.conn != nil
	err := s.runLocked(statement)
	if kept && s.admin.conn == nil { // the server has ended it since
		err = s.runLocked(statement)
	}
	if !s.admin.kept {
		err = errors.Join(err, s.dismissLocked())
	}
	return err
}

func (s *Server) runLocked(statement string) error {
	if s.admin.conn == nil {
		connector, err := pq.NewConnector(s.DSN())
		if err != nil {
			return err
		}
		conn, err := connector.Connect(context.Background())
		if err != nil {
			return err // conn is a nil of lib/pq's
		}
		s.admin.conn = conn
	}
	_, err := s.admin.conn.(driver.ExecerContext).ExecContext(context.Background(), statement, nil)
	if !s.admin.conn.(driver.Validator).IsValid() {
		err = errors.Join(err, s.dismissLocked())
	}
	return err
}

func (s *Server) dismissLocked() error {
	if s.admin.conn == nil {
		return nil
	}
	conn := s.admin.conn
	s.admin.conn = nil
	return conn.Close()
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
