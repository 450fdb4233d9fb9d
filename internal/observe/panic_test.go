package observe

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

type panickingTracers struct{ tracenoop.TracerProvider }

func (panickingTracers) Tracer(string, ...trace.TracerOption) trace.Tracer { return panickingTracer{} }

type panickingTracer struct{ tracenoop.Tracer }

func (panickingTracer) Start(context.Context, string, ...trace.SpanStartOption) (context.Context, trace.Span) {
	panic("exporter")
}

type panickingMeters struct{ metricnoop.MeterProvider }

func (panickingMeters) Meter(string, ...metric.MeterOption) metric.Meter { return panickingMeter{} }

type panickingMeter struct{ metricnoop.Meter }

func (panickingMeter) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return panickingHistogram{}, nil
}

func (panickingMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return panickingCounter{}, nil
}

func (panickingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	panic("exporter")
}

type panickingHistogram struct{ metricnoop.Float64Histogram }

func (panickingHistogram) Enabled(context.Context) bool { return true }

func (panickingHistogram) Record(context.Context, float64, ...metric.RecordOption) { panic("exporter") }

type panickingCounter struct{ metricnoop.Int64Counter }

func (panickingCounter) Add(context.Context, int64, ...metric.AddOption) { panic("exporter") }

// panickingLog is a handler of log lines that counts how often it panicked.
type panickingLog struct {
	slog.Handler
	panics *int
}

func (panickingLog) Enabled(context.Context, slog.Level) bool { return true }

func (h panickingLog) Handle(context.Context, slog.Record) error {
	*h.panics++
	panic("log")
}

// panickingError is an error whose method panics, as that of a nil pointer does.
type panickingError struct{}

func (*panickingError) Error() string { return "" }
func (*panickingError) Timeout() bool { panic("error") }

// A panic of a logger, an exporter or an error costs no more than what was to be shown, and a line in the log.
func TestPanicsAreContained(t *testing.T) {
	ctx := context.Background()
	calls := map[string]func(*Observer, error){
		"Ended": func(o *Observer, err error) { o.Ended(ctx, &Operation{Kind: Ping, Took: time.Second, Err: err}) },
		"Ended, fast": func(o *Observer, err error) {
			if o.Ended(ctx, &Operation{Kind: Ping}); err != nil {
				o.Ended(ctx, &Operation{Kind: Ping, Err: err})
			}
		},
		"Created":    func(o *Observer, _ error) { o.Created(ctx, time.Second) },
		"Used":       func(o *Observer, _ error) { o.Used(ctx, time.Second) },
		"Waited":     func(o *Observer, err error) { o.Waited(ctx, time.Second, err) },
		"DialFailed": func(o *Observer, err error) { o.DialFailed(ctx, err) },
		"Leak":       func(o *Observer, _ error) { o.Leak(LeakSpan{}) },
		"Watch":      func(o *Observer, _ error) { o.Watch(func() Counts { return Counts{} }) },
	}
	for name, c := range map[string]struct {
		set  func(*Config)
		err  error
		want []string // the calls that lead to a line
	}{
		"tracer": {func(c *Config) { c.Tracers = panickingTracers{} }, nil, []string{"Ended", "Leak"}},
		"meter": {func(c *Config) { c.Meters = panickingMeters{} }, errClosed,
			[]string{"Created", "DialFailed", "Ended", "Ended, fast", "Used", "Waited", "Watch"}},
		"error":  {nil, (*panickingError)(nil), []string{"DialFailed", "Ended", "Ended, fast", "Waited"}},
		"status": {func(c *Config) { c.Status = func(error) string { panic("status") } }, errClosed, []string{"DialFailed", "Ended", "Ended, fast", "Waited"}},
	} {
		for call, run := range calls {
			r := record(t, c.set)
			assert.NotPanics(t, func() { run(r.Observer, c.err) }, "%s in %s", name, call)
			if lines := r.log.String(); contains(c.want, call) {
				assert.Contains(t, lines, "lifeguard: a panic while an operation was shown", "%s in %s", name, call)
				assert.Contains(t, lines, "panic_test.go", "the stack")
			} else {
				assert.Empty(t, lines, "%s in %s", name, call)
			}
		}
	}

	panics := 0
	r := record(t, func(c *Config) { c.Log, c.Logger = LogAll, slog.New(panickingLog{panics: &panics}) })
	assert.NotPanics(t, func() { r.end(Operation{Kind: Ping}) })
	assert.Equal(t, 2, panics, "the line, and the one about the panic")
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}
