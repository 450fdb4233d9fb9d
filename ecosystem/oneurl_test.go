package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/lib/pq"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// besidePool are what programs run beside their pool on the same database, each with a DSN.
var besidePool = map[string]func(ctx context.Context, dsn string) error{
	"psql": func(ctx context.Context, dsn string) error {
		out, err := exec.CommandContext(ctx, "psql", "-X", "-At", "-c", "SELECT 41 + 1", dsn).CombinedOutput()
		if err == nil && strings.TrimSpace(string(out)) != "42" {
			err = errors.New(string(out))
		}
		return err
	},
	"pgx": func(ctx context.Context, dsn string) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		return errors.Join(conn.Ping(ctx), conn.Close(ctx))
	},
	"pq.NewListener": func(ctx context.Context, dsn string) error {
		failed := make(chan error, 1)
		listener := pq.NewListener(dsn, time.Second, time.Minute, func(event pq.ListenerEventType, err error) {
			if event == pq.ListenerEventConnectionAttemptFailed {
				select {
				case failed <- err:
				default:
				}
			}
		})
		defer listener.Close()
		listening := make(chan error, 1)
		go func() { listening <- listener.Listen("news") }() // ends with the listener
		select {
		case err := <-failed:
			return err
		case err := <-listening:
			return err
		}
	},
	"golang-migrate": func(_ context.Context, dsn string) error {
		source, err := iofs.New(files(migrations), ".")
		if err != nil {
			return err
		}
		m, err := migrate.NewWithSourceInstance("iofs", source, dsn)
		if err != nil {
			return err
		}
		return errors.Join(m.Migrate(2), closeMigrate(m))
	},
	"goose": func(ctx context.Context, dsn string) error {
		db, err := sql.Open("postgres", dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		provider, err := goose.NewProvider(goose.DialectPostgres, db, gooseFiles(onPQ), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return err
		}
		_, err = provider.Up(ctx)
		return err
	},
}

// One DATABASE_URL is enough for the pool and for what does not know lifeguard, which gets what ParseDSN leaves of it.
func TestOneDatabaseURL(t *testing.T) {
	for name, runs := range besidePool {
		t.Run(name, func(t *testing.T) {
			url := onPQ.fresh(t) + "&connection_limit=2&pool_timeout=5&pool_name=shop&statement_cache_size=10"
			db, err := sql.Open("lifeguard", url)
			require.NoError(t, err)
			defer db.Close()
			require.NoError(t, db.PingContext(t.Context()))
			ctx, cancel := context.WithTimeout(t.Context(), longest/2)
			defer cancel()
			_, driverDSN, err := lifeguard.ParseDSN(url, lifeguard.DefaultConfig())
			require.NoError(t, err)
			require.NoError(t, runs(ctx, driverDSN))
			assert.Error(t, runs(ctx, url), "it takes lifeguard's parameters: docs/parameters.md says that it does not")
		})
	}
}
