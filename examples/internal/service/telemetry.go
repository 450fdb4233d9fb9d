package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
)

// telemetry is where spans and metrics go. It is set up before the database is
// opened and for the whole process, which is all that lifeguard needs.
type telemetry struct {
	metrics  http.Handler // for /metrics
	registry *prometheus.Registry
	stop     []func(context.Context) error
}

// startTelemetry sets OpenTelemetry up by its standard environment variables:
// OTEL_TRACES_EXPORTER is console, otlp or none, which is the default here
// unless an OTEL_EXPORTER_OTLP_… endpoint is named; the SDK and its exporters
// read OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and all others themselves.
func startTelemetry(ctx context.Context, getenv func(string) string) (*telemetry, error) {
	t := new(telemetry)
	exporter, err := spanExporter(ctx, getenv)
	if err != nil {
		return nil, err
	}
	if exporter != nil {
		tracing := trace.NewTracerProvider(trace.WithBatcher(exporter))
		otel.SetTracerProvider(tracing)
		otel.SetTextMapPropagator(propagation.TraceContext{})
		t.stop = append(t.stop, tracing.Shutdown)
	}
	// A registry of our own: the default one is shared with whatever the process
	// imports.
	t.registry = prometheus.NewRegistry()
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("metrics: %w", err), t.shutdown(ctx))
	}
	measuring := metric.NewMeterProvider(metric.WithReader(reader))
	otel.SetMeterProvider(measuring)
	t.stop = append(t.stop, measuring.Shutdown)
	t.metrics = promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
	return t, nil
}

// spanExporter gives what OTEL_TRACES_EXPORTER names; nil for none.
func spanExporter(ctx context.Context, getenv func(string) string) (trace.SpanExporter, error) {
	if getenv("OTEL_SDK_DISABLED") == "true" {
		return nil, nil
	}
	kind := getenv("OTEL_TRACES_EXPORTER")
	if kind == "" {
		kind = "none"
		if getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" {
			kind = "otlp"
		}
	}
	switch kind {
	case "none":
		return nil, nil
	case "console":
		return stdouttrace.New(stdouttrace.WithPrettyPrint())
	case "otlp":
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q; write console, otlp or none", kind)
	}
}

// handler serves /metrics, and next with a span for each request, of which the
// spans of slow queries are children.
func (t *telemetry) handler(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.metrics)
	mux.Handle("/", otelhttp.NewHandler(next, "request"))
	return mux
}

// shutdown sends what has not been sent.
func (t *telemetry) shutdown(ctx context.Context) error {
	var errs []error
	for _, stop := range t.stop {
		errs = append(errs, stop(ctx))
	}
	return errors.Join(errs...)
}
