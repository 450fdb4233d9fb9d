package observe

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// secondsBuckets are the boundaries that the semantic conventions recommend for db.client.operation.duration. They
// recommend none for the times of connections, and the defaults of the SDKs are for milliseconds.
var secondsBuckets = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}

// metrics are a pool's instruments. Times are recorded where they pass; counts are read when they are collected.
type metrics struct {
	duration, wait, use, create metric.Float64Histogram

	dialFailures metric.Int64Counter

	meter        metric.Meter
	ofPool       measured
	refused      func(error)
	registration metric.Registration // nil if nothing is watched
}

// measured is a set of attributes, made in advance so that to record allocates nothing.
type measured struct {
	attributes []attribute.KeyValue
	set        metric.MeasurementOption
	options    []metric.RecordOption
}

func newMeasured(attributes []attribute.KeyValue) measured {
	// NewSet sorts its arguments in place.
	set := metric.WithAttributeSet(attribute.NewSet(slices.Clone(attributes)...))
	return measured{slices.Clip(attributes), set, []metric.RecordOption{set}}
}

// with adds a failure to the set.
func (m measured) with(failed failure) measured { return newMeasured(failed.attributes(m.attributes)) }

func (m *metrics) init(provider metric.MeterProvider, pool string, attributes []attribute.KeyValue, refused func(error)) {
	m.meter = provider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	m.ofPool = newMeasured(slices.Concat([]attribute.KeyValue{semconv.DBClientConnectionPoolName(pool)}, attributes))
	m.refused = refused
	m.duration = m.histogram(dbconv.ClientOperationDuration{})
	m.wait = m.histogram(dbconv.ClientConnectionWaitTime{})
	m.use = m.histogram(dbconv.ClientConnectionUseTime{})
	m.create = m.histogram(dbconv.ClientConnectionCreateTime{})
	failures, err := m.meter.Int64Counter("lifeguard.connection.dial_failures", metric.WithUnit("{attempt}"),
		metric.WithDescription("The number of attempts to open a connection that failed."))
	if m.dialFailures = failures; err != nil {
		refused(err)
		if failures == nil {
			m.dialFailures = noop.Int64Counter{}
		}
	}
}

// convention is an instrument as the semantic conventions describe it.
type convention interface {
	Name() string
	Unit() string
	Description() string
}

func (m *metrics) histogram(c convention) metric.Float64Histogram {
	h, err := m.meter.Float64Histogram(c.Name(), metric.WithUnit(c.Unit()), metric.WithDescription(c.Description()),
		metric.WithExplicitBucketBoundaries(secondsBuckets...))
	if err != nil {
		m.refused(err)
		if h == nil {
			return noop.Float64Histogram{}
		}
	}
	return h
}

func (m *metrics) timed(ctx context.Context) bool {
	return m.duration.Enabled(ctx) || m.use.Enabled(ctx) || m.wait.Enabled(ctx)
}

// Watch has read called whenever metrics are collected, until Close. It is called once, before the pool is used.
func (o *Observer) Watch(read func() Counts) {
	defer o.contain()
	o.metrics.watch(read, o.SlowQueries)
}

// Created records that a connection was opened.
func (o *Observer) Created(ctx context.Context, took time.Duration) {
	defer o.contain()
	o.metrics.create.Record(ctx, took.Seconds(), o.metrics.ofPool.options...)
}

// DialFailed records that a connection could not be opened. Without it, an outage would leave every metric at 0.
func (o *Observer) DialFailed(ctx context.Context, err error) {
	defer o.contain()
	typ := failure{typ: o.failure(err).typ}
	o.metrics.dialFailures.Add(ctx, 1, o.metrics.ofPool.with(typ).set)
}

// Waited records how long a caller waited for a connection. err is the reason of a wait that ended without one: its type
// tells the waits that timed out, and those that were given up, from the others.
func (o *Observer) Waited(ctx context.Context, took time.Duration, err error) {
	defer o.contain()
	with := &o.metrics.ofPool
	if err != nil {
		failed := with.with(failure{typ: o.failure(err).typ})
		with = &failed
	}
	o.metrics.wait.Record(ctx, took.Seconds(), with.options...)
}

// Used records how long a caller held a connection that it has given back.
func (o *Observer) Used(ctx context.Context, held time.Duration) {
	defer o.contain()
	o.metrics.use.Record(ctx, held.Seconds(), o.metrics.ofPool.options...)
}

// measure records the duration of an operation. Waits have a metric of their own.
func (o *Observer) measure(ctx context.Context, op *Operation, failed failure) {
	if op.Kind == Connect || !o.metrics.duration.Enabled(ctx) {
		return
	}
	with := o.measuredAs(op.Kind, op.Query)
	if failed.typ != "" {
		all := with.with(failed)
		with = &all
	}
	o.metrics.duration.Record(ctx, op.Took.Seconds(), with.options...)
}
