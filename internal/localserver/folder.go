package localserver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Folder is a temporary folder for one server, together with a watcher that outlives the test process just long
// enough to end what runs in the folder and to delete it.
//
// The watcher waits for the end of a pipe of which this process alone holds the writing end. The operating system
// closes it however this process ends: return, panic, os.Exit, the timeout of go test, or kill -9. The alternative of
// Linux, PR_SET_PDEATHSIG, does not exist elsewhere, and fires when the starting *thread* ends.
type Folder struct {
	dir      string
	account  *Account
	log      *os.File
	watcher  *exec.Cmd
	lifeline *os.File
}

// watch is run by sh with the folder and the name of a signal. The process named in the pid file is sent that signal
// and gets five seconds. Processes that it has started may still be writing, so deleting may take several attempts.
const watch = `
read -r _
cd /
if pid=$(cat "$1/pid"); then
	kill -s "$2" "$pid"
	n=0
	while kill -0 "$pid" && [ $n -lt 50 ]; do n=$((n + 1)); sleep 0.1; done
	kill -s KILL "$pid"
fi
n=0
until rm -rf "$1" || [ $n -ge 50 ]; do n=$((n + 1)); sleep 0.1; done
`

// run is run by sh with a command. The process writes its own number before it becomes the server, which leaves no
// moment in which a server runs that the watcher does not know.
const run = `echo $$ >pid && exec "$@"`

// NewFolder makes a folder that belongs to account, nil being the account of this process. Should this process end
// before Remove, what runs in the folder is sent quit, for example "QUIT" or "KILL".
func NewFolder(name string, account *Account, quit string) (*Folder, error) {
	dir, err := os.MkdirTemp(temporary(account), "lifeguard-"+name+"-")
	if err != nil {
		return nil, err
	}
	f := &Folder{dir: dir, account: account}
	if err := f.open(quit); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return f, nil
}

func (f *Folder) open(quit string) error {
	if err := f.account.own(f.dir); err != nil {
		return err
	}
	log, err := os.OpenFile(f.Path("log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	defer r.Close()
	watcher := f.command(nil, "sh", "-c", watch, "sh", f.dir, quit)
	watcher.Stdin = r
	if err := watcher.Start(); err != nil {
		return errors.Join(err, w.Close(), log.Close())
	}
	f.log, f.watcher, f.lifeline = log, watcher, w
	return nil
}

// Path is the absolute path of a file in the folder.
func (f *Folder) Path(name string) string { return filepath.Join(f.dir, name) }

// WriteFile writes a file into the folder that only the folder's account can read, and returns its path.
func (f *Folder) WriteFile(name, content string) (string, error) {
	path := f.Path(name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return "", err
	}
	return path, f.account.own(path)
}

// Run runs a program to its end; an error holds what it printed. Nothing else may run in the folder.
func (f *Folder) Run(program string, args ...string) error {
	p, err := f.Start(program, args...)
	if err != nil {
		return err
	}
	if err := p.reap(); err != nil {
		return p.failure(err)
	}
	return nil
}

// Start starts a server, which must stay in the foreground. Nothing else may run in the folder.
func (f *Folder) Start(program string, args ...string) (*Process, error) {
	info, err := f.log.Stat()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := f.command(f.account, "sh", append([]string{"-c", run, "sh", program}, args...)...)
	cmd.Stdout, cmd.Stderr = f.log, f.log
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &Process{name: filepath.Base(program), cmd: cmd, alive: r, folder: f, logged: info.Size()}, nil
}

// Remove deletes the folder, by the same way as the end of this process does. The server in it should have been
// stopped; it is killed otherwise.
func (f *Folder) Remove() error {
	return errors.Join(f.log.Close(), f.lifeline.Close(), f.watcher.Wait())
}

// command prepares a program that runs in the folder. It gets a session of its own, so that an
// interrupt typed at the terminal reaches the test process and not the server, which still has to be stopped in order.
func (f *Folder) command(account *Account, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = f.dir
	cmd.Env = append(environment(), "HOME="+f.dir, "LC_ALL=C")
	cmd.SysProcAttr = account.attributes()
	return cmd
}

// environment is that of this process without what configures database servers and their clients, and without the
// locale, which would translate the messages that are read here.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		foreign := false
		for _, prefix := range []string{"PG", "MYSQL", "MARIADB", "LC_", "LANG", "HOME="} {
			foreign = foreign || strings.HasPrefix(v, prefix)
		}
		if !foreign {
			env = append(env, v)
		}
	}
	return env
}

// temporary is the folder for temporary files: TMPDIR, or one in memory if there is room, where a server that makes and drops
// many databases works a fifth faster. It is /tmp when the account could not reach that one.
func temporary(account *Account) string {
	dir := os.TempDir()
	if m := memory(); m != "" && os.Getenv("TMPDIR") == "" {
		dir = m
	}
	if account == nil {
		return dir
	}
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}
