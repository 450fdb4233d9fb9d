package service

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The alerts and the dashboard of docs/ name what /metrics has, and nothing
// else; and promtool, where it is installed, agrees with the alerts.
func TestMetricsAlertsAndDashboard(t *testing.T) {
	telemetry, err := startTelemetry(t.Context(), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	database, err := app.OpenDatabase(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(telemetry.handler(app.New(database, slog.New(slog.DiscardHandler))))
	defer func() {
		server.Close()
		for _, err := range []error{closeDatabase(context.Background(), database), database.Remove(), telemetry.shutdown(context.Background())} {
			if err != nil {
				t.Error(err)
			}
		}
	}()
	get := func(path string, want int) string {
		t.Helper()
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != want {
			t.Fatalf("%s: %s, %v", path, response.Status, err)
		}
		return string(body)
	}
	get("/api/numbers", http.StatusOK)
	if _, err := database.Exec("SELECT * FROM missing"); err == nil { // so that there is an error_type
		t.Fatal("selecting from no table succeeded")
	}
	unreachable, err := OpenPostgres("postgres://localhost:1/shop?sslmode=disable") // so that there is a dial that failed
	if err != nil {
		t.Fatal(err)
	}
	defer unreachable.Close()
	if unreachable.PingContext(t.Context()) == nil {
		t.Fatal("a server on port 1 answered")
	}
	exposed := map[string]bool{"db_query_summary": true}
	for _, name := range metricName.FindAllString(get("/metrics", http.StatusOK), -1) {
		exposed[name] = true
	}

	for _, file := range []string{"alerts.yaml", "alerts_test.yaml", "dashboard.json"} {
		text, err := os.ReadFile("../../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", file)
		}
		names := metricName.FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			if !exposed[name] {
				t.Errorf("%s has %s, which /metrics has not", file, name)
			}
		}
	}

	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		command := exec.Command(promtool, args...)
		command.Dir = "../../../docs"
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
}

// metricName matches the metrics and labels that come from lifeguard.
var metricName = regexp.MustCompile(`\b(db_client|db_query|db_operation|error_type|lifeguard)(_[a-z]+)+\b|\berror_type\b`)

func TestTracesExporter(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
		err  string
	}{
		{map[string]string{}, false, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, false, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "console"}, true, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, true, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false, `OTEL_TRACES_EXPORTER is "zipkin"; write console, otlp or none`},
	} {
		exporter, err := spanExporter(t.Context(), func(name string) string { return c.env[name] })
		if got := exporter != nil; got != c.want {
			t.Errorf("%v: exporter %t, want %t", c.env, got, c.want)
		}
		if got := errorText(err); got != c.err {
			t.Errorf("%v: error %q, want %q", c.env, got, c.err)
		}
		if exporter != nil {
			if err := exporter.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
