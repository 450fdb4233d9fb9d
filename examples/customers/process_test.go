//go:build unix

package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// limit is the connection_limit of the services these tests start.
const limit = 10

func TestProcess(t *testing.T) {
	path := servicetest.Build(t, ".")
	t.Run("SQLite", func(t *testing.T) { testSQLiteProcess(t, path) })
	t.Run("Load", func(t *testing.T) { testLoad(t, path) })
	t.Run("FinishesRequestsUnderWay", func(t *testing.T) { testFinishesRequestsUnderWay(t, path) })
	t.Run("TerminatedUnderLoad", func(t *testing.T) { testTerminatedUnderLoad(t, path) })
	t.Run("GraceIsOver", func(t *testing.T) { testGraceIsOver(t, path) })
	t.Run("SecondSignal", func(t *testing.T) { testSecondSignal(t, path) })
	t.Run("CannotStart", func(t *testing.T) { testCannotStart(t, path) })
}

func newCustomer(email string) string {
	return fmt.Sprintf(`{"name": "Load", "email": %q}`, email)
}

func limited(dsn, application string) string {
	return servicetest.With(dsn, "connection_limit", fmt.Sprint(limit), "application_name", application)
}

func testSQLiteProcess(t *testing.T, path string) {
	temp := t.TempDir()
	p := servicetest.Start(t, path, "", temp)
	if status, _, err := servicetest.Fetch(servicetest.Client(), "GET", p.Base+"/api/customers", ""); status != 200 {
		t.Fatalf("status %d, %v", status, err)
	}
	if status, _, err := servicetest.Fetch(servicetest.Client(), "POST", p.Base+"/api/customers", newCustomer("new@example.com")); status != 201 {
		t.Fatalf("status %d, %v", status, err)
	}
	if len(servicetest.Leftovers(t, temp)) == 0 {
		t.Fatal("no temporary database")
	}
	p.Signal(t, os.Interrupt)
	if code := p.AwaitExit(t, time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if left := servicetest.Leftovers(t, temp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if want := "ab -n 1000 -c 100 " + p.Base + "/api/customers"; !strings.Contains(p.Out.String(), want) {
		t.Errorf("no %q among the hints:\n%s", want, &p.Out)
	}
}

func testLoad(t *testing.T, path string) {
	dsn := pgtest.DSN(t)
	p := servicetest.Start(t, path, limited(dsn, "load"), t.TempDir())
	stop := servicetest.Backends(t, servicetest.Plain(t, dsn), "load")

	const requests, concurrency = 1000, 100
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}, Timeout: time.Minute}
	defer c.CloseIdleConnections()
	var next atomic.Int64
	err := servicetest.Together(concurrency, func(int) error {
		for next.Add(1) <= requests {
			if status, _, err := servicetest.Fetch(c, "GET", p.Base+"/api/customers", ""); err != nil || status != 200 {
				return fmt.Errorf("status %d, %v", status, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if ab, err := exec.LookPath("ab"); err != nil {
		t.Log("ab is not installed: loaded with Go's client only")
	} else {
		out, err := exec.Command(ab, "-n", fmt.Sprint(requests), "-c", fmt.Sprint(concurrency), p.Base+"/api/customers").CombinedOutput()
		for _, want := range []string{`Complete requests: +1000\n`, `Failed requests: +0\n`} {
			if !regexp.MustCompile(want).Match(out) {
				t.Errorf("ab: no %q in\n%s", want, out)
			}
		}
		if err != nil || strings.Contains(string(out), "Non-2xx") {
			t.Errorf("ab: %v\n%s", err, out)
		}
	}
	most, samples := stop()
	if most < 1 || most > limit {
		t.Errorf("%d backends at the most, want 1 to %d", most, limit)
	}
	t.Logf("at most %d backends in %d samples", most, samples)

	p.Signal(t, syscall.SIGTERM)
	if code := p.AwaitExit(t, time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if all := p.Log.String() + p.Out.String(); strings.Contains(all, "secret") {
		t.Error("the log shows the password")
	}
}

// Requests that are in the hands of the service when SIGTERM comes are
// answered, those that wait for a connection included.
func testFinishesRequestsUnderWay(t *testing.T, path string) {
	const requests = 3 * limit
	dsn := pgtest.DSN(t)
	p := servicetest.Start(t, path, limited(dsn, "finish"), t.TempDir(), "-grace", "50s")
	observer := servicetest.Plain(t, dsn)
	unlock := lockTable(t, observer)

	finished := make(chan error, 1)
	go func() {
		finished <- servicetest.Together(requests, func(i int) error {
			status, _, err := servicetest.Fetch(servicetest.Client(), "POST", p.Base+"/api/customers", newCustomer(fmt.Sprintf("finish%d@example.com", i)))
			if err != nil || status != 201 {
				return fmt.Errorf("status %d, %v", status, err)
			}
			return nil
		})
	}()
	servicetest.Await(t, "the pool to be full, and the rest of the requests to queue", func() bool {
		if blocked(t, observer) < limit {
			return false
		}
		response, err := servicetest.Client().Get(p.Base + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var report service.HealthReport
		if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
			t.Fatal(err)
		}
		return report.Pool.InUse == limit && report.Pool.Waiting == requests-limit
	})
	p.Signal(t, syscall.SIGTERM)
	p.AwaitRefusal(t)
	select {
	case err := <-finished:
		t.Fatalf("requests ended while the table was locked: %v", err)
	case <-p.Exited:
		t.Fatal("the service ended with requests under way")
	default:
	}
	unlock()
	if err := <-finished; err != nil {
		t.Error(err)
	}
	if code := p.AwaitExit(t, time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if stored := emails(t, observer, "finish"); len(stored) != requests {
		t.Errorf("%d of %d rows are in the table", len(stored), requests)
	}
}

// emails returns the addresses in the table that begin with prefix.
func emails(t *testing.T, db *sql.DB, prefix string) map[string]bool {
	t.Helper()
	rows, err := db.Query("SELECT email FROM customers WHERE starts_with(email, $1)", prefix)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]bool{}
	for rows.Next() {
		var email string
		if err := rows.Scan(&email); err != nil {
			t.Fatal(err)
		}
		found[email] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// Under load a request that the service has accepted leaves a row and gets its
// answer, one that it has not accepted leaves nothing: the rows are exactly
// those that were acknowledged.
func testTerminatedUnderLoad(t *testing.T, path string) {
	dsn := pgtest.DSN(t)
	p := servicetest.Start(t, path, limited(dsn, "terminate"), t.TempDir())
	observer := servicetest.Plain(t, dsn)
	stop := servicetest.Backends(t, observer, "terminate")

	var (
		mu           sync.Mutex
		acknowledged = map[string]bool{}
		turnedAway   int
	)
	warm := make(chan struct{})
	finished := make(chan error, 1)
	go func() {
		finished <- servicetest.Together(50, func(worker int) error {
			c := servicetest.Client()
			for i := 0; ; i++ {
				email := fmt.Sprintf("terminate%d-%d@example.com", worker, i)
				status, answered, err := servicetest.Fetch(c, "POST", p.Base+"/api/customers", newCustomer(email))
				mu.Lock()
				switch {
				case err == nil && status == 201:
					if acknowledged[email] = true; len(acknowledged) == 500 {
						close(warm)
					}
				case err != nil && !answered:
					turnedAway++
				default:
					mu.Unlock()
					return fmt.Errorf("an accepted request got status %d, %v", status, err)
				}
				mu.Unlock()
				if errors.Is(err, syscall.ECONNREFUSED) {
					return nil // nobody listens any more
				}
				status, answered, err = servicetest.Fetch(c, "GET", p.Base+"/api/customers?limit=5", "")
				if status != 200 && answered {
					return fmt.Errorf("an accepted request got status %d, %v", status, err)
				}
			}
		})
	}()
	select {
	case <-warm:
	case err := <-finished:
		t.Fatalf("the load ended by itself: %v", err)
	}
	p.Signal(t, syscall.SIGTERM)
	if code := p.AwaitExit(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if err := <-finished; err != nil {
		t.Error(err)
	}
	most, _ := stop()
	if most > limit {
		t.Errorf("%d backends at the most, want at most %d", most, limit)
	}
	stored := emails(t, observer, "terminate")
	for email := range acknowledged {
		if !stored[email] {
			t.Errorf("%s was acknowledged, but is not in the table", email)
		}
	}
	for email := range stored {
		if !acknowledged[email] {
			t.Errorf("%s is in the table, but its request got no answer", email)
		}
	}
	if !maps.Equal(stored, acknowledged) {
		t.Errorf("%d acknowledged, %d stored", len(acknowledged), len(stored))
	}
	t.Logf("%d acknowledged and stored, %d turned away at the door", len(acknowledged), turnedAway)
}

// stuck starts a service with one request that cannot end.
func stuck(t *testing.T, path, name string, args ...string) (p *servicetest.Process, answer <-chan error) {
	t.Helper()
	dsn := pgtest.DSN(t)
	p = servicetest.Start(t, path, limited(dsn, name), t.TempDir(), args...)
	observer := servicetest.Plain(t, dsn)
	t.Cleanup(lockTable(t, observer))
	failed := make(chan error, 1)
	go func() {
		status, _, err := servicetest.Fetch(servicetest.Client(), "POST", p.Base+"/api/customers", newCustomer("stuck@example.com"))
		if err == nil {
			err = fmt.Errorf("status %d", status)
		}
		failed <- err
	}()
	servicetest.Await(t, "the request to run into the lock", func() bool { return blocked(t, observer) == 1 })
	return p, failed
}

func testGraceIsOver(t *testing.T, path string) {
	p, answer := stuck(t, path, "grace", "-grace", "300ms")
	p.Signal(t, syscall.SIGTERM)
	if code := p.AwaitExit(t, 10*time.Second); code != 1 {
		t.Errorf("exit code %d, want 1 for a request that was cut off", code)
	}
	if err := <-answer; err == nil {
		t.Error("the request that was cut off got an answer")
	}
	if !strings.Contains(p.Log.String(), "cut off after the grace period of 300ms") {
		t.Error("the log does not say that a request was cut off")
	}
}

func testSecondSignal(t *testing.T, path string) {
	p, answer := stuck(t, path, "second", "-grace", "10m")
	p.Signal(t, syscall.SIGTERM)
	p.AwaitRefusal(t)
	p.Signal(t, syscall.SIGTERM)
	p.AwaitExit(t, 10*time.Second)
	if status, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("ended as %v, want by the second signal", p.Cmd.ProcessState)
	}
	<-answer
}

func testCannotStart(t *testing.T, path string) {
	for name, tt := range map[string]struct {
		databaseURL string
		args        []string
		code        int
		says        string
	}{
		"no database":  {"postgres://user:secret@127.0.0.1:1/shop?sslmode=disable&pool_timeout=100ms", nil, 1, "127.0.0.1"},
		"bad limit":    {"postgres://user:secret@127.0.0.1/shop?connection_limit=none", nil, 1, "connection_limit"},
		"bad address":  {"", []string{"-addr", "nowhere"}, 1, "nowhere"},
		"bad argument": {"", []string{"-grace", "0s"}, 2, "-grace"},
		"help":         {"", []string{"-h"}, 0, "DATABASE_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			cmd := servicetest.Command(path, tt.databaseURL, temp, tt.args...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(string(out), tt.says) || strings.Contains(string(out), "secret") {
				t.Errorf("want %q and no password in:\n%s", tt.says, out)
			}
			if left := servicetest.Leftovers(t, temp); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
