package service

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/go-lifeguard/lifeguard"
)

// /metrics has every name of prometheus's own DBStats collector, with the same
// type, and the numbers of the pool.
func TestDBStats(t *testing.T) {
	telemetry, err := startTelemetry(t.Context(), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	defer telemetry.shutdown(context.Background())
	database, err := app.OpenDatabase(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer database.Remove()
	defer database.Close()
	telemetry.watch(database.DB)
	held, err := database.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	theirs := prometheus.NewRegistry()
	theirs.MustRegister(collectors.NewDBStatsCollector(database.DB, "any"))
	if got, want := families(t, telemetry.registry), families(t, theirs); !slices.Equal(got, want) {
		t.Errorf("the families are %v, want %v", got, want)
	}

	pool, _ := lifeguard.PoolOf(database.DB)
	if pool.DBStats().MaxOpenConnections == 0 {
		t.Fatal("the pool has no limit")
	}
	answer := httptest.NewRecorder()
	telemetry.metrics.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{"go_sql_in_use_connections{", "go_sql_max_open_connections{"} {
		_, rest, _ := strings.Cut(answer.Body.String(), "\n"+line)
		text, _, _ := strings.Cut(rest, "\n")
		if !strings.Contains(text, "db_name=") || strings.HasSuffix(text, " 0") || text == "" {
			t.Errorf("%s…: %q", line, text)
		}
	}
}

// families gives the names and types of what is shown of database/sql.
func families(t *testing.T, from prometheus.Gatherer) (shown []string) {
	t.Helper()
	all, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "go_sql_") {
			shown = append(shown, f.GetName()+" "+f.GetType().String())
		}
	}
	return shown
}
