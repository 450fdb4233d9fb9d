package pool_test

import (
	"database/sql"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A handle closes statements of idle connections at any time. By then another holder may have the connection.
func TestStatementsOfRevokedLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(2))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					st, err := db.PrepareContext(t.Context(), "SELECT 1")
					if !assert.NoError(t, err) {
						return
					}
					for range 3 {
						_, err := st.ExecContext(t.Context())
						assert.NoError(t, err)
						time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
					}
					assert.NoError(t, st.Close())
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		assert.Zero(t, srv.Stmts())
	})
}

// A statement of a sql.Conn may be closed at any time after the connection was returned. The next holder must not notice.
func TestStatementClosedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		db, _ := pooltest.OpenFake(t, srv, pooltest.Limit(1))
		for range 3 {
			c := pooltest.Take(t, db)
			st, err := c.PrepareContext(t.Context(), "INSERT")
			require.NoError(t, err)
			next := make(chan *sql.Conn)
			go func() { next <- pooltest.Take(t, db) }()
			synctest.Wait()
			require.NoError(t, c.Close())
			c = <-next
			require.NoError(t, st.Close())
			other, err := c.PrepareContext(t.Context(), "UPDATE")
			require.NoError(t, err)
			require.NoError(t, st.Close())
			_, err = other.ExecContext(t.Context())
			assert.NoError(t, err)
			assert.NoError(t, other.Close())
			assert.NoError(t, c.Close())
		}
	})
}

// TestStatementsClosedLate is TestStatementClosedLate at random, for the race detector.
func TestStatementsClosedLate(t *testing.T) {
	rnd := pooltest.Seed(t)
	srv := fakedriver.New()
	db, pool := pooltest.OpenFake(t, srv, pooltest.Limit(2))
	var wg sync.WaitGroup
	for range 6 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			var late []*sql.Stmt
			for range 500 {
				c, err := db.Conn(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				for range rnd.IntN(3) {
					st, err := c.PrepareContext(t.Context(), "INSERT")
					if assert.NoError(t, err) {
						_, err = st.ExecContext(t.Context())
						assert.NoError(t, err)
						late = append(late, st)
					}
				}
				if rnd.IntN(2) == 0 {
					assert.NoError(t, c.Close())
				}
				for len(late) > rnd.IntN(4) {
					assert.NoError(t, late[0].Close())
					late = late[1:]
				}
				_ = c.Close()
			}
			for _, st := range late {
				assert.NoError(t, st.Close())
			}
		})
	}
	wg.Wait()
	assert.Eventually(t, func() bool { return pool.Stats().InUse == 0 }, 10*time.Second, time.Millisecond) // a dial ends by itself
	// What was closed after the connection had gone to another holder goes before the next one gets it.
	for range 2 {
		defer pooltest.Take(t, db).Close()
	}
	assert.Zero(t, srv.Stmts())
}
