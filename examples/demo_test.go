//go:build unix

// Package examples has no code of its own but this test.
package examples

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
)

// scripts/demo starts everything, Prometheus sees both services under load, and
// Ctrl-C ends everything and leaves nothing.
func TestDemo(t *testing.T) {
	temp := t.TempDir()
	for dir := temp; dir != "/"; dir = filepath.Dir(dir) { // PostgreSQL runs as another user
		if err := os.Chmod(dir, 0o755); err != nil || dir == filepath.Clean(os.TempDir()) {
			break
		}
	}
	cmd := exec.Command("../scripts/demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp,
		"DEMO_POSTGRES_PORT=21432", "DEMO_CUSTOMERS_PORT=21004", "DEMO_RESERVATIONS_PORT=21005", "DEMO_PROMETHEUS_PORT=21090")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	reader, writer := io.Pipe()
	var out servicetest.Transcript
	cmd.Stdout = io.MultiWriter(&out, writer)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() {
		exited <- cmd.Wait()
		writer.Close()
	}()
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "Ctrl-C") {
				ready <- true
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it has ended, unless the test failed
		if t.Failed() {
			t.Log(out.String())
		}
	})
	select {
	case <-ready:
	case err := <-exited:
		t.Fatalf("the demo ended before it began: %v", err)
	case <-time.After(3 * time.Minute):
		t.Fatal("the demo does not begin")
	}

	address := func(what string) string {
		return regexp.MustCompile(what + ` +(http://\S+?)(?:graph\S*)?\s`).FindStringSubmatch(out.String())[1]
	}
	for _, service := range []string{"customers", "reservations"} {
		base := address(service)
		servicetest.Await(t, service+" to serve the load", func() bool { return acquired(t, base) > 20 })
	}
	metrics := address("metrics")
	for _, job := range []string{"customers", "reservations"} {
		servicetest.Await(t, "Prometheus to see "+job, func() bool {
			return strings.Contains(text(t, metrics+"api/v1/query?query=db_client_connection_max"), `"job":"`+job+`"`)
		})
	}

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the demo ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the demo does not end")
	}
	if left := servicetest.Leftovers(t, temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, base := range []string{address("customers"), address("reservations"), metrics} {
		if response, err := http.Get(base); err == nil {
			response.Body.Close()
			t.Errorf("somebody still listens at %s", base)
		}
	}
}

// acquired is how often somebody got a connection of a service's pool.
func acquired(t *testing.T, base string) int {
	t.Helper()
	var report struct{ Pool struct{ Acquired int } }
	if err := json.Unmarshal([]byte(text(t, base+"healthz")), &report); err != nil {
		t.Fatal(err)
	}
	return report.Pool.Acquired
}

func text(t *testing.T, address string) string {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
