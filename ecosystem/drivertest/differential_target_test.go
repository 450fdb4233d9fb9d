package drivertest

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// A target is a driver that scripts run on, and a server behind it.
type target struct {
	name       string
	driverName string
	others     string                  // the driver of other clients, always without lifeguard
	fresh      func(testing.TB) string // the DSN of a new database on the shared server
	own        func(testing.TB) string // the same on a server of its own
	empty      func(at *stage) error
	locked     string // a query for the number of sessions of this database that wait for a lock
	failure    func(error) (code, details string)
	rewrite    func(string) string // SQL with $1, as this driver wants it
}

var targets = []*target{
	{
		name: "pq", driverName: "postgres", others: "postgres", fresh: pgtest.DSN, own: ownPostgres, empty: emptyPostgres,
		locked: postgresLocked, rewrite: asWritten, failure: postgresFailure,
	},
	{
		name: "pgx", driverName: "pgx", others: "postgres", fresh: pgtest.DSN, own: ownPostgres, empty: emptyPostgres,
		locked: postgresLocked, rewrite: asWritten, failure: postgresFailure,
	},
	{
		name: "mysql", driverName: "mysql", others: "mysql", fresh: mariatest.DSN,
		own:   func(tb testing.TB) string { return mariatest.Start(tb) },
		empty: emptyMariaDB,
		locked: "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND " +
			"(state LIKE 'Waiting for table%' OR state LIKE 'Waiting for schema%')",
		rewrite: func(text string) string { return numbered.ReplaceAllString(text, "?") },
		failure: func(err error) (code, details string) {
			var e *mysql.MySQLError
			if !errors.As(err, &e) {
				return "", ""
			}
			return fmt.Sprint(e.Number), fmt.Sprintf("%s %q", e.SQLState, e.Message)
		},
	},
}

var numbered = regexp.MustCompile(`\$\d+`)

func targetNamed(name string) *target {
	if i := slices.IndexFunc(targets, func(t *target) bool { return t.name == name }); i >= 0 {
		return targets[i]
	}
	return nil
}

// message leaves out what lifeguard adds to errors that a pooler may have caused: an error may say more.
func message(code, text string) string {
	if code == "26000" || code == "42P05" {
		text, _, _ = strings.Cut(text, ";")
	}
	return text
}

func postgresFailure(err error) (code, details string) {
	shown := func(code, severity, text, detail, hint, at, where string, names ...string) (string, string) {
		return code, fmt.Sprintf("%s %q detail %q hint %q at %s where %q %q", severity, message(code, text), detail, hint,
			position(code, at), where, names)
	}
	var e *pq.Error
	if errors.As(err, &e) {
		return shown(string(e.Code), e.Severity, e.Message, e.Detail, e.Hint, e.Position, e.Where, e.Schema, e.Table, e.Column,
			e.DataTypeName, e.Constraint)
	}
	var x *pgconn.PgError
	if errors.As(err, &x) {
		return shown(x.Code, x.Severity, x.Message, x.Detail, x.Hint, fmt.Sprint(x.Position), x.Where, x.SchemaName, x.TableName,
			x.ColumnName, x.DataTypeName, x.ConstraintName)
	}
	return "", ""
}

func asWritten(text string) string { return text }

// position leaves the place of an error out that can come while a statement is read as well as when it is run: the
// server gives one only in the first case.
func position(code, at string) string {
	if code == "55P03" {
		return ""
	}
	return at
}

const postgresLocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

func ownPostgres(tb testing.TB) string { return pgtest.Start(tb).Database(tb) }

// A stage is a database that scripts run in, one after another, and how they name what belongs to the whole server.
type stage struct {
	target   *target
	dsn      string
	database string
	prefix   string  // of names of roles; those of the two sides are equally long
	admin    *sql.DB // empties it
	foreign  *sql.DB // the other client of scripts
}

func newStage(t testing.TB, target *target, dsn, prefix string) *stage {
	t.Helper()
	s := &stage{target: target, dsn: dsn, prefix: prefix}
	if target.name == "mysql" {
		config, err := mysql.ParseDSN(dsn)
		require.NoError(t, err)
		s.database = config.DBName
		dsn = withParam(withParam(dsn, "multiStatements=true"), "lock_wait_timeout=5")
	} else {
		u, err := url.Parse(dsn)
		require.NoError(t, err)
		s.database = strings.TrimPrefix(u.Path, "/")
		dsn = withParam(dsn, "lock_timeout=3000")
	}
	for _, db := range []**sql.DB{&s.admin, &s.foreign} {
		opened, err := sql.Open(target.others, dsn)
		require.NoError(t, err)
		opened.SetMaxOpenConns(1)
		t.Cleanup(func() { assert.NoError(t, opened.Close()) })
		*db = opened
	}
	t.Cleanup(func() { assert.NoError(t, target.empty(s)) })
	return s
}

// insert writes this stage's names into a text of SQL: {database}, and {x} for a role x.
func (s *stage) insert(text string) string {
	return braced.ReplaceAllStringFunc(text, func(name string) string {
		if name == "{database}" {
			return s.database
		}
		return s.prefix + name[1:len(name)-1]
	})
}

var braced = regexp.MustCompile(`\{[a-z]+\}`)

// withdraw takes them out of an outcome.
func (s *stage) withdraw(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, s.database, "<database>"), s.prefix, "")
}

func emptyPostgres(at *stage) error {
	for _, text := range []string{"ROLLBACK", "DISCARD ALL"} {
		if _, err := at.foreign.Exec(text); err != nil {
			return err
		}
	}
	_, err := at.admin.Exec(`
		DO $$
		DECLARE name text;
		BEGIN
			FOR name IN SELECT evtname FROM pg_event_trigger LOOP
				EXECUTE format('DROP EVENT TRIGGER %I CASCADE', name);
			END LOOP;
			FOR name IN SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' LOOP
				EXECUTE format('DROP EXTENSION %I CASCADE', name);
			END LOOP;
			FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
				EXECUTE format('DROP SCHEMA %I CASCADE', name);
			END LOOP;
			FOR name IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, '` + at.prefix + `') LOOP
				EXECUTE format('DROP OWNED BY %I', name);
				EXECUTE format('DROP ROLE %I', name);
			END LOOP;
			CREATE SCHEMA public;
			GRANT ALL ON SCHEMA public TO public;
		END $$;
		ALTER DATABASE ` + at.database + ` RESET ALL`)
	return err
}

func emptyMariaDB(at *stage) error {
	_, err := at.admin.Exec(fmt.Sprintf(
		"DROP DATABASE IF EXISTS %s_other; DROP DATABASE %[1]s; CREATE DATABASE %[1]s; USE %[1]s", at.database))
	if err == nil {
		_, err = at.foreign.Exec("ROLLBACK; USE " + at.database)
	}
	return err
}
