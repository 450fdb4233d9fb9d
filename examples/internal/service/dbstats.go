package service

import (
	"database/sql"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/go-lifeguard/lifeguard"
)

// dbStats shows a pool under the names of prometheus's own DBStats collector,
// for dashboards that exist. That one asks the *sql.DB, which knows nothing of
// the pool's limit and waits.
type dbStats struct{ pool *lifeguard.Pool }

func (c dbStats) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c dbStats) Collect(ch chan<- prometheus.Metric) {
	s, name := c.pool.DBStats(), prometheus.Labels{"db_name": c.pool.Config().PoolName}
	show := func(metric, help string, kind prometheus.ValueType, value float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("go_sql_"+metric, help, nil, name), kind, value)
	}
	show("max_open_connections", "connection_limit.", prometheus.GaugeValue, float64(s.MaxOpenConnections))
	show("open_connections", "Connections, in use and idle.", prometheus.GaugeValue, float64(s.OpenConnections))
	show("in_use_connections", "Connections in use.", prometheus.GaugeValue, float64(s.InUse))
	show("idle_connections", "Idle connections.", prometheus.GaugeValue, float64(s.Idle))
	show("wait_count_total", "Callers that waited.", prometheus.CounterValue, float64(s.WaitCount))
	show("wait_duration_seconds_total", "Time that callers waited.", prometheus.CounterValue, s.WaitDuration.Seconds())
	show("max_idle_closed_total", "Closed by max_idle_connections.", prometheus.CounterValue, float64(s.MaxIdleClosed))
	show("max_idle_time_closed_total", "Closed after their idle time.", prometheus.CounterValue, float64(s.MaxIdleTimeClosed))
	show("max_lifetime_closed_total", "Closed after their lifetime.", prometheus.CounterValue, float64(s.MaxLifetimeClosed))
}

// watch shows a handle's pool at /metrics.
func (t *telemetry) watch(db *sql.DB) {
	if pool, ok := lifeguard.PoolOf(db); ok {
		t.registry.MustRegister(dbStats{pool})
	}
}
