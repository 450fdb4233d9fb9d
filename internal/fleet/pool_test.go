package fleet_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// open opens a handle. To the others of its fleet it is a process.
func open(t *testing.T, dsn string, opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool) {
	t.Helper()
	db, err := lifeguard.Open("lifeguard", dsn, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	return db, pool
}

// A wait that ends for want of a token says so, and which processes have them.
func TestTimeoutNamesTheProcesses(t *testing.T) {
	dsn := pgtest.DSN(t) + "&fleet_limit=2&pool_timeout=2"
	first, _ := open(t, dsn+"&application_name=hoarder")
	for range 2 {
		c, err := first.Conn(t.Context())
		require.NoError(t, err)
		defer func() { assert.NoError(t, c.Close()) }()
	}
	second, pool := open(t, dsn+"&application_name=beggar")
	_, err := second.Conn(t.Context())
	var timeout *lifeguard.PoolTimeoutError
	require.True(t, errors.As(err, &timeout), "%v", err)
	require.NotNil(t, timeout.Fleet)
	assert.Equal(t, 2, timeout.Fleet.Limit)
	assert.Len(t, timeout.Fleet.Members, 2)
	assert.ErrorContains(t, err, "the fleet has no connection left (fleet_limit=2, 2 held by hoarder 127.0.0.1")
	assert.ErrorContains(t, err, "0 held by this process")
	st := pool.Stats()
	assert.Equal(t, []int{2, 2, 0}, []int{st.FleetLimit, st.FleetProcesses, st.FleetHeld})
}

// A process of another role is named without its address, which the server does not show.
func TestTimeoutNamesAnotherRole(t *testing.T) {
	dsn := pgtest.DSN(t)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	role := "guest_of_" + strings.TrimPrefix(u.Path, "/")
	first, _ := open(t, dsn+"&fleet_limit=1&application_name=owner")
	_, err = first.Exec("CREATE ROLE " + role + " LOGIN PASSWORD '" + pgtest.Verifier("guest") + "'")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := first.Exec("DROP ROLE " + role)
		assert.NoError(t, err)
	})
	c, err := first.Conn(t.Context())
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Close()) }()
	u.User = url.UserPassword(role, "guest")
	second, _ := open(t, u.String()+"&fleet_limit=1&pool_timeout=2")
	assert.ErrorContains(t, second.Ping(), "1 held by owner (pid ")
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// The lowest of different limits holds, and a warning names both processes.
func TestDifferentLimits(t *testing.T) {
	dsn := pgtest.DSN(t)
	var log buffer
	many, pool := open(t, dsn+"&fleet_limit=5&application_name=many", lifeguard.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, many.Ping())
	few, _ := open(t, dsn+"&fleet_limit=3&application_name=few")
	require.NoError(t, few.Ping())
	eventually(t, 10*time.Second, "the lower limit holds", func() bool { return pool.Stats().FleetLimit == 3 })
	eventually(t, 10*time.Second, "a warning", func() bool { return log.String() != "" })
	for _, part := range []string{"level=WARN", "fleet_limit=5", "lower=3", "many 127.0.0.1", "few 127.0.0.1"} {
		assert.Contains(t, log.String(), part)
	}
}

// Behind a pooler in transaction mode fleet_limit is an error that says why. In session mode it works.
func TestPoolers(t *testing.T) {
	dsn := pgtest.DSN(t)
	db, _ := open(t, bouncertest.Start(t, dsn)+"&fleet_limit=3")
	assert.ErrorContains(t, db.Ping(), "pooler in transaction mode")

	db, pool := open(t, bouncertest.Start(t, dsn, "pool_mode=session")+"&fleet_limit=3")
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for range 5 {
				_, err := db.Exec(work)
				assert.NoError(t, err)
			}
		})
	}
	callers.Wait()
	assert.LessOrEqual(t, pool.Stats().Open, 3)
	assert.Positive(t, pool.Stats().FleetHeld)
}

// An idle process asks the server no more than five times a second, and a checkout of an open connection asks nothing.
func TestIdleProcessIsQuiet(t *testing.T) {
	server := pgtest.Shared(t)
	proxy, err := faultproxy.New(fmt.Sprintf("%s:%d", server.Host(), server.Port()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, proxy.Close()) }) // after the handle
	db, pool := open(t, strings.Replace(pgtest.DSN(t), fmt.Sprintf(":%d/", server.Port()), fmt.Sprintf(":%d/", proxy.Port()), 1)+"&fleet_limit=3")
	require.NoError(t, db.Ping())
	eventually(t, 5*time.Second, "the fleet session has seen itself", func() bool { return pool.Stats().FleetProcesses == 1 })
	var asked atomic.Int64
	proxy.SetFrontend(func(message byte, _ []byte) {
		if message == 'Q' {
			asked.Add(1)
		}
	})
	const seconds, checkouts = 4, 1000
	for range checkouts {
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	time.Sleep(seconds * time.Second)
	t.Logf("%d statements in %d s", asked.Load(), seconds)
	assert.Positive(t, asked.Load())
	assert.LessOrEqual(t, asked.Load(), int64(5*(seconds+1)))
}
