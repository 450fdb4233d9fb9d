package lifeguard

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// Holder is a caller that has a connection at the moment.
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
	Holder         // has, or had, the connection
	Reclaimed bool // it was taken back
	Returned  bool // it was returned after all; Held says when, to a tenth of leak_threshold and at most a second
}

// WithLeakHandler has f called with every report of a leak: when it is found, and again each time the time held has
// doubled. There is one more when the connection is returned after all (Returned) or was taken back (Reclaimed). An
// operation that is still running is no leak, however long it takes.
//
// f is called by the pool's one goroutine for leaks, which looks at nothing else until f returns. A panic in f is
// logged.
func WithLeakHandler(f func(Leak)) Option { return func(o *options) { o.leakHandler = f } }

// Holders lists every connection that is checked out now, longest first. It is read one connection after another while the
// pool goes on, so that it is no snapshot of one moment.
func (p *Pool) Holders() []Holder {
	holds := p.pool.Holds()
	now := p.now()
	holders := make([]Holder, len(holds))
	for i := range holds {
		holders[i] = p.holder(&holds[i], now)
	}
	return holders
}

// holder resolves what is known of a hold.
func (p *Pool) holder(h *leak.Hold, now int64) Holder {
	return Holder{
		Since: p.timeOf(h.Since), Held: time.Duration(now - h.Since),
		LastQuery: sqltext.Sanitize(dialectOf(p.target.System), h.Query), LastUsed: p.timeOf(h.Began),
		Operations: h.Operations, InTx: h.InTx, Busy: h.Running, Leaked: h.Leaked,
		Stack: callsite.Frames(h.Stack, p.skip), SpanContext: h.Span,
	}
}

// where is the caller as one word for logs and errors: main.exportAll (export.go:88).
func (h *Holder) where() string {
	if len(h.Stack) == 0 {
		return "unknown: there were too many checkouts at that moment to note them all"
	}
	return callsite.Place(h.Stack[0])
}

// States of a holder, in errors.
const (
	running  = "running"
	idleInTx = "idle in a transaction"
	idle     = "idle"
)

// state says what the holder does.
func (h *Holder) state() string {
	switch {
	case h.Busy:
		return running
	case h.InTx:
		return idleInTx
	default:
		return idle
	}
}

// writeTo names the holder in an error.
func (h *Holder) writeTo(b *strings.Builder) {
	if len(h.Stack) > 0 {
		fmt.Fprintf(b, " by %s", h.where())
	}
	fmt.Fprintf(b, ", %s", h.state())
	if h.LastQuery != "" {
		fmt.Fprintf(b, ", last query %q", h.LastQuery)
	}
}

// tellLeak logs a report, shows it as a span, and hands it to the user's handler.
func (p *Pool) tellLeak(r leak.Report, handler func(Leak)) {
	l := Leak{Pool: p.name, Kind: LeakHeld, Holder: p.holder(&r.Hold, r.Since+int64(r.Held)), Reclaimed: r.Reclaimed, Returned: r.Returned}
	if r.Kind == leak.LostRows {
		l.Kind = LeakLostRows
	}
	l.Leaked = !r.StillRunning
	p.logLeak(&l, &r)
	if r.StillRunning {
		return
	}
	if r.First {
		p.pool.ShowLeak(observe.LeakSpan{
			Kind: string(l.Kind), Since: l.Since, At: l.Since.Add(r.Held), Operations: r.Operations, Query: r.Query,
			InTx: r.InTx, Reclaimed: r.Reclaimed, Stack: r.Stack, CheckoutTrace: r.Span,
		})
	}
	if handler != nil {
		handler(l)
	}
}

func (p *Pool) logLeak(l *Leak, r *leak.Report) {
	level, message := slog.LevelWarn, "lifeguard: a connection is held too long"
	switch {
	case r.StillRunning:
		message = "lifeguard: a connection is held by an operation that is still running"
	case r.Returned:
		level, message = slog.LevelInfo, "lifeguard: a connection that was reported as a leak was returned"
	case r.Reclaimed && r.Kind == leak.LostRows:
		message = "lifeguard: rows were dropped without Close; their connection was taken back"
	case r.Reclaimed:
		message = "lifeguard: a leaked connection was taken back"
	case r.Again:
		message = "lifeguard: a connection is still held"
	case r.Kind == leak.LostRows:
		message = "lifeguard: rows were dropped without Close; their connection can never be returned"
	}
	ctx := trace.ContextWithSpanContext(context.Background(), l.SpanContext) // for handlers that know traces
	if !p.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("pool", p.name),
		slog.String("held", assembly.Readable(l.Held)),
		slog.String("holder", l.where()),
		slog.String("last_query", l.LastQuery),
		slog.Time("last_used", l.LastUsed),
		slog.Int("operations", l.Operations),
		slog.Bool("in_transaction", l.InTx),
	}
	if l.SpanContext.IsValid() {
		attrs = append(attrs, slog.String("trace_id", l.SpanContext.TraceID().String()))
	}
	if !r.Returned && !r.Again {
		attrs = append(attrs, slog.String("stack", callsite.Text(l.Stack)))
	}
	p.log.LogAttrs(ctx, level, message, attrs...)
}
