package lifeguardtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// hang is a hook that works at its first call, and then does not return while hanging says so.
type hang struct {
	hanging atomic.Bool
	calls   atomic.Int64
	ended   chan struct{}
}

func (h *hang) call() {
	if h.calls.Add(1) > 1 && h.hanging.Load() {
		<-h.ended
	}
}

// open gives a pool of limit connections with h as its hook.
func (h *hang) open(t *testing.T, hook string, limit int) (*sql.DB, *lifeguard.Pool) {
	t.Helper()
	options := []lifeguard.Option{lifeguard.WithConnectionLimit(limit), lifeguard.WithPoolTimeout(2 * time.Second)}
	name := fmt.Sprintf("hanging %s %d", hook, limit)
	switch hook {
	case "WithBeforeConnect":
		options = append(options, lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) { h.call(); return dsn, nil }))
	case "WithAfterConnect":
		options = append(options, lifeguard.WithAfterConnect(func(context.Context, *sql.Conn) error { h.call(); return nil }))
	}
	lifeguard.Register(name, fakedriver.New().Driver(), options...)
	db, err := sql.Open(name, "server")
	if err != nil {
		t.Fatal(err)
	}
	pool, _ := lifeguard.PoolOf(db)
	return db, pool
}

// TestHookHangsLater: a hook that hangs in a pool that had a connection. The pool tries others meanwhile; the error names the
// hook, and nothing of what hangs takes up a slot.
func TestHookHangsLater(t *testing.T) {
	for _, hook := range []string{"WithBeforeConnect", "WithAfterConnect"} {
		for _, limit := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/limit=%d", hook, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &hang{ended: make(chan struct{})}
					db, pool := h.open(t, hook, limit)
					defer db.Close()
					defer close(h.ended)
					if _, err := db.Exec("first"); err != nil {
						t.Fatal(err)
					}
					pool.Reset()
					h.hanging.Store(true)
					began := time.Now()
					_, err := db.Exec("second")
					if err == nil || !strings.Contains(err.Error(), "the hook of "+hook+" has not returned") {
						t.Errorf("the error is %v, want one that names the hook", err)
					}
					if errors.Is(err, context.Canceled) {
						t.Errorf("the caller has not cancelled: %v", err)
					}
					if took := time.Since(began); took > 2*time.Second {
						t.Errorf("the error came after %v, pool_timeout is 2 s", took)
					}
					h.hanging.Store(false)
					time.Sleep(10 * time.Second) // a dial under way has its hook's time
					for range limit {            // all at once, while the hooks hang on
						conn, err := db.Conn(t.Context())
						if err != nil {
							t.Fatalf("a slot is lost: %v", err)
						}
						defer conn.Close()
					}
				})
			})
		}
	}
}

// TestHookHangsOnce: only one call hangs. Its caller is served by the next dial.
func TestHookHangsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hang{ended: make(chan struct{})}
		db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(2*time.Second),
			lifeguard.WithAfterConnect(func(context.Context, *sql.Conn) error {
				h.hanging.Store(h.calls.Load() == 1)
				h.call()
				return nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		defer close(h.ended)
		pool, _ := lifeguard.PoolOf(db)
		for _, call := range []string{"first", "second", "third"} {
			if _, err := db.Exec(call); err != nil {
				t.Errorf("%s: %v", call, err)
			}
			if call == "first" {
				pool.Reset()
			}
		}
		if st := pool.Stats(); st.Open != 1 || st.InUse != 0 || h.calls.Load() != 3 {
			t.Errorf("%d open, %d in use, the hook was called %d times: want 1, 0, 3", st.Open, st.InUse, h.calls.Load())
		}
	})
}

// TestHookHangsWhenAskedAgain: the server refuses the password, and the hook hangs when it is asked for another. Both calls
// have one share of pool_timeout.
func TestHookHangsWhenAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ended := fakedriver.New(), make(chan struct{})
		server.OnDial(func(context.Context) error {
			return &pq.Error{Code: "28P01", Message: "password authentication failed"}
		})
		var calls atomic.Int64
		lifeguard.Register("asked again", server.Driver(), lifeguard.WithBeforeConnect(func(_ context.Context, dsn string) (string, error) {
			if calls.Add(1) == 2 {
				<-ended
				return dsn, nil
			}
			time.Sleep(time.Second)
			return dsn, nil
		}))
		db, err := sql.Open("asked again", "server?connection_limit=1&pool_timeout=2")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		defer close(ended)
		began := time.Now()
		_, err = db.Exec("first")
		for _, want := range []string{"password authentication failed", "the hook of WithBeforeConnect has not returned"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want one with %q", err, want)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the error came after %v, pool_timeout is 2 s", took)
		}
		server.OnDial(nil)
		if _, err := db.Exec("second"); err != nil {
			t.Errorf("the slot is lost: %v", err)
		}
	})
}
