package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestSetConnectionLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(10))
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var served atomic.Int64
		for range 40 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := db.ExecContext(t.Context(), "SELECT 1")
					assert.NoError(t, err, "nobody is lost")
					served.Add(1)
				}
			})
		}
		for _, n := range []int{10, 3, 20, 1, 7} {
			require.NoError(t, pool.SetConnectionLimit(n))
			time.Sleep(15 * time.Millisecond) // what is under way comes back
			for range 50 {
				time.Sleep(7 * time.Millisecond)
				assert.LessOrEqual(t, srv.Open(), n)
			}
			assert.Equal(t, n, srv.Open(), "and it is used to the full")
			st := pool.Stats()
			assert.Equal(t, n, st.Limit)
			assert.Equal(t, n, pool.Config().ConnectionLimit)
			assert.Equal(t, n, pool.Config().MaxIdleConnections)
		}
		stop()
		wg.Wait()
		assert.ErrorContains(t, pool.SetConnectionLimit(0), "connection_limit")
		assert.Positive(t, served.Load())
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, nil)
		held := pooltest.Take(t, db)
		var conns []*sql.Conn
		for range 4 {
			conns = append(conns, pooltest.Take(t, db))
		}
		for _, c := range conns {
			c.Close()
		}
		pool.Reset()
		synctest.Wait()
		assert.Equal(t, 1, srv.Open(), "idle ones close at once")
		_, err := held.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err, "those in use go on")
		held.Close()
		synctest.Wait()
		assert.Zero(t, srv.Open(), "and close when they come back")
		_, err = db.ExecContext(t.Context(), "SELECT 1")
		assert.NoError(t, err)
	})
}

// Whatever is called at once, the limit of the inner pool is that of the last call.
func TestSetConnectionLimitAtOnce(t *testing.T) {
	srv := fakedriver.New()
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				assert.NoError(t, pool.SetConnectionLimit(1+(i+j)%7))
			}
		})
	}
	wg.Wait()
	n := pool.Stats().Limit
	for range n {
		defer pooltest.Take(t, db).Close()
	}
	assert.Equal(t, n, srv.Open())
}
