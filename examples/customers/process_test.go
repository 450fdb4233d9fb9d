//go:build unix

package main

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// limit is the connection_limit of the services these tests start.
const limit = 10

// build builds the service as it is installed. The folder it is in goes with
// the test, so the tests that need it are subtests of TestProcess.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "customers")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func TestProcess(t *testing.T) {
	path := build(t)
	t.Run("SQLite", func(t *testing.T) { testSQLiteProcess(t, path) })
	t.Run("Load", func(t *testing.T) { testLoad(t, path) })
	t.Run("FinishesRequestsUnderWay", func(t *testing.T) { testFinishesRequestsUnderWay(t, path) })
	t.Run("TerminatedUnderLoad", func(t *testing.T) { testTerminatedUnderLoad(t, path) })
	t.Run("GraceIsOver", func(t *testing.T) { testGraceIsOver(t, path) })
	t.Run("SecondSignal", func(t *testing.T) { testSecondSignal(t, path) })
	t.Run("CannotStart", func(t *testing.T) { testCannotStart(t, path) })
}

// process is a running service.
type process struct {
	cmd    *exec.Cmd
	base   string // http://127.0.0.1:port
	out    transcript
	log    transcript
	exited chan struct{}
}

// command is the service with exactly the given DATABASE_URL and temporary
// folder in its environment.
func command(path, databaseURL, temp string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); name != "DATABASE_URL" && name != "PORT" && name != "TMPDIR" {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "DATABASE_URL="+databaseURL, "TMPDIR="+temp)
	return cmd
}

var listensOn = regexp.MustCompile(`listens on (http://\S+)`)

// start starts the service on a free port and waits until it says where it
// listens.
func start(t *testing.T, path, databaseURL, temp string, args ...string) *process {
	t.Helper()
	p := &process{
		cmd:    command(path, databaseURL, temp, append(args, "-addr", "127.0.0.1:0")...),
		exited: make(chan struct{}),
	}
	p.cmd.Stderr = &p.log
	reader, writer := io.Pipe()
	p.cmd.Stdout = writer
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	var read sync.WaitGroup
	read.Go(func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			fmt.Fprintln(&p.out, lines.Text())
			if found := listensOn.FindStringSubmatch(lines.Text()); found != nil {
				address <- found[1]
			}
		}
	})
	go func() {
		_ = p.cmd.Wait() // the tests look at ProcessState
		writer.Close()
		read.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // in case the test has failed before its end
		<-p.exited
		if t.Failed() {
			t.Logf("output:\n%s\nlog:\n%s", &p.out, &p.log)
		}
	})
	select {
	case p.base = <-address:
	case <-p.exited:
		t.Fatalf("the service ended at its start")
	case <-time.After(time.Minute):
		t.Fatal("the service does not say where it listens")
	}
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// awaitExit waits for the end and returns the exit code.
func (p *process) awaitExit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("still running after %v", within)
		return 0
	}
}

// awaitRefusal waits until the service accepts no connection any more.
func (p *process) awaitRefusal(t *testing.T) {
	t.Helper()
	await(t, "the service to stop accepting", func() bool {
		response, err := client().Head(p.base + "/")
		if err == nil {
			response.Body.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// client makes a connection per request, as ab does. A connection kept alive
// can be closed by the server in the very moment in which the next request
// travels on it; then nobody can say whether that request was accepted.
func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   time.Minute,
	}
}

// fetch sends a request and returns the status of a complete answer. If there
// is none, answered says whether an answer had begun.
func fetch(c *http.Client, method, address, body string) (status int, answered bool, err error) {
	request, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		return 0, false, err
	}
	var begun atomic.Bool
	trace := &httptrace.ClientTrace{GotFirstResponseByte: func() { begun.Store(true) }}
	response, err := c.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		return 0, begun.Load(), err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, true, err
	}
	return response.StatusCode, true, nil
}

func newCustomer(email string) string {
	return fmt.Sprintf(`{"name": "Load", "email": %q}`, email)
}

// backends samples how many sessions application has on the server, until
// stopped. It returns the most that it saw, and how often it looked.
func backends(t *testing.T, db *sql.DB, application string) (stop func() (most, samples int)) {
	type seen struct {
		most, samples int
		err           error
	}
	done, result := make(chan struct{}), make(chan seen, 1)
	go func() {
		var s seen
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for s.err == nil {
			var n int
			s.err = db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", application).Scan(&n)
			s.most = max(s.most, n)
			s.samples++
			select {
			case <-tick.C:
			case <-done:
				result <- s
				return
			}
		}
		result <- s
	}()
	return func() (int, int) {
		t.Helper()
		close(done)
		s := <-result
		if s.err != nil {
			t.Fatal(s.err)
		}
		return s.most, s.samples
	}
}

func limited(dsn, application string) string {
	return with(dsn, "connection_limit", fmt.Sprint(limit), "application_name", application)
}

func testSQLiteProcess(t *testing.T, path string) {
	temp := t.TempDir()
	p := start(t, path, "", temp)
	if status, _, err := fetch(client(), "GET", p.base+"/api/customers", ""); status != 200 {
		t.Fatalf("status %d, %v", status, err)
	}
	if status, _, err := fetch(client(), "POST", p.base+"/api/customers", newCustomer("new@example.com")); status != 201 {
		t.Fatalf("status %d, %v", status, err)
	}
	if len(leftovers(t, temp)) == 0 {
		t.Fatal("no temporary database")
	}
	p.signal(t, os.Interrupt)
	if code := p.awaitExit(t, time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if left := leftovers(t, temp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if want := "ab -n 1000 -c 100 " + p.base + "/api/customers"; !strings.Contains(p.out.String(), want) {
		t.Errorf("no %q among the hints:\n%s", want, &p.out)
	}
}

func testLoad(t *testing.T, path string) {
	dsn := pgtest.DSN(t)
	p := start(t, path, limited(dsn, "load"), t.TempDir())
	stop := backends(t, plain(t, dsn), "load")

	const requests, concurrency = 1000, 100
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}, Timeout: time.Minute}
	defer c.CloseIdleConnections()
	var next atomic.Int64
	err := together(concurrency, func(int) error {
		for next.Add(1) <= requests {
			if status, _, err := fetch(c, "GET", p.base+"/api/customers", ""); err != nil || status != 200 {
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
		out, err := exec.Command(ab, "-n", fmt.Sprint(requests), "-c", fmt.Sprint(concurrency), p.base+"/api/customers").CombinedOutput()
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

	p.signal(t, syscall.SIGTERM)
	if code := p.awaitExit(t, time.Minute); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if all := p.log.String() + p.out.String(); strings.Contains(all, "secret") {
		t.Error("the log shows the password")
	}
}

// Requests that are in the hands of the service when SIGTERM comes are
// answered, those that wait for a connection included.
func testFinishesRequestsUnderWay(t *testing.T, path string) {
	const requests = 3 * limit
	dsn := pgtest.DSN(t)
	p := start(t, path, limited(dsn, "finish"), t.TempDir(), "-grace", "50s")
	observer := plain(t, dsn)
	unlock := lockTable(t, observer)

	finished := make(chan error, 1)
	go func() {
		finished <- together(requests, func(i int) error {
			status, _, err := fetch(client(), "POST", p.base+"/api/customers", newCustomer(fmt.Sprintf("finish%d@example.com", i)))
			if err != nil || status != 201 {
				return fmt.Errorf("status %d, %v", status, err)
			}
			return nil
		})
	}()
	await(t, "the pool to be full, and the rest of the requests to queue", func() bool {
		if blocked(t, observer) < limit {
			return false
		}
		response, err := client().Get(p.base + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var report healthReport
		if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
			t.Fatal(err)
		}
		return report.Pool.InUse == limit && report.Pool.Waiting == requests-limit
	})
	p.signal(t, syscall.SIGTERM)
	p.awaitRefusal(t)
	select {
	case err := <-finished:
		t.Fatalf("requests ended while the table was locked: %v", err)
	case <-p.exited:
		t.Fatal("the service ended with requests under way")
	default:
	}
	unlock()
	if err := <-finished; err != nil {
		t.Error(err)
	}
	if code := p.awaitExit(t, time.Minute); code != 0 {
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
	p := start(t, path, limited(dsn, "terminate"), t.TempDir())
	observer := plain(t, dsn)
	stop := backends(t, observer, "terminate")

	var (
		mu           sync.Mutex
		acknowledged = map[string]bool{}
		turnedAway   int
	)
	warm := make(chan struct{})
	finished := make(chan error, 1)
	go func() {
		finished <- together(50, func(worker int) error {
			c := client()
			for i := 0; ; i++ {
				email := fmt.Sprintf("terminate%d-%d@example.com", worker, i)
				status, answered, err := fetch(c, "POST", p.base+"/api/customers", newCustomer(email))
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
				status, answered, err = fetch(c, "GET", p.base+"/api/customers?limit=5", "")
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
	p.signal(t, syscall.SIGTERM)
	if code := p.awaitExit(t, 15*time.Second); code != 0 {
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
func stuck(t *testing.T, path, name string, args ...string) (p *process, answer <-chan error) {
	t.Helper()
	dsn := pgtest.DSN(t)
	p = start(t, path, limited(dsn, name), t.TempDir(), args...)
	observer := plain(t, dsn)
	t.Cleanup(lockTable(t, observer))
	failed := make(chan error, 1)
	go func() {
		status, _, err := fetch(client(), "POST", p.base+"/api/customers", newCustomer("stuck@example.com"))
		if err == nil {
			err = fmt.Errorf("status %d", status)
		}
		failed <- err
	}()
	await(t, "the request to run into the lock", func() bool { return blocked(t, observer) == 1 })
	return p, failed
}

func testGraceIsOver(t *testing.T, path string) {
	p, answer := stuck(t, path, "grace", "-grace", "300ms")
	p.signal(t, syscall.SIGTERM)
	if code := p.awaitExit(t, 10*time.Second); code != 1 {
		t.Errorf("exit code %d, want 1 for a request that was cut off", code)
	}
	if err := <-answer; err == nil {
		t.Error("the request that was cut off got an answer")
	}
	if !strings.Contains(p.log.String(), "cut off after the grace period of 300ms") {
		t.Error("the log does not say that a request was cut off")
	}
}

func testSecondSignal(t *testing.T, path string) {
	p, answer := stuck(t, path, "second", "-grace", "10m")
	p.signal(t, syscall.SIGTERM)
	p.awaitRefusal(t)
	p.signal(t, syscall.SIGTERM)
	p.awaitExit(t, 10*time.Second)
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("ended as %v, want by the second signal", p.cmd.ProcessState)
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
			cmd := command(path, tt.databaseURL, temp, tt.args...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(string(out), tt.says) || strings.Contains(string(out), "secret") {
				t.Errorf("want %q and no password in:\n%s", tt.says, out)
			}
			if left := leftovers(t, temp); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
