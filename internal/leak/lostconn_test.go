package leak_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// The garbage collector works beside these tests' virtual time.

// connOfLostRows is a sql.Conn whose rows were dropped, and found. Its Close would wait for the rows, so if the pool does
// not take it back, its connection stays open.
func connOfLostRows(t *testing.T, connector driver.Connector, threshold, reclaimAfter time.Duration) (*sql.DB, *sql.Conn, *lifeguard.Pool, *leakReports) {
	cfg := lifeguard.DefaultConfig()
	reclaiming(1, threshold, reclaimAfter)(&cfg)
	cfg.PoolTimeout = 2 * threshold
	reports := &leakReports{}
	db, err := lifeguard.OpenDB(connector, append(reports.options(), lifeguard.WithConfig(cfg))...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	pool, _ := lifeguard.PoolOf(db)
	c := pooltest.Take(t, db)
	loseRowsOfConn(t, c)
	leak, found := lifeguard.Leak{}, false
	for range 5 * threshold / time.Second { // in steps of 200 ms: the collector needs one or two, the janitor five
		runtime.GC()
		time.Sleep(200 * time.Millisecond)
		if leak, found = reports.next(func(l lifeguard.Leak) bool { return l.Kind == lifeguard.LeakLostRows }); found {
			break
		}
	}
	require.True(t, found, "before leak_threshold")
	assert.False(t, leak.Reclaimed, "its holder may be about to go on")
	assert.Contains(t, leak.Stack[0].Function, "leak_test.connOfLostRows")
	assert.EqualValues(t, 1, pool.Stats().LostRows)
	return db, c, pool, reports
}

//go:noinline
func loseRowsOfConn(t *testing.T, c *sql.Conn) {
	_, err := c.QueryContext(context.Background(), "rows 3")
	require.NoError(t, err)
}

//go:noinline
func loseConn(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(context.Background())
	require.NoError(t, err)
	loseRowsOfConn(t, c)
	return c
}

func isReclaimed(l lifeguard.Leak) bool { return l.Reclaimed }

// The session of a sql.Conn may hold a lock that its holder counts on. When its rows are lost it is reported, and not
// taken back, however long it lies unused and whoever waits.
func TestLostRowsOfConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, c, pool, reports := connOfLostRows(t, fakedriver.New().Connector(), 10*time.Second, 0)
		_, err := db.Exec("SELECT 1")
		var timeout *lifeguard.PoolTimeoutError
		require.ErrorAs(t, err, &timeout)
		require.Len(t, timeout.Holders, 1)
		assert.True(t, timeout.Holders[0].Leaked)
		time.Sleep(time.Hour)
		leaks, _ := reports.take()
		assert.True(t, slices.ContainsFunc(leaks, func(l lifeguard.Leak) bool { return l.Held > time.Minute }), "still held")
		assert.False(t, slices.ContainsFunc(leaks, isReclaimed))
		assert.NoError(t, c.PingContext(t.Context()))
		assert.Zero(t, pool.Stats().Reclaimed)
		assert.Equal(t, 1, pool.Stats().InUse)
	})
}

// With leak_reclaim_after it is taken back as any other that lies unused.
func TestLostRowsOfConnReclaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = time.Minute
		_, c, pool, reports := connOfLostRows(t, fakedriver.New().Connector(), 10*time.Second, after)
		time.Sleep(after + time.Second)
		synctest.Wait()
		leak, ok := reports.next(isReclaimed)
		require.True(t, ok)
		assert.Equal(t, lifeguard.LeakLostRows, leak.Kind)
		assert.GreaterOrEqual(t, leak.Held, after)
		assert.LessOrEqual(t, leak.Held, after+time.Second)
		assert.Zero(t, pool.Stats().InUse, "its place is free")
		assert.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
		_, err := c.ExecContext(t.Context(), "UPDATE customers SET name = $1", "a")
		assert.ErrorIs(t, err, lifeguard.ErrReclaimed)
		_, err = c.QueryContext(t.Context(), "rows 3")
		assert.ErrorIs(t, err, lifeguard.ErrReclaimed)
		_, err = c.PrepareContext(t.Context(), "rows 3")
		assert.ErrorIs(t, err, lifeguard.ErrReclaimed)
		_, err = c.BeginTx(t.Context(), nil)
		assert.ErrorIs(t, err, lifeguard.ErrReclaimed)
	})
}

// A holder that goes on without its rows keeps the connection for as long again.
func TestLostRowsOfConnInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = time.Minute
		_, c, pool, reports := connOfLostRows(t, fakedriver.New().Connector(), 10*time.Second, after)
		for range 5 {
			time.Sleep(after - 2*time.Second)
			_, err := c.ExecContext(t.Context(), "SELECT pg_advisory_unlock(1)")
			require.NoError(t, err)
		}
		assert.Zero(t, pool.Stats().Reclaimed)
		time.Sleep(after + time.Second)
		synctest.Wait()
		leak, ok := reports.next(isReclaimed)
		require.True(t, ok)
		assert.Equal(t, 6, leak.Operations)
		assert.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
	})
}

// Calls into the driver that are no operations keep the connection as well, and its time counts again from their end.
func TestLostRowsOfConnDuringCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = time.Minute
		var pool *lifeguard.Pool
		called := false
		connector := checkedConnector{fakedriver.New().Connector(), func() {
			called = true
			time.Sleep(10 * after)
			if assert.Len(t, pool.Holders(), 1) {
				assert.True(t, pool.Holders()[0].Busy)
			}
		}}
		_, c, pool0, reports := connOfLostRows(t, connector, 10*time.Second, after)
		pool = pool0
		_, err := c.ExecContext(t.Context(), "UPDATE customers SET name = $1", "a")
		assert.NoError(t, err)
		assert.True(t, called)
		time.Sleep(after - 2*time.Second)
		assert.Zero(t, pool.Stats().Reclaimed)
		leaks, _ := reports.take()
		assert.False(t, slices.ContainsFunc(leaks, isReclaimed))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 1, pool.Stats().Reclaimed)
	})
}

// checkedConnector opens connections that call check for every argument.
type checkedConnector struct {
	driver.Connector
	check func()
}

func (c checkedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return checkedConn{conn.(*fakedriver.Conn), c.check}, nil
}

type checkedConn struct {
	*fakedriver.Conn
	check func()
}

func (c checkedConn) CheckNamedValue(v *driver.NamedValue) error {
	c.check()
	return c.Conn.CheckNamedValue(v)
}

// Many losses at the machine's own pace. Each is reported once, and every holder still has its connection.
func TestManyLossesOfConns(t *testing.T) {
	const rounds = 50
	srv := fakedriver.New()
	cfg := lifeguard.DefaultConfig()
	pooltest.Limit(rounds)(&cfg)
	db, err := lifeguard.OpenDB(srv.Connector(), lifeguard.WithConfig(cfg), pooltest.Quiet)
	require.NoError(t, err)
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)
	defer collecting()()
	conns := make([]*sql.Conn, rounds)
	for i := range conns {
		conns[i] = loseConn(t, db)
	}
	require.Eventually(t, func() bool { return pool.Stats().LostRows == rounds }, 20*time.Second, time.Millisecond)
	assert.Zero(t, pool.Stats().Reclaimed)
	assert.Equal(t, rounds, pool.Stats().InUse)
	for _, c := range conns {
		require.NoError(t, c.PingContext(t.Context()))
	}
	assert.EqualValues(t, rounds, pool.Stats().LostRows)
	assert.Empty(t, srv.Violations())
}

// A loss is found by the collector or by the clock, whichever comes first. With leak_reclaim_after the next caller is
// served in both cases.
func TestManyLossesOfConnsReclaimed(t *testing.T) {
	for _, alive := range []bool{false, true} {
		t.Run(fmt.Sprintf("Alive=%v", alive), func(t *testing.T) {
			const rounds = 60
			srv := fakedriver.New()
			db, pool, _ := openReported(t, srv, reclaiming(2, 30*time.Millisecond, 30*time.Millisecond))
			defer collecting()()
			var conns []*sql.Conn
			for range rounds {
				c := loseConn(t, db)
				if alive {
					conns = append(conns, c)
				}
			}
			pooltest.Eventually(t, "all taken back", func() bool {
				st := pool.Stats()
				return st.Reclaimed == rounds && st.InUse == 0
			})
			st := pool.Stats()
			t.Logf("%d found by the collector, %d by the clock", st.LostRows, st.Leaks)
			assert.GreaterOrEqual(t, st.LostRows+st.Leaks, uint64(rounds))
			assert.Zero(t, st.Timeouts)
			assert.LessOrEqual(t, srv.MaxOpen(), 2)
			for _, c := range conns {
				require.ErrorIs(t, c.PingContext(t.Context()), lifeguard.ErrReclaimed)
			}
		})
	}
}
