package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"math/rand/v2"
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
	began  int64 // pool clock
	waited int64 // how long the checkout before it took; 0 for all but the first operation of a checkout
	kind   operationKind
	first  bool // it is the first after a checkout
}

// is sets all fields. A composite literal would be built elsewhere and moved.
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
	o.timed = o.limit < 2*int64(quickTick)
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
	e := ending{
		operation: *op, query: query, ended: int64(at.Sub(l.pool.epoch)), at: at, rows: rows, err: err, metrics: l.metrics,
		checkout: l.hold.site.PCs(), shape: o.shapeOf(op.kind, query),
		sampled: o.tracer != nil && !l.unsampled,
	}
	if e.sampled && !(e.first && len(e.checkout) > 0) {
		// Every frame costs, and from where the span is made there are some more.
		e.stack = opStacks.Get().(*opStack)
		e.stack.take(e.shape.callerDepth())
	}
	l.unsampled = !o.report(ctx, &e)
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
			shape: p.observer.others[opConnect],
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
	sampled  bool // its span will be, by the look of the one before

	failure string // error.type; "" if it did not fail
	status  string // what the database calls the error; "" if it has no name for it
	slow    bool
	stack   *opStack // see where
}

// opStack has room for the stack of an operation, with that of an object-relational mapper on it.
type opStack struct {
	n   int
	cut bool // there is more of the stack than was taken
	pcs [callsite.Depth]uintptr
}

var opStacks = sync.Pool{New: func() any { return new(opStack) }}

// take takes the stack of the caller, as far as depth.
func (s *opStack) take(depth int) {
	s.n = runtime.Callers(2, s.pcs[:depth])
	s.cut = s.n == depth && depth < len(s.pcs)
}

func (e *ending) took() int64 { return e.ended - e.began }

// where is the stack of the goroutine that ran the operation, which report may have taken a part of already.
func (e *ending) where() []uintptr {
	if e.stack == nil {
		e.stack = opStacks.Get().(*opStack)
		e.stack.cut = true
	}
	if e.stack.cut {
		e.stack.take(len(e.stack.pcs))
	}
	return e.stack.pcs[:e.stack.n]
}

// forget gives back what where took.
func (e *ending) forget() {
	if e.stack != nil {
		opStacks.Put(e.stack)
	}
}

// report shows an operation that has ended wherever it is to be shown. sampled is false if a span was made that was not.
func (o *observer) report(ctx context.Context, e *ending) (sampled bool) {
	defer e.forget()
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
	if e.metrics != nil && !repeated {
		e.metrics.ended(ctx, e)
	}
	if repeated && !e.slow {
		return true
	}
	sampled = true
	if o.tracer != nil && (o.trace == TraceAll || e.slow || e.failure != "") {
		sampled = o.span(ctx, e)
	}
	if o.log == QueryLogAll || o.log == QueryLogSlow && e.slow {
		o.logLine(ctx, e)
	}
	return sampled
}

// spanOptions is room for the options of a span. OpenTelemetry reads them while the span starts and ends.
type spanOptions struct {
	start [3]trace.SpanStartOption
	end   [1]trace.SpanEndOption
}

var spansOptions = sync.Pool{New: func() any {
	return &spanOptions{start: [3]trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}}
}}

// span makes the span of an operation that is over, and says whether it was sampled.
func (o *observer) span(ctx context.Context, e *ending) (sampled bool) {
	opts := spansOptions.Get().(*spanOptions)
	defer spansOptions.Put(opts)
	opts.start[1] = trace.WithTimestamp(e.at.Add(time.Duration(-e.took())))
	// Attributes are copied when a span starts, and again when there are more to come. The caller is looked for first
	// only if it will probably be wanted.
	opts.start[2] = e.shape.start
	if e.sampled {
		opts.start[2] = e.details(o.caller(e)).start
	}
	_, span := o.tracer.Start(ctx, e.shape.name, opts.start[:]...)
	if sampled = span.IsRecording(); sampled {
		if !e.sampled {
			span.SetAttributes(e.details(o.caller(e)).attributes...)
		}
		if e.failure != "" {
			span.SetStatus(codes.Error, e.description())
		}
	}
	opts.end[0] = trace.WithTimestamp(e.at)
	span.End(opts.end[:]...)
	return sampled
}

// details are what the span of an operation says besides what all with the same query have in common.
type details struct {
	rows       int // -1 for none
	attributes []attribute.KeyValue
	start      trace.SpanStartOption // all attributes, those in common included
}

func (s *shape) newDetails(rows int, attributes []attribute.KeyValue) *details {
	return &details{rows, attributes, trace.WithAttributes(slices.Concat(s.attributes, attributes)...)}
}

func (e *ending) details(c *caller) *details {
	rows := -1
	if e.kind == opQuery && e.failure == "" {
		rows = e.rows
	}
	// Most are the same again and again: nobody waits, nothing fails, and there are as many rows as the last time.
	ordinary := e.waited <= 0 && e.failure == ""
	if ordinary {
		if last := c.last.Load(); last != nil && last.rows == rows {
			return last
		}
	}
	more := make([]attribute.KeyValue, 0, len(c.attributes)+3)
	if rows >= 0 {
		more = append(more, semconv.DBResponseReturnedRows(rows))
	}
	if e.waited > 0 {
		more = append(more, waitKey.Float64(time.Duration(e.waited).Seconds()))
	}
	if e.failure != "" {
		more = append(more, semconv.ErrorTypeKey.String(e.failure))
		if e.status != "" {
			more = append(more, semconv.DBResponseStatusCode(e.status))
		}
	}
	d := e.shape.newDetails(rows, append(more, c.attributes...))
	if ordinary {
		c.last.Store(d)
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

// caller is who in the application ran the operation: where that took a connection, the one that did, which for a
// query is more telling than where its rows were closed; else the one that ended it. Where database/sql ended it in a
// goroutine of its own, because a context was over, the one that took the connection has to do.
func (o *observer) caller(e *ending) *caller {
	if e.first && len(e.checkout) > 0 {
		if c := o.callerOf(e.shape, e.checkout, false); c.found && !c.conn {
			return c
		}
	}
	var c *caller
	if e.stack != nil && e.stack.cut {
		c = o.callerOf(e.shape, e.stack.pcs[:e.stack.n], true)
	}
	if c == nil || !c.found {
		c = o.callerOf(e.shape, e.where(), false)
	}
	if !c.found && len(e.checkout) > 0 {
		c = o.callerOf(e.shape, e.checkout, false)
	}
	return c
}

// caller is what was found out about a stack.
type caller struct {
	stack      []uintptr // as far as the application's frame, or all of it if there is none
	frame      runtime.Frame
	found      bool
	conn       bool                 // sql.DB.Conn is on it
	attributes []attribute.KeyValue // of the frame

	last atomic.Pointer[details] // of an ordinary operation
}

// is says whether what was found out holds for this stack.
func (c *caller) is(stack []uintptr) bool {
	n := len(c.stack)
	if n > len(stack) || !c.found && n != len(stack) {
		return false
	}
	// Stacks differ at their outer ends.
	return stack[n-1] == c.stack[n-1] && slices.Equal(stack[:n], c.stack)
}

// maxCallers is how many callers of a query are remembered. Looking at a stack anew costs some microseconds.
const maxCallers = 32

// callers are those of one query, up to a limit. They are copied at each change.
type callers struct {
	list  []*caller
	depth int // frames that tell which of them it is
}

// callerDepth is how much of a stack is worth taking.
func (s *shape) callerDepth() int {
	if known := s.callers.Load(); known != nil && known.depth > 0 {
		return known.depth
	}
	return len(opStack{}.pcs)
}

// callerOf looks at a stack. If it is only the inner part of one, what is not found in it is not remembered.
func (o *observer) callerOf(s *shape, stack []uintptr, cut bool) *caller {
	known := s.callers.Load()
	if known != nil {
		for _, c := range known.list {
			if c.is(stack) {
				return c
			}
		}
	}
	frame, n, found := callsite.Application(stack, o.skip)
	c := &caller{frame: frame, found: found, stack: slices.Clone(stack[:n])}
	c.conn = calledBy(c.stack, "database/sql.(*DB).Conn")
	if c.found {
		c.attributes = []attribute.KeyValue{semconv.CodeFunctionName(c.frame.Function), semconv.CodeFilePath(c.frame.File),
			semconv.CodeLineNumber(c.frame.Line)}
	} else if cut {
		return c
	}
	next := &callers{}
	if known != nil {
		next.list = slices.Clone(known.list)
	}
	if len(next.list) < maxCallers {
		next.list = append(next.list, c)
	} else {
		// Any of them: were it always the oldest, one more caller than there is room for could push out all in turn.
		next.list[rand.IntN(maxCallers)] = c
	}
	for _, c := range next.list {
		if c.found {
			next.depth = max(next.depth, len(c.stack))
		}
	}
	// If another was faster, this one is remembered the next time.
	s.callers.CompareAndSwap(known, next)
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
	var pcs [callsite.Depth]uintptr
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
	measured  measured
	callers   atomic.Pointer[callers]

	// What all spans say.
	attributes []attribute.KeyValue
	start      trace.SpanStartOption // the same
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
	s.attributes, s.start = slices.Clip(all), trace.WithAttributes(all...)
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
