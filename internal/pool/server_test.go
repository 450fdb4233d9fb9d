package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestFairnessOnServer reports latencies of 100 goroutines on 5 connections. Figures from a machine that does other
// things too are for reading; what is asserted about order is asserted in virtual time.
func TestFairnessOnServer(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	dsn := pgtest.DSN(t)
	for _, driverName := range []string{"postgres", "lifeguard"} {
		c := pooltest.OpenPostgres(t, driverName, dsn, 5)
		c.Fill(t, 5)
		var mu sync.Mutex
		var all []time.Duration
		var wg sync.WaitGroup
		begin := time.Now()
		end := begin.Add(pooltest.StormLength(600 * time.Millisecond))
		for range 100 {
			wg.Go(func() {
				var own []time.Duration
				for time.Now().Before(end) {
					start := time.Now()
					_, err := c.ExecContext(t.Context(), "SELECT pg_sleep(0.005)")
					if !assert.NoError(t, err) {
						return
					}
					own = append(own, time.Since(start))
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, own...)
			})
		}
		wg.Wait()
		length := time.Since(begin)
		require.GreaterOrEqual(t, len(all), 100)
		slices.Sort(all)
		p50, p99 := all[len(all)/2], all[len(all)*99/100]
		t.Logf("%-9s %5.0f/s  p50 %v  p99 %v (%.1f times)  max %v", driverName, float64(len(all))/length.Seconds(),
			p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond), float64(p99)/float64(p50),
			all[len(all)-1].Round(100*time.Microsecond))
	}
}

// TestTooManyConnectionsOnServer has another pool hold nearly all connections that the server allows.
func TestTooManyConnectionsOnServer(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	const room = 2
	dsn := pgtest.Start(t, "max_connections=10").DSN()
	others := pooltest.OpenPostgres(t, "postgres", dsn, 10)
	require.Empty(t, others.Backends(t)) // opens the connection that looks
	var held []*sql.Conn
	for {
		conn, err := others.Conn(t.Context())
		if pooltest.IsCode(err, "53300") {
			break
		}
		require.NoError(t, err)
		held = append(held, conn)
	}
	require.Greater(t, len(held), room)

	// The server takes no further connection.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var log pooltest.LogBuffer
	open := func(timeout string) *sql.DB {
		db, err := lifeguard.Open("postgres", pooltest.AddParams(t, dsn, "connection_limit=5", "pool_timeout="+timeout),
			lifeguard.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
	err := open("1s").PingContext(ctx)
	assert.NotErrorIs(t, err, lifeguard.ErrPoolTimeout, "a pool that has never connected tells it at once")
	assert.True(t, pooltest.IsCode(err, "53300"), "got %v", err)

	// Some, but fewer than the limit.
	for _, conn := range held[:room] {
		// Not just Close, after which it would wait idle for its next use.
		require.ErrorIs(t, conn.Raw(func(any) error { return driver.ErrBadConn }), driver.ErrBadConn)
	}
	db := open("30")
	var conns [room]*sql.Conn
	for i := range conns {
		conns[i], err = db.Conn(ctx)
		require.NoError(t, err)
	}
	hasty, end := context.WithTimeout(ctx, time.Second)
	defer end()
	err = db.PingContext(hasty)
	assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
	assert.True(t, pooltest.IsCode(err, "53300"), "got %v", err)
	assert.ErrorContains(t, err, "lower connection_limit, or raise max_connections")

	log.Reset()
	waited := make(chan error, 1)
	go func() {
		conn, err := db.Conn(ctx)
		if err == nil {
			err = conn.Close()
		}
		waited <- err
	}()
	pooltest.Eventually(t, "the server refuses a further connection", func() bool { return strings.Contains(log.String(), "53300") })
	assert.Empty(t, waited)
	assert.Equal(t, 1, pooltest.PoolOf(t, db).Stats().Waiting)
	require.NoError(t, conns[0].Close())
	assert.NoError(t, <-waited, "who waits gets a connection of the pool that is returned")
	require.NoError(t, conns[1].Close())

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_, err := db.ExecContext(ctx, "SELECT 1")
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	for _, conn := range held[room:] {
		assert.NoError(t, conn.Close())
	}
}

// TestRefusedByServer has errors of connecting which waiting cannot mend: each caller gets the plain driver's at once.
func TestRefusedByServer(t *testing.T) {
	good, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	for code, change := range map[pqerror.Code]func(u *url.URL, q url.Values){
		"28P01": func(u *url.URL, _ url.Values) { u.User = url.UserPassword(u.User.Username(), "wr0ng-pass") },
		"3D000": func(u *url.URL, _ url.Values) { u.Path = "/missing" },
		"22023": func(_ *url.URL, q url.Values) { q.Set("work_mem", "little") },
	} {
		t.Run(string(code), func(t *testing.T) {
			u, q := *good, good.Query()
			change(&u, q)
			u.RawQuery = q.Encode()
			bad := u.String()
			texts := map[string]string{}
			for name, open := range map[string]func() (*sql.DB, error){
				"plain": func() (*sql.DB, error) { return sql.Open("postgres", bad) },
				"lifeguard": func() (*sql.DB, error) {
					return lifeguard.Open("postgres", pooltest.AddParams(t, bad, "pool_timeout=0"), pooltest.Quiet)
				},
			} {
				db, err := open()
				require.NoError(t, err)
				defer db.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						err := db.PingContext(ctx)
						assert.True(t, pooltest.IsCode(err, code), "%s: %v", name, err)
						assert.NotErrorIs(t, err, lifeguard.ErrPoolTimeout)
						assert.NotContains(t, err.Error(), "wr0ng-pass")
					})
				}
				wg.Wait()
				_, err = db.ExecContext(ctx, "SELECT 1")
				texts[name] = pooltest.DescribeError(err)
			}
			assert.Equal(t, texts["plain"], texts["lifeguard"])
		})
	}
}

// TestNoServer dials a port without a listener, and one whose listener never answers.
func TestNoServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dsn := fmt.Sprintf("postgres://user:s3cret@%s/db?sslmode=disable&pool_timeout=500ms", listener.Addr())
	silent, err := lifeguard.Open("postgres", dsn, pooltest.Quiet)
	require.NoError(t, err)
	defer silent.Close()
	start := time.Now()
	_, err = silent.ExecContext(t.Context(), "SELECT 1")
	assert.GreaterOrEqual(t, time.Since(start), 500*time.Millisecond)
	var timeout *lifeguard.PoolTimeoutError
	require.ErrorAs(t, err, &timeout)
	assert.ErrorContains(t, timeout.Err, "connecting to "+listener.Addr().String()+"/db has not finished after ")
	assert.NotContains(t, err.Error(), "s3cret")

	require.NoError(t, listener.Close()) // and with it all that it never accepted
	down, err := lifeguard.Open("postgres", dsn, pooltest.Quiet)
	require.NoError(t, err)
	defer down.Close()
	_, err = down.ExecContext(t.Context(), "SELECT 1")
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.NotErrorIs(t, err, lifeguard.ErrPoolTimeout, "a pool that has never connected tells it at once")
	assert.ErrorContains(t, err, "connection refused")
	assert.NotContains(t, err.Error(), "s3cret")
}
