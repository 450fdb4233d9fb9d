package bouncertest_test

import (
	"context"
	"database/sql"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	_ "github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// backends returns the server processes that two connections to the pooler use, one query after the other.
func backends(t *testing.T, dsn string) [2]int {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var pids [2]int
	for i := range pids {
		conn, err := db.Conn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}

func TestTransactionModeIsTheDefault(t *testing.T) {
	dsn := pgtest.DSN(t)
	if pids := backends(t, bouncertest.Start(t, dsn)); pids[0] != pids[1] {
		t.Errorf("two connections without a transaction used the backends %v, want one in turn", pids)
	}
	if pids := backends(t, bouncertest.Start(t, dsn, "pool_mode=session")); pids[0] == pids[1] {
		t.Errorf("two sessions shared backend %d", pids[0])
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	u, err := url.Parse(bouncertest.Start(t, pgtest.Shared(t).DSN()))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "guess")
	db, err := sql.Open("postgres", u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ping(); err == nil || !strings.Contains(err.Error(), "auth") {
		t.Errorf("got %v, want the password refused", err)
	}
}

func TestVersion(t *testing.T) {
	if v := bouncertest.Version(t); !regexp.MustCompile(`^\d+\.\d+`).MatchString(v) {
		t.Errorf("got %q", v)
	}
}
