package main

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// serverSettings differ from those of tests in that nothing the server does on its own account disturbs a measurement.
var serverSettings = []string{
	"max_connections=300",
	"shared_buffers=256MB",
	"autovacuum=off",
	"max_wal_size=4GB",
	"checkpoint_timeout=1h",
}

// server is a PostgreSQL with an empty database.
type server struct {
	dsn  string
	test *bystander
}

// startServer starts a server, or uses the one that the environment names.
func startServer() (s *server, err error) {
	s = &server{test: &bystander{}}
	defer func() {
		if failure, ok := recover().(fatal); ok {
			s.test.finish()
			s, err = nil, failure.error
		}
	}()
	running := (*pgtest.Server)(nil)
	if os.Getenv(pgtest.Environment) != "" {
		running = pgtest.Shared(s.test)
	} else {
		running = pgtest.Start(s.test, serverSettings...)
	}
	s.dsn = running.Database(s.test)
	return s, nil
}

func (s *server) close() { s.test.finish() }

// bystander stands in for the test that pgtest wants to belong to.
type bystander struct {
	testing.TB // of which nothing but the methods below is used
	cleanups   []func()
}

// fatal is how Fatalf ends the function that called pgtest.
type fatal struct{ error }

func (*bystander) Helper() {}

func (*bystander) Fatalf(format string, args ...any) { panic(fatal{fmt.Errorf(format, args...)}) }

func (*bystander) Errorf(format string, args ...any) {
	fmt.Fprintln(os.Stderr, errors.New("compare: "+fmt.Sprintf(format, args...)))
}

func (b *bystander) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

func (b *bystander) finish() {
	for len(b.cleanups) > 0 {
		last := len(b.cleanups) - 1
		f := b.cleanups[last]
		b.cleanups = b.cleanups[:last]
		f()
	}
}
