package lifeguardtest_test

import (
	"database/sql"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A limit of the handle's own below the pool's is warned of once, however often callers wait.
func TestSetMaxOpenConnsIsWarnedOf(t *testing.T) {
	for _, tt := range []struct{ set, want int }{{0, 0}, {4, 0}, {5, 0}, {3, 1}} {
		synctest.Test(t, func(t *testing.T) {
			log := &pooltest.LogBuffer{}
			db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConnectionLimit(4),
				lifeguard.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.SetMaxOpenConns(tt.set)
			for range 3 {
				pooltest.Take(t, db).Close()
				time.Sleep(time.Minute)
			}
			text := log.String()
			if n := strings.Count(text, "SetMaxOpenConns of a handle is below connection_limit"); n != tt.want {
				t.Errorf("SetMaxOpenConns(%d) was warned of %d times, want %d:\n%s", tt.set, n, tt.want, text)
			}
			if tt.want > 0 && !strings.Contains(text, "set connection_limit instead") {
				t.Errorf("the warning does not say what to do: %s", text)
			}
		})
	}
}

// Opens that share a pool by its name share the options of the first one, too. A WARN names those that are ignored.
func TestIgnoredOptionsAreWarnedOf(t *testing.T) {
	const dsn = "host=127.0.0.1 port=1 sslmode=disable pool_name=shared_options"
	log := &pooltest.LogBuffer{}
	logger := lifeguard.WithLogger(slog.New(slog.NewTextHandler(log, nil)))
	open := func(options ...lifeguard.Option) *sql.DB {
		t.Helper()
		db, err := lifeguard.Open("postgres", dsn, options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	first := open(logger)
	second := open(lifeguard.WithLeakHandler(func(lifeguard.Leak) {}))
	a, _ := lifeguard.PoolOf(first)
	b, _ := lifeguard.PoolOf(second)
	if a != b {
		t.Fatal("the two do not share a pool")
	}
	text := log.String()
	if strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "WithLeakHandler") || !strings.Contains(text, "shared_options") {
		t.Errorf("want one WARN with the name of the pool and WithLeakHandler:\n%s", text)
	}
}
