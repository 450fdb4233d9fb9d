package lifeguardtest_test

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

var errCause = errors.New("the vault is sealed")

// failures are the ways in which a hook fails, and what the error says of each after "the hook of WithAfterConnect".
var failures = []struct {
	name, says string
	fail       func(ctx context.Context, ended <-chan struct{}, conn *sql.Conn) error
}{
	{"error", "failed: " + errCause.Error(), func(context.Context, <-chan struct{}, *sql.Conn) error { return errCause }},
	{"panic", "panicked: no vault", func(context.Context, <-chan struct{}, *sql.Conn) error { panic("no vault") }},
	{"Goexit", "called runtime.Goexit", func(context.Context, <-chan struct{}, *sql.Conn) error { runtime.Goexit(); return nil }},
	{"hang", "has not returned within 1.8s", func(_ context.Context, ended <-chan struct{}, _ *sql.Conn) error { <-ended; return nil }},
	{"rows", "left rows open", func(ctx context.Context, _ <-chan struct{}, conn *sql.Conn) error {
		_, err := conn.QueryContext(ctx, "rows") //nolint:sqlclosecheck // that is the case
		return err
	}},
	{"transaction", "left a transaction open", func(ctx context.Context, _ <-chan struct{}, conn *sql.Conn) error {
		_, err := conn.BeginTx(ctx, nil)
		return err
	}},
}

// failsOnce wants an error with its cause within pool_timeout, and then the slot back.
func failsOnce(t *testing.T, db *sql.DB, failing *atomic.Bool, hook, says string) {
	t.Helper()
	failing.Store(true)
	began := time.Now()
	_, err := db.Exec("first")
	if says = "the hook of " + hook + " " + says; err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("the error is %v, want one with %q", err, says)
	}
	if strings.HasSuffix(says, errCause.Error()) && !errors.Is(err, errCause) {
		t.Errorf("the error does not match its cause: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the error came after %v, pool_timeout is 2 s", took)
	}
	failing.Store(false)
	if _, err := db.Exec("second"); err != nil {
		t.Errorf("the slot is lost: %v", err)
	}
	pool, _ := lifeguard.PoolOf(db)
	if st := pool.Stats(); st.Open != 1 || st.InUse != 0 {
		t.Errorf("%d open and %d in use, want 1 and 0", st.Open, st.InUse)
	}
}

func TestAfterConnectFails(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended, failing := make(chan struct{}), &atomic.Bool{}
				db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConnectionLimit(1),
					lifeguard.WithPoolTimeout(2*time.Second), lifeguard.WithAfterConnect(func(ctx context.Context, conn *sql.Conn) error {
						if failing.Load() {
							return f.fail(ctx, ended, conn)
						}
						return nil
					}))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				defer close(ended)
				failsOnce(t, db, failing, "WithAfterConnect", f.says)
			})
		})
	}
}

func TestBeforeConnectFails(t *testing.T) {
	for _, f := range failures[:4] {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended, failing, server := make(chan struct{}), &atomic.Bool{}, fakedriver.New()
				lifeguard.Register("before "+f.name, server.Driver(), lifeguard.WithBeforeConnect(func(ctx context.Context, _ string) (string, error) {
					if failing.Load() {
						return "", f.fail(ctx, ended, nil)
					}
					return "fresh", nil
				}))
				db, err := sql.Open("before "+f.name, "stale?connection_limit=1&pool_timeout=2")
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				defer close(ended)
				failsOnce(t, db, failing, "WithBeforeConnect", f.says)
				if got := server.DSNs(); !slices.Equal(got, []string{"fresh"}) {
					t.Errorf("the driver got %q, want the hook's answer", got)
				}
			})
		})
	}
}

func TestBeforeConnectRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lifeguard.Register("before ours", fakedriver.New().Driver(), lifeguard.WithBeforeConnect(func(context.Context, string) (string, error) {
			return "host?password=hunter2&pool_timeout=3", nil
		}))
		db, err := sql.Open("before ours", "host")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.Ping(); err == nil || !strings.Contains(err.Error(), "parameter of lifeguard's") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a parameter of ours in the answer: %v", err)
		}
	})
	hook := lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) { return dsn, nil })
	if _, err := lifeguard.OpenDB(fakedriver.New().Connector(), hook); err == nil {
		t.Error("OpenDB took WithBeforeConnect, which has no DSN there")
	}
}

func TestNilHooks(t *testing.T) {
	for name, option := range map[string]func(){
		"WithBeforeConnect": func() { lifeguard.WithBeforeConnect(nil) },
		"WithAfterConnect":  func() { lifeguard.WithAfterConnect(nil) },
	} {
		func() {
			defer func() {
				if text, _ := recover().(string); !strings.Contains(text, name) {
					t.Errorf("%s(nil) panicked with %q, want its name", name, text)
				}
			}()
			option()
		}()
	}
}
