package lifeguardtest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

type myError struct{ Number uint16 }

// MySQLError is named as go-sql-driver/mysql's.
type MySQLError myError

func (e *MySQLError) Error() string { return "Running in read-only mode" }

// demoted opens four connections to a server that takes no writes.
func demoted(t *testing.T, name, dsn string) (server *fakedriver.Server, db *sql.DB, open func()) {
	t.Helper()
	server = fakedriver.New()
	server.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, _ []driver.NamedValue) error {
		if query == "write" {
			return &MySQLError{1836}
		}
		return nil
	})
	lifeguard.Register(name, server.Driver(), lifeguard.WithConnectionLimit(4))
	db, err := sql.Open(name, dsn)
	if err != nil {
		t.Fatal(err)
	}
	return server, db, func() {
		var conns []*sql.Conn
		for range 4 {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDemotedAtMostOnceInTenSeconds: a write that a server refuses as read-only closes its own connection each time. The
// others go with it once in ten seconds.
func TestDemotedAtMostOnceInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, db, open := demoted(t, "demoted", "server")
		defer db.Close()
		began := time.Now()
		for _, step := range []struct {
			at     time.Duration
			closed int
		}{{0, 4}, {time.Millisecond, 1}, {5 * time.Second, 1}, {9999 * time.Millisecond, 1}, {10 * time.Second, 4}, {19 * time.Second, 1}, {20 * time.Second, 4}} {
			time.Sleep(time.Until(began.Add(step.at)))
			open()
			before := server.Closed()
			if _, err := db.Exec("write"); err == nil {
				t.Fatal("the server took a write")
			}
			synctest.Wait()
			if closed := server.Closed() - before; closed != step.closed {
				t.Errorf("after %v a refused write closed %d connections, want %d", step.at, closed, step.closed)
			}
		}
	})
}

// TestDemotedNotAsked: nothing is closed where the program asked for a server or a transaction that is read-only.
func TestDemotedNotAsked(t *testing.T) {
	for name, dsn := range map[string]string{
		"standby": "host=server target_session_attrs=standby", "prefer standby": "postgres://server/db?target_session_attrs=prefer-standby",
		"read-only transaction": "server",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, db, open := demoted(t, name, dsn)
				defer db.Close()
				open()
				tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: name == "read-only transaction"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Exec("write"); err == nil {
					t.Fatal("the server took a write")
				}
				if err := tx.Rollback(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if server.Closed() != 0 {
					t.Errorf("%d connections were closed", server.Closed())
				}
			})
		})
	}
}
