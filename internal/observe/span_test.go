package observe

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// operations are one of each kind, and what the span of each says.
var operations = []struct {
	op   Operation
	name string
	want map[string]any
}{
	{Operation{Kind: Exec, Query: "UPDATE t SET a = 'secret' WHERE b = 7"}, "UPDATE t", map[string]any{
		"db.operation.name": "UPDATE", "db.query.summary": "UPDATE t", "db.query.text": "UPDATE t SET a = ? WHERE b = ?",
	}},
	{Operation{Kind: Query, Query: "SELECT a /* secret */ FROM t", Rows: 3}, "SELECT t", map[string]any{
		"db.operation.name": "SELECT", "db.query.summary": "SELECT t", "db.query.text": "SELECT a FROM t",
		"db.response.returned_rows": int64(3),
	}},
	{Operation{Kind: Query, Query: "SELECT 'secret'"}, "SELECT", map[string]any{
		"db.operation.name": "SELECT", "db.query.summary": "SELECT", "db.query.text": "SELECT ?",
		"db.response.returned_rows": int64(0),
	}},
	{Operation{Kind: Prepare, Query: "SELECT a FROM t"}, "PREPARE SELECT t", map[string]any{
		"db.operation.name": "PREPARE", "db.query.summary": "PREPARE SELECT t", "db.query.text": "SELECT a FROM t",
	}},
	{Operation{Kind: Exec, Query: "frobnicate"}, "other_sql", map[string]any{"db.query.text": "frobnicate"}},
	{Operation{Kind: Begin}, "BEGIN", map[string]any{"db.operation.name": "BEGIN"}},
	{Operation{Kind: Commit}, "COMMIT", map[string]any{"db.operation.name": "COMMIT"}},
	{Operation{Kind: Rollback}, "ROLLBACK", map[string]any{"db.operation.name": "ROLLBACK"}},
	{Operation{Kind: Ping}, "PING", map[string]any{"db.operation.name": "PING"}},
	{Operation{Kind: Connect}, "CONNECT", map[string]any{"db.operation.name": "CONNECT", "lifeguard.connection.wait_time": 1.0}},
}

// Every kind of operation has no span when it is fast, and exactly one with the true times when it is slow.
func TestSlowSpans(t *testing.T) {
	for _, c := range operations {
		t.Run(c.name, func(t *testing.T) {
			r := record(t, nil)
			op := c.op
			op.Took = limit - 1
			r.none(op)
			assert.Zero(t, r.SlowQueries())
			op.Took = time.Second
			got := r.one(op).caller(t, `\(\*recorder\).end`)
			want := map[string]any{"db.system.name": "other_sql"}
			for k, v := range c.want {
				want[k] = v
			}
			assert.Equal(t, shown{name: c.name, took: time.Second, attributes: want}, got)
			if op.Kind == Connect {
				assert.Zero(t, r.SlowQueries(), "a wait is no query")
			} else {
				assert.EqualValues(t, 1, r.SlowQueries())
			}
		})
	}
}

func TestWaitShows(t *testing.T) {
	r := record(t, nil)
	got := r.one(Operation{Kind: Begin, Took: time.Second, Waited: 100 * time.Millisecond, First: true})
	assert.Equal(t, 0.1, got.attributes["lifeguard.connection.wait_time"])
	got = r.one(Operation{Kind: Begin, Took: time.Second})
	assert.NotContains(t, got.attributes, "lifeguard.connection.wait_time")
}

// Without At the operation ends now.
func TestEndIsNow(t *testing.T) {
	r := record(t, nil)
	before := time.Now()
	r.Ended(r.ctx, &Operation{Kind: Ping, Took: time.Second})
	spans := r.spans.GetSpans()
	require.Len(t, spans, 1)
	assert.False(t, spans[0].EndTime.Before(before))
	assert.Less(t, spans[0].EndTime.Sub(before), time.Minute)
	assert.Equal(t, time.Second, spans[0].EndTime.Sub(spans[0].StartTime))
}

// netTimeout is an error of the kind that net gives.
type netTimeout struct{}

func (netTimeout) Error() string { return "i/o timeout" }
func (netTimeout) Timeout() bool { return true }

func TestFailedSpans(t *testing.T) {
	texts := 0
	for _, c := range []struct {
		name      string
		err       error
		typ, code string // "" for no span
		status    string // of the span, if it is not the type
	}{
		{"SQLSTATE", sqlError{"23505"}, "23505", "23505", ""},
		{"SQLSTATE, wrapped", fmt.Errorf("secret: %w", sqlError{"23505"}), "23505", "23505", ""},
		{"type", &net.OpError{Op: "read", Err: errors.New("secret")}, "*net.OpError", "", ""},
		{"anonymous", errors.New("secret"), "_OTHER", "", ""},
		{"joined", errors.Join(errors.New("secret"), io.ErrUnexpectedEOF), "_OTHER", "", ""},
		{"timeout", &net.OpError{Op: "read", Err: netTimeout{}}, "timeout", "", ""},
		{"deadline", context.DeadlineExceeded, "timeout", "", ""},
		{"bad connection", driver.ErrBadConn, "bad_connection", "", ""},
		{"bad connection, wrapped", fmt.Errorf("secret: %w", driver.ErrBadConn), "bad_connection", "", ""},
		{"own", fmt.Errorf("secret: %w", &timedOut{&texts}), "pool_timeout", "", `no connection from pool "fake" within 5s`},
		{"own, without a text", errClosed, "pool_closed", "", ""},
		{"own, of a database's", errors.Join(errClosed, sqlError{"28P01"}), "pool_closed", "28P01", ""},
		{"no rows", sql.ErrNoRows, "", "", ""},
		{"end of rows", io.EOF, "", "", ""},
		{"cancelled", context.Canceled, "", "", ""},
		{"another way", driver.ErrSkip, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(t, func(c *Config) { c.Slow = 0 })
			op := Operation{Kind: Query, Query: "SELECT a FROM t WHERE b = 'secret'", Rows: 1, Took: time.Millisecond, Err: c.err}
			if c.typ == "" {
				r.none(op)
				return
			}
			got := r.one(op)
			if c.status == "" {
				c.status = c.typ
			}
			assert.Equal(t, "error: "+c.status, got.status)
			assert.Equal(t, c.typ, got.attributes["error.type"])
			if c.code == "" {
				assert.NotContains(t, got.attributes, "db.response.status_code")
			} else {
				assert.Equal(t, c.code, got.attributes["db.response.status_code"])
			}
			assert.NotContains(t, got.attributes, "db.response.returned_rows")
			assert.NotContains(t, fmt.Sprint(got), "secret")
		})
	}
}

// The text of an own error costs something, so it is made only for a span that is recorded.
func TestTextOfOwnErrorsIsMadeWhenShown(t *testing.T) {
	texts := 0
	op := Operation{Kind: Connect, Took: time.Second, Err: &timedOut{&texts}}
	r := record(t, nil)
	unsampled := trace.ContextWithSpanContext(t.Context(), r.parent.WithTraceFlags(0))
	r.Ended(unsampled, &op)
	assert.Empty(t, r.taken())
	assert.Zero(t, texts)
	r.Waited(r.ctx, time.Second, op.Err)
	r.DialFailed(r.ctx, op.Err)
	record(t, func(c *Config) { c.Trace, c.Log = TraceOff, LogAll }).end(op)
	assert.Zero(t, texts)
	r.one(op)
	assert.Equal(t, 1, texts)
}

// A caller that went away is no failure of the database. One whose deadline passed may well be because of it.
func TestContextSpans(t *testing.T) {
	r := record(t, nil)
	cancelled, cancel := context.WithCancel(r.ctx)
	cancel()
	op := Operation{Kind: Exec, Query: "UPDATE t", Took: time.Millisecond, Err: sqlError{"57014"}, At: ended}
	r.Ended(cancelled, &op)
	assert.Empty(t, r.taken())
	op.Took = time.Second
	r.Ended(cancelled, &op)
	got := r.taken()
	require.Len(t, got, 1)
	assert.Empty(t, got[0].status)
	assert.NotContains(t, got[0].attributes, "error.type")

	over, cancel := context.WithDeadline(r.ctx, time.Unix(0, 0))
	defer cancel()
	r.Ended(over, &op)
	got = r.taken()
	require.Len(t, got, 1)
	assert.Equal(t, "57014", got[0].attributes["error.type"])

	// How database/sql is told to close a connection after it rolled back at the end of a context.
	op = Operation{Kind: Rollback, Took: time.Millisecond, Err: driver.ErrBadConn, At: ended}
	r.Ended(over, &op)
	assert.Empty(t, r.taken())
	assert.Equal(t, "bad_connection", r.one(op).attributes["error.type"])
}

func TestTraceModes(t *testing.T) {
	fast, slow := Operation{Kind: Ping}, Operation{Kind: Ping, Took: time.Second}
	failed := Operation{Kind: Ping, Err: driver.ErrBadConn}
	for _, c := range []struct {
		trace TraceMode
		log   LogMode
		slow  time.Duration

		limit              time.Duration
		spans              [3]int // of a fast, a slow and a failed one
		slowQueries        uint64
		everyCallerIsNoted bool
	}{
		{TraceOff, LogOff, limit, limit, [3]int{0, 0, 0}, 1, false},
		{TraceSlow, LogOff, limit, limit, [3]int{0, 1, 1}, 1, false},
		{TraceAll, LogOff, limit, 0, [3]int{1, 1, 1}, 1, true},
		{TraceOff, LogAll, limit, 0, [3]int{0, 0, 0}, 1, false},
		{TraceSlow, LogSlow, limit, limit, [3]int{0, 1, 1}, 1, false},
		{TraceSlow, LogOff, 0, 1<<63 - 1, [3]int{0, 0, 1}, 0, false},
		{TraceAll, LogOff, 0, 0, [3]int{1, 1, 1}, 0, true},
	} {
		r := record(t, func(cfg *Config) { cfg.Trace, cfg.Log, cfg.Slow = c.trace, c.log, c.slow })
		assert.Equal(t, c.limit, r.Limit(), "%+v", c)
		assert.Equal(t, c.everyCallerIsNoted, r.Spans(), "%+v", c)
		assert.Equal(t, c.spans, [3]int{len(r.end(fast)), len(r.end(slow)), len(r.end(failed))}, "%+v", c)
		assert.Equal(t, c.slowQueries, r.SlowQueries(), "%+v", c)
	}
}

func TestSamplerIsAsked(t *testing.T) {
	sampler := &tellingSampler{}
	r := record(t, func(c *Config) {
		c.Tracers = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sampler)))
		c.Attributes = []attribute.KeyValue{attribute.String("shop", "east")}
	})
	r.Ended(t.Context(), &Operation{Kind: Exec, Query: "UPDATE t", Took: time.Second})
	r.Ended(t.Context(), &Operation{Kind: Commit, Took: time.Second})
	assert.Equal(t, []string{"UPDATE t", "COMMIT"}, sampler.asked)
	for _, all := range sampler.attributes {
		assert.Contains(t, all, attribute.String("shop", "east"))
	}
	assert.Contains(t, sampler.attributes[0], attribute.String("db.operation.name", "UPDATE"))
}

type tellingSampler struct {
	asked      []string
	attributes [][]attribute.KeyValue
}

func (s *tellingSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.asked, s.attributes = append(s.asked, p.Name), append(s.attributes, p.Attributes)
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (s *tellingSampler) Description() string { return "tells" }

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		system, host, port, database string
		name                         string // of BEGIN
		want                         map[string]any
	}{
		{"postgresql", "db.example", "5433", "shop", "BEGIN shop", map[string]any{
			"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "db.example", "server.port": int64(5433),
		}},
		{"mysql", "db.example", "3306", "", "BEGIN db.example:3306", map[string]any{
			"db.system.name": "mysql", "server.address": "db.example", "server.port": int64(3306),
		}},
		{"postgresql", "/run/postgresql", "", "", "BEGIN /run/postgresql", map[string]any{
			"db.system.name": "postgresql", "server.address": "/run/postgresql",
		}},
		{"sqlite", "", "", "shop.db", "BEGIN shop.db", map[string]any{"db.system.name": "sqlite", "db.namespace": "shop.db"}},
		{"", "", "", "", "BEGIN", map[string]any{"db.system.name": "other_sql"}},
	} {
		r := record(t, func(cfg *Config) {
			cfg.Base = Database(c.system, c.host, c.port, c.database)
			cfg.Target = TargetName(c.host, c.port, c.database)
			cfg.Dialect = sqltext.DialectOf(c.system)
		})
		got := r.one(Operation{Kind: Begin, Took: time.Second}).caller(t, `\(\*recorder\).end`)
		assert.Equal(t, c.name, got.name)
		delete(got.attributes, "db.operation.name")
		assert.Equal(t, c.want, got.attributes)
	}
}

// The dialect says what is a literal.
func TestDialect(t *testing.T) {
	op := Operation{Kind: Exec, Query: `UPDATE t SET a = "secret" WHERE b = $1`, Took: time.Second}
	for system, want := range map[string]string{
		"postgresql": `UPDATE t SET a = "secret" WHERE b = $1`, // a column
		"mysql":      `UPDATE t SET a = ? WHERE b = ?`,
		"":           `UPDATE t SET a = ? WHERE b = ?`,
	} {
		r := record(t, func(c *Config) { c.Dialect = sqltext.DialectOf(system) })
		assert.Equal(t, want, r.one(op).attributes["db.query.text"], system)
	}
}

func TestLeakSpan(t *testing.T) {
	r := record(t, func(c *Config) { c.Trace = TraceOff })
	var stack callsite.Stack
	stack.Capture(0)
	l := LeakSpan{
		Kind: "held", Since: ended.Add(-time.Minute), At: ended, Operations: 4, Query: "SELECT 'secret'", InTx: true,
		Stack: stack.PCs(), CheckoutTrace: r.parent,
	}
	r.Leak(l)
	spans := r.spans.GetSpans()
	require.Len(t, spans, 1)
	assert.False(t, spans[0].Parent.IsValid(), "a trace of its own")
	assert.NotEqual(t, r.parent.TraceID(), spans[0].SpanContext.TraceID())
	require.Len(t, spans[0].Links, 1)
	assert.Equal(t, r.parent, spans[0].Links[0].SpanContext)
	got := r.taken()[0]
	assert.Regexp(t, `^github\.com/go-lifeguard/lifeguard/internal/observe\.TestLeakSpan\n\t/.*/span_test\.go:[0-9]+\ntesting\.tRunner\n`,
		got.attributes["code.stacktrace"])
	delete(got.attributes, "code.stacktrace")
	assert.Equal(t, shown{name: "connection leak", took: time.Minute, status: "error: the connection was not returned", attributes: map[string]any{
		"db.client.connection.pool.name": "fake", "db.query.text": "SELECT ?", "lifeguard.leak.kind": "held",
		"lifeguard.leak.reclaimed": false, "lifeguard.leak.operations": int64(4), "lifeguard.leak.in_transaction": true,
	}}, got.caller(t, "TestLeakSpan"))

	r.Leak(LeakSpan{Kind: "lost rows", Since: ended, At: ended, Reclaimed: true})
	spans = r.spans.GetSpans()
	require.Len(t, spans, 1)
	assert.Empty(t, spans[0].Links)
	got = r.taken()[0]
	assert.Equal(t, map[string]any{
		"db.client.connection.pool.name": "fake", "lifeguard.leak.kind": "lost rows",
		"lifeguard.leak.reclaimed": true, "lifeguard.leak.operations": int64(0), "lifeguard.leak.in_transaction": false,
	}, got.attributes)
}

// With everything on, no literal, no text of a database's error and no password appears anywhere.
func TestNothingSecretIsShown(t *testing.T) {
	r := record(t, func(c *Config) { c.Trace, c.Log = TraceAll, LogAll })
	for _, err := range []error{
		nil, sqlError{"23505"}, fmt.Errorf("secret: %w", driver.ErrBadConn), errors.New("secret"), errClosed,
		&net.OpError{Op: "dial", Err: errors.New("password=secret")},
	} {
		for _, took := range []time.Duration{0, time.Second} {
			for _, query := range []string{
				"UPDATE t SET a = 'secret'", "INSERT INTO t VALUES ($1, 'secret')", "SELECT /* secret */ 1",
				"ALTER USER u PASSWORD 'secret'", "ALTER USER u IDENTIFIED BY secret", "SELECT 'secret",
				`SELECT "secret`, "SELECT $$secret$$", "-- secret\nSELECT 1",
			} {
				for _, kind := range []Kind{Exec, Query, Prepare} {
					op := Operation{Kind: kind, Query: query, Took: took, Err: err}
					if kind == Query {
						op.Caller = r.Here(kind, query)
					}
					r.Ended(r.ctx, &op)
				}
				r.Leak(LeakSpan{Query: query})
			}
			for kind := Begin; kind < kinds; kind++ {
				r.Ended(r.ctx, &Operation{Kind: kind, Took: took, Err: err})
			}
		}
		if err != nil {
			r.DialFailed(r.ctx, err)
			r.Waited(r.ctx, time.Second, err)
		}
	}
	all := r.everything()
	assert.Contains(t, all, "IDENTIFIED BY ?")
	assert.NotContains(t, all, "secret")
}
