package pgtest

import (
	"database/sql/driver"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// A Server is a running PostgreSQL. Its role lifeguard, password secret, is a superuser; wrong passwords are refused.
// Stop, Start, Restart and Kill are for one goroutine at a time.
type Server struct {
	url url.URL

	admin struct { // what administrate runs on
		sync.Mutex
		conn driver.Conn // nil for none
		kept bool        // after a statement
	}

	// The rest is unset for a server that somebody else runs.
	program string
	args    []string
	folder  *localserver.Folder
	process *localserver.Process // nil while stopped
}

const (
	role, password = "lifeguard", "secret"

	// Generous, for machines on which everything else is tested at the same time: they end a hang, nothing waits for
	// them.
	startLimit = time.Minute
	stopLimit  = time.Minute
)

// defaults make a server that is quick, and that loses nothing when it is killed. What is not written out by fsync is
// still written, and only a crash of the machine would lose it. Asynchronous commits would be faster yet, but a killed
// server forgets the last of them, and tests that count acknowledged rows would be wrong about lifeguard.
var defaults = []string{
	"listen_addresses=127.0.0.1",
	"unix_socket_directories=",
	"max_connections=200",
	"fsync=off",
	"wal_level=minimal",
	"max_wal_senders=0",
	"shared_buffers=64MB",
	"max_wal_size=256MB", // the folder may be in memory
	// Shared memory that is a file in the data folder does not outlive a killed server.
	"dynamic_shared_memory_type=mmap",
}

// template is a data folder as initdb leaves it, from which all servers of this process start: copying takes a tenth of
// the time.
var template struct {
	sync.Mutex
	folder *localserver.Folder
}

// templateDataLocked returns the template's data folder, made on first use.
func templateDataLocked(bin string, account *localserver.Account) (string, error) {
	if template.folder != nil {
		return template.folder.Path("data"), nil
	}
	folder, err := localserver.NewFolder("initdb", account, "KILL")
	if err != nil {
		return "", err
	}
	secret, err := folder.WriteFile("password", Verifier(password))
	if err == nil {
		err = folder.Run(filepath.Join(bin, "initdb"), "-D", folder.Path("data"), "-U", role, "--pwfile", secret,
			"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	}
	if err != nil {
		return "", errors.Join(err, folder.Remove())
	}
	template.folder = folder
	return folder.Path("data"), nil
}

func removeTemplate() error {
	template.Lock()
	defer template.Unlock()
	if template.folder == nil {
		return nil
	}
	folder := template.folder
	template.folder = nil
	return folder.Remove()
}

// binaries is the folder of PostgreSQL's programs, with more of them than a server needs.
func binaries(more ...string) (string, error) {
	var folders []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	folders = append(folders,
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	)
	dir, ok := localserver.Find(append([]string{"postgres", "initdb"}, more...), folders...)
	if !ok {
		return "", errors.New("no PostgreSQL server on this machine (postgres and initdb, in PATH or where " +
			"`pg_config --bindir`, Debian and Homebrew have them): install one (`make test` does it; " +
			"Debian: `apt-get install postgresql`, Homebrew: `brew install postgresql@17`), or name a running one in " +
			Environment + " as postgres://user:password@host:port/database")
	}
	return dir, nil
}

func start(settings []string) (*Server, error) { return launch((*Server).initialize, settings) }

// launch starts a server in a new folder, which fill puts the data into. That may need more programs than a server does.
func launch(fill func(s *Server, bin string, account *localserver.Account) error, settings []string, programs ...string) (*Server, error) {
	bin, err := binaries(programs...)
	if err != nil {
		return nil, err
	}
	account, err := localserver.Unprivileged("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	folder, err := localserver.NewFolder("postgres", account, "QUIT")
	if err != nil {
		return nil, err
	}
	s := &Server{program: filepath.Join(bin, "postgres"), folder: folder}
	if err := fill(s, bin, account); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	if err := s.listen(settings); err != nil {
		return nil, err
	}
	return s, nil
}

// listen starts a server for the first time, on a free port. Where it fails the server is removed.
func (s *Server) listen(settings []string) error {
	err := localserver.OnFreePort(func(port int) error {
		s.url = url.URL{
			Scheme:   "postgres",
			User:     url.UserPassword(role, password),
			Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
			Path:     "/postgres",
			RawQuery: "sslmode=disable",
		}
		s.args = []string{"-D", s.folder.Path("data"), "-p", strconv.Itoa(port)}
		for _, setting := range append(defaults, settings...) {
			s.args = append(s.args, "-c", setting)
		}
		return s.start()
	})
	if err != nil {
		return errors.Join(err, s.remove())
	}
	return nil
}

// initialize fills the folder with a copy of the template.
func (s *Server) initialize(bin string, account *localserver.Account) error {
	template.Lock()
	defer template.Unlock()
	data, err := templateDataLocked(bin, account)
	if err != nil {
		return err
	}
	return s.folder.Run("cp", "-R", data, s.folder.Path("data"))
}

// start starts the server and waits until it accepts connections.
func (s *Server) start() error {
	process, err := s.folder.Start(s.program, s.args...)
	if err != nil {
		return err
	}
	ready := func() bool { return s.ready(process.PID()) }
	if err := process.Await(startLimit, ready); err != nil {
		return errors.Join(err, process.Stop(syscall.SIGKILL, stopLimit))
	}
	s.process = process
	return nil
}

// ready reads what the server says in its lock file, as pg_ctl does. A connection would be no proof: another server may
// have taken the port. The process number tells this server's file from the one that a killed server left.
func (s *Server) ready(pid int) bool {
	const statusLine = 8
	lock, err := os.ReadFile(s.folder.Path("data/postmaster.pid"))
	lines := strings.Split(string(lock), "\n")
	return err == nil && len(lines) >= statusLine &&
		lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[statusLine-1]) == "ready"
}

// stop sends a signal to a running server and waits for its end.
func (s *Server) stop(signal syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	err := s.process.Stop(signal, stopLimit)
	if err == nil {
		s.process = nil
	}
	return err
}

func (s *Server) running() bool { return s.folder == nil || s.process != nil }

// remove ends the server for good.
func (s *Server) remove() error {
	s.admin.Lock()
	defer s.admin.Unlock()
	err := s.dismissLocked()
	if s.folder == nil {
		return err
	}
	return errors.Join(err, s.stop(syscall.SIGQUIT), s.folder.Remove())
}

// DSN returns the URL of the server's own database, postgres. Tests that create tables use Database.
func (s *Server) DSN() string { return s.url.String() }

// Host returns the address that the server listens on.
func (s *Server) Host() string { return s.url.Hostname() }

// Port returns the TCP port that the server listens on, the same after each restart.
func (s *Server) Port() int {
	port, err := strconv.Atoi(s.url.Port())
	if err != nil {
		return 5432
	}
	return port
}

// Stop stops the server in a mode of pg_ctl: "smart" waits for all clients to leave, "fast" disconnects them, and
// "immediate" ends all at once, as a crash does.
func (s *Server) Stop(tb testing.TB, mode string) {
	tb.Helper()
	s.ours(tb)
	signals := map[string]syscall.Signal{
		"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT,
	}
	signal, ok := signals[mode]
	if !ok {
		tb.Fatalf("pgtest: unknown mode %q: want smart, fast or immediate", mode)
	}
	if err := s.stop(signal); err != nil {
		tb.Fatalf("pgtest: stopping the server: %v", err)
	}
}

// Start starts a server again that was stopped or killed, on the same port, and returns when it accepts connections.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.ours(tb)
	if s.process != nil {
		return
	}
	if err := s.start(); err != nil {
		tb.Fatalf("pgtest: starting the server again: %v", err)
	}
}

// Restart stops the server in a mode of Stop and starts it again on the same port.
func (s *Server) Restart(tb testing.TB, mode string) {
	tb.Helper()
	s.Stop(tb, mode)
	s.Start(tb)
}

// Kill kills the server's main process with SIGKILL, and returns when the others, which notice it when they next wait
// for something, have ended as well.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.ours(tb)
	if err := s.stop(syscall.SIGKILL); err != nil {
		tb.Fatalf("pgtest: killing the server: %v", err)
	}
}

func (s *Server) ours(tb testing.TB) {
	tb.Helper()
	if s.folder == nil {
		tb.Fatalf("pgtest: the server that %s names is not for tests to stop: use pgtest.Start", Environment)
	}
}
