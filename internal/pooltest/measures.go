package pooltest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Measures reads metrics as an SDK collects them.
type Measures struct {
	t        testing.TB
	Reader   *sdkmetric.ManualReader
	Provider *sdkmetric.MeterProvider
}

// NewMeasures has a provider for [lifeguard.WithMeterProvider].
func NewMeasures(t testing.TB) *Measures {
	reader := sdkmetric.NewManualReader()
	return &Measures{t, reader, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
}

// Collect returns all metrics by name.
func (m *Measures) Collect() map[string]metricdata.Metrics {
	m.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(m.t, m.Reader.Collect(context.Background(), &all))
	byName := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		require.Equal(m.t, "github.com/go-lifeguard/lifeguard", scope.Scope.Name)
		for _, metric := range scope.Metrics {
			byName[metric.Name] = metric
		}
	}
	return byName
}

// Counts returns the counters and gauges of the pool "fake" by name. The count of connections is by name and state, that
// of dial failures by name and error.type.
func (m *Measures) Counts() map[string]int64 {
	m.t.Helper()
	counts := map[string]int64{}
	for name, metric := range m.Collect() {
		sum, ok := metric.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		for _, p := range sum.DataPoints {
			pool, ok := p.Attributes.Value("db.client.connection.pool.name")
			require.True(m.t, ok, name)
			require.Equal(m.t, "fake", pool.AsString())
			key := name
			for _, by := range []attribute.Key{"db.client.connection.state", "error.type"} {
				if v, ok := p.Attributes.Value(by); ok {
					key += " " + v.AsString()
				}
			}
			counts[key] = p.Value
		}
	}
	return counts
}

// Times returns how many durations without error.type a histogram has, and their sum, as "2 in 0.500s", or "none".
func (m *Measures) Times(name string) string { return m.TimesOf(name, "") }

// TimesOf is [Measures.Times] for the durations with that error.type.
func (m *Measures) TimesOf(name, errorType string) string {
	m.t.Helper()
	count, sum := uint64(0), 0.0
	h, _ := m.Collect()[name].Data.(metricdata.Histogram[float64])
	for _, p := range h.DataPoints {
		assert.Equal(m.t, []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}, p.Bounds)
		if v, _ := p.Attributes.Value("error.type"); v.AsString() == errorType {
			count += p.Count
			sum += p.Sum
		}
	}
	if count == 0 {
		return "none"
	}
	return fmt.Sprintf("%d in %.3fs", count, sum)
}
