package lifeguardtest_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var rotating = flag.Duration("rotating", 3*time.Second, "how long the password is rotated under load")

// A vault is what knows the current password of a role.
type vault struct {
	mu       sync.RWMutex
	password string
	asked    atomic.Int64

	delay time.Duration // of its answers, in which they may become stale
}

// rotate gives the role a new password. The server refuses the former one from then on.
func (v *vault) rotate(admin *sql.DB, role, password string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := admin.Exec(fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", role, pgtest.Verifier(password)))
	if err == nil {
		v.password = password
	}
	return err
}

func (v *vault) dsn(ctx context.Context, dsn string) (string, error) {
	v.asked.Add(1)
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	v.mu.RLock()
	u.User = url.UserPassword(u.User.Username(), v.password)
	v.mu.RUnlock()
	return u.String(), sleep(ctx, v.delay)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// TestRotatedPassword has the password of a role changed every second. Connections are replaced four times a second, so
// that some are being opened while it changes. Answers of a slow vault are stale at times when they arrive.
func TestRotatedPassword(t *testing.T) {
	for _, delay := range []time.Duration{0, 200 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) { rotateUnderLoad(t, &vault{delay: delay}) })
	}
}

func rotateUnderLoad(t *testing.T, v *vault) {
	const role = "rotated"
	server := pgtest.Start(t)
	admin, err := sql.Open("postgres", server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Exec("CREATE ROLE " + role + " LOGIN"); err != nil {
		t.Fatal(err)
	}
	if err := v.rotate(admin, role, "password-0"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "never right")
	wrong := u.String()
	wantRefused(t, wrong)

	db, err := lifeguard.Open("postgres", wrong+"&connection_limit=4&pool_timeout=5", lifeguard.WithBeforeConnect(v.dsn))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	pool, _ := lifeguard.PoolOf(db)

	ctx, cancel := context.WithTimeout(t.Context(), *rotating)
	defer cancel()
	var callers sync.WaitGroup
	var answered, failed atomic.Int64
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				var one int
				if err := db.QueryRow("SELECT 1 FROM pg_sleep(0.005)").Scan(&one); err != nil {
					if failed.Add(1) <= 3 {
						t.Errorf("a query failed: %v", err)
					}
					continue
				}
				answered.Add(1)
			}
		})
	}
	rotations := replace(ctx, t, pool, func(n int) error { return v.rotate(admin, role, fmt.Sprintf("password-%d", n)) })
	callers.Wait()
	t.Logf("%d rotations, %d asked for a password, %d queries answered, %d failed",
		rotations, v.asked.Load(), answered.Load(), failed.Load())
	wantRefused(t, wrong)
	if least := int64(*rotating / time.Second); v.asked.Load() < least || answered.Load() < 10*least {
		t.Error("too little happened to prove anything")
	}
}

// replace has all connections replaced every 250 ms, and calls rotate at every fourth time, until ctx ends.
func replace(ctx context.Context, t *testing.T, pool *lifeguard.Pool, rotate func(n int) error) (rotations int) {
	t.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return rotations
		case <-tick.C:
		}
		pool.Reset()
		if n%4 != 0 {
			continue
		}
		rotations++
		if err := rotate(rotations); err != nil {
			t.Errorf("rotation %d: %v", rotations, err)
		}
	}
}

// wantRefused shows that the server checks passwords.
func wantRefused(t *testing.T, dsn string) {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ping(); err == nil {
		t.Fatal("a wrong password was accepted")
	}
}
