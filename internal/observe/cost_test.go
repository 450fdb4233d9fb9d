package observe

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// meanAllocs is how often one of n calls allocates on average. testing.AllocsPerRun rounds down, and would hide an
// allocation of every second call.
func meanAllocs(n int, run func(i int)) float64 {
	for i := range n / 10 { // what is learnt once is learnt
		run(i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range n {
		run(i)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}

// An operation that is not shown allocates nothing, with metrics and without, also with a sampled span in its context,
// of which an SDK may take an exemplar.
func TestAllocationsOfWhatIsNotShown(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector allocates on its own account")
	}
	queries := make([]string, maxShapes/2)
	for i := range queries {
		queries[i] = fmt.Sprintf("SELECT a FROM table_%d WHERE b = $1", i)
	}
	for name, set := range map[string]func(*Config){
		"metrics":    nil,
		"no metrics": func(c *Config) { c.Meters = refusingMeters{} },
		"no spans":   func(c *Config) { c.Trace = TraceOff },
	} {
		r := record(t, set)
		for _, ctx := range []context.Context{context.Background(), r.ctx} {
			assert.Less(t, meanAllocs(100_000, func(i int) {
				op := Operation{Kind: Kind(i % int(kinds)), Took: time.Millisecond, First: true, Waited: time.Millisecond}
				if op.Kind <= Prepare {
					op.Query = queries[i%len(queries)]
				}
				r.Ended(ctx, &op)
				r.Waited(ctx, time.Millisecond, nil)
				r.Used(ctx, time.Millisecond)
			}), 0.01, name)
		}
	}
}

// A caller that is known is found without an allocation, from however many places.
func TestAllocationsOfKnownCallers(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector allocates on its own account")
	}
	r := record(t, func(c *Config) { c.Trace = TraceAll })
	stacks, _ := chains(maxCallers / 2)
	queries := []string{"SELECT a FROM t", "SELECT b FROM t", "SELECT c FROM t", "SELECT d FROM t", "SELECT e FROM t"}
	assert.Less(t, meanAllocs(100_000, func(i int) { // 640 places
		r.callerOf(r.shapeOf(Query, queries[i%len(queries)]), stacks[i%len(stacks)])
	}), 0.01)
	assert.Less(t, meanAllocs(100_000, func(i int) { r.Here(Query, queries[i%len(queries)]) }), 0.01)
}

func BenchmarkEnded(b *testing.B) {
	for _, c := range []struct {
		name string
		set  func(*Config)
		op   Operation
	}{
		{"Fast", func(c *Config) { c.Meters = refusingMeters{} }, Operation{Kind: Query, Query: "SELECT a FROM t"}},
		{"Fast/Metrics", nil, Operation{Kind: Query, Query: "SELECT a FROM t"}},
		{"All", func(c *Config) { c.Meters, c.Trace = refusingMeters{}, TraceAll }, Operation{Kind: Query, Query: "SELECT a FROM t"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := record(b, func(cfg *Config) {
				if c.set != nil {
					c.set(cfg)
				}
				cfg.Tracers = sdktrace.NewTracerProvider()
			})
			b.ReportAllocs()
			for b.Loop() {
				op := c.op
				r.Ended(r.ctx, &op)
			}
		})
	}
}

func BenchmarkHere(b *testing.B) {
	for _, depth := range []int{0, 5, 20} {
		b.Run(fmt.Sprintf("Depth=%d", depth), func(b *testing.B) {
			r := record(b, nil)
			f, args := reflect.ValueOf(func() {
				b.ReportAllocs()
				for b.Loop() {
					r.Here(Query, "SELECT a FROM t")
				}
			}), []reflect.Value{}
			for range depth {
				f, args = reflect.ValueOf(f.Call), []reflect.Value{reflect.ValueOf(args)}
			}
			f.Call(args)
		})
	}
}
