package localserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFindPrefersPATHThenTheNewestVersion(t *testing.T) {
	root := t.TempDir()
	install := func(dir string, programs ...string) string {
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			if err := os.WriteFile(filepath.Join(dir, p), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	install("lib/9.6/bin", "serverd", "init")
	newest := install("lib/17/bin", "serverd", "init")
	install("lib/18/bin", "serverd") // half installed
	inPath := install("bin")
	t.Setenv("PATH", inPath)

	find := func() string {
		dir, _ := Find([]string{"serverd", "init"}, filepath.Join(root, "lib/*/bin"))
		return dir
	}
	if got := find(); got != newest {
		t.Errorf("found %q, want %q", got, newest)
	}
	install("bin", "serverd", "init")
	if got := find(); got != inPath {
		t.Errorf("found %q, want %q", got, inPath)
	}
	if dir, ok := Find([]string{"absent"}, filepath.Join(root, "lib/*/bin")); ok {
		t.Errorf("found a program that is nowhere in %q", dir)
	}
}

func TestOnFreePortTriesAnotherWhenTheServerFoundItTaken(t *testing.T) {
	tried := map[int]bool{}
	err := OnFreePort(func(port int) error {
		tried[port] = true
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Errorf("port %d is not free: %v", port, err)
		} else {
			l.Close()
		}
		if len(tried) < 3 {
			return fmt.Errorf("bind: %w", syscall.EADDRINUSE)
		}
		return nil
	})
	if err != nil || len(tried) != 3 {
		t.Errorf("%v after ports %v, want success on the third", err, tried)
	}

	broken, calls := errors.New("broken"), 0
	if err := OnFreePort(func(int) error { calls++; return broken }); err != broken || calls != 1 {
		t.Errorf("%v after %d calls, want another error to be returned at once", err, calls)
	}
}

func folder(t *testing.T) *Folder {
	t.Helper()
	account, err := Unprivileged("postgres", "mysql", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFolder("test", account, "KILL")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(f.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", f.dir, err)
		}
	})
	return f
}

func TestProcess(t *testing.T) {
	f := folder(t)
	if err := f.Run("sh", "-c", "echo out; echo err >&2; exit 3"); err == nil ||
		!strings.Contains(err.Error(), "exit status 3; it printed:\nout\nerr") {
		t.Errorf("got %v, want the status and both outputs", err)
	}

	p, err := f.Start("sh", "-c", "echo this one; exit 1")
	if err != nil {
		t.Fatal(err)
	}
	err = p.Await(time.Minute, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready; it printed:\nthis one") {
		t.Errorf("got %v, want what this process printed, and only that", err)
	}
	if err := p.Stop(syscall.SIGTERM, time.Minute); err != nil {
		t.Errorf("stopping what has ended: %v", err)
	}

	// A worker that lives on after the server counts as the server, and dies of the closed pipe here.
	p, err = f.Start("sh", "-c", "mkfifo gate; { read -r _ <gate; } & : >up; wait")
	if err != nil {
		t.Fatal(err)
	}
	up := func() bool { _, err := os.Stat(f.Path("up")); return err == nil }
	if err := p.Await(time.Minute, up); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(syscall.SIGKILL, 50*time.Millisecond); err == nil {
		t.Error("the server is said to have ended while its worker runs")
	}
	if err := os.WriteFile(f.Path("gate"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(syscall.SIGKILL, time.Minute); err != nil {
		t.Error(err)
	}
}

func TestSharedStartsOnceAndStopsWhatStarted(t *testing.T) {
	var started, stopped int
	s := Shared[int]{
		Start: func() (int, error) { started++; return 7, nil },
		Stop:  func(int) error { stopped++; return nil },
	}
	run := func(tests func() int) int { return s.Run(runner(tests)) }

	if code := run(func() int { return 4 }); code != 4 || started+stopped != 0 {
		t.Errorf("code %d, started %d, stopped %d; want nothing started without need", code, started, stopped)
	}
	run(func() int { s.Server(); s.Server(); return 0 })
	if started != 1 || stopped != 1 {
		t.Errorf("started %d, stopped %d, want each once", started, stopped)
	}
	func() {
		defer func() { _ = recover() }()
		run(func() int { s.Server(); panic("in a test") })
	}()
	if started != 2 || stopped != 2 {
		t.Errorf("after a panic: started %d, stopped %d, want each twice", started, stopped)
	}

	s.Start = func() (int, error) { started++; return 0, errors.New("no server") }
	run(func() int { s.Server(); s.Server(); return 1 })
	if started != 3 || stopped != 2 {
		t.Errorf("after a failed start: started %d, stopped %d, want it tried once and not stopped", started, stopped)
	}
}

type runner func() int

func (r runner) Run() int { return r() }
