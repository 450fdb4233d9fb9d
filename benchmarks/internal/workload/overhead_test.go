package workload

import (
	"context"
	"database/sql"
	"runtime"
	"slices"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// BenchmarkTraced sets lifeguard beside XSAM/otelsql with one OpenTelemetry SDK that samples everything, and beside plain
// database/sql. Where the comparison shows many libraries in a run of minutes, this is for pairs, and for seconds: short
// batches take turns in one process, in an order that turns with each round, and the figures are medians, of the times
// and of the ratios within a round. Batches are still long enough for a garbage collection or two, so that each pays for
// what it allocates.
//
//	go test -run '^$' -bench Traced -benchtime 200x ./benchmarks/internal/workload
func BenchmarkTraced(b *testing.B) {
	for _, op := range operations {
		b.Run("Op="+op.name, func(b *testing.B) { benchmarkTraced(b, op) })
	}
}

// tracedContestants are what BenchmarkTraced compares, with the names that its figures have.
var tracedContestants = []struct{ name, candidate string }{
	{"plain", "plain database/sql"},
	{"slow", "lifeguard"},
	{"all", traceAll},
	{"xsam", "XSAM/otelsql"},
}

func benchmarkTraced(b *testing.B, op operation) {
	const length = 4 * time.Millisecond // of a batch
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithSpanProcessor(dropped{}))
	defer func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	ctx, span := provider.Tracer("caller").Start(context.Background(), "request")
	defer span.End()
	settings := candidate.Settings{Connections: overheadConnections, Tracing: provider}
	known := append(candidate.All(), candidate.Tracing()...)
	var runs []func(n int)
	for _, t := range tracedContestants {
		c := known[slices.IndexFunc(known, func(c candidate.Candidate) bool { return c.Name() == t.candidate })]
		db, err := c.Over(fakedriver.Fast(), settings)
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		var st *sql.Stmt
		if op.prepared != "" {
			if st, err = db.PrepareContext(ctx, op.prepared); err != nil {
				b.Fatal(err)
			}
			defer st.Close()
		}
		runs = append(runs, func(n int) {
			for range n {
				if err := op.run(ctx, db, st); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	timed := func(run func(int), n int) float64 {
		began := time.Now()
		run(n)
		return float64(time.Since(began).Nanoseconds()) / float64(n)
	}
	often := make([]int, len(runs))
	allocations := make([]float64, len(runs))
	for i, run := range runs {
		run(1000)
		often[i] = int(float64(length.Nanoseconds()) / timed(run, 2000))
		const n = 20_000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(n)
		runtime.ReadMemStats(&after)
		allocations[i] = float64(after.Mallocs-before.Mallocs) / n
	}
	rounds := make([][]float64, len(runs)) // times of an operation
	for round := 0; b.Loop(); round++ {
		for i := range runs {
			i = (i + round) % len(runs)
			rounds[i] = append(rounds[i], timed(runs[i], often[i]))
		}
	}
	b.ReportMetric(0, "ns/op") // an iteration is a batch of everything, which says nothing
	const baseline, xsam = 0, 3
	for i, c := range tracedContestants {
		b.ReportMetric(medianOf(rounds[i]), c.name+"-ns")
		b.ReportMetric(allocations[i], c.name+"-allocs")
		if i != baseline {
			b.ReportMetric(medianRatio(rounds[i], rounds[baseline]), c.name+"-x-plain")
		}
		if i != baseline && i != xsam {
			b.ReportMetric(medianRatio(rounds[i], rounds[xsam]), c.name+"-x-xsam")
		}
	}
}

func medianRatio(of, to []float64) float64 {
	ratios := make([]float64, len(of))
	for i := range of {
		ratios[i] = of[i] / to[i]
	}
	return medianOf(ratios)
}

func medianOf(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
