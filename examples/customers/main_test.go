package main

import (
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// onEach runs a test on both databases, each new and filled.
func onEach(t *testing.T, test func(t *testing.T, d *service.Database)) {
	for _, kind := range []service.Kind{service.SQLite, service.Postgres} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == service.SQLite {
				t.Setenv("TMPDIR", t.TempDir())
				test(t, open(t, ""))
			} else {
				test(t, open(t, pgtest.DSN(t)))
			}
		})
	}
}

// open opens a database as the service does, and closes it with the test.
func open(t *testing.T, databaseURL string) *service.Database {
	t.Helper()
	d, err := app.OpenDatabase(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
