package lifeguard

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"time"
)

// logLine writes an operation to the log: slow ones as warnings, others for debugging. Arguments are not shown, nor are
// literals, nor the text of errors, which may quote both.
func (o *observer) logLine(ctx context.Context, e *ending) {
	level, message := slog.LevelDebug, "lifeguard: query"
	switch {
	case e.slow && e.kind == opConnect:
		level, message = slog.LevelWarn, "lifeguard: long wait for a connection"
	case e.slow:
		level, message = slog.LevelWarn, "lifeguard: slow query"
	}
	log := o.pool.log
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("pool", o.pool.name))
	if e.shape.operation != "" {
		attrs = append(attrs, slog.String("operation", e.shape.operation))
	}
	attrs = append(attrs, slog.Duration("duration", time.Duration(e.took())))
	if e.kind != opConnect {
		attrs = append(attrs, slog.Duration("wait", time.Duration(e.waited)))
	}
	if e.kind == opQuery {
		attrs = append(attrs, slog.Int("rows", e.rows))
	}
	if e.failure != "" {
		attrs = append(attrs, slog.String("error", e.failure))
	}
	if c := o.caller(e); c.found {
		f := c.frame
		attrs = append(attrs, slog.String("caller", fmt.Sprintf("%s (%s:%d)", shortFunction(f.Function), path.Base(f.File), f.Line)))
	}
	if e.shape.text != "" {
		attrs = append(attrs, slog.String("query", e.shape.text))
	}
	log.LogAttrs(ctx, level, message, attrs...)
}
