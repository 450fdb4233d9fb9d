package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// After the server dropped what was idle, callers do not see it, not even many at once: the third attempt of
// database/sql must not be given another dead connection.
func TestIdleConnectionsDied(t *testing.T) {
	for _, callers := range []int{1, 2, 8, 30} {
		t.Run(fmt.Sprintf("Callers=%d", callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := pooltest.OpenFake(t, srv, nil)
				// Also when the handle is left with as many husks as database/sql makes attempts.
				for _, rest := range []time.Duration{0, 10 * time.Second} { // idle as leases, idle in the inner pool
					var conns []*sql.Conn
					for range 10 {
						conns = append(conns, pooltest.Take(t, db))
					}
					for _, c := range conns {
						c.Close()
					}
					time.Sleep(rest)
					for _, c := range srv.Conns() {
						c.Kill()
					}
					var wg sync.WaitGroup
					for range callers {
						wg.Go(func() {
							var n int
							assert.NoError(t, db.QueryRowContext(t.Context(), "SELECT 1").Scan(&n))
						})
					}
					wg.Wait()
				}
				synctest.Wait()
				assert.Zero(t, pool.Stats().InUse)
			})
		})
	}
}

// A driver that panics while rows are read costs a connection and never a slot.
func TestRowsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		srv.OnNext(func(*fakedriver.Conn, int) error { panic("next") })
		for range 5 { // more often than there are slots
			rows, err := db.QueryContext(t.Context(), "x")
			require.NoError(t, err)
			assert.PanicsWithValue(t, "next", func() { rows.Next() })
			synctest.Wait()
			assert.Zero(t, pool.Stats().InUse)
			assert.Zero(t, srv.Open())
		}
	})
}

// A driver may ask the server for an answer when a connection is used again, as pgx does. A caller that is too impatient for it
// loses that one connection, and no other.
func TestImpatientReset(t *testing.T) {
	for _, through := range []string{"handle", "pool"} {
		t.Run(through, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(10))
				if through == "pool" {
					db.SetMaxIdleConns(-1)
				}
				var held []*sql.Conn
				for range 10 {
					held = append(held, pooltest.Take(t, db))
				}
				for _, c := range held {
					require.NoError(t, c.Close())
				}
				srv.OnReset(func(ctx context.Context, _ *fakedriver.Conn) error {
					select {
					case <-time.After(60 * time.Millisecond):
						return nil
					case <-ctx.Done():
						return driver.ErrBadConn
					}
				})
				for range 2 {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
					_, err := db.ExecContext(ctx, "UPDATE t")
					assert.Error(t, err)
					cancel()
				}
				synctest.Wait()
				assert.EqualValues(t, 2, pool.Stats().Closed)
			})
		})
	}
}
