package localserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A Process is a server that has been started. It is for one goroutine at a time.
type Process struct {
	name   string
	cmd    *exec.Cmd
	folder *Folder
	logged int64 // size of the folder's log before the start

	// alive is the reading end of a pipe of which the server and all its descendants hold the writing end: it ends
	// with the last of them. A server's workers can outlive it, and the next one must not start beside them.
	alive *os.File
}

// PID is the number of the server's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

const tick = 5 * time.Millisecond

// Await waits until ready answers true, which is asked every few milliseconds. It returns an error with the server's
// own words when the server ends before, or when it is not ready within limit; the server may be running then.
func (p *Process) Await(limit time.Duration, ready func() bool) error {
	for deadline := time.Now().Add(limit); ; {
		if p.Ended(tick) {
			return p.failure(errors.New("ended before it was ready"))
		}
		if ready() {
			return nil
		}
		if time.Now().After(deadline) {
			return p.failure(fmt.Errorf("not ready within %v", limit))
		}
	}
}

// Ended waits up to limit for the server and everything it has started to end, and says whether they have.
func (p *Process) Ended(limit time.Duration) bool {
	if err := p.alive.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return true // closed by an earlier reap
	}
	_, err := p.alive.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// Stop sends a signal and waits up to limit for the server and everything it has started to end. A server that has
// ended already is no error.
func (p *Process) Stop(signal os.Signal, limit time.Duration) error {
	// The process is not reaped before it has ended, so its number cannot have passed to another by now.
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if !p.Ended(limit) {
		return p.failure(fmt.Errorf("still running %v after signal %v", limit, signal))
	}
	p.reap()
	return nil
}

// reap waits for the end of the server and frees what belongs to it. Its error is that of the server.
func (p *Process) reap() error {
	err := p.cmd.Wait()
	p.alive.Close()
	os.Remove(p.folder.Path("pid"))
	return err
}

// Log is what the server has printed since it was started, the last 16 KiB of it.
func (p *Process) Log() string {
	const most = 16 << 10
	info, err := p.folder.log.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(p.logged, info.Size()-most)
	text, err := io.ReadAll(io.NewSectionReader(p.folder.log, from, info.Size()-from))
	if err != nil {
		return err.Error()
	}
	return strings.ToValidUTF8(string(text), "?")
}

func (p *Process) failure(cause error) error {
	return fmt.Errorf("%s: %w; it printed:\n%s", p.name, cause, strings.TrimSpace(p.Log()))
}
