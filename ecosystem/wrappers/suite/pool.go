package suite

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

const (
	waitFor = 60 * time.Second
	tick    = 5 * time.Millisecond
)

// testLimit has many callers do what callers do. The server never sees more connections than the limit, and the pool opens
// no more than it needs.
func testLimit(t *testing.T, libraries []Library) {
	const limit = 3
	each(t, libraries, settings{"connection_limit=3", "pool_timeout=60"}, func(t *testing.T, s *setup) {
		assert.Equal(t, limit, s.pool.Config().ConnectionLimit)
		const query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
		var calls sync.WaitGroup
		look := func(row *sql.Row) {
			var n int
			assert.NoError(t, row.Scan(&n))
			assert.LessOrEqual(t, n, limit)
		}
		for range 8 {
			calls.Go(func() {
				for range 4 {
					look(s.db.QueryRowContext(t.Context(), query, s.app))
					tx, err := s.db.BeginTx(t.Context(), nil)
					if assert.NoError(t, err) {
						look(tx.QueryRowContext(t.Context(), query, s.app))
						assert.NoError(t, tx.Commit())
					}
					c, err := s.db.Conn(t.Context())
					if assert.NoError(t, err) {
						look(c.QueryRowContext(t.Context(), query, s.app))
						assert.NoError(t, c.Close())
					}
				}
			})
		}
		calls.Wait()
		st := s.pool.Stats()
		assert.GreaterOrEqual(t, st.Acquired, uint64(96), "all went through the pool")
		if !s.Hides || s.under {
			assert.LessOrEqual(t, st.Opened, uint64(limit), "connections are used again")
			assert.Zero(t, st.InUse)
		} else {
			// A sql.Conn comes back unseen. Where the handle then keeps no more, its connection is closed.
			assert.LessOrEqual(t, st.Opened, uint64(32+limit))
		}
	})
}

// testReuse has one caller after another: however a library is made, one connection serves them all.
func testReuse(t *testing.T, libraries []Library) {
	each(t, libraries, settings{"connection_limit=2"}, func(t *testing.T, s *setup) {
		for range 20 {
			require.NoError(t, s.db.QueryRow("SELECT $1::int", 1).Scan(new(int)))
			_, err := s.db.Exec("SELECT 1")
			require.NoError(t, err)
			c, err := s.db.Conn(t.Context())
			require.NoError(t, err)
			require.NoError(t, c.PingContext(t.Context()))
			require.NoError(t, c.Close())
		}
		assert.EqualValues(t, 1, s.pool.Stats().Opened)
	})
}

// testPoolOf: the pool of a handle is found where its driver is lifeguard's. Behind most libraries another handle of the
// same pool_name shows it, as the other tests have it.
func testPoolOf(t *testing.T, libraries []Library) {
	each(t, libraries, settings{"connection_limit=2"}, func(t *testing.T, s *setup) {
		p, ok := lifeguard.PoolOf(s.db)
		assert.Equal(t, s.under || s.ShowsDriver, ok)
		if ok {
			assert.Same(t, s.pool, p)
		}
	})
}

// testPoolTimeout holds every connection. Who waits in vain is told by whom, and the error's type arrives.
func testPoolTimeout(t *testing.T, libraries []Library) {
	test := func(t *testing.T, s *setup) {
		assert.Equal(t, 2, s.pool.Config().ConnectionLimit)
		require.Eventually(t, func() bool { return s.pool.Ready(t.Context()) == nil }, waitFor, tick) // so that no wait is one for a dial
		first, err := s.db.Begin()
		require.NoError(t, err)
		second, err := s.db.Conn(t.Context())
		require.NoError(t, err)
		began := time.Now()
		_, err = s.db.Exec("SELECT 1")
		assert.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
		var timeout *lifeguard.PoolTimeoutError
		require.ErrorAs(t, err, &timeout)
		assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		assert.Equal(t, []int{2, 2}, []int{timeout.Limit, timeout.InUse})
		assert.Contains(t, err.Error(), "pool.go:", "the holder's place in the code")
		require.NoError(t, first.Rollback())
		_, err = s.db.Exec("SELECT 1")
		require.NoError(t, err)
		require.NoError(t, second.Close())
	}
	each(t, libraries, settings{"connection_limit=2", "min_connections=2", "pool_timeout=300ms"}, test)
	eachWithout(t, libraries, []lifeguard.Option{
		lifeguard.WithConnectionLimit(2), lifeguard.WithMinConnections(2), lifeguard.WithPoolTimeout(300 * time.Millisecond),
	}, test)
}

// testWaiterIsServed: a caller that waits gets the connection when it comes back, though no other caller comes.
func testWaiterIsServed(t *testing.T, libraries []Library) {
	each(t, libraries, settings{"connection_limit=1", "pool_timeout=60"}, func(t *testing.T, s *setup) {
		for what, hold := range map[string]func() (end func() error){
			"tx":   func() func() error { tx, err := s.db.Begin(); require.NoError(t, err); return tx.Commit },
			"rows": func() func() error { rows, err := s.db.Query("SELECT 1"); require.NoError(t, err); return rows.Close },
		} {
			end := hold()
			served := make(chan error, 1)
			go func() { _, err := s.db.Exec("SELECT 1"); served <- err }()
			require.Eventually(t, func() bool { return s.pool.Stats().Waiting == 1 }, waitFor, tick)
			began := time.Now()
			require.NoError(t, end())
			assert.NoError(t, <-served, what)
			assert.Less(t, time.Since(began), 30*time.Second, what)
		}
	})
}

// testContext: the end of a context ends a wait and a query, unless the library drops it.
func testContext(t *testing.T, libraries []Library) {
	each(t, libraries, settings{"connection_limit=1", "pool_timeout=5"}, func(t *testing.T, s *setup) {
		tx, err := s.db.Begin()
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err = s.db.ExecContext(ctx, "SELECT 1")
		if s.NoContext && !s.under {
			assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout, "the library connects without the context")
		} else {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Less(t, time.Since(began), 5*time.Second)
		}
		require.NoError(t, tx.Rollback())

		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began = time.Now()
		_, err = s.db.ExecContext(ctx, "SELECT pg_sleep(60)")
		assert.Error(t, err)
		assert.Less(t, time.Since(began), 30*time.Second)
		_, err = s.db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err, "the next caller is served")
	})
}

// testShutdown: it waits for a transaction, ends at once when nobody has anything, and names who keeps it waiting.
func testShutdown(t *testing.T, libraries []Library) {
	each(t, libraries, settings{"connection_limit=2"}, func(t *testing.T, s *setup) {
		tx, err := s.db.Begin()
		require.NoError(t, err)
		require.NoError(t, s.db.QueryRow("SELECT 1").Scan(new(int)))
		short, cancel := context.WithTimeout(t.Context(), waitFor)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- s.pool.Shutdown(short) }()
		require.Eventually(t, func() bool {
			_, err := s.db.Exec("SELECT 1")
			return errors.Is(err, lifeguard.ErrPoolClosed)
		}, waitFor, tick)
		select {
		case err := <-done:
			t.Errorf("it did not wait for the transaction: %v", err)
		default:
		}
		_, err = tx.Exec("SELECT 1")
		assert.NoError(t, err, "a transaction under way goes on")
		assert.NoError(t, tx.Commit())
		assert.NoError(t, <-done)
	})
}

// testLeaks: what is held for too long is reported with its place, and what lies idle is not.
func testLeaks(t *testing.T, libraries []Library) {
	for _, l := range libraries {
		for name, open := range map[string]func(*testing.T, Library, settings, ...lifeguard.Option) *setup{"over": over, "under": below} {
			if name == "under" && l.OnlyOver {
				continue
			}
			t.Run(l.Name+" "+name, func(t *testing.T) {
				leaks := make(chan lifeguard.Leak, 10)
				s := open(t, l, settings{"connection_limit=3", "leak_threshold=100ms"},
					lifeguard.WithLeakHandler(func(l lifeguard.Leak) { leaks <- l }))
				require.NoError(t, s.db.QueryRow("SELECT 1").Scan(new(int)))
				tx, err := s.db.Begin()
				require.NoError(t, err)
				_, err = tx.Exec("SELECT 'held'")
				require.NoError(t, err)
				leak := <-leaks
				assert.True(t, strings.HasSuffix(leak.Stack[0].File, "suite/pool.go"), "%v", leak.Stack[0])
				assert.True(t, leak.InTx)
				require.NoError(t, tx.Rollback())
				for leak := range leaks {
					if leak.Returned {
						break
					}
				}
				select {
				case leak := <-leaks:
					t.Errorf("an idle connection was reported: %+v", leak)
				case <-time.After(400 * time.Millisecond):
				}
			})
		}
	}
}

// testConnBehindAVeil says what it costs that a library hides IsValid: a sql.Conn that came back counts as held until the
// handle uses its connection again.
func testConnBehindAVeil(t *testing.T, libraries []Library) {
	for _, l := range libraries {
		t.Run(l.Name, func(t *testing.T) {
			s := over(t, l, settings{"connection_limit=1", "pool_timeout=5"})
			c, err := s.db.Conn(t.Context())
			require.NoError(t, err)
			_, err = c.ExecContext(t.Context(), "SELECT 1")
			require.NoError(t, err)
			require.NoError(t, c.Close())
			inUse := 0
			if l.Hides {
				inUse = 1
			}
			assert.Equal(t, inUse, s.pool.Stats().InUse)
			for range 3 {
				_, err = s.db.Exec("SELECT 1")
				require.NoError(t, err, "the handle has it")
			}
			assert.Zero(t, s.pool.Stats().InUse)
			assert.EqualValues(t, 1, s.pool.Stats().Opened)
		})
	}
}

// testBadParameter: a parameter that is wrong is an error that does not show the password.
func testBadParameter(t *testing.T, libraries []Library) {
	for _, l := range libraries {
		t.Run(l.Name, func(t *testing.T) {
			name := Unique("lifeguard")
			lifeguardDriver := registerDriver(name)
			db, err := l.Open(name, lifeguardDriver, "postgres://app:hunter2@localhost/shop?connection_limit=zero")
			if err == nil {
				err = db.Ping() // a library may open the connector later
				_ = db.Close()
			}
			require.Error(t, err)
			assert.Contains(t, err.Error(), "connection_limit")
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// testCloseBehindAVeil says what it costs that a library hides the connector's Close: the pool does not hear that the handle
// is closed, and keeps its connections for max_idle_connection_lifetime. Its Shutdown ends it at once.
func testCloseBehindAVeil(t *testing.T, libraries []Library) {
	for _, l := range libraries {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			s := over(t, l, settings{"connection_limit=1", "max_idle_connection_lifetime=1s"})
			require.NoError(t, s.db.Ping())
			require.EqualValues(t, 1, s.pool.Stats().Opened)
			require.NoError(t, s.db.Close())
			s.nothingLeft(t)
		})
	}
}
