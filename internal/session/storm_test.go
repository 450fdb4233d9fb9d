package session_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestStorm runs random work on a pool over a server that fails in every way it can, at once, and asks at the end
// whether everything is still there. In a bubble, hours of it take seconds.
func TestStorm(t *testing.T) {
	rnd := pooltest.Seed(t)
	for round := range 4 {
		// Each round is a bubble of its own, with a size of its own.
		limit, workers := 1+rnd.IntN(8), 1+rnd.IntN(40)
		seed := rnd.Uint64()
		t.Run(fmt.Sprintf("Round=%d/Limit=%d/Workers=%d", round, limit, workers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storm(t, limit, workers, seed) })
		})
	}
}

func storm(t *testing.T, limit, workers int, seed uint64) {
	srv := fakedriver.New()
	// chance is safe for scripts, which run on many goroutines.
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 1))
	chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) == 0 }
	upTo := func(d time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(rnd.Int64N(int64(d)))
	}
	fault := errors.New("the server says no")
	calm := true // no faults; guarded by mu
	setCalm := func(c bool) { mu.Lock(); defer mu.Unlock(); calm = c }
	stormy := func(n int) bool { mu.Lock(); defer mu.Unlock(); return !calm && rnd.IntN(n) == 0 }

	srv.OnDial(func(ctx context.Context) error {
		time.Sleep(upTo(50 * time.Millisecond))
		switch {
		case stormy(6):
			return syscall.ECONNREFUSED
		case stormy(20):
			<-ctx.Done()
			return ctx.Err()
		case stormy(40):
			return fault
		case stormy(40):
			panic("dial")
		}
		return nil
	})
	script := func(ctx context.Context, c *fakedriver.Conn) error {
		select {
		case <-time.After(upTo(20 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case stormy(30):
			c.Kill()
			return driver.ErrBadConn
		case stormy(10):
			return fault
		}
		return nil
	}
	srv.OnQuery(func(ctx context.Context, c *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		// Not inside transactions and on connections: there database/sql itself never gets over it, because the
		// panic leaves a lock behind that Rollback and Close wait for.
		if query == "exec" && stormy(20) {
			panic("query")
		}
		return script(ctx, c)
	})
	srv.OnPing(script)
	srv.OnPrepare(func(ctx context.Context, c *fakedriver.Conn, _ string) error { return script(ctx, c) })
	srv.OnReset(func(_ context.Context, c *fakedriver.Conn) error {
		if stormy(50) {
			c.Kill()
			return driver.ErrBadConn
		}
		return nil
	})
	srv.OnClose(func(*fakedriver.Conn) error {
		if stormy(20) {
			panic("close")
		}
		return nil
	})

	db, pool := pooltest.OpenFake(t, srv, func(c *lifeguard.Config) {
		c.ConnectionLimit, c.MaxIdleConnections = limit, limit
		c.MinConnections = limit / 3
		c.PoolTimeout = 2 * time.Second
		c.MaxConnectionLifetime = 20 * time.Second
		c.MaxIdleConnectionLifetime = 3 * time.Second
	})
	st, err := db.PrepareContext(t.Context(), "prepared")
	require.NoError(t, err)
	setCalm(false)

	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range 300 {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if chance(3) {
					ctx, cancel = context.WithTimeout(ctx, upTo(100*time.Millisecond))
				}
				randomWork(ctx, db, st, chance, upTo)
				cancel()
				if chance(100) {
					time.Sleep(upTo(5 * time.Second)) // leases and connections grow old
				}
				if chance(300) {
					pool.Reset()
				}
			}
		})
	}
	wg.Wait()

	setCalm(true)
	time.Sleep(12 * time.Second) // longer than a dial that hangs, and than idle connections live: nothing is under way
	synctest.Wait()
	stats := pool.Stats()
	assert.Zero(t, stats.InUse)
	assert.Zero(t, stats.Waiting)
	assert.Zero(t, srv.OpenRows())
	assert.LessOrEqual(t, srv.MaxOpen(), limit)
	assert.Equal(t, srv.Open(), stats.Open)
	assert.Equal(t, srv.Open(), int(stats.Opened-stats.Closed))
	assert.GreaterOrEqual(t, srv.Open(), limit/3, "min_connections")

	// Every slot is there again.
	var conns []*sql.Conn
	for range limit {
		conns = append(conns, pooltest.Take(t, db))
	}
	assert.Equal(t, limit, pool.Stats().InUse)
	for _, c := range conns {
		assert.NoError(t, c.PingContext(t.Context()))
		assert.NoError(t, c.Close())
	}
	assert.NoError(t, st.Close())
}

// randomWork does one of the things people do with a handle. Errors are part of it.
func randomWork(ctx context.Context, db *sql.DB, st *sql.Stmt, chance func(int) bool, upTo func(time.Duration) time.Duration) {
	defer func() {
		if v := recover(); v != nil && v != "dial" && v != "query" && v != "caller" {
			panic(v)
		}
	}()
	switch {
	case chance(5):
		_, _ = db.ExecContext(ctx, "exec", 1)
	case chance(5):
		var n int
		_ = db.QueryRowContext(ctx, "rows 3").Scan(&n)
	case chance(5):
		rows, err := db.QueryContext(ctx, "rows 20")
		if err != nil {
			return
		}
		defer rows.Close()
		for rows.Next() && !chance(15) {
		}
	case chance(4):
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return
		}
		defer tx.Rollback()
		_, _ = tx.ExecContext(ctx, "in transaction")
		if chance(4) {
			panic("caller")
		}
		_, _ = tx.StmtContext(ctx, st).ExecContext(ctx)
		if chance(2) {
			_ = tx.Commit()
		}
	case chance(3):
		_, _ = st.ExecContext(ctx)
	case chance(3):
		s, err := db.PrepareContext(ctx, "short-lived")
		if err != nil {
			return
		}
		defer s.Close()
		_, _ = s.ExecContext(ctx)
	case chance(2):
		c, err := db.Conn(ctx)
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.PrepareContext(ctx, "forgotten")
		_, _ = c.ExecContext(ctx, "on a connection")
		time.Sleep(upTo(10 * time.Millisecond))
		_ = c.Raw(func(any) error {
			if chance(10) {
				return driver.ErrBadConn
			}
			return nil
		})
	default:
		_ = db.PingContext(ctx)
	}
}
