package lifeguard_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"text/template"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// traced is a handle whose spans and log lines are recorded. It is used in a synctest bubble, so all times are exact.
type traced struct {
	*sql.DB
	t     *testing.T
	srv   *fakedriver.Server
	pool  *lifeguard.Pool
	spans *tracetest.SpanRecorder
	log   *bytes.Buffer
	ctx   context.Context // with a sampled span of the caller's
	trace trace.SpanContext
}

func openTraced(t *testing.T, set func(*lifeguard.Config), opts ...lifeguard.Option) *traced {
	t.Helper()
	d := &traced{t: t, srv: fakedriver.New(), spans: tracetest.NewSpanRecorder(), log: new(bytes.Buffer)}
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName = "fake"
	if set != nil {
		set(&cfg)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(d.spans))
	opts = append([]lifeguard.Option{
		lifeguard.WithConfig(cfg), lifeguard.WithTracerProvider(provider),
		lifeguard.WithLogger(slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}}))),
	}, opts...)
	var err error
	d.DB, err = lifeguard.OpenDB(d.srv.Connector(), opts...)
	require.NoError(t, err)
	d.pool = poolBehind(t, d.DB)
	t.Cleanup(func() {
		assert.NoError(t, d.Close())
		assert.Empty(t, d.srv.Violations())
	})
	d.trace = trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	d.ctx = trace.ContextWithSpanContext(t.Context(), d.trace)
	// "slow …" takes a second, everything else no time.
	d.srv.OnQuery(func(ctx context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if strings.HasPrefix(query, "SELECT slow") || strings.HasPrefix(query, "UPDATE slow") {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return d
}

func poolBehind(t *testing.T, db *sql.DB) *lifeguard.Pool {
	t.Helper()
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	return pool
}

// shown is what a span says, in a form to compare.
type shown struct {
	name       string
	started    time.Duration // after the step began
	took       time.Duration
	attributes map[string]any
	status     string
}

// step runs f and returns the spans it led to.
func (d *traced) step(f func()) []shown {
	d.t.Helper()
	start := time.Now()
	before := len(d.spans.Ended())
	f()
	synctest.Wait()
	var all []shown
	for _, s := range d.spans.Ended()[before:] {
		assert.Equal(d.t, trace.SpanKindClient, s.SpanKind())
		assert.Equal(d.t, d.trace, s.Parent(), "child of the caller's span")
		assert.Equal(d.t, d.trace.TraceID(), s.SpanContext().TraceID())
		sh := shown{name: s.Name(), started: s.StartTime().Sub(start), took: s.EndTime().Sub(s.StartTime()), attributes: map[string]any{}}
		for _, a := range s.Attributes() {
			assert.NotContains(d.t, sh.attributes, string(a.Key), "given twice")
			sh.attributes[string(a.Key)] = a.Value.AsInterface()
		}
		if s.Status().Code == codes.Error {
			sh.status = "error: " + s.Status().Description
		} else {
			assert.Equal(d.t, codes.Unset, s.Status().Code)
		}
		all = append(all, sh)
	}
	return all
}

// caller takes the code's place out of a span's attributes and checks it.
func (s shown) caller(t *testing.T, function string) shown {
	t.Helper()
	// A closure's name has a number at its end.
	assert.Regexp(t, `^github\.com/go-lifeguard/lifeguard_test\.`+function+`(\.func[0-9.]+)?$`, s.attributes["code.function.name"])
	assert.Regexp(t, `/tracing_test\.go$`, s.attributes["code.file.path"])
	assert.Positive(t, s.attributes["code.line.number"])
	for _, k := range []string{"code.function.name", "code.file.path", "code.line.number"} {
		delete(s.attributes, k)
	}
	return s
}

func (d *traced) none(f func()) {
	d.t.Helper()
	assert.Empty(d.t, d.step(f))
}

func (d *traced) one(f func()) shown {
	d.t.Helper()
	all := d.step(f)
	require.Len(d.t, all, 1)
	return all[0]
}

// warm opens a connection, so that what follows does not.
func (d *traced) warm() {
	d.t.Helper()
	require.NoError(d.t, d.PingContext(d.t.Context()))
}

// Every kind of operation: no span when it is fast, exactly one with the true times when it is slow.
func TestSlowSpans(t *testing.T) {
	pause := func() error { time.Sleep(time.Second); return nil }
	for _, op := range []struct {
		name string
		slow func(*fakedriver.Server)
		run  func(*traced) error
		want shown
	}{
		{
			name: "exec",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: func(d *traced) error { _, err := d.ExecContext(d.ctx, "UPDATE t SET a = 'x' WHERE b = 7"); return err },
			want: shown{name: "UPDATE t", attributes: map[string]any{
				"db.operation.name": "UPDATE", "db.query.summary": "UPDATE t", "db.query.text": "UPDATE t SET a = ? WHERE b = ?",
			}},
		},
		{
			name: "query",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: readRows,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
				"db.response.returned_rows": int64(1),
			}},
		},
		{
			name: "rows",
			slow: func(s *fakedriver.Server) {
				s.OnNext(func(*fakedriver.Conn, int) error { time.Sleep(500 * time.Millisecond); return nil })
			},
			run: readRows,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
				"db.response.returned_rows": int64(1),
			}},
		},
		{
			name: "prepare",
			slow: func(s *fakedriver.Server) {
				s.OnPrepare(func(context.Context, *fakedriver.Conn, string) error { return pause() })
			},
			run: useStmt,
			want: shown{name: "PREPARE SELECT t", attributes: map[string]any{
				"db.operation.name": "PREPARE", "db.query.summary": "PREPARE SELECT t", "db.query.text": "SELECT a FROM t",
			}},
		},
		{
			name: "statement",
			slow: func(s *fakedriver.Server) {
				s.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return pause() })
			},
			run: useStmt,
			want: shown{name: "SELECT t", attributes: map[string]any{
				"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
			}},
		},
		{
			name: "begin",
			slow: func(s *fakedriver.Server) {
				s.OnBegin(func(context.Context, *fakedriver.Conn, driver.TxOptions) error { return pause() })
			},
			run:  commit,
			want: shown{name: "BEGIN", attributes: map[string]any{"db.operation.name": "BEGIN"}},
		},
		{
			name: "commit",
			slow: func(s *fakedriver.Server) { s.OnCommit(func(*fakedriver.Conn) error { return pause() }) },
			run:  commit,
			want: shown{name: "COMMIT", attributes: map[string]any{"db.operation.name": "COMMIT"}},
		},
		{
			name: "rollback",
			slow: func(s *fakedriver.Server) { s.OnRollback(func(*fakedriver.Conn) error { return pause() }) },
			run: func(d *traced) error {
				tx, err := d.BeginTx(d.ctx, nil)
				return errors.Join(err, tx.Rollback())
			},
			want: shown{name: "ROLLBACK", attributes: map[string]any{"db.operation.name": "ROLLBACK"}},
		},
		{
			name: "ping",
			slow: func(s *fakedriver.Server) { s.OnPing(func(context.Context, *fakedriver.Conn) error { return pause() }) },
			run:  func(d *traced) error { return d.PingContext(d.ctx) },
			want: shown{name: "PING", attributes: map[string]any{"db.operation.name": "PING"}},
		},
	} {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openTraced(t, nil)
				d.srv.OnQuery(nil)
				d.warm()
				time.Sleep(time.Minute)
				d.warm() // the lease of a minute ago is gone
				d.none(func() { require.NoError(t, op.run(d)) })
				op.slow(d.srv)
				got := d.one(func() { require.NoError(t, op.run(d)) })
				got = got.caller(t, "(TestSlowSpans|readRows|useStmt|commit)")
				op.want.attributes["db.system.name"] = "other_sql"
				op.want.took = time.Second
				assert.Equal(t, op.want, got)
				assert.EqualValues(t, 1, d.pool.Stats().SlowQueries)
			})
		})
	}
}

func readRows(d *traced) error {
	rows, err := d.QueryContext(d.ctx, "SELECT a FROM t")
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

func useStmt(d *traced) error {
	st, err := d.PrepareContext(d.ctx, "SELECT a FROM t")
	if err != nil {
		return err
	}
	_, err = st.ExecContext(d.ctx)
	return errors.Join(err, st.Close())
}

func commit(d *traced) error {
	tx, err := d.BeginTx(d.ctx, nil)
	if err != nil {
		return err
	}
	return tx.Commit()
}

// A connect that takes long has a span of its own, and the operation it was for says how long it waited, once.
func TestWaitShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, pooltest.Limit(1))
		holder, err := d.Conn(d.ctx)
		require.NoError(t, err)
		go func() { time.Sleep(3 * time.Second); holder.Close() }()
		var tx *sql.Tx
		spans := d.step(func() {
			tx, err = d.BeginTx(d.ctx, nil)
			require.NoError(t, err)
		})
		require.Len(t, spans, 1)
		assert.Equal(t, shown{name: "CONNECT", took: 3 * time.Second, attributes: map[string]any{
			"db.system.name": "other_sql", "db.operation.name": "CONNECT", "lifeguard.connection.wait_time": 3.0,
		}}, spans[0].caller(t, "TestWaitShows"))
		assert.Zero(t, d.pool.Stats().SlowQueries, "a wait is no query")
		assert.NotContains(t, d.one(func() { _, _ = tx.ExecContext(d.ctx, "UPDATE slow") }).attributes,
			"lifeguard.connection.wait_time", "the begin had it")
		require.NoError(t, tx.Rollback())

		holder, err = d.Conn(d.ctx)
		require.NoError(t, err)
		go func() { time.Sleep(100 * time.Millisecond); holder.Close() }()
		assert.Equal(t, 0.1, d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") }).attributes["lifeguard.connection.wait_time"])
		assert.NotContains(t, d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") }).attributes, "lifeguard.connection.wait_time")
	})
}

// sqlError is an error with an SQLSTATE, whose text quotes a value.
type sqlError struct{ state string }

func (e sqlError) Error() string { return "duplicate key secret@example.com" }

func (e sqlError) SQLState() string { return e.state }

// sqliteError has a number, as modernc.org/sqlite's.
type sqliteError struct{}

func (sqliteError) Error() string { return "constraint failed" }

func (sqliteError) Code() int { return 2067 }

func TestFailedSpans(t *testing.T) {
	for _, c := range []struct {
		name         string
		err          error
		kind, status string // "" for no span
	}{
		{"SQLSTATE", sqlError{"23505"}, "23505", "23505"},
		{"SQLSTATE, wrapped", fmt.Errorf("secret: %w", sqlError{"23505"}), "23505", "23505"},
		{"number", sqliteError{}, "2067", "2067"},
		{"type", &net.OpError{Op: "read", Err: errors.New("secret")}, "*net.OpError", ""},
		{"anonymous", errors.New("secret"), "_OTHER", ""},
		{"timeout", &net.OpError{Op: "read", Err: timeoutError{}}, "timeout", ""},
		{"no rows", sql.ErrNoRows, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openTraced(t, nil)
				d.warm()
				fail := func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return c.err }
				d.srv.OnQuery(fail)
				run := func() { _, err := d.ExecContext(d.ctx, "UPDATE t SET a = 'secret'"); require.Equal(t, c.err, err) }
				if c.kind == "" {
					d.none(run)
					return
				}
				got := d.one(run)
				assert.Equal(t, "error: "+c.kind, got.status)
				assert.Equal(t, c.kind, got.attributes["error.type"])
				if c.status == "" {
					assert.NotContains(t, got.attributes, "db.response.status_code")
				} else {
					assert.Equal(t, c.status, got.attributes["db.response.status_code"])
				}
				assert.NotContains(t, fmt.Sprint(got), "secret")
				assert.NotContains(t, got.attributes, "db.response.returned_rows")

				// The same between rows. Close follows, and says nothing more.
				d.srv.OnQuery(nil)
				d.srv.OnNext(func(_ *fakedriver.Conn, row int) error {
					if row == 1 {
						return c.err
					}
					return nil
				})
				got = d.one(func() { require.Error(t, readRows(d)) })
				assert.Equal(t, c.kind, got.attributes["error.type"])
			})
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }

func (timeoutError) Timeout() bool { return true }

// ErrBadConn is a failure when the caller gets it: not when database/sql makes another attempt.
func TestBadConnSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, nil)
		failures := 0
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			if failures == 0 {
				return nil
			}
			failures--
			return driver.ErrBadConn
		})
		exec := func() error { _, err := d.ExecContext(d.ctx, "UPDATE t"); return err }
		for failures = range 3 {
			d.none(func() { assert.NoError(t, exec()) })
		}
		failures = 3
		got := d.one(func() { assert.ErrorIs(t, exec(), driver.ErrBadConn) })
		assert.Equal(t, "bad_connection", got.attributes["error.type"])
		assert.Zero(t, failures)

		for what, run := range map[string]func() error{
			"Tx": func() error {
				tx, err := d.BeginTx(d.ctx, nil)
				require.NoError(t, err)
				defer tx.Rollback()
				failures = 1
				_, err = tx.ExecContext(d.ctx, "UPDATE t")
				return err
			},
			"Conn": func() error {
				c, err := d.Conn(d.ctx)
				require.NoError(t, err)
				defer c.Close()
				failures = 1
				_, err = c.ExecContext(d.ctx, "UPDATE t")
				return err
			},
		} {
			assert.Equal(t, "bad_connection", d.one(func() { assert.ErrorIs(t, run(), driver.ErrBadConn) }).attributes["error.type"], what)
		}
	})
}

func TestSkippedIsNoSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		skipped := false
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			if !skipped {
				skipped = true
				return driver.ErrSkip
			}
			return nil
		})
		spans := d.step(func() { _, err := d.ExecContext(d.ctx, "UPDATE t"); require.NoError(t, err) })
		require.Len(t, spans, 2)
		assert.Equal(t, "PREPARE UPDATE t", spans[0].name)
		assert.Equal(t, "UPDATE t", spans[1].name)
	})
}

// A caller who went away is no failure of the database. One whose deadline passed may well be because of it.
func TestContextSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, nil)
		d.warm()
		ctx, cancel := context.WithCancel(d.ctx)
		go func() { time.Sleep(100 * time.Millisecond); cancel() }()
		d.none(func() { _, err := d.ExecContext(ctx, "UPDATE slow"); require.ErrorIs(t, err, context.Canceled) })

		ctx, cancel = context.WithCancel(d.ctx)
		go func() { time.Sleep(500 * time.Millisecond); cancel() }()
		got := d.one(func() { _, err := d.ExecContext(ctx, "UPDATE slow"); require.ErrorIs(t, err, context.Canceled) })
		assert.Equal(t, 500*time.Millisecond, got.took)
		assert.Empty(t, got.status)
		assert.NotContains(t, got.attributes, "error.type")

		ctx, cancel = context.WithTimeout(d.ctx, 100*time.Millisecond)
		defer cancel()
		got = d.one(func() { _, err := d.ExecContext(ctx, "UPDATE slow"); require.ErrorIs(t, err, context.DeadlineExceeded) })
		assert.Equal(t, "timeout", got.attributes["error.type"])

		// A transaction that database/sql rolls back at the end of a context, in a goroutine of its own.
		d.srv.OnRollback(func(*fakedriver.Conn) error { time.Sleep(time.Second); return nil })
		ctx, cancel = context.WithTimeout(d.ctx, 100*time.Millisecond)
		defer cancel()
		got = d.one(func() {
			_, err := d.BeginTx(ctx, nil)
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
		})
		assert.Equal(t, "ROLLBACK", got.name)
		assert.Empty(t, got.status)
		got.caller(t, "TestContextSpans") // who began it

		// Rows that it closes in the same way.
		ctx, cancel = context.WithTimeout(d.ctx, time.Second)
		defer cancel()
		got = d.one(func() {
			_, err := d.QueryContext(ctx, "SELECT a FROM t")
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
		})
		assert.Equal(t, time.Second, got.took)
		got.caller(t, "TestContextSpans")
	})
}

func TestConnectSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { pooltest.Limit(1)(c); c.PoolTimeout = 5 * time.Second })
		d.none(d.warm)
		func() {
			c, err := d.Conn(d.ctx)
			require.NoError(t, err)
			defer c.Close()
			got := d.one(func() { _, err := d.ExecContext(d.ctx, "UPDATE t"); require.ErrorIs(t, err, lifeguard.ErrPoolTimeout) })
			assert.Equal(t, "CONNECT", got.name)
			assert.Equal(t, 5*time.Second, got.took)
			assert.Equal(t, "pool_timeout", got.attributes["error.type"])
			assert.Contains(t, got.status, `error: lifeguard: no connection from pool "fake" within 5s`)

			ctx, cancel := context.WithCancel(d.ctx)
			go func() { time.Sleep(50 * time.Millisecond); cancel() }()
			d.none(func() { _, err := d.ExecContext(ctx, "UPDATE t"); require.ErrorIs(t, err, context.Canceled) })
		}()
		time.Sleep(time.Hour) // no idle connection is left
		d.srv.OnDial(func(context.Context) error { return sqlError{"28P01"} })
		got := d.one(func() { _, err := d.ExecContext(d.ctx, "UPDATE t"); require.Error(t, err) })
		assert.Equal(t, "28P01", got.attributes["db.response.status_code"])
		assert.NotContains(t, fmt.Sprint(got), "secret")
		time.Sleep(time.Second) // the next dial need not wait
		d.srv.OnDial(func(context.Context) error { time.Sleep(time.Second); return nil })
		assert.Equal(t, time.Second, d.one(func() { _, err := d.ExecContext(d.ctx, "UPDATE t"); require.NoError(t, err) }).took)
	})
}

func TestTraceAllAndOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		names := func(f func() error) (names []string) {
			for _, s := range d.step(func() { require.NoError(t, f()) }) {
				names = append(names, s.name)
			}
			return names
		}
		assert.Equal(t, []string{"CONNECT", "PING"}, names(func() error { return d.PingContext(d.ctx) }))
		assert.Equal(t, []string{"PING"}, names(func() error { return d.PingContext(d.ctx) }))
		assert.Equal(t, []string{"SELECT t"}, names(func() error { return readRows(d) }))
		assert.Equal(t, []string{"PREPARE SELECT t", "SELECT t"}, names(func() error { return useStmt(d) }))
		assert.Equal(t, []string{"BEGIN", "COMMIT"}, names(func() error { return commit(d) }))
		got := d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE t") })
		got.caller(t, "TestTraceAllAndOff")

		d = openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceOff })
		d.none(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") })
		assert.EqualValues(t, 1, d.pool.Stats().SlowQueries)

		d = openTraced(t, func(c *lifeguard.Config) { c.SlowQueryThreshold = 0 })
		d.none(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") })
		assert.Zero(t, d.pool.Stats().SlowQueries)
		d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(time.Second)
			return sqlError{"23505"}
		})
		assert.Equal(t, time.Second, d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE t") }).took, "failures show, slow or not")
	})
}

func TestSamplerIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorder := tracetest.NewSpanRecorder()
		sampler := &tellingSampler{}
		provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder), sdktrace.WithSampler(sdktrace.ParentBased(sampler)))
		d := openTraced(t, nil, lifeguard.WithTracerProvider(provider), lifeguard.WithAttributes(attribute.String("shop", "east")))
		_, err := d.ExecContext(t.Context(), "UPDATE slow")
		require.NoError(t, err)
		assert.Empty(t, recorder.Ended())
		assert.Equal(t, []string{"UPDATE slow"}, sampler.asked)
		assert.Contains(t, sampler.attributes, attribute.String("db.operation.name", "UPDATE"))
		assert.Contains(t, sampler.attributes, attribute.String("shop", "east"))

		unsampled := trace.ContextWithSpanContext(t.Context(), d.trace.WithTraceFlags(0))
		_, err = d.ExecContext(unsampled, "UPDATE slow")
		require.NoError(t, err)
		assert.Empty(t, recorder.Ended(), "the parent is not sampled")
		_, err = d.ExecContext(d.ctx, "UPDATE slow")
		require.NoError(t, err)
		require.Len(t, recorder.Ended(), 1)
		assert.Contains(t, recorder.Ended()[0].Attributes(), attribute.String("shop", "east"))
	})
}

type tellingSampler struct {
	asked      []string
	attributes []attribute.KeyValue
}

func (s *tellingSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.asked, s.attributes = append(s.asked, p.Name), p.Attributes
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (s *tellingSampler) Description() string { return "tells" }

// Where so many connections are checked out that not each begin is looked at, times stay true.
func TestBeginWithoutStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, nil)
		d.warm()
		exhaust := func() { // no time passes, so the looks of this moment are soon used up
			for range 2000 {
				_, err := d.ExecContext(d.ctx, "UPDATE t")
				require.NoError(t, err)
			}
		}
		d.none(exhaust)
		got := d.one(func() { _, _ = d.ExecContext(d.ctx, "UPDATE slow") })
		assert.Equal(t, time.Second, got.took)
		assert.Equal(t, time.Duration(0), got.started)
		got.caller(t, "TestBeginWithoutStack")

		d.warm()
		exhaust()
		c, err := d.Conn(d.ctx)
		require.NoError(t, err)
		assert.Empty(t, d.pool.Holders()[0].Stack, "the test is about checkouts without a stack")
		time.Sleep(500 * time.Millisecond) // slow, if it counted; less than the janitor takes to look
		d.none(func() { _, err := c.ExecContext(d.ctx, "UPDATE t"); require.NoError(t, err) })
		require.NoError(t, c.Close())

		exhaust()
		c, err = d.Conn(d.ctx)
		require.NoError(t, err)
		time.Sleep(500 * time.Millisecond)
		got = d.one(func() { _, _ = c.ExecContext(d.ctx, "UPDATE slow") })
		assert.Equal(t, time.Second, got.took)
		require.NoError(t, c.Close())
	})
}

// The caller is the application's, and packages can be named that are not to count as it. Here a template is what
// runs the query.
func TestSkippedCallers(t *testing.T) {
	ping := template.Must(template.New("").Parse("{{.Ping}}"))
	for _, c := range []struct {
		opts []lifeguard.Option
		want string
	}{
		{nil, "text/template."},
		{[]lifeguard.Option{lifeguard.WithSkippedCallers("example.com"), lifeguard.WithSkippedCallers("text/template")},
			"github.com/go-lifeguard/lifeguard_test.TestSkippedCallers"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := openTraced(t, nil, c.opts...)
			d.srv.OnPing(func(context.Context, *fakedriver.Conn) error { time.Sleep(time.Second); return nil })
			require.NoError(t, ping.Execute(io.Discard, d.DB))
			require.Len(t, d.spans.Ended(), 1)
			for _, a := range d.spans.Ended()[0].Attributes() {
				if a.Key == "code.function.name" {
					assert.Contains(t, a.Value.AsString(), c.want)
					return
				}
			}
			t.Error("no caller")
		})
	}
}

// The same query from many places, at different depths and with or without a sampled span, is always told where it was
// run: what is remembered of one is not said of another.
func TestCallersOfOneQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		here := func(_ sql.Result, err error) (int, error) {
			_, _, line, _ := runtime.Caller(1)
			return line, err
		}
		const query = "UPDATE t"
		tx, err := d.BeginTx(d.ctx, nil)
		require.NoError(t, err)
		defer tx.Rollback()
		conn, err := d.Conn(d.ctx)
		require.NoError(t, err)
		defer conn.Close()
		st, err := d.PrepareContext(d.ctx, query)
		require.NoError(t, err)
		defer st.Close()
		type exec = func(context.Context) (int, error)
		sites := []exec{
			func(ctx context.Context) (int, error) { return here(d.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(d.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(tx.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(tx.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(conn.ExecContext(ctx, query)) },
			func(ctx context.Context) (int, error) { return here(st.ExecContext(ctx)) },
			func(ctx context.Context) (int, error) { return here(tx.StmtContext(ctx, st).ExecContext(ctx)) },
		}
		direct := len(sites) // they run with the context they are given
		// Calls through reflection, which is passed over, make up more stacks than are remembered.
		call, args := reflect.ValueOf(d.ExecContext), []reflect.Value{reflect.ValueOf(d.ctx), reflect.ValueOf(query)}
		ignore := func([]reflect.Value) error { return nil }
		for range 6 {
			f, with := call, args
			sites = append(sites,
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
				func(context.Context) (int, error) { return here(nil, ignore(f.Call(with))) },
			)
			call, args = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(with)}
		}
		var below func(int, exec, context.Context) (int, error)
		below = func(depth int, run exec, ctx context.Context) (int, error) {
			if depth == 0 {
				return run(ctx)
			}
			return below(depth-1, run, ctx)
		}
		unsampled := trace.ContextWithSpanContext(t.Context(), d.trace.WithTraceFlags(0))
		for round := range 300 {
			run := sites[round%len(sites)]
			if round%3 == 1 && round%len(sites) < direct {
				d.none(func() { _, err := run(unsampled); require.NoError(t, err) })
			}
			var want int
			spans := d.step(func() { want, err = below(round%100, run, d.ctx); require.NoError(t, err) })
			got := spans[len(spans)-1]
			require.EqualValues(t, want, got.attributes["code.line.number"], "round %d", round)
			require.Equal(t, map[string]any{"db.system.name": "other_sql", "db.operation.name": "UPDATE",
				"db.query.summary": "UPDATE t", "db.query.text": "UPDATE t"}, got.caller(t, "TestCallersOfOneQuery").attributes)
		}
	})
}

// Rows are closed elsewhere, and a transaction ended by database/sql, but who ran the query and who began the transaction
// is told, in transactions and at any rate of checkouts.
func TestCallerOfWhatOthersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		var lines []int
		line := func() {
			_, _, line, _ := runtime.Caller(1)
			lines = append(lines, line)
		}
		for range 300 { // no time passes, so the stacks of this moment are soon used up
			lines = nil
			ctx, cancel := context.WithCancel(d.ctx)
			spans := d.step(func() {
				line()
				tx, err := d.BeginTx(ctx, nil)
				require.NoError(t, err)
				line()
				rows, err := tx.QueryContext(d.ctx, "SELECT a FROM t")
				require.NoError(t, err)
				closeRows(t, rows)
				line()
				rows, err = d.QueryContext(d.ctx, "SELECT a FROM t")
				require.NoError(t, err)
				closeRows(t, rows)
				cancel()
				synctest.Wait()
			})
			var got []string
			for _, s := range spans {
				if s.name == "CONNECT" || s.name == "ROLLBACK" {
					continue
				}
				got = append(got, fmt.Sprint(s.name, " ", s.attributes["code.line.number"].(int64)-1))
			}
			require.Equal(t, []string{fmt.Sprint("BEGIN ", lines[0]), fmt.Sprint("SELECT t ", lines[1]), fmt.Sprint("SELECT t ", lines[2])}, got)
			last := spans[len(spans)-1]
			require.Equal(t, "ROLLBACK", last.name)
			require.EqualValues(t, lines[0], last.attributes["code.line.number"].(int64)-1, "who began it")
		}
	})
}

func closeRows(t *testing.T, rows *sql.Rows) {
	for rows.Next() {
	}
	require.NoError(t, rows.Close())
}

// The number of rows is that of each query, though the last one is remembered.
func TestRowsInSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.Trace = lifeguard.TraceAll })
		d.warm()
		for _, n := range []int{3, 3, 1, 0, 3} {
			d.srv.OnNext(func(_ *fakedriver.Conn, row int) error {
				if row > n {
					return io.EOF
				}
				return nil
			})
			got := d.one(func() {
				rows, err := d.QueryContext(d.ctx, "rows 3")
				require.NoError(t, err)
				for rows.Next() {
				}
				require.NoError(t, rows.Close())
			})
			assert.EqualValues(t, n, got.attributes["db.response.returned_rows"])
		}
	})
}

// What the DSN says about the server is in every span.
func TestTargetAttributes(t *testing.T) {
	for _, c := range []struct {
		driver, dsn string
		name        string
		want        map[string]any
	}{
		{"pgx-target", "postgres://u:secret@db.example:5433/shop", "BEGIN shop", map[string]any{
			"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "db.example", "server.port": int64(5433),
		}},
		{"mysql-target", "u:secret@tcp(db.example)/shop", "BEGIN shop", map[string]any{
			"db.system.name": "mysql", "db.namespace": "shop", "server.address": "db.example", "server.port": int64(3306),
		}},
		{"sqlite-target", "file:/data/shop.db", "BEGIN shop.db", map[string]any{
			"db.system.name": "sqlite", "db.namespace": "shop.db",
		}},
	} {
		t.Run(c.driver, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				spans := tracetest.NewSpanRecorder()
				sql.Register(c.driver, srv.Driver())
				db, err := lifeguard.Open(c.driver, c.dsn+map[bool]string{true: "?trace=all", false: ""}[!strings.Contains(c.dsn, "?")], pooltest.Quiet,
					lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
				require.NoError(t, err)
				tx, err := db.Begin()
				require.NoError(t, err)
				require.NoError(t, tx.Rollback())
				require.NoError(t, db.Close())
				begin := spans.Ended()[1]
				assert.Equal(t, c.name, begin.Name())
				got := map[string]any{}
				for _, a := range begin.Attributes() {
					if k := string(a.Key); !strings.HasPrefix(k, "code.") && k != "db.operation.name" {
						got[k] = a.Value.AsInterface()
					}
				}
				assert.Equal(t, c.want, got)
			})
		})
	}
}

// A connector says nothing about the server, but the driver is known by its package.
func TestSystemOfConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		db, err := lifeguard.OpenDB(pqConnector{fakedriver.New().Connector()}, pooltest.Quiet,
			lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
		require.NoError(t, err)
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		var closed driver.Conn
		require.NoError(t, c.Raw(func(dc any) error { closed = lifeguard.Unwrap(dc).(driver.Conn); return nil }))
		closed.(*fakedriver.Conn).Kill()
		_, err = c.ExecContext(t.Context(), "UPDATE t SET a = $1 WHERE b = 'x'", 7)
		require.Error(t, err)
		_ = c.Close()
		require.NoError(t, db.Close())
		require.Len(t, spans.Ended(), 1)
		assert.Contains(t, spans.Ended()[0].Attributes(), attribute.String("db.system.name", "postgresql"))
		assert.Contains(t, spans.Ended()[0].Attributes(), attribute.String("db.query.text", "UPDATE t SET a = $1 WHERE b = ?"))
	})
}

// pqConnector leads to a driver in memory and says that it is lib/pq's.
type pqConnector struct{ driver.Connector }

func (pqConnector) Driver() driver.Driver { return &pq.Driver{} }
