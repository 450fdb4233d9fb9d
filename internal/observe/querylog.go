package observe

import (
	"context"
	"log/slog"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

// queryLog is where the lines of operations go.
type queryLog struct {
	pool   string
	logger *slog.Logger
}

// line writes an operation to the log: slow ones as warnings, others for debugging. Arguments are not shown, nor are
// literals, nor the text of errors, which may quote both.
func (q *queryLog) line(ctx context.Context, op *Operation, s *shape, failed failure, slow bool) {
	level, message := slog.LevelDebug, "lifeguard: query"
	switch {
	case slow && op.Kind == Connect:
		level, message = slog.LevelWarn, "lifeguard: long wait for a connection"
	case slow:
		level, message = slog.LevelWarn, "lifeguard: slow query"
	}
	if !q.logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("pool", q.pool))
	if s.operation != "" {
		attrs = append(attrs, slog.String("operation", s.operation))
	}
	attrs = append(attrs, slog.Duration("duration", op.Took))
	if op.Kind != Connect {
		attrs = append(attrs, slog.Duration("wait", op.Waited))
	}
	if op.Kind == Query {
		attrs = append(attrs, slog.Int("rows", op.Rows))
	}
	if failed.typ != "" {
		attrs = append(attrs, slog.String("error", failed.typ))
	}
	if f := op.Caller.frame; f.Function != "" {
		attrs = append(attrs, slog.String("caller", callsite.Place(f)))
	}
	if s.text != "" {
		attrs = append(attrs, slog.String("query", s.text))
	}
	q.logger.LogAttrs(ctx, level, message, attrs...)
}
