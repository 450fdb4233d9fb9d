package drivertest

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"testing"

	"github.com/jmoiron/sqlx"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// Spans name the application's code, also where a data-access library stands between it and database/sql.
func TestCallerThroughLibraries(t *testing.T) {
	for name, runs := range map[string]func(context.Context, *sql.DB) error{
		"sqlx": throughSQLX,
		"gorm": throughGORM,
	} {
		t.Run(name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			cfg := lifeguard.DefaultConfig()
			cfg.Trace = lifeguard.TraceAll
			db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConfig(cfg),
				lifeguard.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
				lifeguard.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Ping(); err != nil { // CONNECT and PING, from here
				t.Fatal(err)
			}
			before := len(spans.Ended())
			if err := runs(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			ended := spans.Ended()[before:]
			if len(ended) < 2 {
				t.Fatalf("%d spans, want at least 2", len(ended))
			}
			want := map[string]string{
				"sqlx": "github.com/go-lifeguard/lifeguard/ecosystem/drivertest.throughSQLX",
				"gorm": "github.com/go-lifeguard/lifeguard/ecosystem/drivertest.throughGORM",
			}[name]
			for _, s := range ended {
				got := ""
				for _, a := range s.Attributes() {
					if a.Key == "code.function.name" {
						got = a.Value.AsString()
					}
				}
				if got != want {
					t.Errorf("span %q is said to come from %s, want %s", s.Name(), got, want)
				}
			}
		})
	}
}

func throughSQLX(ctx context.Context, db *sql.DB) error {
	x := sqlx.NewDb(db, "mysql")
	var n []int64
	if err := x.SelectContext(ctx, &n, "SELECT n FROM numbers"); err != nil {
		return err
	}
	_, err := x.NamedExecContext(ctx, "UPDATE numbers SET n = :n", map[string]any{"n": 7})
	return err
}

func throughGORM(ctx context.Context, db *sql.DB) error {
	type Number struct{ N int64 }
	g, err := gorm.Open(mysql.New(mysql.Config{Conn: db, SkipInitializeWithVersion: true}),
		&gorm.Config{Logger: logger.Discard, DisableAutomaticPing: true})
	if err != nil {
		return err
	}
	var all []Number
	if err := g.WithContext(ctx).Where("n > ?", 1).Find(&all).Error; err != nil {
		return err
	}
	return g.WithContext(ctx).Create(&Number{N: 7}).Error // in a transaction
}
