package pool_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestSharedPoolsOnServer opens three handles by pool_name: all of them together keep to the limit.
func TestSharedPoolsOnServer(t *testing.T) {
	const limit = 3
	dsn := pgtest.DSN(t)
	name := fmt.Sprint("shared ", pooltest.Number())
	shared := pooltest.AddParams(t, dsn, "pool_name="+name, "connection_limit=3", "application_name="+name)
	handles := make([]*sql.DB, 3)
	for i := range handles {
		var err error
		handles[i], err = sql.Open("lifeguard", shared)
		require.NoError(t, err)
		defer handles[i].Close()
		assert.Same(t, pooltest.PoolOf(t, handles[0]), pooltest.PoolOf(t, handles[i]))
	}
	_, err := sql.Open("lifeguard", pooltest.AddParams(t, shared, "connect_timeout=7"))
	require.ErrorContains(t, err, name)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	if password, ok := u.User.Password(); ok {
		_, err = sql.Open("lifeguard", pooltest.AddParams(t, shared, "connect_timeout=7"))
		assert.NotContains(t, err.Error(), password)
	}

	look := &pooltest.Client{Application: name, Server: pooltest.OpenControl(t, dsn)}
	var wg sync.WaitGroup
	for g := range 30 {
		wg.Go(func() {
			for range 10 {
				_, err := handles[g%3].ExecContext(t.Context(), "SELECT pg_sleep(0.001)")
				assert.NoError(t, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		assert.LessOrEqual(t, len(look.Backends(t)), limit)
		select {
		case <-done:
			running = false
		default:
		}
	}
	require.NoError(t, handles[0].Close())
	require.NoError(t, handles[1].Close())
	assert.ErrorContains(t, handles[0].Ping(), "closed")
	_, err = handles[2].Exec("SELECT 1")
	assert.NoError(t, err, "the others only left")
	require.NoError(t, handles[2].Close())
	pooltest.Eventually(t, "the last one to leave closes the pool", func() bool { return len(look.Backends(t)) == 0 })

	again, err := sql.Open("lifeguard", pooltest.AddParams(t, shared, "connect_timeout=7"))
	require.NoError(t, err, "the name is free again")
	assert.NoError(t, again.Ping())
	assert.NoError(t, again.Close())
}

func TestCloseHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		waiter := make(chan error, 1)
		go func() { waiter <- db.PingContext(t.Context()) }()
		synctest.Wait()
		require.NoError(t, db.Close())
		assert.ErrorIs(t, <-waiter, lifeguard.ErrPoolClosed)
		_, err = tx.ExecContext(t.Context(), "INSERT")
		assert.NoError(t, err, "as on the plain driver, what is under way goes on")
		assert.NoError(t, tx.Commit())
		synctest.Wait()
		assert.Zero(t, srv.Open())
		assert.Zero(t, pool.Stats().InUse)
		assert.Error(t, db.PingContext(t.Context()))
	})
}

func TestPoolOfForeignHandle(t *testing.T) {
	db := sql.OpenDB(fakedriver.New().Connector())
	defer db.Close()
	_, ok := lifeguard.PoolOf(db)
	assert.False(t, ok)
	_, ok = lifeguard.PoolOf(nil)
	assert.False(t, ok)
	assert.Equal(t, 1, lifeguard.Unwrap(1))
}

func TestRegister(t *testing.T) {
	srv := fakedriver.New()
	name := fmt.Sprint("registered ", pooltest.Number())
	lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
	assert.Panics(t, func() { lifeguard.Register(name, srv.Driver()) }, "as sql.Register")
	assert.Panics(t, func() { lifeguard.Register("nil", nil) })
	db, err := sql.Open(name, "host=example connection_limit=3")
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.PingContext(t.Context()))
	assert.Equal(t, []string{"host=example"}, srv.DSNs())
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	assert.Equal(t, 3, pool.Config().ConnectionLimit)
}

func TestOpenErrors(t *testing.T) {
	_, err := lifeguard.Open("no such driver", "")
	assert.ErrorContains(t, err, "no such driver")
	_, err = lifeguard.Open("", "")
	assert.ErrorContains(t, err, "name of a registered driver")
	_, err = lifeguard.OpenDB(nil)
	assert.Error(t, err)
	for dsn, wanted := range map[string]string{
		"postgres://u:hunter2@h/db?connection_limit=none":   "connection_limit",
		"postgres://u:hunter2@h/db?connection_limt=3":       "connection_limit",
		"postgres://u:hunter2@h/db?pool_timeout=-1":         "pool_timeout",
		"postgres://u:hun ter2@h/db":                        "",
		"postgres://u:hunter2@h:port/db":                    "",
		"postgres://u:hunt/er2@h/db":                        "",
		"postgres://u:hunter2%zz@h/db":                      "",
		"host=h password=hunter2 user='":                    "",
		"postgres://u:hunter2@h/db?sslmode=hunter2":         "",
		"host=h password='hunter2 user=u connection_limit=": "",
	} {
		_, err := sql.Open("lifeguard", dsn)
		if assert.Error(t, err, dsn) {
			assert.ErrorContains(t, err, wanted)
			assert.NotContains(t, err.Error(), "hunt")
			assert.NotContains(t, err.Error(), "er2")
			for e := err; e != nil; e = errors.Unwrap(e) {
				assert.NotContains(t, fmt.Sprintf("%v %+v", e, e), "hunter2")
			}
		}
	}
}

func TestSharedPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := fmt.Sprint("shared ", pooltest.Number())
		lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
		const dsn = "host=a connection_limit=2 pool_name=shop"
		one, err := sql.Open(name, dsn)
		require.NoError(t, err)
		two, err := sql.Open(name, dsn)
		require.NoError(t, err)
		p1, _ := lifeguard.PoolOf(one)
		p2, _ := lifeguard.PoolOf(two)
		assert.Same(t, p1, p2)
		_, err = sql.Open(name, "host=b password=hunter2 connection_limit=2 pool_name=shop")
		require.ErrorContains(t, err, "pool_name=shop")
		assert.ErrorContains(t, err, "another pool_name")
		assert.NotContains(t, err.Error(), "hunter2")

		// The limit is common, and what one leaves idle serves the other.
		a, b := pooltest.Take(t, one), pooltest.Take(t, two)
		done := make(chan error, 1)
		go func() { done <- two.PingContext(t.Context()) }()
		synctest.Wait()
		assert.Equal(t, 1, p1.Stats().Waiting)
		a.Close()
		assert.NoError(t, <-done)
		assert.Equal(t, 2, srv.Dials())
		b.Close()
		for range 10 {
			assert.NoError(t, one.PingContext(t.Context()))
			assert.NoError(t, two.PingContext(t.Context()))
		}
		assert.Equal(t, 2, srv.Dials())

		// The first to leave only leaves.
		require.NoError(t, one.Close())
		assert.NoError(t, two.PingContext(t.Context()))
		assert.Error(t, one.PingContext(t.Context()))
		require.NoError(t, two.Close())
		assert.Zero(t, srv.Open())

		// The name is free again.
		three, err := sql.Open(name, "host=c pool_name=shop")
		require.NoError(t, err)
		assert.NoError(t, three.PingContext(t.Context()))
		assert.NoError(t, three.Close())
	})
}

func TestPoolNameOfConnector(t *testing.T) {
	db, err := lifeguard.OpenDB(fakedriver.New().Connector())
	require.NoError(t, err)
	defer db.Close()
	p, _ := lifeguard.PoolOf(db)
	assert.False(t, strings.Contains(p.Config().PoolName, " "), p.Config().PoolName)
	assert.NotEmpty(t, p.Config().PoolName)
}
