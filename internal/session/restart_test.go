package session_test

import (
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestRestartOnServer leaves pools of ten connections idle, in the handle and in the pool behind it, kills the
// connections or restarts the server, and then makes one call, or eight at once. None may see an error.
func TestRestartOnServer(t *testing.T) {
	srv := pgtest.Start(t)
	type idlePool struct {
		*pooltest.Client
		what   string
		pooled bool
		calls  int
	}
	const size = 10
	open := func(what string, drivers ...string) (pools []idlePool) {
		var wg sync.WaitGroup
		for _, driverName := range drivers {
			for _, calls := range []int{1, 8} {
				p := idlePool{pooltest.OpenPostgres(t, driverName, srv.DSN(), size), driverName + ", " + what, driverName != "postgres", calls}
				pools = append(pools, p)
				wg.Go(func() { p.Fill(t, size) })
			}
		}
		wg.Wait()
		return pools
	}
	call := func(p idlePool) {
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range p.calls {
			wg.Go(func() {
				<-start
				var err error
				switch i % 4 {
				case 0:
					err = p.QueryRowContext(t.Context(), "SELECT $1::int", i).Scan(new(int))
				case 1:
					_, err = p.ExecContext(t.Context(), "SELECT 1")
				case 2:
					var tx *sql.Tx
					if tx, err = p.BeginTx(t.Context(), nil); err == nil {
						err = tx.Commit()
					}
				case 3:
					var stmt *sql.Stmt
					if stmt, err = p.PrepareContext(t.Context(), "SELECT 2"); err == nil {
						err = stmt.Close()
					}
				}
				assert.NoError(t, err, "%s, call %d of %d", p.what, i, p.calls)
			})
		}
		close(start)
		wg.Wait()
		if p.pooled {
			p.AllSlots(t, size)
		}
	}

	// As idle connections of the inner pool: that is what leases become when they have lasted for a second and the
	// janitor, which comes once a second, has seen it. Only time does it.
	settledIn := time.Now()
	killed := open("idle for long", "lifeguard")
	restarted := open("idle for long", "lifeguard")
	time.Sleep(time.Until(settledIn.Add(2500 * time.Millisecond)))
	// As leases.
	killed = append(killed, open("just used", "postgres", "lifeguard", "lifeguard.Open")...)
	for _, p := range killed {
		p.Terminate(t)
	}
	for _, p := range killed {
		call(p)
	}
	restarted = append(restarted, open("just used", "postgres", "lifeguard", "lifeguard.Open")...)
	srv.Restart(t, "immediate")
	for _, p := range restarted {
		call(p)
	}
}
