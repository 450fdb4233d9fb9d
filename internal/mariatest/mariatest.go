// Package mariatest gives tests a MariaDB server of their own, as pgtest does for PostgreSQL.
//
// The environment variable LIFEGUARD_TEST_MYSQL names another server to use instead, in the form of go-sql-driver/mysql
// and with a user who may create databases:
//
//	LIFEGUARD_TEST_MYSQL='user:password@tcp(host:3306)/' go test ./...
//
// The package needs no MySQL driver, so that only modules which test one depend on it.
package mariatest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// Environment is the environment variable that names a server to use instead of a local one.
const Environment = "LIFEGUARD_TEST_MYSQL"

const (
	user, password = "lifeguard", "secret"
	startLimit     = time.Minute // generous: it ends a hang, nothing waits for it
)

var shared = localserver.Shared[*server]{
	Start: func() (*server, error) {
		if named := os.Getenv(Environment); named != "" {
			return external(named)
		}
		return start(nil)
	},
	Stop: (*server).remove,
}

// Run is for TestMain: os.Exit(mariatest.Run(m)). It runs the tests and stops the shared server after them, also when
// they panic. Without it that server ends with the process.
func Run(m interface{ Run() int }) int { return shared.Run(m) }

// DSN returns the data source name, for go-sql-driver/mysql, of a new, empty database on the server that all tests of
// this process share. It is dropped when the test ends.
func DSN(tb testing.TB) string {
	tb.Helper()
	s, err := shared.Server()
	if err != nil {
		tb.Fatalf("mariatest: %v", err)
	}
	return s.database(tb)
}

// Start starts a server for this test alone, with settings of mariadbd such as "max_connections=10", and returns the
// data source name of a database on it. It is stopped when the test ends.
func Start(tb testing.TB, settings ...string) (dsn string) {
	tb.Helper()
	s, err := start(settings)
	if err != nil {
		tb.Fatalf("mariatest: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Errorf("mariatest: %v", err)
		}
	})
	return s.database(tb)
}

// A server is a running MariaDB.
type server struct {
	client string
	login  login

	// Unset for a server that somebody else runs.
	folder  *localserver.Folder
	process *localserver.Process
}

// databases numbers the databases of this process. They start anywhere, because a server that is not started here
// may be used by other processes at the same time.
var databases = func() *atomic.Int64 {
	var n atomic.Int64
	n.Store(rand.Int64N(1<<40) << 20)
	return &n
}()

func (s *server) database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("testdb_%d", databases.Add(1))
	if err := s.administrate("CREATE DATABASE " + name); err != nil {
		tb.Fatalf("mariatest: creating a database: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.administrate("DROP DATABASE IF EXISTS " + name); err != nil {
			tb.Errorf("mariatest: dropping database %s: %v", name, err)
		}
	})
	return s.login.dsn(name)
}

func (s *server) administrate(statement string) error {
	cmd := exec.Command(s.client, "--no-defaults", "--protocol=tcp", "--host="+s.login.host, "--port="+s.login.port,
		"--user="+s.login.user, "--execute="+statement)
	// Not on the command line, which every user of the machine can read.
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+s.login.password)
	if s.folder != nil {
		cmd.Args = append(cmd.Args, "--skip-ssl") // newer clients insist on a certificate that this server lacks
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func find(program string) (path string, err error) {
	dir, ok := localserver.Find([]string{program},
		"/usr/sbin", "/usr/local/sbin", "/usr/libexec", // where Debian and others have servers, and PATH may not
		"/opt/homebrew/opt/mariadb*/bin", "/usr/local/opt/mariadb*/bin", "/home/linuxbrew/.linuxbrew/opt/mariadb*/bin")
	if !ok {
		return "", fmt.Errorf("no %s on this machine: install MariaDB (`make test` does it; "+
			"Debian: `apt-get install mariadb-server`, Homebrew: `brew install mariadb`), or name a running server in "+
			"%s as user:password@tcp(host:port)/", program, Environment)
	}
	return dir + "/" + program, nil
}

func start(settings []string) (*server, error) {
	var programs [3]string
	for i, name := range []string{"mariadb", "mariadb-install-db", "mariadbd"} {
		path, err := find(name)
		if err != nil {
			return nil, err
		}
		programs[i] = path
	}
	client, install, daemon := programs[0], programs[1], programs[2]
	account, err := localserver.Unprivileged("mysql", "nobody")
	if err != nil {
		return nil, err
	}
	folder, err := localserver.NewFolder("mariadb", account, "KILL")
	if err != nil {
		return nil, err
	}
	s := &server{client: client, folder: folder}
	if err := s.start(install, daemon, settings); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *server) start(install, daemon string, settings []string) error {
	accounts, err := s.folder.WriteFile("accounts.sql",
		"CREATE USER IF NOT EXISTS "+user+"@'%' IDENTIFIED BY '"+password+"';\n"+
			"GRANT ALL ON *.* TO "+user+"@'%' WITH GRANT OPTION;\n")
	if err != nil {
		return err
	}
	// Small files, and none of them synchronised with the disk: everything is gone after the tests.
	common := []string{
		"--no-defaults", "--datadir=" + s.folder.Path("data"), "--skip-name-resolve",
		"--debug-no-sync", "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M",
		// A server that starts removes what others may just have in the system's.
		"--tmpdir=" + s.folder.Path(""),
	}
	if err := s.folder.Run(install, append(common, "--auth-root-authentication-method=normal", "--skip-test-db")...); err != nil {
		return err
	}
	return localserver.OnFreePort(func(port int) error {
		s.login = login{user: user, password: password, host: "127.0.0.1", port: fmt.Sprint(port), params: "parseTime=true"}
		args := append(common, "--bind-address=127.0.0.1", "--port="+s.login.port,
			"--socket="+s.folder.Path("socket"), "--init-file="+accounts, "--max-connections=200")
		for _, setting := range settings {
			args = append(args, "--"+setting)
		}
		process, err := s.folder.Start(daemon, args...)
		if err != nil {
			return err
		}
		// Its own word, since a connection might reach another server that took the port.
		ready := func() bool { return strings.Contains(process.Log(), "ready for connections") }
		if err := process.Await(startLimit, ready); err != nil {
			return errors.Join(err, process.Stop(syscall.SIGKILL, startLimit))
		}
		s.process = process
		return nil
	})
}

// remove ends the server for good. There is nothing to keep, so it is not given the time to shut down.
func (s *server) remove() error {
	if s.folder == nil {
		return nil
	}
	var err error
	if s.process != nil {
		err = s.process.Stop(syscall.SIGKILL, startLimit)
	}
	return errors.Join(err, s.folder.Remove())
}

// external is a server that somebody else runs.
func external(named string) (*server, error) {
	l, ok := parse(named)
	if !ok {
		// Without the value, which may hold a password.
		return nil, errors.New(Environment + " is not a data source name: write user:password@tcp(host:port)/")
	}
	client, err := find("mariadb")
	if err != nil {
		return nil, err
	}
	s := &server{client: client, login: l}
	if err := s.administrate("SELECT 1"); err != nil {
		return nil, fmt.Errorf("the server that %s names: %w", Environment, err)
	}
	return s, nil
}
