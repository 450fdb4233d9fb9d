package suite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// Run has each library do all that the suite asks of it, on PostgreSQL by lib/pq.
func Run(t *testing.T, libraries []Library) {
	control, err := sql.Open("postgres", pgtest.Shared(t).DSN())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, control.Close()) })
	libraries = slices.Clone(libraries)
	for i := range libraries {
		libraries[i].control = control
	}
	for _, part := range []struct {
		name string
		test func(*testing.T, []Library)
	}{
		{"Same", testSame},
		{"Limit", testLimit},
		{"Reuse", testReuse},
		{"PoolOf", testPoolOf},
		{"PoolTimeout", testPoolTimeout},
		{"WaiterIsServed", testWaiterIsServed},
		{"Context", testContext},
		{"Shutdown", testShutdown},
		{"Leaks", testLeaks},
		{"ConnBehindAVeil", testConnBehindAVeil},
		{"BadParameter", testBadParameter},
		{"CloseBehindAVeil", testCloseBehindAVeil},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, libraries) })
	}
}

// A Library is one of the ways to have a library wrap a driver.
type Library struct {
	Name string
	// Open opens a handle with the library around the driver that is registered as name. Where the library must be given a
	// value, d gives it.
	Open func(name string, d func() driver.Driver, dsn string) (*sql.DB, error)
	// Hides says that database/sql does not see the connection's IsValid.
	Hides bool
	// NoContext says that database/sql connects without the caller's context.
	NoContext bool
	// HidesClose says that database/sql does not see the connector's Close.
	HidesClose bool
	// OnlyOver says that the library gives no driver that lifeguard could open.
	OnlyOver bool
	// ShowsDriver says that the handle's Driver is the one that the library has wrapped.
	ShowsDriver bool

	control *sql.DB // the same for all: it looks at the server
}

var names atomic.Int64

// Unique makes a name that no driver and no pool has yet.
func Unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, names.Add(1)) }

var quiet = lifeguard.WithLogger(slog.New(slog.DiscardHandler))

// A setup is a handle that goes through a library and through lifeguard.
type setup struct {
	Library
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
func over(t *testing.T, l Library, params settings, opts ...lifeguard.Option) *setup {
	t.Helper()
	s := &setup{Library: l, app: Unique("app"), dsn: pgtest.Shared(t).DSN()}
	driverName, poolName := Unique("lifeguard"), Unique("pool")
	opts = append(opts, quiet)
	dsn := with(s.dsn, "application_name="+s.app)
	if params != nil {
		dsn = with(dsn, append(params, "pool_name="+poolName)...)
	} else {
		opts = append(opts, lifeguard.WithPoolName(poolName))
	}
	lifeguard.Register(driverName, &pq.Driver{}, opts...)
	var err error
	s.db, err = l.Open(driverName, func() driver.Driver {
		db, err := sql.Open(driverName, dsn)
		require.NoError(t, err)
		defer db.Close()
		return db.Driver()
	}, dsn)
	require.NoError(t, err)
	if l.NoContext {
		require.Eventually(t, func() bool { return s.db.Ping() == nil }, waitFor, tick) // its pool is there with its first connection
	}
	watch, err := sql.Open(driverName, dsn)
	require.NoError(t, err)
	var ok bool
	s.pool, ok = lifeguard.PoolOf(watch)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, s.db.Close())
		if l.HidesClose {
			assert.NoError(t, s.pool.Shutdown(context.Background()))
		}
		assert.NoError(t, watch.Close())
		s.nothingLeft(t)
	})
	return s
}

// below opens a handle of lifeguard over a driver that the library has wrapped.
func below(t *testing.T, l Library, params settings, opts ...lifeguard.Option) *setup {
	t.Helper()
	s := &setup{Library: l, under: true, app: Unique("app"), dsn: pgtest.Shared(t).DSN()}
	dsn := with(s.dsn, "application_name="+s.app)
	given, err := l.Open("postgres", func() driver.Driver { return &pq.Driver{} }, dsn)
	require.NoError(t, err)
	name := Unique("wrapped")
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
	require.NoError(t, s.control.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", s.app).Scan(&n))
	return n
}

// each runs a test over and under every library, two or more at a time: they wait most of it.
func each(t *testing.T, libraries []Library, params settings, test func(t *testing.T, s *setup)) {
	t.Helper()
	for _, l := range libraries {
		t.Run(l.Name+" over", func(t *testing.T) {
			t.Parallel()
			test(t, over(t, l, params))
		})
		if !l.OnlyOver {
			t.Run(l.Name+" under", func(t *testing.T) {
				t.Parallel()
				test(t, below(t, l, params))
			})
		}
	}
}

// eachWithout does the same without parameters in the DSN.
func eachWithout(t *testing.T, libraries []Library, opts []lifeguard.Option, test func(t *testing.T, s *setup)) {
	t.Helper()
	for _, l := range libraries {
		t.Run(l.Name+" over, options", func(t *testing.T) {
			t.Parallel()
			test(t, over(t, l, nil, opts...))
		})
		if !l.OnlyOver {
			t.Run(l.Name+" under, options", func(t *testing.T) {
				t.Parallel()
				test(t, below(t, l, nil, opts...))
			})
		}
	}
}
