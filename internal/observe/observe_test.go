package observe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// recorder is an observer of which everything that it shows is recorded.
type recorder struct {
	*Observer
	t        testing.TB
	spans    *tracetest.InMemoryExporter
	exported exported
	reader   *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
	log      *bytes.Buffer
	ctx      context.Context // with a sampled span of the caller
	parent   trace.SpanContext
}

// exported has room for one signal that spans were exported.
type exported chan struct{}

func (exported) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (exported) Shutdown(context.Context) error                  { return nil }
func (exported) ForceFlush(context.Context) error                { return nil }

func (e exported) OnEnd(sdktrace.ReadOnlySpan) {
	select {
	case e <- struct{}{}:
	default:
	}
}

// limit is from which on an operation of a recorder is slow.
const limit = 200 * time.Millisecond

// ended is when all operations end.
var ended = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func record(t testing.TB, set func(*Config)) *recorder {
	t.Helper()
	r := &recorder{t: t, spans: tracetest.NewInMemoryExporter(), exported: make(exported, 1), reader: sdkmetric.NewManualReader(), log: new(bytes.Buffer)}
	r.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	c := Config{
		Pool: "fake", Base: Database("", "", "", ""), Trace: TraceSlow, Slow: limit,
		Tracers: sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans), sdktrace.WithSpanProcessor(r.exported)),
		Meters:  r.meters,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})),
		Status: statusOf,
		Own:    ownError,
	}
	if set != nil {
		set(&c)
	}
	r.Observer = New(c)
	t.Cleanup(r.Close)
	r.parent = trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	r.ctx = trace.ContextWithSpanContext(context.Background(), r.parent)
	return r
}

// sqlError is an error with an SQLSTATE, whose text quotes a value.
type sqlError struct{ state string }

func (sqlError) Error() string      { return "duplicate key (secret)" }
func (e sqlError) SQLState() string { return e.state }

func statusOf(err error) string {
	var e sqlError
	if errors.As(err, &e) {
		return e.state
	}
	return ""
}

// timedOut is an error of lifeguard's own, whose text may be shown.
type timedOut struct{ shown *int }

func (e *timedOut) Error() string {
	*e.shown++
	return `no connection from pool "fake" within 5s`
}
func (*timedOut) Timeout() bool { return true }

var errClosed = errors.New("lifeguard: closed secret")

func ownError(err error) (string, error) {
	var e *timedOut
	switch {
	case errors.As(err, &e):
		return "pool_timeout", e
	case errors.Is(err, errClosed):
		return "pool_closed", nil
	}
	return "", nil
}

// shown is what a span says, in a form to compare.
type shown struct {
	name       string
	ended      time.Duration // after the time ended
	took       time.Duration
	attributes map[string]any
	status     string
}

// taken takes the spans that were exported.
func (r *recorder) taken() (all []shown) {
	r.t.Helper()
	for _, s := range r.spans.GetSpans() {
		sh := shown{name: s.Name, ended: s.EndTime.Sub(ended), took: s.EndTime.Sub(s.StartTime), attributes: map[string]any{}}
		for _, a := range s.Attributes {
			assert.NotContains(r.t, sh.attributes, string(a.Key), "given twice")
			sh.attributes[string(a.Key)] = a.Value.AsInterface()
		}
		if s.Status.Code == codes.Error {
			sh.status = "error: " + s.Status.Description
		} else {
			assert.Equal(r.t, codes.Unset, s.Status.Code)
		}
		if s.Name != "connection leak" {
			assert.Equal(r.t, trace.SpanKindClient, s.SpanKind)
			assert.Equal(r.t, r.parent.SpanID(), s.Parent.SpanID(), "child of the caller's span")
			assert.Equal(r.t, r.parent.TraceID(), s.SpanContext.TraceID())
		}
		all = append(all, sh)
	}
	r.spans.Reset()
	return all
}

// end ends an operation and returns the spans it led to.
func (r *recorder) end(op Operation) []shown {
	r.t.Helper()
	op.At = ended
	r.Ended(r.ctx, &op)
	return r.taken()
}

func (r *recorder) none(op Operation) {
	r.t.Helper()
	assert.Empty(r.t, r.end(op))
}

func (r *recorder) one(op Operation) shown {
	r.t.Helper()
	all := r.end(op)
	require.Len(r.t, all, 1)
	return all[0]
}

// lines takes the log's lines, without the numbers of lines of code.
func (r *recorder) lines() (lines []string) {
	defer r.log.Reset()
	for line := range strings.Lines(r.log.String()) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), "_test.go:")
		if ok {
			before += "_test.go" + strings.TrimLeft(after, "0123456789")
		}
		lines = append(lines, before)
	}
	return lines
}

// collect gives all metrics by their names.
func (r *recorder) collect() map[string]metricdata.Metrics {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(r.t, r.reader.Collect(context.Background(), &all))
	byName := map[string]metricdata.Metrics{}
	for _, s := range all.ScopeMetrics {
		require.Equal(r.t, "github.com/go-lifeguard/lifeguard", s.Scope.Name)
		for _, m := range s.Metrics {
			byName[m.Name] = m
		}
	}
	return byName
}

// everything is all that was shown so far, as text.
func (r *recorder) everything() string {
	return fmt.Sprintf("%+v\n%+v\n%s", r.spans.GetSpans(), r.collect(), r.log.String())
}

// caller takes the code's place out of a span's attributes and checks it.
func (s shown) caller(t testing.TB, function string) shown {
	t.Helper()
	// A closure's name has a number at its end.
	assert.Regexp(t, `^github\.com/go-lifeguard/lifeguard/internal/observe\.`+function+`(\.func[0-9.]+)?$`, s.attributes["code.function.name"])
	assert.Regexp(t, `/[a-z]+_test\.go$`, s.attributes["code.file.path"])
	assert.Positive(t, s.attributes["code.line.number"])
	for _, k := range []string{"code.function.name", "code.file.path", "code.line.number"} {
		delete(s.attributes, k)
	}
	return s
}
