package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// idleConns opens a pool and gives the connections that its handle has idle, for a test to use them as database/sql would.
func idleConns(t *testing.T, srv *fakedriver.Server, limit int) (*sql.DB, *Pool, []*execQueryConn) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.ConnectionLimit, cfg.MaxIdleConnections, cfg.PoolTimeout, cfg.PoolName = limit, limit, 10*time.Second, "put off"
	db, err := OpenDB(srv.Connector(), WithConfig(cfg))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	pool, _ := PoolOf(db)
	var held []*sql.Conn
	var conns []*execQueryConn
	for range limit {
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		held = append(held, c)
		require.NoError(t, c.Raw(func(dc any) error { conns = append(conns, dc.(*execQueryConn)); return nil }))
	}
	for _, c := range held {
		require.NoError(t, c.Close())
	}
	return db, pool, conns
}

// putOff is what ResetSession does if it finds that an ExecContext follows.
func putOff(ctx context.Context, l *lease) {
	l.hold.ctx = ctx
	l.due, l.sole = true, soleDue
}

func TestCheckoutIsPutOff(t *testing.T) {
	if !callsite.Cheap {
		t.Skip("the stack cannot be walked here")
	}
	ctx := t.Context()
	db, pool, conns := idleConns(t, fakedriver.New(), 1)
	conn := conns[0]
	before := pool.Stats().Acquired

	// As seen by the driver's connection itself: nothing is held before the operation, nor after it.
	_, err := db.ExecContext(ctx, "UPDATE")
	require.NoError(t, err)
	assert.Equal(t, leaseIdle, conn.state.load())
	assert.False(t, conn.due)
	assert.Equal(t, soleExec(soleNot), conn.sole)
	require.NoError(t, db.QueryRowContext(ctx, "SELECT 1").Scan(new(any)))
	assert.Equal(t, leaseIdle, conn.state.load())
	assert.Equal(t, before+2, pool.Stats().Acquired, "each of them is a checkout")

	// Who may keep it has it at once.
	c, err := db.Conn(ctx)
	require.NoError(t, err)
	assert.Equal(t, leaseHeld, conn.state.load())
	require.Len(t, pool.Holders(), 1)
	assert.Zero(t, pool.Holders()[0].Operations)
	_, err = c.ExecContext(ctx, "UPDATE")
	require.NoError(t, err)
	assert.Equal(t, leaseHeld, conn.state.load())
	assert.False(t, pool.Holders()[0].Busy)
	require.NoError(t, c.Close())

	// An argument that cannot be converted ends it before it began.
	_, err = db.ExecContext(ctx, "UPDATE", make(chan int))
	require.Error(t, err)
	assert.Equal(t, leaseIdle, conn.state.load())
	assert.False(t, conn.due)
}

// The connection may be taken between the checkout that was put off and the operation.
func TestPutOffAndTaken(t *testing.T) {
	for _, how := range []struct {
		name string
		run  func(ctx context.Context, c *execQueryConn) error
	}{
		{"exec", func(ctx context.Context, c *execQueryConn) error {
			_, err := c.ExecContext(ctx, "UPDATE", nil)
			return err
		}},
		{"query", func(ctx context.Context, c *execQueryConn) error {
			rows, err := c.QueryContext(ctx, "SELECT 1", nil)
			if err != nil {
				return err
			}
			return rows.Close()
		}},
		{"argument", func(ctx context.Context, c *execQueryConn) error {
			if err := c.CheckNamedValue(&driver.NamedValue{Ordinal: 1, Value: int64(1)}); err != nil && err != driver.ErrSkip {
				return err
			}
			_, err := c.ExecContext(ctx, "UPDATE", nil)
			return err
		}},
		{"prepare", func(ctx context.Context, c *execQueryConn) error {
			st, err := c.PrepareContext(ctx, "SELECT 1")
			if err != nil {
				return err
			}
			return st.Close()
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				_, pool, conns := idleConns(t, fakedriver.New(), 1)
				conn := conns[0]

				// Another is to be had.
				putOff(ctx, &conn.lease)
				pool.recall(nil)
				require.Equal(t, leaseBare, conn.state.load())
				require.NoError(t, how.run(ctx, conn))
				assert.True(t, conn.IsValid())
				assert.Equal(t, leaseIdle, conn.state.load())

				// All are in use until the time is up: nobody else would make another attempt.
				putOff(ctx, &conn.lease)
				taken := pool.revokeIdle(nil)
				require.Same(t, &conn.lease, taken)
				s := taken.detach()
				taken.becomeBare()
				start := time.Now()
				var timeout *PoolTimeoutError
				require.ErrorAs(t, how.run(ctx, conn), &timeout)
				assert.Equal(t, 10*time.Second, time.Since(start))
				assert.False(t, conn.IsValid())
				pool.release(s, notHeld, conn.handle)
			})
		})
	}
}

// A driver that panics in an ExecContext on which nobody has to look after that: the return finds it.
func TestPanicOfSoleExec(t *testing.T) {
	db, pool, conns := idleConns(t, fakedriver.New(), 1)
	conn := conns[0]
	putOff(t.Context(), &conn.lease)
	conn.session.execer = panicking{}
	assert.Panics(t, func() { _, _ = conn.ExecContext(t.Context(), "UPDATE", nil) })
	assert.Equal(t, leaseBusy, conn.state.load())
	assert.False(t, conn.IsValid())
	assert.Equal(t, leaseGone, conn.state.load())
	assert.Zero(t, pool.Stats().Open, "its place is free")
	_, err := db.Exec("UPDATE") // on the connection that this test has ended behind database/sql's back, and then on another
	assert.NoError(t, err)
}

type panicking struct{}

func (panicking) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	panic("the driver")
}

// Connections are taken away between the two steps of a checkout at any moment, and no two ever have the same. The
// driver notices if they do.
func TestPutOffUnderPressure(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("LIFEGUARD_TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	srv := fakedriver.New()
	_, pool, conns := idleConns(t, srv, 3)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	var takers, users sync.WaitGroup
	var taken, ran atomic.Int64
	for g := range uint64(2) {
		takers.Go(func() {
			random := rand.New(rand.NewPCG(seed, g))
			for ctx.Err() == nil {
				if l := pool.revokeIdle(nil); l != nil {
					taken.Add(1)
					if random.IntN(2) == 0 {
						runtime.Gosched()
					}
					l.strip(notHeld)
				}
				if random.IntN(4) == 0 {
					time.Sleep(time.Duration(random.IntN(50)) * time.Microsecond)
				}
			}
		})
	}
	for g, conn := range conns {
		users.Go(func() {
			random := rand.New(rand.NewPCG(seed, 100+uint64(g)))
			for range 20_000 {
				l := &conn.lease
				if l.state.load() == leaseIdle {
					putOff(ctx, l)
				} else if err := l.checkOut(ctx); err != nil {
					t.Errorf("checkout: %v", err)
					return
				}
				if random.IntN(3) == 0 {
					runtime.Gosched()
				}
				var err error
				if random.IntN(2) == 0 {
					_, err = conn.ExecContext(ctx, "UPDATE", nil)
				} else {
					var rows driver.Rows
					if rows, err = conn.QueryContext(ctx, "SELECT 1", nil); err == nil {
						err = rows.Close()
					}
				}
				if err != nil && !errors.Is(err, driver.ErrBadConn) {
					t.Errorf("operation: %v", err)
					return
				}
				ran.Add(1)
				if !conn.IsValid() && l.state.load() != leaseBare {
					t.Error("a lease that was only taken away is over")
					return
				}
			}
		})
	}
	users.Wait()
	cancel()
	takers.Wait()
	t.Logf("%d operations, %d times taken", ran.Load(), taken.Load())
	assert.Empty(t, srv.Violations())
	assert.Eventually(t, func() bool { return pool.Stats().InUse == 0 }, 10*time.Second, time.Millisecond) // a dial ends by itself
	assert.NotZero(t, taken.Load())
}
