package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// scopeName is what the spans and metrics of this package come from.
const scopeName = "github.com/go-lifeguard/lifeguard"

// waitKey is how long the checkout before an operation took, in seconds. The semantic conventions have no such
// attribute, only the metric db.client.connection.wait_time.
const waitKey = attribute.Key("lifeguard.connection.wait_time")

// WithTracerProvider sets where spans go. The default is the global one of [otel.GetTracerProvider], which may also be
// set after the handle was opened.
func WithTracerProvider(tp trace.TracerProvider) Option {
	return func(o *options) { o.tracerProvider = tp }
}

// WithAttributes adds attributes to every span and every measurement. Used more than once, the option adds to the
// attributes given before.
func WithAttributes(attributes ...attribute.KeyValue) Option {
	return func(o *options) { o.attributes = slices.Concat(o.attributes, attributes) }
}

// WithSkippedCallers names packages that are not to be reported as who ran a query or took a connection, by their import
// paths, those below them included: "example.com/shop/store". Reports then name who called them. database/sql, lifeguard
// and the common data-access libraries are always skipped. Used more than once, the option adds to the packages given
// before.
func WithSkippedCallers(packages ...string) Option {
	return func(o *options) { o.skip = slices.Concat(o.skip, packages) }
}

// operationKind is what a caller does with a connection.
type operationKind uint8

const (
	opExec operationKind = iota
	opQuery
	opPrepare
	opBegin
	opCommit
	opRollback
	opPing
	opConnect
	operationKinds
)

// operationNames are the names of the operations that the query's text does not give.
var operationNames = [operationKinds]string{
	opPrepare:  "PREPARE",
	opBegin:    "BEGIN",
	opCommit:   "COMMIT",
	opRollback: "ROLLBACK",
	opPing:     "PING",
	opConnect:  "CONNECT",
}

// operation is one that is under way. All times are in nanoseconds.
type operation struct {
	began  int64 // pool clock
	waited int64 // how long the checkout before it took; 0 for all but the first operation of a checkout
	kind   operationKind
	first  bool // it is the first after a checkout

	caller *caller // who ran a query whose rows are open, if each operation has a span; else nil
}

// is sets the fields of an operation that begins. A composite literal would be built elsewhere and moved.
func (o *operation) is(kind operationKind, began, waited int64, first bool) {
	o.began, o.waited = began, waited
	o.kind, o.first = kind, first
}

// observer decides which operations are shown, and shows them.
type observer struct {
	pool      *Pool
	tracer    trace.Tracer // nil for TraceOff
	trace     TraceMode
	log       QueryLogMode
	threshold int64 // from which an operation is slow; math.MaxInt64 for none
	limit     int64 // from which a successful operation is looked at at all
	timed     bool  // every operation's begin is read from the clock
	skip      []string
	base      []attribute.KeyValue // of all operations
	target    string               // what operations without a query are done to
	shapes    shapes
	verbs     shapes                 // for metrics when there are too many shapes
	others    [operationKinds]*shape // of the operations without a query
}

func newObserver(p *Pool, opts *options) *observer {
	o := &observer{
		pool: p, trace: p.cfg.Trace, log: p.cfg.QueryLog, skip: opts.skip,
		base:      targetAttributes(p.target, opts.attributes),
		threshold: math.MaxInt64,
	}
	if p.cfg.SlowQueryThreshold > 0 {
		o.threshold = int64(p.cfg.SlowQueryThreshold)
	}
	o.limit = o.threshold
	if o.trace == TraceAll || o.log == QueryLogAll {
		o.limit = 0
	}
	o.timed = o.limit < 2*int64(quickTick)
	if o.trace == TraceSlow || o.trace == TraceAll {
		provider := opts.tracers()
		o.tracer = provider.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL))
	}
	switch t := p.target; {
	case t.Database != "":
		o.target = t.Database
	case t.Port != "":
		o.target = net.JoinHostPort(t.Host, t.Port)
	default:
		o.target = t.Host
	}
	for kind, name := range operationNames {
		if name != "" {
			o.others[kind] = o.newShape(name, "", "")
		}
	}
	return o
}

// targetAttributes are what is known about the target, and more.
func targetAttributes(t dsn.Target, more []attribute.KeyValue) []attribute.KeyValue {
	system := t.System
	if system == "" {
		system = "other_sql"
	}
	all := []attribute.KeyValue{semconv.DBSystemNameKey.String(system)}
	if t.Database != "" {
		all = append(all, semconv.DBNamespace(t.Database))
	}
	if t.Host != "" {
		all = append(all, semconv.ServerAddress(t.Host))
		if port, err := strconv.Atoi(t.Port); err == nil {
			all = append(all, semconv.ServerPort(port))
		}
	}
	return slices.Clip(append(all, more...))
}

// ended is called at the end of every operation, with its query or "", and the rows it returned, in the goroutine that
// ran it.
func (l *lease) ended(ctx context.Context, op *operation, query string, rows int, err error) {
	if err == nil && l.limit > 0 {
		if took := l.now() - op.began; took < l.limit {
			if l.metrics != nil {
				l.metrics.operation(ctx, l.pool.observer.measured(op.kind, query), took)
			}
			return
		}
	}
	l.report(ctx, op, query, rows, err)
}

// report is apart from ended because it needs so much more of the stack, which every operation would have to clear.
func (l *lease) report(ctx context.Context, op *operation, query string, rows int, err error) {
	if errors.Is(err, driver.ErrSkip) {
		return // not an operation: the driver asks for another way to do it
	}
	o, at := l.pool.observer, time.Now()
	if l.spanOptions == nil {
		l.spanOptions = newSpanOptions()
	}
	e := ending{
		options:   l.spanOptions,
		operation: *op, query: query, ended: int64(at.Sub(l.pool.epoch)), at: at, rows: rows, err: err, metrics: l.metrics,
		checkout: l.hold.site.PCs(),
	}
	if op.caller != nil {
		e.shape = op.caller.shape
	} else {
		e.shape = o.shapeOf(op.kind, query)
	}
	if op.kind == opCommit || op.kind == opRollback {
		e.begun = l.lastBegin
	}
	o.report(ctx, &e)
	if op.kind == opBegin {
		l.lastBegin = e.caller
	}
}

// asks notes who runs a query while he does: where its rows will be closed may be another place.
func (l *lease) asks(op *operation, query string) {
	o := l.pool.observer
	op.caller = o.here(o.shapeOf(op.kind, query))
}

// connectEnded is called at the end of every checkout that a handle could not serve from what it had: after a wait, or
// with a connection that was opened or idle in the inner pool. Without an error the caller has a connection.
func (p *Pool) connectEnded(ctx context.Context, began, ended int64, err error) {
	m := p.metrics.enabled(ctx)
	if m != nil && err == nil {
		m.checkedOut(ctx, ended-began)
	}
	if err != nil || ended-began >= p.observer.limit {
		p.observer.report(ctx, &ending{
			operation: operation{kind: opConnect, began: began, waited: ended - began}, ended: ended, at: time.Now(), err: err,
			shape: p.observer.others[opConnect], options: newSpanOptions(),
		})
	}
}

// ending is an operation that has ended, slowly or with an error, or any if all are to be shown.
type ending struct {
	operation
	query    string    // "" for those without
	ended    int64     // pool clock
	at       time.Time // the same by the calendar
	rows     int       // returned
	err      error
	metrics  *metrics
	checkout []uintptr // stack of the checkout, if it was taken
	shape    *shape
	options  *spanOptions
	begun    *caller // who began the transaction that it ends, if each operation has a span

	failure string // error.type; "" if it did not fail
	status  string // what the database calls the error; "" if it has no name for it
	slow    bool
}

func (e *ending) took() int64 { return e.ended - e.began }

// report shows an operation that has ended wherever it is to be shown.
func (o *observer) report(ctx context.Context, e *ending) {
	// A caller who went away is no failure of the database, nor is an attempt that is made again.
	repeated := false
	switch {
	case e.err == nil || errors.Is(e.err, sql.ErrNoRows) || errors.Is(e.err, io.EOF):
	case errors.Is(e.err, driver.ErrBadConn) && e.kind != opConnect && repeats():
		repeated = true
	case errors.Is(e.err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled):
	case e.kind == opRollback && ctx.Err() != nil && errors.Is(e.err, driver.ErrBadConn):
		// How database/sql is told to give up a connection after it rolled back at the end of a context.
	default:
		e.status = statusCode(e.err)
		e.failure = errorType(e.err, e.status)
	}
	e.slow = e.took() >= o.threshold
	if e.slow && e.kind != opConnect {
		o.pool.counters.slowQueries.Add(1)
	}
	if e.metrics != nil && !repeated {
		e.metrics.ended(ctx, e)
	}
	if repeated && !e.slow {
		return
	}
	if o.tracer != nil && (o.trace == TraceAll || e.slow || e.failure != "") {
		o.span(ctx, e)
	}
	if o.log == QueryLogAll || o.log == QueryLogSlow && e.slow {
		o.logLine(ctx, e)
	}
}

// spanOptions is room for the options of a span. OpenTelemetry reads them while the span starts and ends.
type spanOptions struct {
	start [3]trace.SpanStartOption
	end   [1]trace.SpanEndOption
}

var clientSpan = trace.WithSpanKind(trace.SpanKindClient)

func newSpanOptions() *spanOptions {
	return &spanOptions{start: [3]trace.SpanStartOption{clientSpan}}
}

// span makes the span of an operation that is over.
func (o *observer) span(ctx context.Context, e *ending) {
	opts := e.options
	opts.start[1] = trace.WithTimestamp(e.at.Add(time.Duration(-e.took())))
	// Attributes are copied twice where the sampler is to see them, and whenever there are more to come. So a query's
	// are given at once, and those of other operations, of which the name says all that a sampler could want, later.
	d, query := e.details(o.caller(e)), e.kind <= opPrepare
	start := opts.start[:2]
	if query {
		opts.start[2] = d.start
		start = opts.start[:]
	}
	_, span := o.tracer.Start(ctx, e.shape.name, start...)
	if !query {
		span.SetAttributes(d.attributes...)
	}
	if e.failure != "" {
		span.SetStatus(codes.Error, e.description())
	}
	opts.end[0] = trace.WithTimestamp(e.at)
	span.End(opts.end[:]...)
}

// details are what the span of an operation says besides its times.
type details struct {
	rows       int // -1 for none
	attributes []attribute.KeyValue
	start      trace.SpanStartOption // all of them
}

// rememberedRows is for how many numbers of rows what spans say is remembered with each caller. It is a power of two.
const rememberedRows = 8

func (e *ending) details(c *caller) *details {
	rows := -1
	if e.kind == opQuery && e.failure == "" {
		rows = e.rows
	}
	// Most are the same again and again: nobody waits, nothing fails, and there are as many rows as some other time.
	ordinary := e.waited <= 0 && e.failure == "" && c.shape == e.shape
	remembered := &c.details[rows&(rememberedRows-1)]
	if ordinary {
		if d := remembered.Load(); d != nil && d.rows == rows {
			return d
		}
	}
	all := make([]attribute.KeyValue, 0, len(e.shape.attributes)+len(c.attributes)+4)
	all = append(all, e.shape.attributes...)
	if rows >= 0 {
		all = append(all, semconv.DBResponseReturnedRows(rows))
	}
	if e.waited > 0 {
		all = append(all, waitKey.Float64(time.Duration(e.waited).Seconds()))
	}
	if e.failure != "" {
		all = append(all, semconv.ErrorTypeKey.String(e.failure))
		if e.status != "" {
			all = append(all, semconv.DBResponseStatusCode(e.status))
		}
	}
	all = append(all, c.attributes...)
	d := &details{rows, all, trace.WithAttributes(all...)}
	if ordinary {
		remembered.Store(d)
	}
	return d
}

// description is what a span says about an error. The text of a database's error is not shown, because it may quote
// values; that of a pool timeout is lifeguard's own.
func (e *ending) description() string {
	if timeout, ok := errorAs[*PoolTimeoutError](e.err); ok {
		return timeout.Error()
	}
	return e.failure
}
