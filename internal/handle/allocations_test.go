package handle_test

import (
	"context"
	"database/sql"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// TestAllocations holds the part of the cost that does not depend on the machine.
func TestAllocations(t *testing.T) {
	for _, op := range operations {
		allocs := map[string]float64{}
		for _, h := range costHandles {
			db := h.open(t)
			allocs[h.name] = testing.AllocsPerRun(2000, func() {
				if err := op.run(context.Background(), db); err != nil {
					t.Fatal(err)
				}
			})
		}
		if pooltest.RaceEnabled {
			continue // the detector allocates on its own account; what remains is that the paths are run under it
		}
		if more := allocs["lifeguard"] - allocs["plain"]; more > 0 {
			t.Errorf("%s: %g allocations more than plain database/sql", op.name, more)
		}
	}
}

// TestMetricsAllocations: with metrics on, no operation allocates more than with none, sampled spans in the context
// included, from which an SDK may take an exemplar.
func TestMetricsAllocations(t *testing.T) {
	if pooltest.RaceEnabled {
		t.Skip("the detector allocates on its own account")
	}
	m := pooltest.NewMeasures(t)
	tracing := sdktrace.NewTracerProvider()
	off, err := lifeguard.OpenDB(fakedriver.Fast(), pooltest.Quiet, lifeguard.WithMeterProvider(noop.NewMeterProvider()))
	require.NoError(t, err)
	defer off.Close()
	on, err := lifeguard.OpenDB(fakedriver.Fast(), pooltest.Quiet, lifeguard.WithMeterProvider(m.Provider), lifeguard.WithTracerProvider(tracing))
	require.NoError(t, err)
	defer on.Close()
	// Not the context of the test: database/sql starts a goroutine for each query whose context can end.
	sampled, span := tracing.Tracer("test").Start(context.Background(), "request")
	defer span.End()
	for name, ctx := range map[string]context.Context{"no span": context.Background(), "sampled": sampled} {
		for _, op := range operations {
			assert.LessOrEqual(t, fewestAllocs(t, on, ctx, op.run), fewestAllocs(t, off, ctx, op.run), "%s, %s", op.name, name)
		}
	}
	require.NotEqual(t, "none", m.Times("db.client.operation.duration"))
}

// TestNoTracingAllocations: spans of slow operations, with an SDK, cost a fast one no allocation.
func TestNoTracingAllocations(t *testing.T) {
	if pooltest.RaceEnabled {
		t.Skip("the detector allocates on its own account")
	}
	plain, traced := costHandles[1].open(t), openWithSDK(t)
	ctx := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	}))
	for _, op := range operations {
		assert.LessOrEqual(t, fewestAllocs(t, traced, ctx, op.run), fewestAllocs(t, plain, ctx, op.run), op.name)
	}
}

// fewestAllocs is what an operation allocates when nothing else, such as another goroutine, allocates meanwhile.
func fewestAllocs(t *testing.T, db *sql.DB, ctx context.Context, run func(context.Context, *sql.DB) error) float64 {
	fewest := math.Inf(1)
	for range 5 {
		fewest = min(fewest, testing.AllocsPerRun(1000, func() {
			if err := run(ctx, db); err != nil {
				t.Fatal(err)
			}
		}))
	}
	return fewest
}

// openWithSDK opens a handle on the fast driver, with tracing at its default and an SDK that samples everything.
func openWithSDK(tb testing.TB, opts ...lifeguard.Option) *sql.DB {
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discardSpans{}))
	db, err := lifeguard.OpenDB(fakedriver.Fast(), append(opts, lifeguard.WithTracerProvider(provider))...)
	require.NoError(tb, err)
	tb.Cleanup(func() { db.Close() })
	return db
}

// discardSpans is where finished spans go that nobody wants.
type discardSpans struct{}

func (discardSpans) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (discardSpans) OnEnd(sdktrace.ReadOnlySpan) {}

func (discardSpans) Shutdown(context.Context) error { return nil }

func (discardSpans) ForceFlush(context.Context) error { return nil }
