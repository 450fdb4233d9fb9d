package session

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"time"
)

// socketGrace is how much longer than socket_timeout the socket itself waits. Until then the driver can still cancel the
// query on the server; on a connection that is half open it never gets an answer to that.
const socketGrace = 500 * time.Millisecond

// SocketTimeoutError says that socket_timeout ended an operation.
type SocketTimeoutError struct {
	Limit time.Duration
	Err   error // the driver's
}

func (e *SocketTimeoutError) Error() string {
	return fmt.Sprintf("lifeguard: the operation took longer than socket_timeout=%s and its connection was closed: %v", e.Limit, e.Err)
}

// Timeout reports true, as net.Error has it.
func (e *SocketTimeoutError) Timeout() bool { return true }

// Unwrap gives the driver's error, except driver.ErrBadConn. database/sql would answer that by running the operation
// again, which may have been done, and would take socket_timeout once more.
func (e *SocketTimeoutError) Unwrap() error {
	if errors.Is(e.Err, driver.ErrBadConn) {
		return nil
	}
	return e.Err
}

// Is makes the error match context.DeadlineExceeded and ErrSocketTimeout.
func (e *SocketTimeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded || target == ErrSocketTimeout
}

// ErrSocketTimeout matches every error of an operation that socket_timeout ended.
var ErrSocketTimeout = errors.New("lifeguard: an operation took longer than socket_timeout")

// bound is what socket_timeout lays on one operation, rows included. nil bounds nothing.
type bound struct {
	session *Session
	caller  context.Context
	ctx     context.Context // the operation's, if it ends with the bound; nil if only the socket does
	stop    context.CancelFunc
	ends    time.Time
	own     bool // ends is the caller's own deadline
}

// bound bounds an operation by socket_timeout, if there is one and ctx does not end sooner.
func (s *Session) bound(ctx context.Context) (context.Context, *bound) {
	b := s.boundSocket(ctx)
	if b == nil {
		return ctx, nil
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(b.ends) {
		// The driver has that one from ctx, and the socket has to keep it, too. With a second timer for the same moment
		// nothing could tell which of them ended the operation.
		b.ends, b.own = deadline, true
		s.setDeadline(b.ends.Add(socketGrace))
		return ctx, b
	}
	b.ctx, b.stop = context.WithDeadline(ctx, b.ends)
	return b.ctx, b
}

// boundSocket is bound for an operation whose context the driver keeps beyond it, or that has none.
func (s *Session) boundSocket(ctx context.Context) *bound {
	limit := s.cfg.SocketTimeout
	if limit <= 0 {
		return nil
	}
	b := &bound{session: s, caller: ctx, ends: time.Now().Add(limit)}
	s.setDeadline(b.ends.Add(socketGrace))
	return b
}

// end lifts the bound, and says what err means if the bound was reached.
func (b *bound) end(err error) error {
	if b == nil {
		return err
	}
	err, over := b.explain(err)
	if b.stop != nil {
		b.stop()
	}
	if s := b.session; !over && (s.pgx == nil || !s.pgx.IsClosed()) { // pgx sets its own where it ends a connection in the background
		s.setDeadline(time.Time{})
	}
	return err
}

// explain says what err means if the bound was reached, and whether it was. The bound stays: rows that have failed are
// still to be closed, and some drivers read what is left of them.
func (b *bound) explain(err error) (_ error, over bool) {
	if b == nil || err == nil {
		return err, false
	}
	if _, explained := err.(*SocketTimeoutError); explained {
		return err, true
	}
	if (b.ctx == nil || b.ctx.Err() != context.DeadlineExceeded) && time.Now().Before(b.ends) {
		return err, false
	}
	s := b.session
	s.spoiled = true // whatever is still under way on it, nobody may meet it
	if b.own || b.caller.Err() != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The socket kept the caller's deadline for a driver that could not.
			err = fmt.Errorf("%w, and the connection does not answer: %v", cmp.Or(b.caller.Err(), context.DeadlineExceeded), err)
		}
		return err, true
	}
	s.sawEnd = true
	return &SocketTimeoutError{Limit: s.cfg.SocketTimeout, Err: err}, true
}
