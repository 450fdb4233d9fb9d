package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
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
	began   int64 // pool clock
	waited  int64 // how long the checkout before it took; 0 for all but the first operation of a checkout
	kind    operationKind
	first   bool // it is the first after a checkout
	assumed bool // began is when the checkout ended, which is true unless it was one of sql.DB.Conn
}

// is sets all fields. A composite literal would be built elsewhere and moved.
func (o *operation) is(kind operationKind, began, waited int64, first, assumed bool) {
	o.began, o.waited = began, waited
	o.kind, o.first, o.assumed = kind, first, assumed
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
		base:      p.target.attributes(opts.attributes),
		threshold: math.MaxInt64,
	}
	if p.cfg.SlowQueryThreshold > 0 {
		o.threshold = int64(p.cfg.SlowQueryThreshold)
	}
	o.limit = o.threshold
	if o.trace == TraceAll || o.log == QueryLogAll {
		o.limit = 0
	}
	// Without leak detection nothing may be known of the checkout that an operation's begin could be assumed from.
	o.timed = o.limit == 0 || p.cfg.LeakThreshold == 0
	if o.trace == TraceSlow || o.trace == TraceAll {
		provider := opts.tracers()
		o.tracer = provider.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL))
	}
	switch t := p.target; {
	case t.database != "":
		o.target = t.database
	case t.port != "":
		o.target = net.JoinHostPort(t.host, t.port)
	default:
		o.target = t.host
	}
	for kind, name := range operationNames {
		if name != "" {
			o.others[kind] = o.newShape(name, "", "")
		}
	}
	return o
}

// attributes are what is known about the target, and more.
func (t target) attributes(more []attribute.KeyValue) []attribute.KeyValue {
	system := t.system
	if system == "" {
		system = "other_sql"
	}
	all := []attribute.KeyValue{semconv.DBSystemNameKey.String(system)}
	if t.database != "" {
		all = append(all, semconv.DBNamespace(t.database))
	}
	if t.host != "" {
		all = append(all, semconv.ServerAddress(t.host))
		if port, err := strconv.Atoi(t.port); err == nil {
			all = append(all, semconv.ServerPort(port))
		}
	}
	return slices.Clip(append(all, more...))
}

// ended is called at the end of every operation, with its query or "", and the rows it returned, in the goroutine that
// ran it.
func (l *lease) ended(ctx context.Context, op *operation, query string, rows int, err error) {
	now, again := l.clock.again()
	if !again {
		now = l.lookAtClock()
	}
	if took := now - op.began; err != nil || took >= l.limit {
		l.report(ctx, op, query, l.pool.now(), rows, err)
	} else if l.metrics != nil {
		l.metrics.operation(ctx, l.pool.observer.measured(op.kind, query), took)
	}
}

// report is apart from ended because it needs so much more of the stack, which every operation would have to clear.
func (l *lease) report(ctx context.Context, op *operation, query string, now int64, rows int, err error) {
	l.pool.observer.report(ctx, ending{
		operation: *op, query: query, ended: now, rows: rows, err: err, metrics: l.metrics,
		checkout: l.hold.stack.pcs[:l.hold.stack.n],
	})
}

// connectEnded is called at the end of every checkout that a handle could not serve from what it had: after a wait, or
// with a connection that was opened or idle in the inner pool. Without an error the caller has a connection.
func (p *Pool) connectEnded(ctx context.Context, began, ended int64, err error) {
	m := p.metrics.enabled(ctx)
	if m != nil && err == nil {
		m.checkedOut(ctx, ended-began)
	}
	if err != nil || ended-began >= p.observer.limit {
		p.observer.report(ctx, ending{
			operation: operation{kind: opConnect, began: began, waited: ended - began}, ended: ended, err: err,
		})
	}
}

// ending is an operation that has ended, slowly or with an error, or any if all are to be shown.
type ending struct {
	operation
	query    string // "" for those without
	ended    int64  // pool clock
	rows     int    // returned
	err      error
	metrics  *metrics
	checkout []uintptr // stack of the checkout, if it was taken

	at      time.Time // when it ended
	failure string    // error.type; "" if it did not fail
	status  string    // what the database calls the error; "" if it has no name for it
	slow    bool
	shape   *shape
	stack   *opStack // see where
}

// opStack has room for the stack of an operation, with that of an object-relational mapper on it.
type opStack struct {
	n   int
	pcs [2 * stackDepth]uintptr
}

var opStacks = sync.Pool{New: func() any { return new(opStack) }}

func (e *ending) took() int64 { return e.ended - e.began }

// where is the stack of the goroutine that ran the operation.
func (e *ending) where() []uintptr {
	if e.stack == nil {
		e.stack = opStacks.Get().(*opStack)
		e.stack.n = callsite.Capture(1, e.stack.pcs[:])
	}
	return e.stack.pcs[:e.stack.n]
}

// forget gives back what where took.
func (e *ending) forget() {
	if e.stack != nil {
		opStacks.Put(e.stack)
	}
}

// report shows an operation that has ended wherever it is to be shown.
func (o *observer) report(ctx context.Context, e ending) {
	e.at = time.Now()
	if errors.Is(e.err, driver.ErrSkip) {
		return // not an operation: the driver asks for another way to do it
	}
	defer e.forget()
	// Between sql.DB.Conn and its first operation any time may have passed.
	if e.assumed && calledBy(e.where(), "database/sql.(*Conn).") {
		e.began = e.ended
	}
	// A caller who went away is no failure of the database, nor is an attempt that is made again.
	repeated := false
	switch {
	case e.err == nil || errors.Is(e.err, sql.ErrNoRows) || errors.Is(e.err, io.EOF):
	case errors.Is(e.err, driver.ErrBadConn) && e.kind != opConnect && repeats(e.where()):
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
	e.shape = o.shapeOf(e.kind, e.query)
	if e.metrics != nil && !repeated {
		e.metrics.ended(ctx, &e)
	}
	if repeated && !e.slow {
		return
	}
	if o.tracer != nil && (o.trace == TraceAll || e.slow || e.failure != "") {
		o.span(ctx, &e)
	}
	if o.log == QueryLogAll || o.log == QueryLogSlow && e.slow {
		o.logLine(ctx, &e)
	}
}

// span makes the span of an operation that is over.
func (o *observer) span(ctx context.Context, e *ending) {
	_, span := o.tracer.Start(ctx, e.shape.name,
		append(e.shape.start, trace.WithTimestamp(e.at.Add(time.Duration(-e.took()))))...)
	if span.IsRecording() {
		more := make([]attribute.KeyValue, 0, 7)
		if e.kind == opQuery && e.failure == "" {
			more = append(more, semconv.DBResponseReturnedRows(e.rows))
		}
		if e.waited > 0 {
			more = append(more, waitKey.Float64(time.Duration(e.waited).Seconds()))
		}
		if e.failure != "" {
			more = append(more, semconv.ErrorTypeKey.String(e.failure))
			if e.status != "" {
				more = append(more, semconv.DBResponseStatusCode(e.status))
			}
			span.SetStatus(codes.Error, e.description())
		}
		if f, ok := o.caller(e); ok {
			more = append(more, semconv.CodeFunctionName(f.Function), semconv.CodeFilePath(f.File),
				semconv.CodeLineNumber(f.Line))
		}
		span.SetAttributes(more...)
	}
	span.End(trace.WithTimestamp(e.at))
}

// description is what a span says about an error. The text of a database's error is not shown, because it may quote
// values; that of a pool timeout is lifeguard's own.
func (e *ending) description() string {
	if timeout, ok := errorAs[*PoolTimeoutError](e.err); ok {
		return timeout.Error()
	}
	return e.failure
}

// caller is the application's frame that ran the operation: where that took a connection, the one that did, which for a
// query is more telling than where its rows were closed; else the one that ended it. Where database/sql ended it in a
// goroutine of its own, because a context was over, the one that took the connection has to do.
func (o *observer) caller(e *ending) (runtime.Frame, bool) {
	if e.first && len(e.checkout) > 0 {
		if c := e.shape.callerOf(e.checkout, o.skip); c.found && !c.conn {
			return c.frame, true
		}
	}
	if c := e.shape.callerOf(e.where(), o.skip); c.found {
		return c.frame, true
	}
	return callsite.Application(e.checkout, o.skip)
}

// caller is what was found out about a stack.
type caller struct {
	stack []uintptr
	frame runtime.Frame // the application's
	found bool
	conn  bool // sql.DB.Conn is on it
}

// callerOf looks at a stack. Most queries are run in one place of the program, so the last one is remembered.
func (s *shape) callerOf(stack []uintptr, skip []string) *caller {
	c := s.caller.Load()
	if c != nil && slices.Equal(c.stack, stack) {
		return c
	}
	c = &caller{stack: slices.Clone(stack), conn: calledBy(stack, "database/sql.(*DB).Conn")}
	c.frame, c.found = callsite.Application(stack, skip)
	s.caller.Store(c)
	return c
}

// calledBy says whether a function whose name begins with prefix is on the stack.
func calledBy(stack []uintptr, prefix string) bool {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, prefix) {
			return true
		}
		if !more {
			return false
		}
	}
}

// repeats says whether database/sql will make another attempt when the operation with this stack fails with
// driver.ErrBadConn. It does so in one function, for all but the last attempt, which is a line of its own there.
func repeats(stack []uintptr) bool {
	line := retryLine(stack)
	return line != 0 && line != lastAttempt()
}

// retryLine is the line of database/sql's loop of attempts that the stack goes through, 0 if it does not.
func retryLine(stack []uintptr) int {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if f.Function == "database/sql.(*DB).retry" {
			return f.Line
		}
		if !more {
			return 0
		}
	}
}

// lastAttempt is the line of the last attempt. It is found by making database/sql go through all of them, so that it is
// right for every version of Go.
var lastAttempt = sync.OnceValue(func() int {
	c := &badConnector{}
	db := sql.OpenDB(c)
	_ = db.PingContext(context.Background())
	_ = db.Close()
	return c.line
})

// badConnector keeps the line of the latest attempt to connect.
type badConnector struct{ line int }

func (c *badConnector) Connect(context.Context) (driver.Conn, error) {
	var pcs [stackDepth]uintptr
	c.line = retryLine(pcs[:callsite.Capture(0, pcs[:])])
	return nil, driver.ErrBadConn
}

func (c *badConnector) Driver() driver.Driver { return nil }

// statusCode is what the database calls an error: the SQLSTATE, or the driver's number.
func statusCode(err error) string {
	if code := serverCode(err); code != "" {
		return code
	}
	// modernc.org/sqlite has this method. mattn/go-sqlite3 has a field.
	if e, ok := errorAs[interface {
		error
		Code() int
	}](err); ok {
		return strconv.Itoa(e.Code())
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() == reflect.Struct && strings.HasSuffix(v.Type().PkgPath(), "/go-sqlite3") {
			if n := v.FieldByName("ExtendedCode"); n.IsValid() && n.CanInt() {
				return strconv.FormatInt(n.Int(), 10)
			}
		}
	}
	return ""
}

// errorType says what kind of error it is, in a word that does not change from one to the next.
func errorType(err error, status string) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, ErrPoolTimeout):
		return "pool_timeout"
	case errors.Is(err, ErrPoolClosed):
		return "pool_closed"
	case errors.Is(err, ErrReclaimed):
		return "connection_reclaimed"
	case status != "":
		return status
	case errors.Is(err, driver.ErrBadConn):
		return "bad_connection"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		t := reflect.TypeOf(e)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.PkgPath() {
		case "errors", "fmt", scopeName: // say nothing of what happened
		default:
			return reflect.TypeOf(e).String()
		}
	}
	return semconv.ErrorTypeOther.Value.AsString()
}

// shape is what all operations with the same query have in common.
type shape struct {
	name      string // of the span
	operation string
	text      string // the query, sanitised
	start     []trace.SpanStartOption
	measured  measured
	caller    atomic.Pointer[caller] // the last
}

func (o *observer) newShape(operation, text, summary string) *shape {
	s := &shape{name: summary, operation: operation, text: text}
	if s.name == "" {
		s.name = strings.TrimSpace(operation + " " + o.target)
	}
	if s.name == "" {
		s.name = o.base[0].Value.AsString() // db.system.name
	}
	all := slices.Clone(o.base)
	if operation != "" {
		all = append(all, semconv.DBOperationName(operation))
	}
	if summary != "" {
		all = append(all, semconv.DBQuerySummary(summary))
	}
	s.measured = newMeasured(all)
	if text != "" {
		all = append(all, semconv.DBQueryText(text))
	}
	s.start = slices.Clip([]trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(all...)})
	return s
}

const (
	// maxShapes is how many queries are remembered. Programs have a few hundred; those that write values into their
	// queries have no end of them, and for them remembering would only cost.
	maxShapes = 512

	// maxRemembered is how long a query may be to be remembered, in bytes.
	maxRemembered = 8 << 10
)

// shapes are the queries seen so far, up to a limit. They are copied at each change, so that looking one up takes no
// lock.
type shapes struct {
	mu    sync.Mutex // for changes
	known atomic.Pointer[map[shapeKey]*shape]
}

type shapeKey struct {
	query    string
	prepared bool // the operation is to prepare it
}

func (s *shapes) find(key shapeKey) (found *shape, full bool) {
	known := s.known.Load()
	if known == nil {
		return nil, false
	}
	return (*known)[key], len(*known) >= maxShapes
}

func (s *shapes) add(key shapeKey, added *shape) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[shapeKey]*shape{}
	if known := s.known.Load(); known != nil {
		if len(*known) >= maxShapes {
			return
		}
		for k, v := range *known {
			next[k] = v
		}
	}
	key.query = strings.Clone(key.query) // which may be a small part of something large
	next[key] = added
	s.known.Store(&next)
}

// shapeOf describes an operation.
func (o *observer) shapeOf(kind operationKind, query string) *shape {
	if kind > opPrepare {
		return o.others[kind]
	}
	key := shapeKey{query, kind == opPrepare}
	s, full := o.shapes.find(key)
	if s != nil {
		return s
	}
	d := o.pool.dialect
	operation, summary := sqltext.Operation(d, query), sqltext.Summary(d, query)
	if kind == opPrepare {
		operation = operationNames[opPrepare]
		if summary != "" && len(summary) < sqltext.MaxSummaryLen-len("PREPARE ") {
			summary = "PREPARE " + summary
		}
	}
	s = o.newShape(operation, sqltext.Sanitize(d, query), summary)
	if !full && len(query) <= maxRemembered {
		o.shapes.add(key, s)
	}
	return s
}
