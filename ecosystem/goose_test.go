package ecosystem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// files makes a folder of migrations.
func files(texts map[string]string) fs.FS {
	folder := fstest.MapFS{}
	for name, text := range texts {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return folder
}

func gooseFiles(s *server) fs.FS {
	texts := map[string]string{
		"00001_accounts.sql": `-- +goose Up
CREATE TABLE accounts (id bigint PRIMARY KEY, name varchar(50) NOT NULL);
INSERT INTO accounts VALUES (1, 'first');
-- +goose Down
DROP TABLE accounts;
`,
		"00003_index.sql": `-- +goose Up
CREATE INDEX accounts_name ON accounts (name);
-- +goose Down
DROP INDEX accounts_name` + s.sql("", " ON accounts", "") + `;
`,
	}
	if s.dialect == postgresSQL {
		texts["00003_index.sql"] = `-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY accounts_name ON accounts (name);
-- +goose Down
DROP INDEX CONCURRENTLY accounts_name;
`
		texts["00004_function.sql"] = `-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION greeting(name text) RETURNS text AS $$
BEGIN
	RETURN 'hello; ' || name;
END
$$ LANGUAGE plpgsql;
-- +goose StatementEnd
-- +goose Down
DROP FUNCTION greeting;
`
	}
	return files(texts)
}

// inGo is a migration written in Go that runs in goose's transaction.
func inGo(s *server) *goose.Migration {
	insert := s.sql("INSERT INTO accounts VALUES ($1, $2)", "INSERT INTO accounts VALUES (?, ?)", "INSERT INTO accounts VALUES (?, ?)")
	return goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		for id := range 20 {
			if _, err := tx.ExecContext(ctx, insert, 10+id, "in Go"); err != nil {
				return err
			}
		}
		return nil
	}}, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM accounts WHERE id >= 10")
		return err
	}})
}

// besideTheLock is one that runs on the handle, while goose holds a connection.
func besideTheLock() *goose.Migration {
	return goose.NewGoMigration(5, &goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "UPDATE accounts SET name = 'beside'")
		return err
	}}, &goose.GoFunc{Mode: goose.TransactionDisabled})
}

func newGoose(s *server, db *sql.DB, migrations ...*goose.Migration) (*goose.Provider, error) {
	options := []goose.ProviderOption{goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true)}
	dialect := map[string]goose.Dialect{postgresSQL: goose.DialectPostgres, mysqlSQL: goose.DialectMySQL, sqliteSQL: goose.DialectSQLite3}
	if s.dialect == postgresSQL {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 10))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect[s.dialect], db, gooseFiles(s), options...)
}

// applied is what a user reads of goose's results.
func applied(results []*goose.MigrationResult) (versions []int64) {
	for _, r := range results {
		versions = append(versions, r.Source.Version)
	}
	return versions
}

// Migrations in SQL and in transactions need no connection but the one that holds the lock.
func TestGoose(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		ctx := s.Context()
		provider, err := newGoose(s.server, s.db, inGo(s.server))
		s.must(err)
		results, err := provider.Up(ctx)
		s.must(err)
		s.see("up", applied(results))
		var n int
		s.must(s.db.QueryRowContext(ctx, "SELECT count(*) FROM accounts").Scan(&n))
		s.see("accounts", n)
		again, err := provider.Up(ctx)
		s.must(err)
		s.see("again", applied(again))
		_, err = provider.ApplyVersion(ctx, 2, true)
		s.fails("a version that is there", err)

		down, err := provider.DownTo(ctx, 1)
		s.must(err)
		s.see("down", applied(down))
		s.must(s.db.QueryRowContext(ctx, "SELECT count(*) FROM accounts").Scan(&n))
		s.see("accounts left", n)
		status, err := provider.Status(ctx)
		s.must(err)
		for _, m := range status {
			s.see("status", []any{m.Source.Version, m.State})
		}
		version, err := provider.GetDBVersion(ctx)
		s.must(err)
		s.see("version", version)
	})
}

// A migration that fails leaves what its transaction began, and the lock, behind it.
func TestGooseFailure(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		ctx := s.Context()
		broken := goose.NewGoMigration(2, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "DELETE FROM accounts"); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
			return err
		}}, nil)
		provider, err := newGoose(s.server, s.db, broken)
		s.must(err)
		_, err = provider.Up(ctx)
		var partial *goose.PartialError
		require.ErrorAs(s, err, &partial)
		s.see("applied before", applied(partial.Applied))
		s.fails("the migration", partial.Err)
		var n int
		s.must(s.db.QueryRowContext(ctx, "SELECT count(*) FROM accounts").Scan(&n))
		s.see("accounts", n)
		mended, err := newGoose(s.server, s.db, inGo(s.server))
		s.must(err)
		results, err := mended.Up(ctx)
		s.must(err)
		s.see("mended", applied(results))
	})
}

// Two processes that start at once migrate once between them.
func TestGooseTwice(t *testing.T) {
	for _, limit := range []int{1, 2} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) { run(t, limit, postgresServers, gooseTwice) })
	}
}

func gooseTwice(s *stage) {
	var (
		migrating sync.WaitGroup
		mu        sync.Mutex
		all       []int64
		errs      []error
	)
	for range 2 {
		provider, err := newGoose(s.server, s.db, inGo(s.server))
		s.must(err)
		migrating.Go(func() {
			results, err := provider.Up(s.Context())
			mu.Lock()
			defer mu.Unlock()
			all = append(all, applied(results)...)
			errs = append(errs, err)
		})
	}
	migrating.Wait()
	s.must(errors.Join(errs...))
	s.see("applied by either", all)
}

// A migration in Go without a transaction runs on the handle, beside the connection that goose holds.
func TestGooseBesideItsConnection(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		provider, err := newGoose(s.server, s.db, inGo(s.server), besideTheLock())
		s.must(err)
		results, err := provider.Up(s.Context())
		s.must(err)
		s.see("up", applied(results))
		var names []string
		rows, err := s.db.QueryContext(s.Context(), "SELECT DISTINCT name FROM accounts")
		s.must(err)
		for rows.Next() {
			names = append(names, "")
			s.must(rows.Scan(&names[len(names)-1]))
		}
		s.must(rows.Err())
		s.see("names", names)
	})
}

// With one connection that migration waits for itself: goose refuses it on the plain driver if there is a lock and hangs
// otherwise, and through lifeguard the error names the code that holds the connection.
func TestGooseOnOneConnection(t *testing.T) {
	for _, srv := range allServers {
		t.Run(srv.name, func(t *testing.T) {
			timeout := culprits(t, srv, 1, func(s *stage) error {
				provider, err := newGoose(srv, s.db, inGo(srv), besideTheLock())
				s.must(err)
				_, err = provider.Up(s.Context())
				return err
			})
			assert.Len(t, timeout.Holders, 1)
			assert.Contains(t, timeout.Error(), "1 of 1 by goose/v3.(*Provider).initialize (provider_run.go:")
		})
	}
}

// goose's lock in a table is kept alive from the handle.
func TestGooseTableLock(t *testing.T) {
	run(t, 2, postgresServers, func(s *stage) {
		locker, err := lock.NewPostgresTableLocker()
		s.must(err)
		provider, err := goose.NewProvider(goose.DialectPostgres, s.db, gooseFiles(s.server), goose.WithLocker(locker),
			goose.WithGoMigrations(inGo(s.server)), goose.WithDisableGlobalRegistry(true))
		s.must(err)
		ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
		defer cancel()
		results, err := provider.Up(ctx)
		s.must(err)
		s.see("up", applied(results))
	})
}
