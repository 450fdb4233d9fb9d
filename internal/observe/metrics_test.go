package observe

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// values gives what was recorded of one metric, by the attributes other than those that all of them have.
func (r *recorder) values(name string, without ...attribute.KeyValue) map[string]string {
	r.t.Helper()
	values := map[string]string{}
	key := func(set attribute.Set) string {
		for _, kv := range without {
			v, _ := set.Value(kv.Key)
			require.Equal(r.t, kv.Value, v, "%s: %s", name, kv.Key)
		}
		rest, _ := set.Filter(func(kv attribute.KeyValue) bool {
			for _, w := range without {
				if kv.Key == w.Key {
					return false
				}
			}
			return true
		})
		return rest.Encoded(attribute.DefaultEncoder())
	}
	switch data := r.collect()[name].Data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			assert.Equal(r.t, []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}, p.Bounds)
			values[key(p.Attributes)] += fmt.Sprintf("%d in %.3fs", p.Count, p.Sum)
		}
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			values[key(p.Attributes)] += fmt.Sprint(p.Value)
		}
	}
	return values
}

var ofPool = attribute.String("db.client.connection.pool.name", "fake")

func TestOperationDuration(t *testing.T) {
	east := attribute.String("shop", "east")
	r := record(t, func(c *Config) { c.Attributes = []attribute.KeyValue{east} })
	require.True(t, r.Timed(r.ctx))
	for _, op := range []Operation{
		{Kind: Exec, Query: "UPDATE slow SET a = 7", Took: time.Second},
		{Kind: Exec, Query: "UPDATE slow SET a = 8", Took: time.Millisecond},
		{Kind: Exec, Query: "UPDATE slow SET a = 9", Err: sqlError{"23505"}},
		{Kind: Exec, Query: "UPDATE slow SET a = 9", Took: time.Second, Err: context.Canceled},
		{Kind: Query, Query: "SELECT a FROM t", Took: 3 * time.Second},
		{Kind: Exec, Query: "SELECT a FROM t"},
		{Kind: Prepare, Query: "SELECT a FROM t"},
		{Kind: Begin}, {Kind: Commit},
		{Kind: Exec, Query: "DELETE FROM t", Err: driver.ErrBadConn},
		{Kind: Exec, Query: "DELETE FROM t", Err: driver.ErrBadConn},
		{Kind: Exec, Query: "DELETE FROM t"},
		{Kind: Exec, Query: "DELETE FROM t", Err: driver.ErrSkip},
		{Kind: Connect, Took: time.Second},
		{Kind: Connect, Took: time.Second, Err: errClosed},
	} {
		r.end(op)
	}
	assert.Equal(t, map[string]string{
		"db.operation.name=UPDATE,db.query.summary=UPDATE slow":                                                "3 in 2.001s", // the cancelled one too
		"db.operation.name=UPDATE,db.query.summary=UPDATE slow,db.response.status_code=23505,error.type=23505": "1 in 0.000s",
		"db.operation.name=SELECT,db.query.summary=SELECT t":                                                   "2 in 3.000s",
		"db.operation.name=PREPARE,db.query.summary=PREPARE SELECT t":                                          "1 in 0.000s",
		"db.operation.name=BEGIN":                                                      "1 in 0.000s",
		"db.operation.name=COMMIT":                                                     "1 in 0.000s",
		"db.operation.name=DELETE,db.query.summary=DELETE t":                           "1 in 0.000s",
		"db.operation.name=DELETE,db.query.summary=DELETE t,error.type=bad_connection": "2 in 0.000s",
	}, r.values("db.client.operation.duration", attribute.String("db.system.name", "other_sql"), east))
	assert.EqualValues(t, 3, r.SlowQueries())
}

// An outage, and callers that wait in vain, show in the metrics.
func TestTimesOfConnections(t *testing.T) {
	r := record(t, nil)
	texts := 0
	r.Created(r.ctx, 150*time.Millisecond)
	r.Created(r.ctx, 150*time.Millisecond)
	r.Used(r.ctx, 3*time.Second)
	r.Waited(r.ctx, time.Second, nil)
	r.Waited(r.ctx, 5*time.Second, &timedOut{&texts})
	r.Waited(r.ctx, 2*time.Second, fmt.Errorf("waiting: %w", context.DeadlineExceeded))
	r.Waited(r.ctx, time.Second, context.Canceled)
	r.Waited(r.ctx, time.Second, sqlError{"28P01"})
	r.DialFailed(r.ctx, sqlError{"28P01"})
	r.DialFailed(r.ctx, errors.New("secret"))
	r.DialFailed(r.ctx, fmt.Errorf("secret: %w", errors.New("secret")))
	assert.Equal(t, map[string]string{"": "2 in 0.300s"}, r.values("db.client.connection.create_time", ofPool))
	assert.Equal(t, map[string]string{"": "1 in 3.000s"}, r.values("db.client.connection.use_time", ofPool))
	assert.Equal(t, map[string]string{
		"": "1 in 1.000s", "error.type=pool_timeout": "1 in 5.000s", "error.type=timeout": "1 in 2.000s",
		"error.type=canceled": "1 in 1.000s", "error.type=28P01": "1 in 1.000s",
	}, r.values("db.client.connection.wait_time", ofPool))
	assert.Equal(t, map[string]string{"error.type=28P01": "1", "error.type=_OTHER": "2"},
		r.values("lifeguard.connection.dial_failures", ofPool))
}

// A pool of a fleet shows the fleet. Others do not: see TestCounts.
func TestFleetCounts(t *testing.T) {
	r := record(t, nil)
	r.Watch(func() Counts { return Counts{FleetLimit: 40, FleetProcesses: 6, FleetHeld: 7, FleetWanted: 2} })
	for name, want := range map[string]string{"limit": "40", "processes": "6", "held": "7", "wanted": "2"} {
		name = "lifeguard.fleet." + name
		assert.Equal(t, map[string]string{"": want}, r.values(name, ofPool), name)
		sum, ok := r.collect()[name].Data.(metricdata.Sum[int64])
		require.True(t, ok, name)
		assert.False(t, sum.IsMonotonic, name)
	}
}

func TestCounts(t *testing.T) {
	east := attribute.String("shop", "east")
	r := record(t, func(c *Config) { c.Attributes = []attribute.KeyValue{east} })
	assert.Empty(t, r.collect(), "nothing before Watch")
	counts := Counts{Idle: 1, InUse: 2, Limit: 3, MaxIdle: 4, MinIdle: 5, Waiting: 6, Timeouts: 7, Leaks: 8, Reclaimed: 9,
		StatementHits: 10, StatementMisses: 11, StatementRetries: 12}
	r.Watch(func() Counts { return counts })
	for range 13 {
		r.end(Operation{Kind: Ping, Took: time.Second})
	}
	for name, want := range map[string]map[string]string{
		"db.client.connection.count": {
			"db.client.connection.state=idle": "1", "db.client.connection.state=used": "2",
		},
		"db.client.connection.max":              {"": "3"},
		"db.client.connection.idle.max":         {"": "4"},
		"db.client.connection.idle.min":         {"": "5"},
		"db.client.connection.pending_requests": {"": "6"},
		"db.client.connection.timeouts":         {"": "7"},
		"lifeguard.connection.leaks":            {"": "8"},
		"lifeguard.connection.reclaimed":        {"": "9"},
		"lifeguard.statement_cache.hits":        {"": "10"},
		"lifeguard.statement_cache.misses":      {"": "11"},
		"lifeguard.statement_cache.retries":     {"": "12"},
		"lifeguard.slow_queries":                {"": "13"},
	} {
		assert.Equal(t, want, r.values(name, ofPool, east), name)
	}
	all := r.collect()
	assert.Len(t, all, 13, "and the duration of operations")
	for name, m := range all {
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
			gauge := strings.Contains(name, "count") || strings.HasSuffix(name, "max") || strings.HasSuffix(name, "min") ||
				strings.HasSuffix(name, "requests")
			assert.Equal(t, !gauge, sum.IsMonotonic, name)
			assert.NotEmpty(t, m.Unit, name)
			assert.NotEmpty(t, m.Description, name)
		}
	}
	counts.InUse = 7
	assert.Equal(t, "7", r.values("db.client.connection.count", ofPool, east)["db.client.connection.state=used"])
	r.Close()
	assert.NotContains(t, r.collect(), "db.client.connection.count", "Close unregisters everything")
}

// Close waits for a collection that is under way. After it, the pool is not read.
func TestCloseWhileCollecting(t *testing.T) {
	r := record(t, nil)
	stop, wg := make(chan struct{}), sync.WaitGroup{}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.collect()
			}
		}
	})
	for range 50 {
		o := New(Config{Pool: "fake", Meters: r.meters})
		var mu sync.Mutex
		closed := false
		o.Watch(func() Counts {
			mu.Lock()
			defer mu.Unlock()
			if closed {
				t.Error("read after Close")
			}
			return Counts{}
		})
		o.Close()
		mu.Lock()
		closed = true
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
}

// A service that writes values into its queries has no end of them. Its metrics have, and so has what is remembered.
func TestManyQueries(t *testing.T) {
	r := record(t, nil)
	const queries = 6 * maxShapes
	for i := range queries {
		r.end(Operation{Kind: Exec, Query: fmt.Sprintf("UPDATE table_%d SET a = 7", i)})
		r.end(Operation{Kind: Prepare, Query: fmt.Sprintf("UPDATE table_%d SET a = 7", i)})
	}
	r.end(Operation{Kind: Exec, Query: "DELETE FROM t WHERE a IN (1" + strings.Repeat(", 1", maxRemembered) + ")"})
	points := r.collect()["db.client.operation.duration"].Data.(metricdata.Histogram[float64]).DataPoints
	assert.LessOrEqual(t, len(points), maxShapes+3)
	total, verbs := uint64(0), map[string]bool{}
	for _, p := range points {
		total += p.Count
		v, ok := p.Attributes.Value("db.operation.name")
		assert.True(t, ok)
		verbs[v.AsString()] = true
	}
	assert.EqualValues(t, 2*queries+1, total, "every one is counted")
	assert.Equal(t, map[string]bool{"UPDATE": true, "PREPARE": true, "DELETE": true}, verbs)
	assert.Len(t, *r.queries.known.Load(), maxShapes)
	assert.LessOrEqual(t, len(*r.verbs.known.Load()), 2)

	// Spans still tell each query.
	got := r.one(Operation{Kind: Exec, Query: "UPDATE another SET a = 7", Took: time.Second})
	assert.Equal(t, "UPDATE another", got.name)
}

// Many callers that see room for one more shape do not add more than there is room for.
func TestShapesAreBoundedConcurrently(t *testing.T) {
	var (
		s  shapes
		wg sync.WaitGroup
	)
	for g := range 4 {
		wg.Go(func() {
			for i := range maxShapes {
				s.add(&shape{key: shapeKey{query: fmt.Sprint(g, i)}})
			}
		})
	}
	wg.Wait()
	assert.Len(t, *s.known.Load(), maxShapes)
}

// A long query is shown, but not remembered.
func TestLongQueriesAreNotRemembered(t *testing.T) {
	r := record(t, func(c *Config) { c.Trace = TraceAll })
	query := "SELECT a FROM t WHERE a = '" + strings.Repeat("x", maxRemembered) + "'"
	op := Operation{Kind: Query, Query: query, Caller: r.Here(Query, query)}
	assert.Equal(t, "SELECT a FROM t WHERE a = ?", r.one(op).attributes["db.query.text"])
	assert.Nil(t, r.queries.known.Load())
}

// refusingMeter is of an SDK that refuses some instruments.
type refusingMeter struct{ noop.Meter }

var errRefused = errors.New("refused")

func (refusingMeter) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return nil, errRefused
}

func (refusingMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return nil, errRefused
}

func (refusingMeter) Int64ObservableCounter(string, ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	return nil, errRefused
}

type refusingMeters struct{ noop.MeterProvider }

func (refusingMeters) Meter(string, ...metric.MeterOption) metric.Meter { return refusingMeter{} }

func TestRefusedInstruments(t *testing.T) {
	r := record(t, func(c *Config) { c.Meters = refusingMeters{} })
	r.Watch(func() Counts { return Counts{} })
	r.Created(r.ctx, time.Second)
	r.Used(r.ctx, time.Second)
	r.Waited(r.ctx, time.Second, nil)
	r.DialFailed(r.ctx, errRefused)
	r.one(Operation{Kind: Ping, Took: time.Second})
	assert.False(t, r.Timed(r.ctx))
	lines := r.lines()
	assert.Len(t, lines, 5+7)
	for _, line := range lines {
		assert.Equal(t, `level=WARN msg="lifeguard: a metric is not available" pool=fake error=refused`, line)
	}
}
