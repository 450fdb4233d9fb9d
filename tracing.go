package lifeguard

import (
	"database/sql/driver"
	"errors"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// WithTracerProvider sets where spans go. The default is the global one of [otel.GetTracerProvider], which may also be
// set after the handle was opened.
func WithTracerProvider(tp trace.TracerProvider) Option {
	return func(o *options) { o.tracerProvider = tp }
}

// WithMeterProvider sets where metrics go. The default is the global one of [otel.GetMeterProvider], which may also be
// set after the handle was opened. The metrics then begin within a second.
func WithMeterProvider(mp metric.MeterProvider) Option {
	return func(o *options) { o.meterProvider = mp }
}

// WithAttributes adds attributes to every span and every measurement. Used more than once, the option adds to the
// attributes given before.
func WithAttributes(attributes ...attribute.KeyValue) Option {
	return func(o *options) { o.attributes = slices.Concat(o.attributes, attributes) }
}

// WithSkippedCallers takes import paths of packages, such as "example.com/shop/store", that are not to be named as the code
// that ran a query or took a connection. Packages below them are skipped too. Reports then name the caller of that code.
// database/sql, lifeguard and the common data-access libraries are always skipped. Used more than once, the option adds
// to the packages given before.
func WithSkippedCallers(packages ...string) Option {
	return func(o *options) { o.skip = slices.Concat(o.skip, packages) }
}

// observerConfig says what is shown of a pool, and how.
func observerConfig(name string, t dsn.Target, cfg Config, o *options) observe.Config {
	c := observe.Config{
		Pool: name, Dialect: dialectOf(t.System), Attributes: o.attributes,
		Base:   observe.Database(t.System, t.Host, t.Port, t.Database),
		Target: observe.TargetName(t.Host, t.Port, t.Database),
		Slow:   cfg.SlowQueryThreshold, Skip: o.skip, Logger: o.logger(), Tracers: o.tracerProvider, Meters: o.meterProvider,
		Status: libpq.Status, Own: ownError,
	}
	if c.Tracers == nil {
		c.Tracers = otel.GetTracerProvider()
	}
	if c.Meters == nil {
		c.Meters = otel.GetMeterProvider()
	}
	switch cfg.Trace {
	case TraceSlow:
		c.Trace = observe.TraceSlow
	case TraceAll:
		c.Trace = observe.TraceAll
	}
	switch cfg.QueryLog {
	case QueryLogSlow:
		c.Log = observe.LogSlow
	case QueryLogAll:
		c.Log = observe.LogAll
	}
	return c
}

// ownError gives error.type of lifeguard's own errors, and the error whose text spans may show.
func ownError(err error) (typ string, shown error) {
	switch {
	case errors.Is(err, ErrPoolTimeout):
		return "pool_timeout", err
	case errors.Is(err, ErrPoolClosed):
		return "pool_closed", nil
	case errors.Is(err, ErrReclaimed):
		return "connection_reclaimed", nil
	case errors.Is(err, ErrTooManyWaiting):
		return "too_many_waiting", err
	case errors.Is(err, ErrOutcomeUnknown):
		return "outcome_unknown", nil
	case errors.Is(err, driver.ErrBadConn):
		return "bad_connection", nil
	}
	return "", nil
}

// dialectOf is how queries for a kind of database are read when they are sanitised.
func dialectOf(system string) sqltext.Dialect {
	switch system {
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
