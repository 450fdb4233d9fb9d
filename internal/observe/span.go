package observe

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// waitKey is how long the caller waited for its connection, in seconds. The semantic conventions have no such attribute,
// only the metric db.client.connection.wait_time.
const waitKey = attribute.Key("lifeguard.connection.wait_time")

// span makes the span of an operation that is over, as a child of the one in ctx.
func (o *Observer) span(ctx context.Context, op *Operation, s *shape, failed failure) {
	all := make([]attribute.KeyValue, 0, len(s.attributes)+8)
	all = append(all, s.attributes...)
	if op.Kind == Query && failed.typ == "" {
		all = append(all, semconv.DBResponseReturnedRows(op.Rows))
	}
	if op.Waited > 0 {
		all = append(all, waitKey.Float64(op.Waited.Seconds()))
	}
	all = failed.attributes(all)
	all = append(all, op.Caller.attributes...)
	_, span := o.tracer.Start(ctx, s.name, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(op.At.Add(-op.Took)), trace.WithAttributes(all...))
	if failed.typ != "" && span.IsRecording() {
		span.SetStatus(codes.Error, failed.description())
	}
	span.End(trace.WithTimestamp(op.At))
}

// LeakSpan is a connection that was not returned.
type LeakSpan struct {
	Kind          string // how it was found
	Since, At     time.Time
	Operations    int
	Query         string // the last one, as it was run
	InTx          bool
	Reclaimed     bool
	Stack         []uintptr         // of the checkout; nil if it was not captured
	CheckoutTrace trace.SpanContext // of the context of the checkout
}

// Leak makes a span over the time that a connection was held. It is the root of a trace of its own: the one that checked
// the connection out, to which it is linked, may have ended long ago.
func (o *Observer) Leak(l LeakSpan) {
	defer o.contain()
	attributes := []attribute.KeyValue{
		semconv.DBClientConnectionPoolName(o.pool),
		attribute.String("lifeguard.leak.kind", l.Kind),
		attribute.Bool("lifeguard.leak.reclaimed", l.Reclaimed),
		attribute.Int("lifeguard.leak.operations", l.Operations),
		attribute.Bool("lifeguard.leak.in_transaction", l.InTx),
	}
	if l.Query != "" {
		attributes = append(attributes, semconv.DBQueryText(sqltext.Sanitize(o.dialect, l.Query)))
	}
	if stack := callsite.Frames(l.Stack, o.skip); len(stack) > 0 {
		attributes = append(attributes, codeAttributes(stack[0])...)
		attributes = append(attributes, semconv.CodeStacktrace(callsite.Text(stack)))
	}
	options := []trace.SpanStartOption{
		trace.WithNewRoot(), trace.WithTimestamp(l.Since), trace.WithAttributes(attributes...),
	}
	if l.CheckoutTrace.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: l.CheckoutTrace}))
	}
	_, span := o.tracer.Start(context.Background(), "connection leak", options...)
	span.SetStatus(codes.Error, "the connection was not returned")
	span.End(trace.WithTimestamp(l.At))
}
