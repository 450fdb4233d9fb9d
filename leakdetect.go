package lifeguard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// siteTick is the length of the ticks in which places are counted, as a power of two of nanoseconds: about 8 ms.
	siteTick = 23

	// learnsPerTick bounds how many stacks are looked at per tick that were not met before: 10,000 a second. That takes
	// some microseconds.
	learnsPerTick = 84

	// cheapFindsPerTick is how many are found among those known, which takes some ten nanoseconds: 120,000 a second. At
	// rates above, most checkouts are over before anybody could ask.
	cheapFindsPerTick = 1024

	// lateAfter is the age in nanoseconds from which on a hold of which it is not known where it comes from is looked at
	// at its next operation: it is one of those that somebody may ask about.
	lateAfter = int64(time.Millisecond)

	// holdersInError is how many holders a PoolTimeoutError carries. In an overload there are many such errors.
	holdersInError = 5
)

// findsPerTick is for pools to start with: where a find is as dear as a look, there are as few.
func findsPerTick() int64 {
	if callsite.Cheap {
		return cheapFindsPerTick
	}
	return learnsPerTick
}

// Holder is who has a connection at the moment.
type Holder struct {
	Since       time.Time         // when it was checked out
	Held        time.Duration     // how long ago that was
	LastQuery   string            // the last statement it ran, sanitised: without literals
	LastUsed    time.Time         // when its last operation began
	Operations  int               // how many it ran
	InTx        bool              // it is in a transaction
	Busy        bool              // an operation is running: slow rather than forgotten
	Stack       []runtime.Frame   // of the checkout, from the first frame outside database/sql and lifeguard
	SpanContext trace.SpanContext // of the context of the checkout
	Leaked      bool              // it was reported as a leak
}

// LeakKind says how a leak was found.
type LeakKind string

// The values of [LeakKind].
const (
	// LeakHeld is a connection held for longer than leak_threshold: probably forgotten, perhaps only slow.
	LeakHeld LeakKind = "held"

	// LeakLostRows are rows that were dropped without Close, or a Row without Scan, found by the garbage collector:
	// nobody is left who could return their connection.
	LeakLostRows LeakKind = "lost rows"
)

// Leak is a report about a connection that was not returned.
type Leak struct {
	Pool      string // name of the pool
	Kind      LeakKind
	Holder         // who has, or had, the connection
	Reclaimed bool // it was taken back
	Returned  bool // it was returned after all; Held says when, to a tenth of leak_threshold and at most a second
}

// WithLeakHandler has f called with every report of a leak: when it is found, again each time the time held has doubled
// since, and when the connection is returned after all (Returned) or was taken back (Reclaimed). An operation that is
// still running is no leak, however long it takes.
//
// f is called by the pool's one goroutine for leaks, which looks at nothing else until f returns. A panic in f is
// logged.
func WithLeakHandler(f func(Leak)) Option { return func(o *options) { o.leakHandler = f } }

// caller is the application's frame that took the connection.
func (h *Holder) caller() (runtime.Frame, bool) {
	if len(h.Stack) == 0 {
		return runtime.Frame{}, false
	}
	return h.Stack[0], true
}

// Holders lists every connection that is checked out now, longest first. It does not stop the pool: what it lists is
// read one after another.
func (p *Pool) Holders() []Holder { return p.holders(0) }

// holders lists those that have held longest, at most n of them; 0 for all.
func (p *Pool) holders(n int) []Holder {
	var list []holdSnapshot
	for _, s := range *p.sessions.Load() {
		if h, ok := s.holder(); ok {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b holdSnapshot) int { return cmp.Compare(a.since, b.since) })
	if n > 0 && len(list) > n {
		list = list[:n]
	}
	now := p.now()
	holders := make([]Holder, len(list))
	for i := range list {
		holders[i] = list[i].describe(p, now)
	}
	return holders
}

// findSite gives the place from which the checkout under way comes; nil if there are too many to note them all.
func (p *Pool) findSite(f *callsite.Finder, now int64) *callsite.Site {
	if !p.capture.take(now) {
		return nil
	}
	if s := f.Find(); s != nil {
		return s
	}
	return p.learnSite(f, now)
}

// learnSite is for a place that was not found.
func (p *Pool) learnSite(f *callsite.Finder, now int64) *callsite.Site {
	if !p.learn.take(now) {
		return nil
	}
	return f.Learn()
}

// noteLate looks where an operation comes from, where it is not known of the checkout. Only the holder calls it.
func (l *lease) noteLate(ctx context.Context, now int64) {
	if !l.pool.late.take(now) {
		return
	}
	site := l.finder.Find()
	if site == nil {
		site = l.finder.Learn()
	}
	word, ok := l.state.lock()
	if !ok {
		return
	}
	h := &l.hold
	h.site = site
	if h.byOpener {
		h.ctx, h.byOpener = ctx, false
	}
	l.state.unlock(word)
}

// siteBudget bounds what is looked at per tick. It may let a few more through when a tick begins on several processors at
// once; a lock would cost more than they do.
type siteBudget struct {
	most        int64
	tick, taken atomic.Int64
}

func (b *siteBudget) take(now int64) bool {
	if tick := now >> siteTick; b.tick.Load() != tick {
		b.tick.Store(tick)
		b.taken.Store(0)
	}
	return b.taken.Load() < b.most && b.taken.Add(1) <= b.most
}

// spent says whether take will answer false, for what it costs to look.
func (b *siteBudget) spent(now int64) bool {
	return b.taken.Load() >= b.most && b.tick.Load() == now>>siteTick
}

// holdSnapshot is a copy of a hold, so that names and lines are looked up without its lock.
type holdSnapshot struct {
	since int64
	ctx   context.Context
	site  *callsite.Site
	activity
	inTx, busy, leaked bool
}

// holder copies what is known about who holds s; false if nobody does.
func (s *session) holder() (holdSnapshot, bool) {
	l := s.lease.Load()
	if l == nil {
		return holdSnapshot{}, false
	}
	word, ok := l.state.lock()
	if !ok {
		return holdSnapshot{}, false
	}
	here := l.session == s // it may have got another meanwhile
	snapshot := l.snapshotLocked(word)
	l.state.unlock(word)
	return snapshot, here
}

// snapshotLocked copies the hold of a lease that was locked when its state was word.
func (l *lease) snapshotLocked(word uint64) holdSnapshot {
	return holdSnapshot{
		since: l.hold.since, ctx: l.hold.ctx, site: l.hold.site,
		activity: l.activityOf(word),
		inTx:     word&leaseInTx != 0, busy: word&leaseStates == leaseBusy, leaked: l.leaked == word/leaseCheckout,
	}
}

func (h *holdSnapshot) describe(p *Pool, now int64) Holder {
	return Holder{
		Since:       p.timeOf(h.since),
		Held:        time.Duration(now - h.since),
		LastQuery:   sqltext.Sanitize(p.dialect, h.query),
		LastUsed:    p.timeOf(h.began),
		Operations:  h.operations,
		InTx:        h.inTx,
		Busy:        h.busy,
		Stack:       callsite.Stack(h.site.PCs(), p.observer.skip),
		SpanContext: trace.SpanContextFromContext(h.ctx),
		Leaked:      h.leaked,
	}
}

// leak is the report about the hold, as one that is held too long.
func (h *holdSnapshot) leak(p *Pool, now int64) Leak {
	return Leak{Pool: p.name, Kind: LeakHeld, Holder: h.describe(p, now)}
}

// tell logs a report and hands it to the handler. again is that it was reported before.
func (j *janitor) tell(leak Leak, again bool) {
	level, message := slog.LevelWarn, "lifeguard: a connection is held too long"
	switch {
	case leak.Returned:
		level, message = slog.LevelInfo, "lifeguard: a connection that was reported as a leak was returned"
	case leak.Reclaimed && leak.Kind == LeakLostRows:
		message = "lifeguard: rows were dropped without Close; their connection was taken back"
	case leak.Reclaimed:
		message = "lifeguard: a leaked connection was taken back"
	case again:
		message = "lifeguard: a connection is still held"
	case leak.Kind == LeakLostRows:
		message = "lifeguard: rows were dropped without Close; their connection can never be returned"
	}
	j.log(level, message, &leak.Holder, !leak.Returned && !again)
	if j.handler == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			j.pool.log.Error("lifeguard: the leak handler panicked", slog.String("pool", j.pool.name),
				slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
	}()
	j.handler(leak)
}

// tellRunning logs an operation that has its connection for longer than leak_threshold: slow, not leaked.
func (j *janitor) tellRunning(h *Holder) {
	j.log(slog.LevelWarn, "lifeguard: a connection is held by an operation that is still running", h, true)
}

func (j *janitor) log(level slog.Level, message string, h *Holder, withStack bool) {
	ctx := trace.ContextWithSpanContext(context.Background(), h.SpanContext) // for handlers that know traces
	if !j.pool.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("pool", j.pool.name),
		slog.String("held", readableDuration(h.Held)),
		slog.String("holder", h.where()),
		slog.String("last_query", h.LastQuery),
		slog.Time("last_used", h.LastUsed),
		slog.Int("operations", h.Operations),
		slog.Bool("in_transaction", h.InTx),
	}
	if h.SpanContext.IsValid() {
		attrs = append(attrs, slog.String("trace_id", h.SpanContext.TraceID().String()))
	}
	if withStack {
		attrs = append(attrs, slog.String("stack", stackText(h.Stack)))
	}
	j.pool.log.LogAttrs(ctx, level, message, attrs...)
}

// where is the caller as one word for logs and errors: main.exportAll (export.go:88).
func (h *Holder) where() string {
	f, ok := h.caller()
	if !ok {
		return "unknown: there were too many checkouts at that moment to note them all"
	}
	return fmt.Sprintf("%s (%s:%d)", shortFunction(f.Function), path.Base(f.File), f.Line)
}

// stackText writes a stack as a panic does.
func stackText(frames []runtime.Frame) string {
	var b strings.Builder
	for _, f := range frames {
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
	}
	return b.String()
}

// span makes a span over the time held. It is the root of a trace of its own, linked to the one that checked the
// connection out, which may be over for long.
func (j *janitor) span(leak *Leak, now int64) {
	attributes := []attribute.KeyValue{
		semconv.DBClientConnectionPoolName(leak.Pool),
		attribute.String("lifeguard.leak.kind", string(leak.Kind)),
		attribute.Bool("lifeguard.leak.reclaimed", leak.Reclaimed),
		attribute.Int("lifeguard.leak.operations", leak.Operations),
		attribute.Bool("lifeguard.leak.in_transaction", leak.InTx),
	}
	if leak.LastQuery != "" {
		attributes = append(attributes, semconv.DBQueryText(leak.LastQuery))
	}
	if f, ok := leak.caller(); ok {
		attributes = append(attributes, semconv.CodeFunctionName(f.Function), semconv.CodeFilePath(f.File),
			semconv.CodeLineNumber(f.Line), semconv.CodeStacktrace(stackText(leak.Stack)))
	}
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithTimestamp(leak.Since), trace.WithAttributes(attributes...),
	}
	if leak.SpanContext.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: leak.SpanContext}))
	}
	_, span := j.pool.tracers.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL)).
		Start(context.Background(), "connection leak", options...)
	span.SetStatus(codes.Error, "the connection was not returned")
	span.End(trace.WithTimestamp(j.pool.timeOf(now)))
}

// dialectOf is how queries for the target are read when they are sanitised.
func dialectOf(t dsn.Target) sqltext.Dialect {
	switch t.System {
	case "postgresql":
		return sqltext.PostgreSQL
	case "mysql":
		return sqltext.MySQL
	case "sqlite":
		return sqltext.SQLite
	default:
		return sqltext.Other
	}
}
