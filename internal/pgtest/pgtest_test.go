package pgtest_test

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func query[T any](t *testing.T, db *sql.DB, text string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(text, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func execute(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.Exec(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func TestDSNGivesAFreshDatabaseAndDropsIt(t *testing.T) {
	const count = "SELECT count(*) FROM pg_database WHERE datname = $1"
	admin := open(t, pgtest.Shared(t).DSN())
	var name string
	t.Run("used", func(t *testing.T) {
		a, b := open(t, pgtest.DSN(t)), open(t, pgtest.DSN(t))
		execute(t, a, "CREATE TABLE pools (id int)")
		execute(t, b, "CREATE TABLE pools (id int)")
		name = query[string](t, a, "SELECT current_database()")
		if n := query[int](t, admin, count, name); n != 1 {
			t.Errorf("%d databases %s, want 1", n, name)
		}
		// A connection that is never closed must not keep the database alive.
		if _, err := b.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if n := query[int](t, admin, count, name); n != 0 {
		t.Errorf("database %s is still there after its test", name)
	}
}

func TestDSNAfterItsConnectionWasEnded(t *testing.T) {
	db := open(t, pgtest.DSN(t))
	const end = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE ' || current_database() || '%'"
	if n := query[int](t, db, end); n != 1 {
		t.Fatalf("%d connections were kept, want 1", n)
	}
	query[int](t, open(t, pgtest.DSN(t)), "SELECT 1")
}

// Tests that look for leaked goroutines do so while the server runs.
func TestServerNeedsNoGoroutine(t *testing.T) {
	pgtest.DSN(t)
	if err := goleak.Find(); err != nil {
		t.Error(err)
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	u, err := url.Parse(pgtest.Shared(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(pgtest.Environment) != "" {
		t.Skip("how another server authenticates is not known here")
	}
	u.User = url.UserPassword(u.User.Username(), "guess")
	var refused *pq.Error
	if err := open(t, u.String()).Ping(); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("got %v, want invalid_password", err)
	}
}

// A role that is made with a verifier has its password, and no other.
func TestVerifier(t *testing.T) {
	server := pgtest.Start(t)
	execute(t, open(t, server.DSN()), "CREATE ROLE guest LOGIN PASSWORD '"+pgtest.Verifier("open sesame")+"'")
	u, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("guest", "open sesame")
	if err := open(t, u.String()).Ping(); err != nil {
		t.Error(err)
	}
	u.User = url.UserPassword("guest", "open barley")
	var refused *pq.Error
	if err := open(t, u.String()).Ping(); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("got %v, want invalid_password", err)
	}
}

func TestServerSurvivesStopsAndKills(t *testing.T) {
	server := pgtest.Start(t, "max_connections=20")
	dsn := server.Database(t)
	db := open(t, dsn)
	if n := query[int](t, db, "SHOW max_connections"); n != 20 {
		t.Errorf("max_connections is %d, want 20", n)
	}
	execute(t, db, "CREATE TABLE rows (id int)")

	port := server.Port()
	for i, stop := range []func(){
		func() { server.Restart(t, "fast") },
		func() { server.Restart(t, "immediate") },
		func() { server.Stop(t, "fast"); server.Start(t) },
		func() { server.Kill(t); server.Start(t) },
		func() { server.Kill(t); server.Start(t) },
	} {
		// Acknowledged, so it has to be there afterwards.
		execute(t, db, "INSERT INTO rows VALUES (1)")
		started := query[time.Time](t, db, "SELECT pg_postmaster_start_time()")
		stop()
		db = open(t, dsn) // the old handle is full of dead connections
		if again := query[time.Time](t, db, "SELECT pg_postmaster_start_time()"); !again.After(started) {
			t.Errorf("stop %d: the server was not restarted", i)
		}
		if n := query[int](t, db, "SELECT count(*) FROM rows"); n != i+1 {
			t.Errorf("stop %d: %d rows, want %d", i, n, i+1)
		}
	}
	if server.Port() != port {
		t.Errorf("port changed from %d to %d", port, server.Port())
	}
}

// A test process that dies cannot look at what it leaves behind: this test starts another and watches it die.
func TestServerEndsWithTheTestProcess(t *testing.T) {
	const dying = "PGTEST_DYING"
	if end := os.Getenv(dying); end != "" {
		fmt.Println(pgtest.Start(t).Port())
		if end == "panic" {
			go panic("as the timeout of go test does, in a goroutine of its own")
		}
		select {}
	}
	for _, end := range []string{"panic", "kill -9"} {
		t.Run(end, func(t *testing.T) {
			tmp, err := os.MkdirTemp("", "pgtest-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(tmp)
			if err := os.Chmod(tmp, 0o755); err != nil { // the server may run under another account
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithTheTestProcess$")
			cmd.Env = append(os.Environ(), dying+"="+end, "TMPDIR="+tmp)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			port, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strings.TrimSpace(port)))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if folders := entries(t, tmp); len(folders) != 2 { // the server's and the template's
				t.Errorf("running: folders %v, want 2", folders)
			}
			if end == "kill -9" {
				cmd.Process.Kill()
			}
			cmd.Wait()

			limit := time.Now().Add(20 * time.Second)
			if err := server.SetReadDeadline(limit); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the server is still running")
			}
			for range time.Tick(10 * time.Millisecond) {
				folders := entries(t, tmp)
				if len(folders) == 0 {
					return
				}
				if time.Now().After(limit) {
					t.Fatalf("folders %v are still there", folders)
				}
			}
		})
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}
