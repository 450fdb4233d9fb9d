package observe_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

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

// Each attempt that ended with ErrBadConn is a failed operation, whether database/sql makes another or not.
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
		for n := range 4 {
			failures = n
			spans := d.step(func() {
				if err := exec(); n < 3 {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, driver.ErrBadConn)
				}
			})
			require.Len(t, spans, n)
			for _, s := range spans {
				assert.Equal(t, "UPDATE t", s.name)
				assert.Equal(t, "bad_connection", s.attributes["error.type"])
			}
			assert.Zero(t, failures)
		}

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

// A caller that cancels is no failure of the database. A deadline that passes may well be one.
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
		got.caller(t, "TestContextSpans") // which began it

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
