package wrappers

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	xsam "github.com/XSAM/otelsql"
	"github.com/lib/pq"
	"github.com/luna-duclos/instrumentedsql"
	"github.com/ngrok/sqlmw"
	"github.com/qustavo/sqlhooks/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	uptrace "github.com/uptrace/opentelemetry-go-extra/otelsql"
	nhat "go.nhat.io/otelsql"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// A library is one of the ways to have a library wrap a driver.
type library struct {
	name string
	// open opens a handle with the library around the driver that is registered as name. Where the library must be given a
	// value, d gives it.
	open func(name string, d func() driver.Driver, dsn string) (*sql.DB, error)
	// hides says that database/sql does not see the connection's IsValid.
	hides bool
	// noContext says that database/sql connects without the caller's context.
	noContext bool
	// hidesClose says that database/sql does not see the connector's Close.
	hidesClose bool
	// onlyOver says that the library wraps no driver that has only Open, as lib/pq's, for another to open.
	onlyOver bool
}

// wrapped registers the driver that wrap makes.
func wrapped(wrap func(driver.Driver) driver.Driver) func(string, func() driver.Driver, string) (*sql.DB, error) {
	return func(_ string, d func() driver.Driver, dsn string) (*sql.DB, error) {
		name := unique("wrapped")
		sql.Register(name, wrap(d()))
		return sql.Open(name, dsn)
	}
}

// registered opens by the name that a library has registered.
func registered(register func(string) (string, error)) func(string, func() driver.Driver, string) (*sql.DB, error) {
	return func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		own, err := register(name)
		if err != nil {
			return nil, err
		}
		return sql.Open(own, dsn)
	}
}

var libraries = []library{
	{name: "XSAM otelsql.Open", onlyOver: true, open: func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		return xsam.Open(name, dsn)
	}},
	{name: "XSAM otelsql.Register", open: registered(func(name string) (string, error) { return xsam.Register(name) })},
	{name: "XSAM otelsql.WrapDriver", open: wrapped(func(d driver.Driver) driver.Driver { return xsam.WrapDriver(d) })},
	{name: "nhat otelsql.Register", hides: true, open: registered(func(name string) (string, error) { return nhat.Register(name) })},
	{name: "nhat otelsql.Wrap", hides: true, open: wrapped(func(d driver.Driver) driver.Driver { return nhat.Wrap(d) })},
	{name: "uptrace otelsql.Open", hides: true, hidesClose: true, onlyOver: true, open: func(name string, _ func() driver.Driver, dsn string) (*sql.DB, error) {
		return uptrace.Open(name, dsn)
	}},
	{name: "sqlmw.Driver", hidesClose: true, open: wrapped(func(d driver.Driver) driver.Driver { return sqlmw.Driver(d, sqlmw.NullInterceptor{}) })},
	{name: "sqlhooks.Wrap", hides: true, noContext: true, open: wrapped(func(d driver.Driver) driver.Driver { return sqlhooks.Wrap(d, &counting{}) })},
	{name: "instrumentedsql.WrapDriver", hides: true, hidesClose: true, open: wrapped(func(d driver.Driver) driver.Driver {
		return instrumentedsql.WrapDriver(d)
	})},
}

// counting are hooks that count.
type counting struct{ before, after atomic.Int64 }

func (h *counting) Before(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	h.before.Add(1)
	return ctx, nil
}

func (h *counting) After(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	h.after.Add(1)
	return ctx, nil
}

var names atomic.Int64

func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, names.Add(1)) }

var quiet = lifeguard.WithLogger(slog.New(slog.DiscardHandler))

// A setup is a handle that goes through a library and through lifeguard.
type setup struct {
	library
	under bool // lifeguard is over the library, not under it
	db    *sql.DB
	pool  *lifeguard.Pool
	app   string // application_name, for the server's view
	dsn   string // of the server, without parameters
}

// settings are connection_limit and the like, as they stand in a DSN.
type settings []string

// with puts parameters into the DSN of the server.
func with(dsn string, params ...string) string { return dsn + "&" + strings.Join(params, "&") }

// over opens a handle with the library over lifeguard. Where the parameters are not in the DSN, opts have to say what they
// would. The pool is watched by another handle, which shares it by its name.
func over(t *testing.T, l library, params settings, opts ...lifeguard.Option) *setup {
	t.Helper()
	s := &setup{library: l, app: unique("app"), dsn: pgtest.Shared(t).DSN()}
	driverName, poolName := unique("lifeguard"), unique("pool")
	opts = append(opts, quiet)
	dsn := with(s.dsn, "application_name="+s.app)
	if params != nil {
		dsn = with(dsn, append(params, "pool_name="+poolName)...)
	} else {
		opts = append(opts, lifeguard.WithPoolName(poolName))
	}
	lifeguard.Register(driverName, &pq.Driver{}, opts...)
	var err error
	s.db, err = l.open(driverName, func() driver.Driver {
		db, err := sql.Open(driverName, dsn)
		require.NoError(t, err)
		defer db.Close()
		return db.Driver()
	}, dsn)
	require.NoError(t, err)
	if l.noContext {
		require.NoError(t, s.db.Ping()) // its pool is there with its first connection
	}
	watch, err := sql.Open(driverName, dsn)
	require.NoError(t, err)
	var ok bool
	s.pool, ok = lifeguard.PoolOf(watch)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, s.db.Close())
		if l.hidesClose {
			assert.NoError(t, s.pool.Shutdown(context.Background()))
		}
		assert.NoError(t, watch.Close())
		s.nothingLeft(t)
	})
	return s
}

// below opens a handle of lifeguard over a driver that the library has wrapped.
func below(t *testing.T, l library, params settings, opts ...lifeguard.Option) *setup {
	t.Helper()
	s := &setup{library: l, under: true, app: unique("app"), dsn: pgtest.Shared(t).DSN()}
	dsn := with(s.dsn, "application_name="+s.app)
	given, err := l.open("postgres", func() driver.Driver { return &pq.Driver{} }, dsn)
	require.NoError(t, err)
	name := unique("wrapped")
	sql.Register(name, given.Driver())
	require.NoError(t, given.Close())
	if params != nil {
		dsn = with(dsn, params...)
	}
	s.db, err = lifeguard.Open(name, dsn, append(opts, quiet)...)
	require.NoError(t, err)
	var ok bool
	s.pool, ok = lifeguard.PoolOf(s.db)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, s.db.Close())
		s.nothingLeft(t)
	})
	return s
}

// nothingLeft checks that the server has no connection of the setup's any more.
func (s *setup) nothingLeft(t *testing.T) {
	t.Helper()
	assert.Eventually(t, func() bool { return s.backends(t) == 0 }, waitFor, tick, "connections left on the server")
}

// backends counts the setup's connections on the server.
func (s *setup) backends(t *testing.T) (n int) {
	t.Helper()
	control, err := sql.Open("postgres", s.dsn)
	require.NoError(t, err)
	defer control.Close()
	require.NoError(t, control.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", s.app).Scan(&n))
	return n
}

// each runs a test over and under every library.
func each(t *testing.T, params settings, test func(t *testing.T, s *setup)) {
	t.Helper()
	for _, l := range libraries {
		t.Run(l.name+" over", func(t *testing.T) { test(t, over(t, l, params)) })
		if !l.onlyOver {
			t.Run(l.name+" under", func(t *testing.T) { test(t, below(t, l, params)) })
		}
	}
}

// eachWithout does the same without parameters in the DSN.
func eachWithout(t *testing.T, opts []lifeguard.Option, test func(t *testing.T, s *setup)) {
	t.Helper()
	for _, l := range libraries {
		t.Run(l.name+" over, options", func(t *testing.T) { test(t, over(t, l, nil, opts...)) })
		if !l.onlyOver {
			t.Run(l.name+" under, options", func(t *testing.T) { test(t, below(t, l, nil, opts...)) })
		}
	}
}
