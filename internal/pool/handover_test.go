package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
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

// sleeping answers each query after d.
func sleeping(d time.Duration) *fakedriver.Server {
	srv := fakedriver.New()
	srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
		time.Sleep(d)
		return nil
	})
	return srv
}

// Each operation is one checkout, however often connections change hands.
func TestCheckoutsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sleeping(time.Millisecond)
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					_, err := db.Exec("UPDATE t")
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 200, pool.Stats().Acquired)
		assert.Greater(t, pool.Stats().Waits, uint64(90))
		assert.LessOrEqual(t, srv.MaxOpen(), 2)

		// An argument that cannot be converted ends an operation before it begins.
		_, err := db.Exec("UPDATE t", make(chan int))
		require.Error(t, err)
		synctest.Wait()
		assert.Zero(t, pool.Stats().InUse)
		require.NoError(t, db.QueryRow("SELECT 1").Scan(new(any)))
	})
}

// A caller keeps its place in the queue until it is served, and counts as one wait.
func TestPlaceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		_, err := db.Exec("UPDATE t") // leaves the handle with an idle connection
		require.NoError(t, err)
		holder := pooltest.Take(t, db)
		before := pool.Stats().Waits
		var order []string
		served := make(chan struct{})
		wait := func(name string) {
			c, err := db.Conn(context.Background())
			assert.NoError(t, err)
			order = append(order, name)
			assert.NoError(t, c.Close())
			served <- struct{}{}
		}
		for i, name := range []string{"first", "second", "third"} {
			go wait(name)
			time.Sleep(3 * time.Millisecond)
			synctest.Wait()
			assert.Equal(t, i+1, pool.Stats().Waiting)
		}
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, 3, pool.Stats().Waiting)
		require.NoError(t, holder.Close())
		for range 3 {
			<-served
		}
		assert.Equal(t, []string{"first", "second", "third"}, order)
		assert.EqualValues(t, 3, pool.Stats().Waits-before, "no caller waited twice")
	})
}

// pool_timeout and contexts end a wait at their time, however short they are.
func TestWaitsEndInTime(t *testing.T) {
	for _, tt := range []struct {
		name      string
		timeout   time.Duration // pool_timeout
		ctx       time.Duration
		after     time.Duration
		timeouts  uint64
		cancelled uint64
		want      error
	}{
		{name: "pool_timeout", timeout: time.Second, after: time.Second, timeouts: 1, want: lifeguard.ErrPoolTimeout},
		{name: "pool_timeout of an instant", timeout: 2 * time.Millisecond, after: 2 * time.Millisecond, timeouts: 1, want: lifeguard.ErrPoolTimeout},
		{name: "deadline", timeout: time.Second, ctx: 500 * time.Millisecond, after: 500 * time.Millisecond, cancelled: 1, want: context.DeadlineExceeded},
		{name: "deadline of an instant", timeout: time.Second, ctx: time.Millisecond, after: time.Millisecond, cancelled: 1, want: context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, pool := pooltest.OpenFake(t, fakedriver.New(), func(c *lifeguard.Config) {
					pooltest.Limit(1)(c)
					c.PoolTimeout = tt.timeout
				})
				_, err := db.Exec("UPDATE t")
				require.NoError(t, err)
				defer pooltest.Take(t, db).Close()
				before := pool.Stats().Waits
				ctx := context.Background()
				if tt.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.ctx)
					defer cancel()
				}
				start := time.Now()
				_, err = db.Conn(ctx)
				assert.Equal(t, tt.after, time.Since(start))
				assert.ErrorIs(t, err, tt.want)
				var timeout *lifeguard.PoolTimeoutError
				if errors.As(err, &timeout) {
					assert.Equal(t, tt.after, timeout.Waited)
				}
				st := pool.Stats()
				assert.Equal(t, tt.timeouts, st.Timeouts)
				assert.Equal(t, tt.cancelled, st.Canceled)
				assert.EqualValues(t, 1, st.Waits-before)
				assert.Zero(t, st.Waiting)
			})
		})
	}
}

// fading is a context that ends after the first question whether it has ended.
type fading struct {
	context.Context
	done chan struct{}
	once sync.Once
}

func (f *fading) Done() <-chan struct{} { return f.done }

func (f *fading) Err() error {
	select {
	case <-f.done:
		return context.Canceled
	default:
		f.once.Do(func() { close(f.done) })
		return nil
	}
}

// A context that ends between two steps of a wait leaves no waiter behind.
func TestContextEndsBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
		holder := pooltest.Take(t, db)
		time.Sleep(time.Second)
		_, err := db.Conn(&fading{Context: context.Background(), done: make(chan struct{})})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, pool.Stats().Waiting)
		require.NoError(t, holder.Close())
	})
}

// A holder can close a statement of the pool's last connection while a caller waits for that connection. database/sql
// closes it under a lock of the connection; a wait that held the lock would last for ever. The test is not in a bubble,
// in which no time passes while a goroutine waits for a mutex.
func TestStatementClosedBeforeWaiters(t *testing.T) {
	db, pool := pooltest.OpenFake(t, fakedriver.New(), pooltest.Limit(1))
	st, err := db.Prepare("SELECT 1")
	require.NoError(t, err)
	holder := pooltest.Take(t, db)
	done := make(chan error)
	go func() {
		_, err := db.Exec("UPDATE t")
		done <- err
	}()
	pooltest.Eventually(t, "a caller waits", func() bool { return pool.Stats().Waiting == 1 })
	require.NoError(t, st.Close())
	require.NoError(t, holder.Close())
	require.NoError(t, <-done)
}

// A statement works on every connection that its handle gets, also after a Reset, and none is left on the server.
func TestStatementWhileHandsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sleeping(time.Millisecond)
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		st, err := db.Prepare("SELECT 1")
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range 20 {
					var n int
					assert.NoError(t, st.QueryRow().Scan(&n))
				}
			})
		}
		wg.Wait()
		pool.Reset()
		var n int
		require.NoError(t, st.QueryRow().Scan(&n))
		require.NoError(t, st.Close())
		assert.Zero(t, srv.Stmts(), "statements left on the server")
	})
}

// A handle with SetMaxOpenConns hands leases from one caller to the next, and each of database/sql's three attempts may
// find its lease taken. Every caller is served all the same.
func TestHandleWithLimit(t *testing.T) {
	for _, most := range []int{1, 3, 4, 7} {
		synctest.Test(t, func(t *testing.T) {
			srv := fakedriver.New()
			srv.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
				if query == "slow" {
					time.Sleep(30 * time.Millisecond)
				} else {
					time.Sleep(100 * time.Microsecond)
				}
				return nil
			})
			db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(3))
			db.SetMaxOpenConns(most)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					for j := range 50 {
						query := "quick"
						if (i+j)%7 == 0 {
							query = "slow"
						}
						_, err := db.Exec(query)
						assert.NoError(t, err)
					}
				})
			}
			wg.Wait()
			assert.LessOrEqual(t, srv.MaxOpen(), 3)
		})
	}
}

// A caller of such a handle that waits in vain is told why.
func TestHandleWithLimitTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := pooltest.OpenFake(t, sleeping(time.Second), func(c *lifeguard.Config) {
			pooltest.Limit(1)(c)
			c.PoolTimeout = 500 * time.Millisecond
		})
		db.SetMaxOpenConns(2)
		var served, refused int
		var wg sync.WaitGroup
		var mu sync.Mutex // guards served and refused
		for range 12 {
			wg.Go(func() {
				for range 20 {
					_, err := db.Exec("UPDATE t SET n = ?", 1)
					mu.Lock()
					if err == nil {
						served++
					} else {
						refused++
						assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		assert.Positive(t, served)
		assert.Positive(t, refused)
		t.Log(served, "served,", refused, "refused")
	})
}

// Handles of one pool take each other's idle connections at any moment. No two holders ever have the same one: the
// driver notices a connection that is used by two at once.
func TestHandlesTakeFromEachOther(t *testing.T) {
	rnd := pooltest.Seed(t)
	srv := fakedriver.New()
	name := fmt.Sprint("taking ", pooltest.Number())
	lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
	const limit = 3
	var handles [3]*sql.DB
	for i := range handles {
		var err error
		handles[i], err = sql.Open(name, fmt.Sprintf("host=a connection_limit=%d pool_name=%q", limit, "taking"))
		require.NoError(t, err)
	}
	pool := pooltest.PoolOf(t, handles[0])
	var wg sync.WaitGroup
	for i := range 9 {
		rnd, db := rand.New(rand.NewPCG(rnd.Uint64(), 0)), handles[i%len(handles)]
		wg.Go(func() {
			for range 1500 {
				var err error
				switch rnd.IntN(3) {
				case 0:
					_, err = db.Exec("UPDATE t")
				case 1:
					err = db.QueryRow("SELECT 1").Scan(new(int))
				case 2:
					var c *sql.Conn
					if c, err = db.Conn(t.Context()); err == nil {
						_, err = c.ExecContext(t.Context(), "UPDATE t")
						_ = c.Close()
					}
				}
				if !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	pooltest.Settled(t, pool)
	assert.LessOrEqual(t, srv.MaxOpen(), limit)
	for _, db := range handles {
		require.NoError(t, db.Close())
	}
	assert.Eventually(t, func() bool { return srv.Open() == 0 }, 10*time.Second, time.Millisecond)
	assert.Empty(t, srv.Violations())
}

// Connections change hands at random, for the race detector: between callers of all kinds, with contexts that end, while
// statements close, the limit changes and the pool is reset. In the end every slot is there.
func TestHandsChangeAtRandom(t *testing.T) {
	rnd := pooltest.Seed(t)
	srv := fakedriver.New()
	srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if query != "slow" {
			return nil
		}
		select {
		case <-time.After(12 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(3))
	var wg sync.WaitGroup
	for range 24 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			for range 80 {
				ctx, cancel := context.Background(), func() {}
				if rnd.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(20000))*time.Microsecond)
				}
				if err := useAtRandom(ctx, db, pool, rnd); err != nil && ctx.Err() == nil {
					assert.NoError(t, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.NoError(t, pool.SetConnectionLimit(3))
	pooltest.Settled(t, pool)
	for range 3 {
		defer pooltest.Take(t, db).Close()
	}
	assert.LessOrEqual(t, srv.MaxOpen(), 3)
}

// useAtRandom runs one operation, or resets the pool.
func useAtRandom(ctx context.Context, db *sql.DB, pool *lifeguard.Pool, rnd *rand.Rand) error {
	switch rnd.IntN(6) {
	case 0:
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.ExecContext(ctx, "quick")
		return err
	case 1:
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		_, err = tx.ExecContext(ctx, "quick")
		return err
	case 2:
		st, err := db.PrepareContext(ctx, "quick")
		if err != nil {
			return err
		}
		defer st.Close()
		for range 3 {
			if _, err = st.ExecContext(ctx); err != nil {
				return err
			}
		}
		return nil
	case 3:
		_, err := db.ExecContext(ctx, "slow")
		return err
	case 4:
		if rnd.IntN(10) > 0 {
			return nil
		}
		pool.Reset()
		return pool.SetConnectionLimit(1 + rnd.IntN(3))
	}
	return db.QueryRowContext(ctx, "quick").Scan(new(int))
}
