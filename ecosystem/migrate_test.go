package ecosystem

import (
	"database/sql"
	"errors"
	"sync"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratemysql "github.com/golang-migrate/migrate/v4/database/mysql"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	migratepq "github.com/golang-migrate/migrate/v4/database/postgres"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// migrateServers have what golang-migrate wants of MySQL's driver.
var migrateServers = []*server{onPQ, onPGX, onSQLite, {"MariaDB", "mysql", mysqlSQL, func(tb testing.TB) string {
	return onMariaDB.fresh(tb) + "&multiStatements=true"
}}}

// migrateDriver takes a connection of db and keeps it until it is closed, and closes db too then. On SQLite it takes none.
func migrateDriver(s *server, db *sql.DB) (database.Driver, error) {
	switch s.driver {
	case "postgres":
		return migratepq.WithInstance(db, &migratepq.Config{})
	case "pgx":
		return migratepgx.WithInstance(db, &migratepgx.Config{})
	case "mysql":
		return migratemysql.WithInstance(db, &migratemysql.Config{})
	}
	return migratesqlite.WithInstance(db, &migratesqlite.Config{})
}

var migrations = map[string]string{
	"1_accounts.up.sql":   "CREATE TABLE accounts (id bigint PRIMARY KEY, name varchar(50) NOT NULL); INSERT INTO accounts VALUES (1, 'a;b')",
	"1_accounts.down.sql": "DROP TABLE accounts",
	"2_more.up.sql":       "ALTER TABLE accounts ADD COLUMN age int; UPDATE accounts SET age = 7;",
	"2_more.down.sql":     "ALTER TABLE accounts DROP COLUMN age",
	"3_broken.up.sql":     "INSERT INTO nowhere VALUES (1)",
	"3_broken.down.sql":   "SELECT 1",
}

func newMigrate(s *server, db *sql.DB) (*migrate.Migrate, error) {
	source, err := iofs.New(files(migrations), ".")
	if err != nil {
		return nil, err
	}
	driver, err := migrateDriver(s, db)
	if err != nil {
		return nil, err
	}
	return migrate.NewWithInstance("iofs", source, s.dialect, driver)
}

func closeMigrate(m *migrate.Migrate) error {
	return errors.Join(m.Close())
}

// One connection is enough for golang-migrate alone.
func TestMigrate(t *testing.T) {
	run(t, 1, migrateServers, func(s *stage) {
		m, err := newMigrate(s.server, s.db)
		s.must(err)
		version := func(what string) {
			version, dirty, err := m.Version()
			s.must(err)
			s.see(what, []any{version, dirty})
		}
		_, _, err = m.Version()
		s.fails("the version of an empty database", err)
		s.must(m.Migrate(2))
		version("up")
		s.fails("to where it is", m.Migrate(2))
		s.must(m.Steps(-1))
		version("a step down")
		s.must(m.Steps(1))
		err = m.Up()
		s.fails("a migration", err)
		var failed database.Error
		if errors.As(err, &failed) {
			s.fails("the driver's own error", failed.OrigErr)
		}
		version("after it")
		s.fails("up from a dirty version", m.Up())
		s.must(m.Force(2))
		version("forced")
		s.must(m.Down())
		_, _, err = m.Version()
		s.fails("the version after Down", err)
		s.must(closeMigrate(m))
		s.fails("the handle, which is closed too", s.db.PingContext(s.Context()))
	})
}

// The program goes on with its handle if golang-migrate gets a connection of it.
func TestMigrateOnAConnection(t *testing.T) {
	run(t, 1, []*server{onPQ}, func(s *stage) {
		conn, err := s.db.Conn(s.Context())
		s.must(err)
		driver, err := migratepq.WithConnection(s.Context(), conn, &migratepq.Config{})
		s.must(err)
		source, err := iofs.New(files(migrations), ".")
		s.must(err)
		m, err := migrate.NewWithInstance("iofs", source, "postgres", driver)
		s.must(err)
		s.must(m.Migrate(2))
		s.must(closeMigrate(m))
		var age int
		s.must(s.db.QueryRowContext(s.Context(), "SELECT age FROM accounts WHERE id = 1").Scan(&age))
		s.see("age", age)
	})
}

// Two instances of a service that start at once migrate once between them. Each holds a connection while it waits for the
// lock, so that two are needed in one process.
func TestMigrateTwice(t *testing.T) {
	run(t, 2, []*server{onPQ, onPGX}, func(s *stage) {
		var (
			migrating sync.WaitGroup
			made      [2]*migrate.Migrate
			errs      [2]error
		)
		for i := range made {
			migrating.Go(func() {
				if made[i], errs[i] = newMigrate(s.server, s.db); errs[i] != nil {
					return
				}
				if errs[i] = made[i].Migrate(2); errors.Is(errs[i], migrate.ErrNoChange) {
					errs[i] = nil
				}
			})
		}
		migrating.Wait()
		s.must(errors.Join(errs[:]...))
		for _, m := range made {
			version, dirty, err := m.Version()
			s.must(err)
			s.see("version", []any{version, dirty})
		}
		for _, m := range made {
			s.must(closeMigrate(m))
		}
	})
}

// Between WithInstance and Close nobody else gets golang-migrate's connection: with one connection, the program waits for
// itself. The error names golang-migrate.
func TestMigrateOnOneConnection(t *testing.T) {
	for _, srv := range migrateServers {
		if srv.dialect == sqliteSQL {
			continue // it holds none there
		}
		t.Run(srv.name, func(t *testing.T) {
			timeout := culprits(t, srv, 1, func(s *stage) error {
				m, err := newMigrate(srv, s.db)
				s.must(err)
				s.Cleanup(func() { assert.NoError(s, closeMigrate(m)) })
				s.must(m.Migrate(2))
				var n int
				return s.db.QueryRowContext(s.Context(), "SELECT count(*) FROM accounts").Scan(&n)
			})
			require.Len(t, timeout.Holders, 1)
			holder := map[string]string{"postgres": "postgres", "pgx": "pgx/v5", "mysql": "mysql"}[srv.driver]
			assert.Contains(t, timeout.Error(), "1 of 1 by "+holder+".WithInstance (")
		})
	}
}
