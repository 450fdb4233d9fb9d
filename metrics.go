package lifeguard

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// WithMeterProvider sets where metrics go. The default is the global one of [otel.GetMeterProvider], which may also be
// set after the handle was opened; the pool's metrics then begin within a second.
func WithMeterProvider(mp metric.MeterProvider) Option {
	return func(o *options) { o.meterProvider = mp }
}

// secondsBuckets are the boundaries that the semantic conventions recommend for db.client.operation.duration. For the
// times of connections they recommend none, and the defaults of the SDKs are for milliseconds.
var secondsBuckets = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}

// metrics are a pool's instruments. What Stats counts anyway is read when it is collected; only times are recorded
// where they pass.
type metrics struct {
	pool *Pool

	duration, wait, use, create metric.Float64Histogram

	ofPool measured // the pool's attributes

	registration metric.Registration // nil if it failed
}

// measured is a set of attributes, made in advance so that recording does not allocate.
type measured struct {
	attributes []attribute.KeyValue
	options    []metric.RecordOption
}

func newMeasured(attributes []attribute.KeyValue) measured {
	attributes = slices.Clone(attributes)
	return measured{
		attributes: attributes,
		options:    []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))},
	}
}

// newMetrics makes a pool's instruments. Where an SDK refuses one, the others work all the same.
func newMetrics(p *Pool, opts *options) *metrics {
	provider := opts.meterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter(scopeName, metric.WithSchemaURL(semconv.SchemaURL))
	refused := func(err error) {
		if err != nil {
			p.log.Warn("lifeguard: a metric is not available", slog.String("pool", p.name), slog.Any("error", err))
		}
	}
	m := &metrics{pool: p}
	histogram := func(name, unit, description string) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(description),
			metric.WithExplicitBucketBoundaries(secondsBuckets...))
		refused(err)
		return h
	}
	{
		var d dbconv.ClientOperationDuration
		m.duration = histogram(d.Name(), d.Unit(), d.Description())
		var w dbconv.ClientConnectionWaitTime
		m.wait = histogram(w.Name(), w.Unit(), w.Description())
		var u dbconv.ClientConnectionUseTime
		m.use = histogram(u.Name(), u.Unit(), u.Description())
		var c dbconv.ClientConnectionCreateTime
		m.create = histogram(c.Name(), c.Unit(), c.Description())
	}
	name := semconv.DBClientConnectionPoolName(p.name)
	all := slices.Concat([]attribute.KeyValue{name}, opts.attributes)
	m.ofPool = newMeasured(all)
	attributesOf := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(slices.Concat(all, more)...))
	}
	plain := attributesOf()
	idle, used := attributesOf(semconv.DBClientConnectionStateIdle), attributesOf(semconv.DBClientConnectionStateUsed)

	count, err := dbconv.NewClientConnectionCountObservable(meter)
	refused(err)
	limit, err := dbconv.NewClientConnectionMaxObservable(meter)
	refused(err)
	idleMax, err := dbconv.NewClientConnectionIdleMaxObservable(meter)
	refused(err)
	idleMin, err := dbconv.NewClientConnectionIdleMinObservable(meter)
	refused(err)
	pending, err := dbconv.NewClientConnectionPendingRequestsObservable(meter)
	refused(err)
	timeouts, err := dbconv.NewClientConnectionTimeoutsObservable(meter)
	refused(err)
	counter := func(name, unit, description string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		refused(err)
		return c
	}
	leaks := counter("lifeguard.connection.leaks", "{leak}",
		"The number of connections that were reported as held too long, or lost.")
	reclaimed := counter("lifeguard.connection.reclaimed", "{connection}",
		"The number of connections that were taken back from their holders.")
	hits := counter("lifeguard.statement_cache.hits", "{operation}",
		"The number of operations that ran on a statement that was kept.")
	misses := counter("lifeguard.statement_cache.misses", "{operation}",
		"The number of operations that had to prepare a statement.")
	slow := counter("lifeguard.slow_queries", "{operation}",
		"The number of operations that took at least slow_query_threshold.")

	observe := func(_ context.Context, to metric.Observer) error {
		later := p.counters.lostLater.Load() // before those that it is a part of
		st := p.Stats()
		to.ObserveInt64(count.Inst(), int64(st.Idle), idle)
		to.ObserveInt64(count.Inst(), int64(st.InUse), used)
		to.ObserveInt64(limit.Inst(), int64(st.Limit), plain)
		to.ObserveInt64(idleMax.Inst(), p.idleNow.Load(), plain)
		to.ObserveInt64(idleMin.Inst(), int64(p.cfg.MinConnections), plain)
		to.ObserveInt64(pending.Inst(), int64(st.Waiting), plain)
		to.ObserveInt64(timeouts.Inst(), int64(st.Timeouts), plain)
		to.ObserveInt64(leaks, int64(st.Leaks+st.LostRows-later), plain)
		to.ObserveInt64(reclaimed, int64(st.Reclaimed), plain)
		to.ObserveInt64(hits, int64(st.StatementHits), plain)
		to.ObserveInt64(misses, int64(st.StatementMisses), plain)
		to.ObserveInt64(slow, int64(st.SlowQueries), plain)
		return nil
	}
	m.registration, err = meter.RegisterCallback(observe, count.Inst(), limit.Inst(), idleMax.Inst(), idleMin.Inst(),
		pending.Inst(), timeouts.Inst(), leaks, reclaimed, hits, misses, slow)
	refused(err)
	return m
}

// unregister ends the reading of the pool's counts. It must not be called with Pool.mu held: it waits for a collection
// that is under way.
func (m *metrics) unregister() {
	if m.registration == nil {
		return
	}
	if err := m.registration.Unregister(); err != nil {
		m.pool.log.Warn("lifeguard: metrics were not unregistered", slog.String("pool", m.pool.name), slog.Any("error", err))
	}
}

// enabled gives m if anybody collects times, else nil.
func (m *metrics) enabled(ctx context.Context) *metrics {
	if m.duration.Enabled(ctx) || m.use.Enabled(ctx) || m.wait.Enabled(ctx) {
		return m
	}
	return nil
}

// All times are in nanoseconds.

func (m *metrics) record(ctx context.Context, h metric.Float64Histogram, ns int64, with *measured) {
	h.Record(ctx, time.Duration(ns).Seconds(), with.options...)
}

// created records that a connection was opened.
func (m *metrics) created(ctx context.Context, took int64) { m.record(ctx, m.create, took, &m.ofPool) }

// checkedOut records that a caller got a connection.
func (m *metrics) checkedOut(ctx context.Context, waited int64) {
	m.record(ctx, m.wait, waited, &m.ofPool)
}

// returned records that a caller gave a connection back.
func (m *metrics) returned(ctx context.Context, held int64) { m.record(ctx, m.use, held, &m.ofPool) }

// operation records an operation that succeeded.
func (m *metrics) operation(ctx context.Context, with *measured, took int64) {
	m.record(ctx, m.duration, took, with)
}

// ended records an operation of which more is known.
func (m *metrics) ended(ctx context.Context, e *ending) {
	with := m.pool.observer.measured(e.kind, e.query)
	if e.failure != "" {
		all := append(slices.Clip(with.attributes), semconv.ErrorTypeKey.String(e.failure))
		if e.status != "" {
			all = append(all, semconv.DBResponseStatusCode(e.status))
		}
		failed := newMeasured(all)
		with = &failed
	}
	m.operation(ctx, with, e.took())
}

// measured is what an operation is recorded with: the summary of its query, or only the verb if there are so many
// queries that they cannot be told apart without end.
func (o *observer) measured(kind operationKind, query string) *measured {
	if kind > opPrepare {
		return &o.others[kind].measured
	}
	s, full := o.shapes.find(shapeKey{query, kind == opPrepare})
	switch {
	case s != nil:
		return &s.measured
	case !full && len(query) <= maxRemembered:
		return &o.shapeOf(kind, query).measured
	case kind == opPrepare:
		return &o.others[opPrepare].measured
	default:
		verb := sqltext.Operation(o.pool.dialect, query)
		s, _ := o.verbs.find(shapeKey{query: verb})
		if s == nil {
			s = o.newShape(verb, "", "")
			o.verbs.add(shapeKey{query: verb}, s)
		}
		return &s.measured
	}
}
