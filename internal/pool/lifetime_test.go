package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestLifetimes(t *testing.T) {
	t.Run("Jitter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			var mu sync.Mutex
			ages := map[int]time.Duration{}
			born := map[int]time.Time{}
			srv.OnClose(func(c *fakedriver.Conn) error {
				mu.Lock()
				defer mu.Unlock()
				ages[c.ID()] = time.Since(born[c.ID()])
				return nil
			})
			srv.OnQuery(func(_ context.Context, c *fakedriver.Conn, _ string, _ []driver.NamedValue) error {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := born[c.ID()]; !ok {
					born[c.ID()] = time.Now()
				}
				return nil
			})
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				pooltest.Limit(20)(c)
				c.MaxConnectionLifetime = time.Hour
				c.MaxIdleConnectionLifetime = 0
			})
			// In use all the time, by as many callers as there are connections.
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					for start := time.Now(); time.Since(start) < 2*time.Hour; time.Sleep(3 * time.Second) {
						c := pooltest.Take(t, db)
						_, err := c.ExecContext(t.Context(), "SELECT 1")
						assert.NoError(t, err)
						time.Sleep(3 * time.Second)
						c.Close()
					}
				})
			}
			wg.Wait()
			mu.Lock() // the pool goes on closing what has expired
			closed := maps.Clone(ages)
			mu.Unlock()
			require.GreaterOrEqual(t, len(closed), 20)
			distinct := map[time.Duration]bool{}
			for _, age := range closed {
				assert.GreaterOrEqual(t, age, 54*time.Minute)
				assert.LessOrEqual(t, age, time.Hour+10*time.Second)
				distinct[age.Round(time.Second)] = true
			}
			assert.Greater(t, len(distinct), 10, "they do not all expire together")
		})
	})
	t.Run("Idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { c.MaxIdleConnectionLifetime = time.Minute })
			var conns []*sql.Conn
			for range 10 {
				conns = append(conns, pooltest.Take(t, db))
			}
			for _, c := range conns {
				c.Close()
			}
			time.Sleep(50 * time.Second)
			assert.Equal(t, 10, pool.Stats().Idle)
			time.Sleep(75 * time.Second) // database/sql looks once per idle time
			assert.Zero(t, srv.Open())
			assert.EqualValues(t, 10, pool.Stats().Closed)
		})
	})
	t.Run("Minimum", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
				c.MinConnections = 3
				c.MaxIdleConnectionLifetime = time.Minute
			})
			var conns []*sql.Conn
			for range 10 {
				conns = append(conns, pooltest.Take(t, db))
			}
			for _, c := range conns {
				c.Close()
			}
			for range 100 {
				time.Sleep(10 * time.Second)
				require.GreaterOrEqual(t, pool.Stats().Open, 3)
			}
			assert.Equal(t, 3, pool.Stats().Open)
			assert.Equal(t, 10, srv.Dials(), "they are kept, not opened again and again")

			// Those that die are replaced.
			pool.Reset()
			time.Sleep(time.Second)
			assert.Equal(t, 3, pool.Stats().Open)
			assert.Equal(t, 13, srv.Dials())
		})
	})
	t.Run("MaxIdle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) { c.MaxIdleConnections = 0 })
			for range 5 {
				_, err := db.ExecContext(t.Context(), "SELECT 1")
				require.NoError(t, err)
			}
			time.Sleep(3 * time.Second)
			assert.Zero(t, srv.Open(), "0 means none")
		})
	})
}

// An idle lease is taken back after a second, and its connection goes on serving.
func TestIdleLeasesAreTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, nil)
		for range 5 {
			_, err := db.ExecContext(t.Context(), "SELECT 1")
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		assert.Equal(t, 1, srv.Dials())
		assert.Equal(t, 1, pool.Stats().Idle)
	})
}

// What expires in a holder's hands is closed when it comes back, though nothing else happens.
func TestExpiredWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
			pooltest.Limit(1)(c)
			c.MaxConnectionLifetime, c.MaxIdleConnectionLifetime = time.Minute, 0
		})
		c := pooltest.Take(t, db)
		time.Sleep(2 * time.Minute)
		require.NoError(t, c.Close())
		synctest.Wait()
		assert.Zero(t, srv.Open())
	})
}

// Connections that have been idle for too long are closed side by side: until then they count.
func TestIdleClosedSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnClose(func(*fakedriver.Conn) error { time.Sleep(5 * time.Second); return nil })
		db, _ := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
			pooltest.Limit(5)(c)
			c.MaxIdleConnectionLifetime = time.Minute
		})
		hold := func() (held []*sql.Conn) {
			for range 5 {
				held = append(held, pooltest.Take(t, db))
			}
			return held
		}
		for _, c := range hold() {
			require.NoError(t, c.Close())
		}
		time.Sleep(time.Minute + time.Second)
		began := time.Now()
		for _, c := range hold() {
			require.NoError(t, c.Close())
		}
		assert.LessOrEqual(t, time.Since(began), 5*time.Second)
		require.NoError(t, db.Close())
	})
}

// How long a connection was idle is what its last use says, also where another handle takes it from the one that has it,
// and where a handle gives it back to the pool.
func TestIdleTimeGoesWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		name := fmt.Sprint("idle time ", pooltest.Number())
		lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
		open := func() *sql.DB {
			db, err := sql.Open(name, fmt.Sprintf("x?pool_name=%s&connection_limit=1", strings.ReplaceAll(name, " ", "")))
			require.NoError(t, err)
			return db
		}
		a, b := open(), open()
		defer a.Close()
		defer b.Close()
		exec := func(db *sql.DB) { _, err := db.ExecContext(t.Context(), "UPDATE t"); require.NoError(t, err) }
		for range 500 {
			exec(a)
			time.Sleep(5 * time.Millisecond)
		}
		exec(b)
		assert.Zero(t, srv.Pings(), "it answered 5 ms ago")
		time.Sleep(time.Minute)
		b.SetMaxIdleConns(-1)
		exec(a)
		assert.Equal(t, 1, srv.Pings(), "it was idle for a minute")
	})
}
