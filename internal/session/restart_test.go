package session_test

import (
	"database/sql"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestRestartOnServer leaves pools of ten connections idle, kills the connections or restarts the server, and then makes
// one call, or eight at once. None may see an error.
func TestRestartOnServer(t *testing.T) {
	srv := pgtest.Start(t)
	type idlePool struct {
		*pooltest.Client
		driver string
		pooled bool
		calls  int
	}
	const size = 10
	open := func(drivers ...string) (pools []idlePool) {
		var wg sync.WaitGroup
		for _, driverName := range drivers {
			for _, calls := range []int{1, 8} {
				p := idlePool{pooltest.OpenPostgres(t, driverName, srv.DSN(), size), driverName, driverName != "postgres", calls}
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
				assert.NoError(t, err, "%s, call %d of %d", p.driver, i, p.calls)
			})
		}
		close(start)
		wg.Wait()
		if p.pooled {
			p.AllSlots(t, size)
		}
	}

	killed := open("postgres", "lifeguard", "lifeguard.Open")
	for _, p := range killed {
		p.Terminate(t)
	}
	for _, p := range killed {
		call(p)
	}
	restarted := open("postgres", "lifeguard", "lifeguard.Open")
	srv.Restart(t, "immediate")
	for _, p := range restarted {
		call(p)
	}
}
