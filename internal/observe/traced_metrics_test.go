package observe_test

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
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestMetrics checks everything against a script whose every moment is known.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pooltest.NewMeasures(t)
		srv := fakedriver.New()
		srv.OnDial(func(context.Context) error { time.Sleep(150 * time.Millisecond); return nil })
		cfg := lifeguard.DefaultConfig()
		cfg.PoolName, cfg.ConnectionLimit, cfg.MaxIdleConnections = "fake", 2, 2
		cfg.PoolTimeout = 5 * time.Second
		db, err := lifeguard.OpenDB(srv.Connector(), lifeguard.WithConfig(cfg), pooltest.Quiet, lifeguard.WithMeterProvider(m.Provider))
		require.NoError(t, err)

		first, err := db.Conn(t.Context()) // at 0, has it at 0.15
		require.NoError(t, err)
		second, err := db.Conn(t.Context()) // at 0.15, has it at 0.3
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { // at 0.3, has it at 1.3, gives it back at once
			_, err := db.ExecContext(t.Context(), "UPDATE t")
			assert.NoError(t, err)
		})
		wg.Go(func() { // at 0.3, in vain
			time.Sleep(2 * time.Second)
			_, err := db.ExecContext(t.Context(), "UPDATE t")
			assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		})
		synctest.Wait()
		assert.Equal(t, map[string]int64{
			"db.client.connection.count idle": 0, "db.client.connection.count used": 2, "db.client.connection.max": 2,
			"db.client.connection.idle.max": 2, "db.client.connection.idle.min": 0,
			"db.client.connection.pending_requests": 1, "db.client.connection.timeouts": 0,
			"lifeguard.connection.leaks": 0, "lifeguard.connection.reclaimed": 0, "lifeguard.slow_queries": 0,
			"lifeguard.statement_cache.hits": 0, "lifeguard.statement_cache.misses": 0,
			"lifeguard.statement_cache.retries": 0,
		}, m.Counts())
		assert.Equal(t, "2 in 0.300s", m.Times("db.client.connection.create_time"))
		assert.Equal(t, "2 in 0.300s", m.Times("db.client.connection.wait_time"))
		assert.Equal(t, "none", m.Times("db.client.connection.use_time"))

		time.Sleep(time.Second)
		require.NoError(t, first.Close()) // held for 1.15
		synctest.Wait()
		third, err := db.Conn(t.Context()) // at 1.3, from the handle
		require.NoError(t, err)
		assert.Equal(t, "4 in 1.300s", m.Times("db.client.connection.wait_time"))
		assert.Equal(t, "2 in 1.150s", m.Times("db.client.connection.use_time"))
		wg.Wait() // at 7.3, the timeout
		require.NoError(t, second.Close())
		require.NoError(t, third.Close())
		assert.Equal(t, "4 in 14.150s", m.Times("db.client.connection.use_time"))
		assert.Equal(t, "4 in 1.300s", m.Times("db.client.connection.wait_time"), "with a connection at the end")
		assert.Equal(t, "1 in 5.000s", m.TimesOf("db.client.connection.wait_time", "pool_timeout"))
		counts := m.Counts()
		assert.EqualValues(t, 2, counts["db.client.connection.count idle"])
		assert.EqualValues(t, 0, counts["db.client.connection.count used"])
		assert.EqualValues(t, 1, counts["db.client.connection.timeouts"])
		assert.EqualValues(t, 0, counts["db.client.connection.pending_requests"])

		pool := poolBehind(t, db)
		require.NoError(t, pool.SetConnectionLimit(7))
		counts = m.Counts()
		assert.EqualValues(t, 7, counts["db.client.connection.max"])
		assert.EqualValues(t, 7, counts["db.client.connection.idle.max"])

		require.NoError(t, db.Close())
		assert.Empty(t, m.Counts(), "closing the handle unregisters everything")
	})
}

func TestOperationDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := pooltest.NewMeasures(t)
		d := openTraced(t, nil, lifeguard.WithMeterProvider(m.Provider), lifeguard.WithAttributes(attribute.String("shop", "east")))
		d.srv.OnNext(func(*fakedriver.Conn, int) error { time.Sleep(3 * time.Second); return nil })
		for range 3 {
			_, err := d.ExecContext(d.ctx, "UPDATE slow SET a = 7")
			require.NoError(t, err)
		}
		require.NoError(t, readRows(d))
		require.NoError(t, commit(d))
		require.NoError(t, useStmt(d))
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return sqlError{"23505"} })
		_, err := d.ExecContext(d.ctx, "UPDATE slow SET a = 8")
		require.Error(t, err)
		ctx, cancel := context.WithCancel(d.ctx)
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			cancel()
			return context.Canceled
		})
		_, err = d.ExecContext(ctx, "UPDATE slow SET a = 8")
		require.Error(t, err)
		bad := 2
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			if bad--; bad >= 0 {
				return driver.ErrBadConn
			}
			return nil
		})
		_, err = d.ExecContext(d.ctx, "DELETE FROM t")
		require.NoError(t, err)

		got := map[string]string{}
		for _, p := range m.Collect()["db.client.operation.duration"].Data.(metricdata.Histogram[float64]).DataPoints {
			for _, k := range []string{"db.system.name other_sql", "shop east"} {
				var key, value string
				_, _ = fmt.Sscan(k, &key, &value)
				v, _ := p.Attributes.Value(attribute.Key(key))
				assert.Equal(t, value, v.AsString())
			}
			rest, _ := p.Attributes.Filter(func(kv attribute.KeyValue) bool { return kv.Key != "db.system.name" && kv.Key != "shop" })
			got[rest.Encoded(attribute.DefaultEncoder())] += fmt.Sprintf("%d in %.0fs", p.Count, p.Sum)
		}
		assert.Equal(t, map[string]string{
			"db.operation.name=UPDATE,db.query.summary=UPDATE slow":                                                "4 in 3s", // the cancelled one too
			"db.operation.name=UPDATE,db.query.summary=UPDATE slow,db.response.status_code=23505,error.type=23505": "1 in 0s",
			"db.operation.name=SELECT,db.query.summary=SELECT t":                                                   "2 in 6s",
			"db.operation.name=PREPARE,db.query.summary=PREPARE SELECT t":                                          "1 in 0s",
			"db.operation.name=BEGIN":                                                      "1 in 0s",
			"db.operation.name=COMMIT":                                                     "1 in 0s",
			"db.operation.name=DELETE,db.query.summary=DELETE t":                           "1 in 0s",
			"db.operation.name=DELETE,db.query.summary=DELETE t,error.type=bad_connection": "2 in 0s", // each attempt is one
		}, got)
	})
}

// A service that writes values into its queries has no end of them. Their metrics have.
func TestManyQueries(t *testing.T) {
	m := pooltest.NewMeasures(t)
	d := openTraced(t, nil, lifeguard.WithMeterProvider(m.Provider))
	for i := range 3000 {
		_, err := d.ExecContext(d.ctx, fmt.Sprintf("UPDATE table_%d SET a = 7", i))
		require.NoError(t, err)
	}
	points := m.Collect()["db.client.operation.duration"].Data.(metricdata.Histogram[float64]).DataPoints
	assert.LessOrEqual(t, len(points), 513)
	total := uint64(0)
	for _, p := range points {
		total += p.Count
		v, ok := p.Attributes.Value("db.operation.name")
		assert.True(t, ok && v.AsString() == "UPDATE")
	}
	assert.EqualValues(t, 3000, total, "every one is counted")
}

// A pool that several handles share is measured once, until the last of them is closed.
func TestSharedPoolIsMeasuredOnce(t *testing.T) {
	m := pooltest.NewMeasures(t)
	srv := fakedriver.New()
	lifeguard.Register("measured", srv.Driver(), pooltest.Quiet, lifeguard.WithMeterProvider(m.Provider))
	open := func() *sql.DB {
		db, err := sql.Open("measured", "x?pool_name=fake")
		require.NoError(t, err)
		return db
	}
	a, b := open(), open()
	require.NoError(t, a.Ping())
	require.NoError(t, b.Ping())
	assert.EqualValues(t, 10, m.Counts()["db.client.connection.max"])
	require.NoError(t, a.Close())
	assert.EqualValues(t, 10, m.Counts()["db.client.connection.max"])
	require.NoError(t, b.Close())
	assert.Empty(t, m.Counts())
}

// TestCloseWhileCollecting: closing waits for a collection that is under way and reads the pool, with no deadlock.
func TestCloseWhileCollecting(t *testing.T) {
	m := pooltest.NewMeasures(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				var all metricdata.ResourceMetrics
				if err := m.Reader.Collect(context.Background(), &all); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 200 {
		db, err := lifeguard.OpenDB(fakedriver.Fast(), pooltest.Quiet, lifeguard.WithMeterProvider(m.Provider))
		require.NoError(t, err)
		_, err = db.Exec("UPDATE t")
		require.NoError(t, err)
		require.NoError(t, db.Close())
	}
	close(stop)
	wg.Wait()
}

// TestMetricsOfTrouble has each of lifeguard's own counters at a value that no other has.
func TestMetricsOfTrouble(t *testing.T) {
	m := pooltest.NewMeasures(t)
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName, cfg.ConnectionLimit, cfg.MaxIdleConnections = "fake", 4, 4
	cfg.LeakThreshold, cfg.LeakReclaimAfter = 200*time.Millisecond, 200*time.Millisecond
	cfg.SlowQueryThreshold = 50 * time.Millisecond
	db, err := lifeguard.Open("postgres", pgtest.DSN(t), lifeguard.WithConfig(cfg), pooltest.Quiet, lifeguard.WithMeterProvider(m.Provider))
	require.NoError(t, err)
	defer db.Close()
	pool := poolBehind(t, db)

	c := pooltest.Take(t, db)
	for i := range 8 { // the statement is prepared once
		var n int
		require.NoError(t, c.QueryRowContext(t.Context(), "SELECT $1::int", i).Scan(&n))
	}
	for range 4 {
		_, err := c.ExecContext(t.Context(), "SELECT pg_sleep(0.06)")
		require.NoError(t, err)
	}
	require.NoError(t, c.Close())
	hits, misses := pool.Stats().StatementHits, pool.Stats().StatementMisses
	require.Greater(t, hits, misses)
	require.Positive(t, misses)

	raw := pooltest.Take(t, db) // reported, and not taken back
	defer raw.Close()
	require.NoError(t, raw.Raw(func(dc any) error { lifeguard.Unwrap(dc); return nil }))
	for range 2 { // reported, and taken back
		lost := pooltest.Take(t, db)
		defer lost.Close()
	}
	require.Eventually(t, func() bool {
		st := pool.Stats()
		return st.Leaks == 3 && st.Reclaimed == 2
	}, 10*time.Second, time.Millisecond)
	counts := m.Counts()
	assert.EqualValues(t, 3, counts["lifeguard.connection.leaks"])
	assert.EqualValues(t, 2, counts["lifeguard.connection.reclaimed"])
	slow := pool.Stats().SlowQueries // a busy machine makes others slow, too
	assert.GreaterOrEqual(t, slow, uint64(4))
	assert.EqualValues(t, slow, counts["lifeguard.slow_queries"])
	assert.EqualValues(t, hits, counts["lifeguard.statement_cache.hits"])
	assert.EqualValues(t, misses, counts["lifeguard.statement_cache.misses"])
}
