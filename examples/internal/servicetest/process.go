//go:build unix

package servicetest

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io"
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
)

// Build builds the service whose package is in folder, as it is installed. The folder it is in goes with
// the test, so the tests that need it are subtests of TestProcess.
func Build(t *testing.T, folder string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "service")
	if out, err := exec.Command("go", "build", "-o", path, folder).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// Process is a running service.
type Process struct {
	Cmd    *exec.Cmd
	Base   string // http://127.0.0.1:port
	Out    Transcript
	Log    Transcript
	Exited chan struct{}
}

// Command is the service with exactly the given DATABASE_URL and temporary
// folder in its environment.
func Command(path, databaseURL, temp string, args ...string) *exec.Cmd {
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

// Start starts the service on a free port and waits until it says where it
// listens.
func Start(t *testing.T, path, databaseURL, temp string, args ...string) *Process {
	t.Helper()
	p := &Process{
		Cmd:    Command(path, databaseURL, temp, append(args, "-addr", "127.0.0.1:0")...),
		Exited: make(chan struct{}),
	}
	p.Cmd.Stderr = &p.Log
	reader, writer := io.Pipe()
	p.Cmd.Stdout = writer
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	var read sync.WaitGroup
	read.Go(func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			fmt.Fprintln(&p.Out, lines.Text())
			if found := listensOn.FindStringSubmatch(lines.Text()); found != nil {
				address <- found[1]
			}
		}
	})
	go func() {
		_ = p.Cmd.Wait() // the tests look at ProcessState
		writer.Close()
		read.Wait()
		close(p.Exited)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill() // in case the test has failed before its end
		<-p.Exited
		if t.Failed() {
			t.Logf("output:\n%s\nlog:\n%s", &p.Out, &p.Log)
		}
	})
	select {
	case p.Base = <-address:
	case <-p.Exited:
		t.Fatalf("the service ended at its start")
	case <-time.After(time.Minute):
		t.Fatal("the service does not say where it listens")
	}
	return p
}

// Signal sends s to the service.
func (p *Process) Signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// AwaitExit waits for the end and returns the exit code.
func (p *Process) AwaitExit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.Exited:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("still running after %v", within)
		return 0
	}
}

// AwaitRefusal waits until the service accepts no connection any more.
func (p *Process) AwaitRefusal(t *testing.T) {
	t.Helper()
	Await(t, "the service to stop accepting", func() bool {
		response, err := Client().Head(p.Base + "/")
		if err == nil {
			response.Body.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// Client makes a connection per request, as ab does. A connection kept alive
// can be closed by the server in the very moment in which the next request
// travels on it; then nobody can say whether that request was accepted.
func Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   time.Minute,
	}
}

// Fetch sends a request and returns the status of a complete answer. If there
// is none, answered says whether an answer had begun.
func Fetch(c *http.Client, method, address, body string) (status int, answered bool, err error) {
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

// Backends samples how many sessions application has on the server, until
// stopped. It returns the most that it saw, and how often it looked.
func Backends(t *testing.T, db *sql.DB, application string) (stop func() (most, samples int)) {
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
