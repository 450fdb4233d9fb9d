package leak_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A holdKind is a way to keep a connection. hold keeps one until what it returns is called.
type holdKind struct {
	name       string
	lastQuery  string
	operations int
	inTx       bool
	hold       func(t *testing.T, ctx context.Context, db *sql.DB) (giveBack func())
}

var holdKinds = []holdKind{
	{"Tx", "UPDATE customers SET name = ?", 2, true, holdTx},
	{"Conn", "", 0, false, holdConn},
	{"Rows", "SELECT name FROM customers WHERE id = ?", 1, false, holdRows},
	{"Row", "SELECT count(*) FROM customers", 1, false, holdRow},
	{"StmtRows", "SELECT name FROM customers", 1, false, holdStmtRows},
}

func holdTx(t *testing.T, ctx context.Context, db *sql.DB) func() {
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(ctx, "UPDATE customers SET name = 'secret'")
	require.NoError(t, err)
	return func() { assert.NoError(t, tx.Commit()) }
}

func holdConn(t *testing.T, ctx context.Context, db *sql.DB) func() {
	c, err := db.Conn(ctx)
	require.NoError(t, err)
	return func() { assert.NoError(t, c.Close()) }
}

func holdRows(t *testing.T, ctx context.Context, db *sql.DB) func() {
	rows, err := db.QueryContext(ctx, "SELECT name FROM customers WHERE id = 471108154711")
	require.NoError(t, err)
	require.True(t, rows.Next())
	return func() {
		assert.NoError(t, rows.Close())
		assert.NoError(t, rows.Err())
	}
}

func holdRow(t *testing.T, ctx context.Context, db *sql.DB) func() {
	row := db.QueryRowContext(ctx, "SELECT count(*) FROM customers")
	return func() {
		var n int
		assert.NoError(t, row.Scan(&n))
	}
}

func holdStmtRows(t *testing.T, ctx context.Context, db *sql.DB) func() {
	stmt, err := db.PrepareContext(ctx, "SELECT name FROM customers")
	require.NoError(t, err)
	t.Cleanup(func() { stmt.Close() })
	rows, err := stmt.QueryContext(ctx)
	require.NoError(t, err)
	return func() { assert.NoError(t, rows.Close()) }
}

func TestLeakReports(t *testing.T) {
	for _, kind := range holdKinds {
		for _, threshold := range []time.Duration{100 * time.Millisecond, 5 * time.Second, time.Minute} {
			t.Run(fmt.Sprintf("%s/Threshold=%v", kind.name, threshold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testLeakReport(t, kind, threshold) })
			})
		}
	}
}

func testLeakReport(t *testing.T, kind holdKind, threshold time.Duration) {
	recorder := tracetest.NewSpanRecorder()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = threshold },
		lifeguard.WithTracerProvider(tracers))
	tolerance := min(threshold/10, time.Second)

	ctx, span := tracers.Tracer("test").Start(t.Context(), "request")
	time.Sleep(rand.N(2 * threshold)) // the janitor's rounds must not matter
	since := time.Now()
	giveBack := kind.hold(t, ctx, db)
	span.End()

	time.Sleep(threshold - time.Nanosecond)
	synctest.Wait()
	leaks, log := reports.take()
	require.Empty(t, leaks, "before leak_threshold")
	require.Empty(t, log)
	require.Len(t, pool.Holders(), 1)
	assert.False(t, pool.Holders()[0].Leaked)
	assert.Zero(t, pool.Stats().Leaks)

	time.Sleep(tolerance + time.Nanosecond)
	synctest.Wait()
	leaks, log = reports.take()
	require.Len(t, leaks, 1)
	leak := leaks[0]
	assert.Equal(t, "fake", leak.Pool)
	assert.Equal(t, lifeguard.LeakHeld, leak.Kind)
	assert.True(t, leak.Leaked)
	assert.False(t, leak.Returned || leak.Reclaimed || leak.Busy)
	assert.Equal(t, since, leak.Since)
	assert.GreaterOrEqual(t, leak.Held, threshold)
	assert.LessOrEqual(t, leak.Held, threshold+tolerance)
	assert.Equal(t, kind.lastQuery, leak.LastQuery)
	assert.Equal(t, kind.operations, leak.Operations)
	assert.Equal(t, kind.inTx, leak.InTx)
	assert.Equal(t, span.SpanContext(), leak.SpanContext)
	require.NotEmpty(t, leak.Stack)
	function := "leak_test.hold" + kind.name
	assert.True(t, strings.HasSuffix(leak.Stack[0].Function, function), "the first frame is %s", leak.Stack[0].Function)
	assert.EqualValues(t, 1, pool.Stats().Leaks)
	assert.True(t, pool.Holders()[0].Leaked)

	require.Len(t, log, 1)
	assert.Contains(t, log[0], `level=WARN msg="lifeguard: a connection is held too long" pool=fake held=`)
	assert.Contains(t, log[0], function)
	assert.Contains(t, log[0], span.SpanContext().TraceID().String())
	assert.NotContains(t, log[0], "secret")
	assert.NotContains(t, log[0], "471108154711")

	i := slices.IndexFunc(recorder.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "connection leak" })
	require.GreaterOrEqual(t, i, 0)
	made := recorder.Ended()[i]
	assert.Equal(t, since, made.StartTime())
	assert.Equal(t, since.Add(leak.Held), made.EndTime())
	assert.False(t, made.Parent().IsValid(), "a trace of its own: the one that took the connection may be over")
	require.Len(t, made.Links(), 1)
	assert.Equal(t, span.SpanContext(), made.Links()[0].SpanContext)
	assert.Equal(t, codes.Error, made.Status().Code)
	attributes := attribute.NewSet(made.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"db.client.connection.pool.name": "fake", "lifeguard.leak.kind": "held", "code.function.name": leak.Stack[0].Function,
	} {
		got, _ := attributes.Value(key)
		assert.Equal(t, want, got.AsString(), key)
	}

	// Reported again when the time held has doubled, and when it has doubled once more; not in between.
	for _, times := range []time.Duration{2, 4} {
		time.Sleep(time.Until(since.Add(times*threshold - time.Nanosecond)))
		synctest.Wait()
		leaks, _ = reports.take()
		require.Empty(t, leaks)
		time.Sleep(tolerance + time.Nanosecond)
		synctest.Wait()
		leaks, log = reports.take()
		require.Len(t, leaks, 1)
		assert.GreaterOrEqual(t, leaks[0].Held, times*threshold)
		require.Len(t, log, 1)
		assert.Contains(t, log[0], "is still held")
	}
	assert.EqualValues(t, 1, pool.Stats().Leaks, "counted once")
	ended := 0
	for _, s := range recorder.Ended() {
		if s.Name() == "connection leak" {
			ended++
		}
	}
	assert.Equal(t, 1, ended)

	time.Sleep(threshold)
	held := time.Since(since)
	giveBack()
	time.Sleep(tolerance)
	synctest.Wait()
	leaks, log = reports.take()
	require.Len(t, leaks, 1)
	assert.True(t, leaks[0].Returned)
	assert.False(t, leaks[0].Reclaimed)
	assert.GreaterOrEqual(t, leaks[0].Held, held)
	assert.LessOrEqual(t, leaks[0].Held, held+tolerance)
	require.Len(t, log, 1)
	assert.Contains(t, log[0], "level=INFO")
	assert.Contains(t, log[0], "was returned")
	assert.NotContains(t, log[0], "stack=")
	assert.Empty(t, pool.Holders())

	time.Sleep(100 * threshold)
	synctest.Wait()
	leaks, log = reports.take()
	assert.Empty(t, leaks)
	assert.Empty(t, log)
}

// TestReturnIsNotSlow: a look that falls into the return of a connection does not take it for an operation that has run
// since the checkout.
func TestReturnIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fakedriver.New()
		server.OnValid(func(*fakedriver.Conn) { time.Sleep(1500 * time.Millisecond) }) // a look comes each second
		db, _, reports := openReported(t, server, func(c *lifeguard.Config) { c.LeakThreshold = time.Minute })
		giveBack := holdConn(t, t.Context(), db)
		time.Sleep(5*time.Minute + time.Second)
		reports.take()
		giveBack()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		leaks, log := reports.take()
		require.Len(t, leaks, 1)
		assert.True(t, leaks[0].Returned)
		assert.Len(t, log, 1)
	})
}

// Ten workers, each taking a connection for half a threshold at most, 10,000 times a second together.
func TestNoReportForThoseInTime(t *testing.T) {
	length := 10 * time.Second
	if pooltest.RaceEnabled || testing.Short() {
		length = 5 * time.Second
	}
	synctest.Test(t, func(t *testing.T) {
		const threshold = 2 * time.Millisecond
		db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) { c.LeakThreshold = threshold })
		end := time.Now().Add(length)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				kind := holdKinds[1+i%3] // those without statements to close afterwards
				for time.Now().Before(end) {
					giveBack := kind.hold(t, t.Context(), db)
					time.Sleep(threshold / 2)
					giveBack()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		st := pool.Stats()
		t.Logf("%d checkouts, %.0f a second", st.Acquired, float64(st.Acquired)/length.Seconds())
		assert.GreaterOrEqual(t, float64(st.Acquired), 9900*length.Seconds())
		assert.Zero(t, st.Leaks)
	})
}

var leakFreeFor = flag.Duration("leakfree", 2*time.Second,
	"how long TestNoReportInRealTime takes connections and gives them back")

// The same by the machine's clock, with everything that a bubble does not have: goroutines that run side by side,
// garbage collections, a janitor that is late. A worker that falls behind makes up for it.
func TestNoReportInRealTime(t *testing.T) {
	const (
		workers   = 8
		perSecond = 10_000
		threshold = 2 * time.Second // more than a loaded machine keeps a goroutine from its work
	)
	db, pool, reports := openReported(t, fakedriver.New(), func(c *lifeguard.Config) {
		pooltest.Limit(workers)(c)
		c.LeakThreshold = threshold
	})
	start := time.Now()
	var longest [workers]time.Duration
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				at := start.Add(time.Duration(n) * workers * time.Second / perSecond)
				if at.Sub(start) >= *leakFreeFor {
					return
				}
				time.Sleep(time.Until(at))
				taken := time.Now()
				giveBack := holdKinds[1+n%3].hold(t, context.Background(), db) // those without statements to close afterwards
				giveBack()
				longest[w] = max(longest[w], time.Since(taken))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	leaks, log := reports.take()
	st := pool.Stats()
	t.Logf("%d checkouts in %v, %.0f a second; the longest took %v", st.Acquired, took.Round(time.Millisecond),
		float64(st.Acquired)/took.Seconds(), slices.Max(longest[:]))
	assert.Empty(t, leaks)
	assert.Empty(t, log)
	assert.Zero(t, st.Leaks)
	assert.Zero(t, st.LostRows)
	assert.EqualValues(t, workers*((*leakFreeFor*perSecond/time.Second+workers-1)/workers), st.Acquired)
}

// A query that runs is slow, not leaked: the log says so and Holders shows it busy, but it is not counted, no span is
// made, and the handler is not called. What it leaves behind is a leak.
func TestRunningIsNoLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(3*time.Minute + 500*time.Millisecond)
			return nil
		})
		recorder := tracetest.NewSpanRecorder()
		leakSpans := func() (n int) {
			for _, s := range recorder.Ended() {
				if s.Name() == "connection leak" {
					n++
				}
			}
			return n
		}
		db, pool, reports := openReported(t, srv, nil,
			lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := db.ExecContext(t.Context(), "REINDEX TABLE customers")
			assert.NoError(t, err)
		}()
		for _, after := range []time.Duration{61 * time.Second, time.Minute} { // at the threshold, and at twice of it
			time.Sleep(after)
			leaks, log := reports.take()
			assert.Empty(t, leaks)
			require.Len(t, log, 1)
			assert.Contains(t, log[0], `level=WARN msg="lifeguard: a connection is held by an operation that is still running"`)
			assert.Contains(t, log[0], "REINDEX TABLE customers")
			assert.Contains(t, log[0], "TestRunningIsNoLeak")
			require.Len(t, pool.Holders(), 1)
			h := pool.Holders()[0]
			assert.True(t, h.Busy)
			assert.False(t, h.Leaked)
			assert.Equal(t, 1, h.Operations)
			assert.Zero(t, pool.Stats().Leaks)
			assert.Zero(t, leakSpans())
		}
		<-done
		time.Sleep(time.Hour)
		synctest.Wait()
		leaks, log := reports.take()
		assert.Empty(t, leaks)
		assert.Empty(t, log)
		assert.Zero(t, pool.Stats().Leaks)
		assert.Zero(t, leakSpans())

		// The same query with rows that nobody closes.
		rows, err := db.QueryContext(t.Context(), "SELECT name FROM customers ORDER BY random()")
		require.NoError(t, err)
		leaks, _ = reports.take()
		require.Empty(t, leaks)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		leaks, _ = reports.take()
		require.Len(t, leaks, 1)
		assert.Equal(t, "SELECT name FROM customers ORDER BY random()", leaks[0].LastQuery)
		assert.False(t, leaks[0].Busy)
		assert.EqualValues(t, 1, pool.Stats().Leaks)
		assert.Equal(t, 1, leakSpans())
		assert.NoError(t, rows.Close())
	})
}

// Rows that are read in the time of a look after their query ran for long are no leak.
func TestSlowQueryThenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := fakedriver.New()
		srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(rand.N(time.Second) + 2*time.Minute)
			return nil
		})
		db, _, reports := openReported(t, srv, nil)
		for range 50 {
			rows, err := db.QueryContext(t.Context(), "SELECT name FROM customers ORDER BY random()")
			require.NoError(t, err)
			time.Sleep(900 * time.Millisecond)
			require.NoError(t, rows.Close())
		}
		leaks, _ := reports.take()
		assert.Empty(t, leaks)
	})
}

func TestLeakHandlerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := lifeguard.DefaultConfig()
		reports := &leakReports{}
		calls := 0
		db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg),
			lifeguard.WithLogger(slog.New(slog.NewTextHandler(reports, nil))),
			lifeguard.WithLeakHandler(func(lifeguard.Leak) { calls++; panic("out of paper") }))
		require.NoError(t, err)
		defer db.Close()
		defer pooltest.Take(t, db).Close()
		time.Sleep(200 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, calls, "the next report is made all the same")
		_, log := reports.take()
		assert.Contains(t, strings.Join(log, "\n"), `level=ERROR msg="lifeguard: the leak handler panicked" pool=`)
		assert.Contains(t, strings.Join(log, "\n"), "out of paper")
	})
}

// A handler may use the pool, and even close it.
func TestLeakHandlerUsesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var db *sql.DB
		var holders []lifeguard.Holder
		srv := fakedriver.New()
		db, err := lifeguard.OpenDB(srv.Connector(), lifeguard.WithConfig(lifeguard.DefaultConfig()), pooltest.Quiet,
			lifeguard.WithLeakHandler(func(lifeguard.Leak) {
				p, _ := lifeguard.PoolOf(db)
				holders = p.Holders()
				db.Close()
			}))
		require.NoError(t, err)
		c := pooltest.Take(t, db)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Len(t, holders, 1)
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.Zero(t, srv.Open())
	})
}
