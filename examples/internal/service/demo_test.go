package service

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var hrefs = regexp.MustCompile(`href="([^"]*)"`)

// Every link of the landing page leads somewhere, and the trouble that it makes
// can be seen in the pool and goes away with the service.
func TestLandingPage(t *testing.T) {
	for _, kind := range []Kind{SQLite, Postgres} {
		t.Run(string(kind), func(t *testing.T) {
			url := ""
			if kind == Postgres {
				url = pgtest.DSN(t) + "&connection_limit=3"
			}
			database, err := app.OpenDatabase(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer database.Remove()
			pool, _ := lifeguard.PoolOf(database.DB)
			if kind == SQLite {
				if err := pool.SetConnectionLimit(3); err != nil {
					t.Fatal(err)
				}
			}
			var log servicetest.Transcript
			telemetry, err := startTelemetry(t.Context(), func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			defer telemetry.shutdown(context.Background())
			server := httptest.NewServer(telemetry.handler(app.New(database, slog.New(slog.NewTextHandler(&log, nil)))))
			defer server.Close()

			page, address := get(t, server, "/")
			if address != "/" || !strings.Contains(page, `href="/demo/full"`) || !strings.Contains(page, "The numbers service") || !strings.Contains(page, string(kind)) {
				t.Errorf("the page at %s: %s", address, page)
			}
			followed := map[string]bool{}
			follow := func(link string) {
				_, at := get(t, server, link)
				if strings.HasPrefix(link, "/demo/") && at != "/debug/pool/" {
					t.Errorf("%s leads to %s", link, at)
				}
				followed[link] = true
			}
			for _, m := range hrefs.FindAllStringSubmatch(page, -1) {
				if m[1] != "/demo/full" { // a full pool is not healthy
					follow(m[1])
				}
			}
			follow("/demo/full")
			for _, link := range []string{"/demo/slow", "/demo/leak", "/demo/full", "/debug/pool/", "/api/numbers", "/healthz", "/metrics"} {
				if !followed[link] {
					t.Errorf("no link to %s", link)
				}
			}

			if slow := pool.Stats().SlowQueries; slow == 0 {
				t.Error("no query was slow")
			}
			holder := false
			for _, h := range pool.Holders() {
				holder = holder || len(h.Stack) > 0 && strings.HasSuffix(h.Stack[0].Function, "demo.leak")
			}
			if !holder {
				t.Errorf("nobody holds the leaked connection: %+v", pool.Holders())
			}
			get(t, server, "/demo/full?seconds=30")
			servicetest.Await(t, "the pool to be full", func() bool {
				s := pool.Stats()
				return s.InUse == s.Limit && s.Waiting >= 3
			})
			response, err := http.Get(server.URL + "/demo/slow?seconds=31")
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusBadRequest {
				t.Errorf("31 seconds are answered with %d", response.StatusCode)
			}

			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := closeDatabase(ctx, database); err != nil {
				t.Errorf("the trouble outlives the service: %v", err)
			}
		})
	}
}

// get follows a link, and says what is there and where it led.
func get(t *testing.T, server *httptest.Server, link string) (body, path string) {
	t.Helper()
	response, err := http.Get(server.URL + link)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s: status %d: %s", link, response.StatusCode, text)
	}
	return string(text), response.Request.URL.Path
}
