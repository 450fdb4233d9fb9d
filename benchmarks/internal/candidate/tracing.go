package candidate

import (
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Tracing lists the candidates that make OpenTelemetry spans. The one that is not in All shows a setting that matters
// only here.
func Tracing() []Candidate {
	return []Candidate{
		lifeguardCandidate{},
		lifeguardTraceAll{},
		xsam{},
		nhat{},
		uptrace{},
	}
}

// provider is what a library that always traces is given.
func (s Settings) provider() trace.TracerProvider {
	if s.Tracing == nil {
		return noop.NewTracerProvider()
	}
	return s.Tracing
}

// meters is what a library that always measures is given.
func (s Settings) meters() metric.MeterProvider {
	if s.Metrics == nil {
		return metricnoop.NewMeterProvider()
	}
	return s.Metrics
}
