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

func TestDriverPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		boom := func(name string, set func(), f func()) {
			set()
			assert.PanicsWithValue(t, name, f)
			srv.OnDial(nil)
			srv.OnQuery(nil)
			srv.OnCommit(nil)
			srv.OnNext(nil)
			time.Sleep(time.Second)
			st := pool.Stats()
			assert.Zero(t, st.InUse, "after %s", name)
			assert.LessOrEqual(t, srv.Open(), 2)
		}
		for range 5 { // more often than there are slots
			boom("dial", func() {
				pool.Reset()
				srv.OnDial(func(context.Context) error { panic("dial") })
			}, func() { db.PingContext(t.Context()) })
			boom("exec", func() {
				srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { panic("exec") })
			}, func() { db.ExecContext(t.Context(), "x") })
			boom("commit", func() {
				srv.OnCommit(func(*fakedriver.Conn) error { panic("commit") })
			}, func() {
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				tx.Commit()
			})
			boom("next", func() {
				srv.OnNext(func(*fakedriver.Conn, int) error { panic("next") })
			}, func() {
				rows, err := db.QueryContext(t.Context(), "x")
				require.NoError(t, err)
				rows.Next()
			})
		}
	})
}
