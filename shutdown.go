package lifeguard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Shutdown closes handles without dropping work. From the moment it is called, new checkouts and those who wait get
// [ErrPoolClosed]; transactions, rows and connections that are in use go on, and the idle ones close. When the last is
// back, the handles are closed as by [database/sql.DB.Close], and Shutdown returns nil.
//
// If ctx ends first, what is left is closed as well, and the error, which matches ctx.Err() with [errors.Is], lists who
// held it. A connection whose socket the pool opened itself, as it does for lib/pq, is cut at once; one of another driver
// closes as soon as the operation that runs on it ends, or its holder next touches it.
//
// A pool that several handles share stays for the others until the last one is closed. Shutdown may be called several
// times, and beside Close; each call waits for the end of the same work. A handle that was not opened through lifeguard
// is an error, and is left alone.
func Shutdown(ctx context.Context, dbs ...*sql.DB) error {
	var errs []error
	var handles []*connector
	for _, db := range dbs {
		if h := handleOf(db); h != nil {
			handles = append(handles, h)
			h.pool.drain(h)
		} else {
			errs = append(errs, errors.New("lifeguard: Shutdown was given a handle that was not opened through lifeguard"))
		}
	}
	for _, h := range handles {
		errs = append(errs, h.pool.await(ctx, h))
	}
	for _, db := range dbs {
		if handleOf(db) != nil {
			// Ends the handle's own goroutine; the pool has been left already.
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Shutdown is [Shutdown] for every handle of the pool, for programs that do not have the handles at hand. The handles
// themselves stay open, and answer with [ErrPoolClosed].
func (p *Pool) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	handles := make([]*connector, 0, len(p.handles))
	for h := range p.handles {
		handles = append(handles, h)
	}
	for h := range p.leaving {
		handles = append(handles, h)
	}
	p.mu.Unlock()
	for _, h := range handles {
		p.drain(h)
	}
	var errs []error
	for _, h := range handles {
		errs = append(errs, p.await(ctx, h))
	}
	return errors.Join(errs...)
}

// handleOf gives the connector behind a handle, nil for a handle of somebody else's.
func handleOf(db *sql.DB) *connector {
	if db == nil {
		return nil
	}
	d, ok := db.Driver().(*poolDriver)
	if !ok {
		return nil
	}
	return d.handle
}

// drain closes a handle to newcomers and has its leases end at their return.
func (p *Pool) drain(h *connector) {
	p.mu.Lock()
	if h.drained == nil {
		h.drained = make(chan struct{})
		if h.out == 0 {
			close(h.drained)
		}
		p.queue.fail(ErrPoolClosed, func(w *waiter) bool { return w.handle == h })
		p.waiting.Store(int32(p.queue.len))
	}
	all := true
	for other := range p.handles {
		all = all && other.drained != nil
	}
	p.mu.Unlock()
	p.recalls.Add(1)
	p.recall(func(l *lease) bool { return l.handle == h })
	if all {
		p.Reset() // nobody is left whom an idle connection could serve
	}
}

// await waits until everything that a handle had is back, or closes it at the end of ctx, and leaves the pool.
func (p *Pool) await(ctx context.Context, h *connector) error {
	var late error
	select {
	case <-h.drained:
	default:
		select {
		case <-h.drained:
		case <-ctx.Done():
			late = p.force(h, ctx.Err())
		}
	}
	return errors.Join(late, p.leave(h))
}

// force closes what a handle still holds, and says what that was; nil if it was nothing after all. A later shutdown whose
// time is up is told the same for as long as any of it goes on.
func (p *Pool) force(h *connector, cause error) error {
	h.forcing.Lock() // another must not find everything doomed already, and nothing said about it
	defer h.forcing.Unlock()
	h.shut.Store(true)
	var held []Holder
	now := p.now()
	for _, s := range *p.sessions.Load() {
		l := s.lease.Load()
		if l == nil || l.handle != h {
			continue
		}
		snapshot, ok := s.holder()
		if !ok || !l.doom() {
			continue
		}
		held = append(held, snapshot.describe(p, now))
		s.cut()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(held) > 0:
		h.late = &shutdownError{pool: p.name, held: held, cause: cause}
	case h.out == 0:
		return nil
	}
	return h.late
}

// doom asks the holder's goroutine, which may be in the middle of anything, to close the connection at its next step;
// false if it has come back. All else that can be done from outside is to close the socket under it.
func (l *lease) doom() bool {
	for !l.atEnd() {
		if l.state.move(leaseHeld, leaseDoomed) || l.state.move(leaseBusy, leaseDoomed) {
			return true
		}
	}
	return false
}

// shutdownError lists what was still in use when a shutdown had to end.
type shutdownError struct {
	pool  string
	held  []Holder
	cause error
}

func (e *shutdownError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lifeguard: shutdown of pool %q: %v, and these were still in use and have been closed:", e.pool, e.cause)
	for i, h := range e.held {
		if i > 0 {
			b.WriteString(";")
		}
		fmt.Fprintf(&b, " held %s", readableDuration(h.Held))
		h.writeTo(&b)
	}
	return b.String()
}

func (e *shutdownError) Unwrap() error { return e.cause }

// writeTo names the holder in an error.
func (h *Holder) writeTo(b *strings.Builder) {
	if f, ok := h.caller(); ok {
		fmt.Fprintf(b, " by %s (%s:%d)", shortFunction(f.Function), path.Base(f.File), f.Line)
	}
	if h.LastQuery != "" {
		fmt.Fprintf(b, ", last query %q", h.LastQuery)
	}
}
