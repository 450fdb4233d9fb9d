// Package bouncertest puts a real PgBouncer between a test and its PostgreSQL.
package bouncertest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

const (
	startLimit = time.Minute // generous: it ends a hang, nothing waits for it

	// Each of pgbouncer's settings may be given again, and the last one counts.
	configuration = `
[databases]
* = host=%s port=%s

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
`
)

// Start starts a PgBouncer in transaction mode in front of the server that dsn names, a URL as pgtest gives it, and
// returns that URL with the pooler's address. Settings are those of its [pgbouncer] section, such as
// "max_prepared_statements=100" or "pool_mode=session". It is stopped when the test ends.
func Start(tb testing.TB, dsn string, settings ...string) string {
	tb.Helper()
	u, err := url.Parse(dsn)
	if err != nil || u.User == nil || u.Hostname() == "" {
		tb.Fatal("bouncertest: want the URL of a server, as pgtest.DSN gives it")
	}
	program, err := find()
	if err != nil {
		tb.Fatalf("bouncertest: %v", err)
	}
	account, err := localserver.Unprivileged("postgres", "nobody")
	if err != nil {
		tb.Fatalf("bouncertest: %v", err)
	}
	folder, err := localserver.NewFolder("pgbouncer", account, "KILL")
	if err != nil {
		tb.Fatalf("bouncertest: %v", err)
	}
	var process *localserver.Process
	tb.Cleanup(func() {
		if process != nil {
			if err := process.Stop(syscall.SIGKILL, startLimit); err != nil {
				tb.Errorf("bouncertest: %v", err)
			}
		}
		if err := folder.Remove(); err != nil {
			tb.Errorf("bouncertest: %v", err)
		}
	})
	err = localserver.OnFreePort(func(port int) error {
		ini, err := configure(folder, *u, port, settings)
		if err != nil {
			return err
		}
		p, err := folder.Start(program, ini)
		if err != nil {
			return err
		}
		ready := func() bool { return strings.Contains(p.Log(), "process up") }
		if err := p.Await(startLimit, ready); err != nil {
			return errors.Join(err, p.Stop(syscall.SIGKILL, startLimit))
		}
		process, u.Host = p, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		return nil
	})
	if err != nil {
		tb.Fatalf("bouncertest: %v", err)
	}
	return u.String()
}

// configure writes the pooler's files and returns the path of the first.
func configure(folder *localserver.Folder, server url.URL, port int, settings []string) (string, error) {
	password, _ := server.User.Password()
	users, err := folder.WriteFile("users", quote(server.User.Username())+" "+quote(password)+"\n")
	if err != nil {
		return "", err
	}
	serverPort := server.Port()
	if serverPort == "" {
		serverPort = "5432"
	}
	text := fmt.Sprintf(configuration, server.Hostname(), serverPort, port, users)
	return folder.WriteFile("pgbouncer.ini", text+strings.Join(settings, "\n")+"\n")
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// Version returns the version of the PgBouncer that Start starts, such as "1.18.0": prepared statements in transaction
// mode (max_prepared_statements) exist since 1.21.
func Version(tb testing.TB) string {
	tb.Helper()
	program, err := find()
	if err != nil {
		tb.Fatalf("bouncertest: %v", err)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		tb.Fatalf("bouncertest: asking pgbouncer for its version: %v", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(strings.TrimSpace(first), "PgBouncer ")
	if !ok {
		tb.Fatalf("bouncertest: no version in %q", first)
	}
	return version
}

func find() (string, error) {
	dir, ok := localserver.Find([]string{"pgbouncer"}, "/usr/sbin", "/usr/local/sbin", // not in everybody's PATH
		"/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin")
	if !ok {
		return "", errors.New("no pgbouncer on this machine: install it (`make test` does it; " +
			"Debian: `apt-get install pgbouncer`, Homebrew: `brew install pgbouncer`)")
	}
	return filepath.Join(dir, "pgbouncer"), nil
}
