package main

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func count(t *testing.T, d *service.Database) int {
	t.Helper()
	var n int
	if err := d.QueryRowContext(t.Context(), "SELECT count(*) FROM customers").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInstancesStartTogether(t *testing.T) {
	const instances = 8
	for _, kind := range []service.Kind{service.SQLite, service.Postgres} {
		t.Run(string(kind), func(t *testing.T) {
			var connectOne func() (*service.Database, error)
			if kind == service.SQLite {
				path := filepath.Join(t.TempDir(), "customers.db")
				connectOne = func() (*service.Database, error) {
					db, err := service.OpenSQLite(path)
					return &service.Database{DB: db, Kind: service.SQLite}, err
				}
			} else {
				dsn := pgtest.DSN(t)
				connectOne = func() (*service.Database, error) { return app.Connect(dsn) }
			}
			all := make([]*service.Database, instances)
			for i := range all {
				var err error
				if all[i], err = connectOne(); err != nil {
					t.Fatal(err)
				}
				defer all[i].Close()
			}
			if err := servicetest.Together(instances, func(i int) error { return app.Prepare(t.Context(), all[i]) }); err != nil {
				t.Fatal(err)
			}
			if n := count(t, all[0]); n != 100 {
				t.Errorf("%d customers after %d instances filled the table, want 100", n, instances)
			}
		})
	}
}

func TestPrepareLeavesRowsAlone(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		if _, err := d.ExecContext(t.Context(), "DELETE FROM customers WHERE id > 1"); err != nil {
			t.Fatal(err)
		}
		if err := app.Prepare(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if n := count(t, d); n != 1 {
			t.Errorf("%d customers after a second start, want the 1 that was there", n)
		}
	})
}

func TestStartEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := app.OpenDatabase(over, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if left := servicetest.Leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestErrorsHideThePassword(t *testing.T) {
	const password = "hunter2"
	for name, databaseURL := range map[string]string{
		"another database":    "mysql://root:hunter2@tcp(localhost:3306)/shop",
		"no URL":              "hunter2",
		"broken escape":       "postgres://user:hunter2%zz@localhost/shop",
		"broken port":         "postgres://user:hunter2@localhost:port/shop",
		"broken keywords":     "user=shop password='hunter2",
		"bad limit":           "postgres://user:hunter2@localhost/shop?connection_limit=none",
		"misspelt limit":      "postgres://user:hunter2@localhost/shop?connection_limt=10",
		"nobody listens":      "postgres://user:hunter2@127.0.0.1:1/shop?sslmode=disable&pool_timeout=100ms",
		"nobody, by keywords": "host=127.0.0.1 port=1 user=shop password=hunter2 sslmode=disable pool_timeout=100ms",
		"wrong password":      strings.Replace(pgtest.DSN(t), ":secret@", ":hunter2@", 1),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := app.OpenDatabase(t.Context(), databaseURL)
			if err == nil {
				d.Close()
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// lockTable keeps everybody else from reading and writing the table until it
// is unlocked.
func lockTable(t *testing.T, db *sql.DB) (unlock func()) {
	t.Helper()
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
			t.Error(err)
		}
	}
}

// blocked counts the sessions of this database that wait for a lock.
func blocked(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	err := db.QueryRow(`SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
