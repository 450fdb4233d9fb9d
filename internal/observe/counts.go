package observe

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// Counts are the counts of a pool, as metrics show them. The unsigned ones never go down.
type Counts struct {
	Idle, InUse      int // connections
	Limit            int // connection_limit
	MaxIdle, MinIdle int // max_idle_connections, min_connections
	Waiting          int // callers
	Timeouts         uint64
	Leaks, Reclaimed uint64
	StatementHits    uint64
	StatementMisses  uint64
	StatementRetries uint64

	FleetLimit, FleetProcesses, FleetHeld, FleetWanted int
}

// watch has read and slow called whenever metrics are collected.
func (m *metrics) watch(read func() Counts, slow func() uint64) {
	var (
		list    []count
		all     []metric.Observable
		observe = func(inst metric.Int64Observable, value func(*Counts) int64, more ...attribute.KeyValue) {
			set := attribute.NewSet(append(m.ofPool.attributes, more...)...)
			list = append(list, count{inst, value, metric.WithAttributeSet(set)})
		}
		states = m.upDown(dbconv.ClientConnectionCount{})
	)
	observe(states, func(c *Counts) int64 { return int64(c.Idle) }, semconv.DBClientConnectionStateIdle)
	observe(states, func(c *Counts) int64 { return int64(c.InUse) }, semconv.DBClientConnectionStateUsed)
	observe(m.upDown(dbconv.ClientConnectionMax{}), func(c *Counts) int64 { return int64(c.Limit) })
	observe(m.upDown(dbconv.ClientConnectionIdleMax{}), func(c *Counts) int64 { return int64(c.MaxIdle) })
	observe(m.upDown(dbconv.ClientConnectionIdleMin{}), func(c *Counts) int64 { return int64(c.MinIdle) })
	observe(m.upDown(dbconv.ClientConnectionPendingRequests{}), func(c *Counts) int64 { return int64(c.Waiting) })
	observe(m.counter(dbconv.ClientConnectionTimeouts{}), func(c *Counts) int64 { return int64(c.Timeouts) })
	observe(m.counter(own{"connection.leaks", "{leak}",
		"The number of connections that were reported as held too long, or lost."}),
		func(c *Counts) int64 { return int64(c.Leaks) })
	observe(m.counter(own{"connection.reclaimed", "{connection}",
		"The number of connections that were taken back from their holders."}),
		func(c *Counts) int64 { return int64(c.Reclaimed) })
	observe(m.counter(own{"statement_cache.hits", "{operation}",
		"The number of operations that ran on a statement that was kept."}),
		func(c *Counts) int64 { return int64(c.StatementHits) })
	observe(m.counter(own{"statement_cache.misses", "{operation}",
		"The number of operations that had to prepare a statement."}),
		func(c *Counts) int64 { return int64(c.StatementMisses) })
	observe(m.counter(own{"statement_cache.retries", "{operation}",
		"The number of operations that ran again because a statement that was kept had become stale."}),
		func(c *Counts) int64 { return int64(c.StatementRetries) })
	observe(m.counter(own{"slow_queries", "{operation}",
		"The number of operations that took at least slow_query_threshold."}),
		func(*Counts) int64 { return int64(slow()) })

	if read().FleetLimit > 0 {
		observe(m.upDown(own{"fleet.limit", "{connection}", "The most connections that the processes of the fleet may have together."}),
			func(c *Counts) int64 { return int64(c.FleetLimit) })
		observe(m.upDown(own{"fleet.processes", "{process}", "The number of processes in the fleet."}),
			func(c *Counts) int64 { return int64(c.FleetProcesses) })
		observe(m.upDown(own{"fleet.held", "{connection}", "The number of the fleet's connections that this process has."}),
			func(c *Counts) int64 { return int64(c.FleetHeld) })
		observe(m.upDown(own{"fleet.wanted", "{connection}", "The number of the fleet's connections that this process lacks."}),
			func(c *Counts) int64 { return int64(c.FleetWanted) })
	}

	for _, c := range list {
		if c.inst != nil {
			all = append(all, c.inst)
		}
	}
	registration, err := m.meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		counts := read()
		for _, c := range list {
			if c.inst != nil {
				to.ObserveInt64(c.inst, c.value(&counts), c.with)
			}
		}
		return nil
	}, all...)
	if err != nil {
		m.refused(err)
	}
	m.registration = registration
}

// count is one value of an instrument that is read when it is collected.
type count struct {
	inst  metric.Int64Observable // nil if the SDK refused it
	value func(*Counts) int64
	with  metric.MeasurementOption
}

// own describes an instrument that the semantic conventions do not have.
type own struct{ name, unit, description string }

func (i own) Name() string        { return "lifeguard." + i.name }
func (i own) Unit() string        { return i.unit }
func (i own) Description() string { return i.description }

func (m *metrics) upDown(c convention) metric.Int64Observable {
	i, err := m.meter.Int64ObservableUpDownCounter(c.Name(), metric.WithUnit(c.Unit()), metric.WithDescription(c.Description()))
	if err != nil {
		m.refused(err)
	}
	return i
}

func (m *metrics) counter(c convention) metric.Int64Observable {
	i, err := m.meter.Int64ObservableCounter(c.Name(), metric.WithUnit(c.Unit()), metric.WithDescription(c.Description()))
	if err != nil {
		m.refused(err)
	}
	return i
}

func (m *metrics) unwatch() error {
	if m.registration == nil {
		return nil
	}
	return m.registration.Unregister()
}
