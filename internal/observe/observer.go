package observe

import (
	"context"
	"database/sql/driver"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// scope is the name under which spans and metrics appear.
const scope = "github.com/go-lifeguard/lifeguard"

// TraceMode says which operations have spans. Failed ones have one in all modes but TraceOff.
type TraceMode uint8

// The values of [TraceMode].
const (
	TraceOff TraceMode = iota
	TraceSlow
	TraceAll
)

// LogMode says which operations have a line in the log.
type LogMode uint8

// The values of [LogMode].
const (
	LogOff LogMode = iota
	LogSlow
	LogAll
)

// Config is the configuration of an [Observer]. The zero value shows nothing and counts into the global providers.
type Config struct {
	Pool       string // name of the pool
	Dialect    sqltext.Dialect
	Base       []attribute.KeyValue // the database, of operations alone: see [Database]
	Attributes []attribute.KeyValue // the user's, of everything
	Target     string               // of operations without a query: see [TargetName]

	Trace TraceMode
	Log   LogMode
	Slow  time.Duration // from which on an operation is slow; 0 for none
	Skip  []string      // packages that are not shown as callers

	Logger  *slog.Logger         // nil for the default one
	Tracers trace.TracerProvider // nil for the global one
	Meters  metric.MeterProvider // nil for the global one

	// Status returns the database's code of an error, "" if it has none.
	Status func(error) string

	// Own returns error.type of an error of lifeguard's own, "" for others. The second result is the error whose text may
	// be shown; nil if only the type may. The text of others may quote values. It is not asked for where nothing shows
	// it: that of a pool timeout takes some microseconds.
	Own func(error) (typ string, shown error)
}

// Observer shows operations. It is safe for concurrent use, but for Watch and Close.
//
// Its methods contain panics of the logger, the providers and the functions of [Config]: see contain.
type Observer struct {
	memory
	errorTypes
	queryLog
	metrics metrics
	tracer  trace.Tracer

	trace       TraceMode
	log         LogMode
	slow        time.Duration // math.MaxInt64 for none
	limit       time.Duration
	slowQueries atomic.Uint64
	tallies     tallies
}

// New returns an observer. It has to be closed.
func New(c Config) *Observer {
	o := &Observer{
		memory: memory{
			dialect: c.Dialect, target: c.Target, skip: c.Skip, base: slices.Concat(c.Base, c.Attributes),
		},
		errorTypes: errorTypes{status: c.Status, own: c.Own},
		queryLog:   queryLog{pool: c.Pool, logger: c.Logger},
		trace:      c.Trace, log: c.Log, slow: math.MaxInt64,
	}
	if len(c.Base) == 0 {
		o.base = slices.Concat(Database("", "", "", ""), c.Attributes)
	}
	if c.Slow > 0 {
		o.slow = c.Slow
	}
	o.limit = o.slow
	if o.trace == TraceAll || o.log == LogAll {
		o.limit = 0
	}
	if o.status == nil {
		o.status = func(error) string { return "" }
	}
	if o.own == nil {
		o.own = func(error) (string, error) { return "", nil }
	}
	if o.logger == nil {
		o.logger = slog.Default()
	}
	tracers, meters := c.Tracers, c.Meters
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	o.tracer = tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
	o.metrics.init(meters, c.Pool, c.Attributes, o.refused)
	o.memory.init()
	return o
}

// Close ends the reading of counts that Watch began. It must not be called under a lock that the function given to Watch takes: it waits for
// a collection that is under way.
func (o *Observer) Close() {
	if err := o.metrics.unwatch(); err != nil {
		o.logger.Warn("lifeguard: metrics were not unregistered", slog.String("pool", o.pool), slog.Any("error", err))
	}
}

// Limit is the duration from which on a successful operation has to be passed to Ended. It is 0 if all have to be, and
// [math.MaxInt64] if none is slow. Operations that failed always have to be passed.
func (o *Observer) Limit() time.Duration { return o.limit }

// Timed reports whether durations are collected, so that every operation has to be passed to Ended.
func (o *Observer) Timed(ctx context.Context) bool { return o.metrics.timed(ctx) }

// Spans reports whether every operation has a span. Callers of queries are then noted by Here when they begin.
func (o *Observer) Spans() bool { return o.trace == TraceAll }

// Here returns the caller that runs the present goroutine for an operation of this kind. It takes a microsecond, and some
// more for a caller that is new.
func (o *Observer) Here(kind Kind, query string) *Caller { return o.here(o.shapeOf(kind, query)) }

// Ended shows an operation wherever it is to be shown. It is called on the goroutine that ran it. Of an operation that is
// not shown it allocates nothing.
func (o *Observer) Ended(ctx context.Context, op *Operation) {
	if op.Err == driver.ErrSkip {
		return // not an operation: the driver asks for another way
	}
	defer o.contain()
	if op.Err == nil && op.Took < o.limit {
		o.measure(ctx, op, failure{})
		return
	}
	o.show(ctx, op)
}

// show is apart from Ended, so that an operation that is not shown needs less of the stack.
func (o *Observer) show(ctx context.Context, op *Operation) {
	var failed failure
	if isFailure(ctx, op) {
		failed = o.failure(op.Err)
	}
	slow := op.Took >= o.slow
	if slow && op.Kind != Connect {
		o.slowQueries.Add(1)
	}
	o.measure(ctx, op, failed)
	counted := op.Kind != Connect && (slow || failed.typ != "")
	withSpan := o.trace == TraceAll || o.trace == TraceSlow && (slow || failed.typ != "")
	withLine := o.log == LogAll || o.log == LogSlow && slow
	if !withSpan && !withLine && !counted {
		return
	}
	if op.At.IsZero() {
		op.At = time.Now()
	}
	if op.Kind == Connect {
		op.Waited = op.Took
	}
	s := o.shapeOfOperation(op)
	op.Caller = o.caller(s, op)
	if counted {
		o.tallies.count(op, s, slow, failed)
	}
	if withSpan {
		o.span(ctx, op, s, failed)
	}
	if withLine {
		o.line(ctx, op, s, failed, slow)
	}
}

// SlowQueries is how many operations were slow. Waits for connections do not count.
func (o *Observer) SlowQueries() uint64 { return o.slowQueries.Load() }

// Tallies are the queries that were slow or failed, the longest sum first.
func (o *Observer) Tallies() []Tally { return o.tallies.list() }

// contain is deferred where foreign code is called: the logger's, an exporter's, an error's methods.
//
// A panic there must cost no more than the span, line or measurement. On a goroutine of the pool nobody recovers, and the process
// would end because of a line in a log. On a caller's goroutine the operation is over and has its result; and
// database/sql never gives back a connection on which a method panics.
func (o *Observer) contain() {
	v := recover()
	if v == nil {
		return
	}
	defer func() { _ = recover() }() // of the logger, which may have panicked before
	o.logger.Error("lifeguard: a panic while an operation was shown", slog.String("pool", o.pool),
		slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
}

// refused logs that an SDK does not have one of the instruments. The others work all the same.
func (o *Observer) refused(err error) {
	o.logger.Warn("lifeguard: a metric is not available", slog.String("pool", o.pool), slog.Any("error", err))
}
