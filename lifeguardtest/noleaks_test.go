package lifeguardtest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/lifeguardtest"
)

// recorder is a test whose failures are looked at.
type recorder struct {
	testing.TB
	cleanups []func()
	failed   []string
}

func (r *recorder) Helper()           {}
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any) { r.failed = append(r.failed, fmt.Sprint(args...)) }
func (r *recorder) Fatal(args ...any) { r.Error(args...); panic(r) }

func open(t *testing.T, opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool, *fakedriver.Server) {
	t.Helper()
	server := fakedriver.New()
	db, err := lifeguard.OpenDB(server.Connector(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	pool, _ := lifeguard.PoolOf(db)
	return db, pool, server
}

func leaveRows(db *sql.DB) func() {
	rows, err := db.Query("SELECT left") //nolint:sqlclosecheck // that is the case
	if err != nil {
		panic(err)
	}
	return func() { _ = rows.Close() }
}

func leaveTx(db *sql.DB) func() {
	tx, err := db.Begin()
	if err != nil {
		panic(err)
	}
	return func() { _ = tx.Rollback() }
}

func leaveConn(db *sql.DB) func() {
	conn, err := db.Conn(context.Background())
	if err != nil {
		panic(err)
	}
	return func() { _ = conn.Close() }
}

func leaveNothing(db *sql.DB) func() {
	_, err := db.Exec("done")
	if err != nil {
		panic(err)
	}
	return func() {}
}

func TestNoLeaks(t *testing.T) {
	for want, leave := range map[string]func(*sql.DB) func(){
		"leaveRows": leaveRows, "leaveTx": leaveTx, "leaveConn": leaveConn, "": leaveNothing,
	} {
		synctest.Test(t, func(t *testing.T) {
			db, _, _ := open(t)
			old := leaveConn(db) // held before: not the test's
			r := &recorder{}
			time.Sleep(time.Millisecond) // virtual
			lifeguardtest.NoLeaks(r, db)
			end := leave(db)
			r.cleanups[0]()
			all := strings.Join(r.failed, "\n")
			switch {
			case want == "" && all != "":
				t.Errorf("nothing was left, and NoLeaks says %s", all)
			case want != "" && (len(r.failed) != 1 || !strings.Contains(all, want)):
				t.Errorf("NoLeaks says %q, want one failure that names %s", all, want)
			}
			end()
			old()
		})
	}
}

func TestNoLeaksNeedsLifeguard(t *testing.T) {
	db := sql.OpenDB(fakedriver.New().Connector())
	defer db.Close()
	r := &recorder{}
	defer func() {
		if recover() != any(r) || len(r.failed) != 1 {
			t.Errorf("a foreign handle did not fail the test: %q", r.failed)
		}
	}()
	lifeguardtest.NoLeaks(r, db)
}

func TestMaxWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _, _ := open(t, lifeguard.WithConnectionLimit(1), lifeguard.WithMaxWaiting(1))
		give := leaveConn(db)
		served := make(chan error)
		go func() { _, err := db.Exec("waits"); served <- err }()
		synctest.Wait()
		began := time.Now()
		if _, err := db.Exec("one too many"); !errors.Is(err, lifeguard.ErrTooManyWaiting) || time.Since(began) != 0 {
			t.Errorf("after %v: %v, want ErrTooManyWaiting at once", time.Since(began), err)
		}
		give()
		if err := <-served; err != nil {
			t.Errorf("the caller that waited: %v", err)
		}
	})
}

func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := lifeguard.DefaultConfig()
		cfg.KeepaliveInterval, cfg.MinConnections = 10*time.Second, 1
		_, pool, server := open(t, lifeguard.WithConfig(cfg))
		time.Sleep(time.Second)
		server.Kill()
		time.Sleep(30 * time.Second)
		if st := pool.Stats(); st.Opened != 2 || st.Closed != 1 || st.Open != 1 {
			t.Errorf("an idle connection that died was not replaced: %+v", st)
		}
	})
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, pool, _ := open(t, lifeguard.WithMinConnections(3))
		if err := pool.Ready(t.Context()); err != nil || pool.Stats().Open != 3 || pool.Stats().InUse != 0 {
			t.Errorf("Ready: %v with %+v", err, pool.Stats())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		db, pool, _ := open(t, lifeguard.WithConnectionLimit(1))
		give := leaveConn(db)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := pool.Ready(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "of 1 connections") {
			t.Errorf("Ready says %v, want what is missing and the end of ctx", err)
		}
		give()
	})
}

// The handle's own lifetimes end leases; the connections stay.
func TestHandleSettersAndDBStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, pool, server := open(t)
		db.SetConnMaxLifetime(time.Second)
		db.SetConnMaxIdleTime(time.Second)
		db.SetMaxIdleConns(0)
		for range 5 {
			leaveNothing(db)
			time.Sleep(10 * time.Second)
		}
		give := leaveConn(db)
		if st := pool.DBStats(); st.MaxOpenConnections != 10 || st.OpenConnections != 1 || st.InUse != 1 || st.Idle != 0 {
			t.Errorf("DBStats: %+v", st)
		}
		give()
		if server.Dials() != 1 {
			t.Errorf("%d dials, want 1: the setters end leases, not connections", server.Dials())
		}
	})
}

func TestConfigInCode(t *testing.T) {
	connector := fakedriver.New().Connector()
	if _, err := lifeguard.OpenDB(connector, lifeguard.WithConfig(lifeguard.Config{ConnectionLimit: 3})); err == nil ||
		!strings.Contains(err.Error(), "DefaultConfig") {
		t.Errorf("a Config that nobody filled in: %v", err)
	}
	cfg := lifeguard.DefaultConfig()
	cfg.ConnectionLimit = 5
	_, pool, _ := open(t, lifeguard.WithConfig(cfg))
	if got := pool.Config(); got.ConnectionLimit != 5 || got.MaxIdleConnections != 5 {
		t.Errorf("a lower limit on the defaults: %+v", got)
	}
	for _, dsn := range []string{"app:secret@tcp(db:3306)/shop", "file:shop.db?cache=shared"} {
		_, err := sql.Open("lifeguard", dsn)
		if err == nil || !strings.Contains(err.Error(), "lifeguard.Open(") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s under lifeguard: %v", dsn, err)
		}
	}
}

// TestDriverOfHandleOpensPools: libraries take the driver from a handle and open another handle on it.
func TestDriverOfHandleOpensPools(t *testing.T) {
	first, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConnectionLimit(3))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for dsn, limit := range map[string]int{"somewhere": 3, "somewhere?connection_limit=2": 2} {
		c, err := first.Driver().(driver.DriverContext).OpenConnector(dsn)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		pool, ok := lifeguard.PoolOf(db)
		if !ok || pool.Config().ConnectionLimit != limit {
			t.Errorf("%s bypasses the pool, or has another limit than %d", dsn, limit)
		}
		_ = db.Close()
	}
}
