package lifeguard

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/lib/pq"
)

// socketGrace is how much longer than socket_timeout the socket itself waits. Up to socket_timeout the driver has a
// chance to cancel the query on the server; on a connection that is only half open it never gets an answer to that.
const socketGrace = 500 * time.Millisecond

// cancelTimeout bounds the second connection over which the server is asked to cancel a query. Where lib/pq does that, it
// waits for it ten seconds to open and for ever to close, and its caller with it.
const cancelTimeout = 2 * time.Second

// socketDialer opens the sockets of lib/pq's connections, so that the pool can reach them: a read that hangs in a
// network that swallows packets is ended by the socket's deadline and by nothing else.
type socketDialer struct {
	net.Dialer
	cancelTimeout time.Duration
}

func newSocketDialer(cfg Config) *socketDialer {
	d := &socketDialer{cancelTimeout: cancelTimeout}
	if cfg.SocketTimeout > 0 {
		d.cancelTimeout = socketGrace // a caller waits no longer for the cancellation than for the socket
	}
	return d
}

// DialTimeout completes pq.Dialer. lib/pq prefers DialContext.
func (d *socketDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext opens a socket: for a dial of the pool's, or else for a cancellation.
func (d *socketDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	request, ok := ctx.Value(dialKey{}).(*dialRequest)
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, d.cancelTimeout)
		defer cancel()
		deadline, _ := ctx.Deadline()
		c, err := d.Dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		cancellation := &cancelSocket{c, deadline}
		if err := cancellation.SetDeadline(deadline); err != nil {
			_ = c.Close()
			return nil, err
		}
		return cancellation, nil
	}
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	request.opened(c)
	return c, nil
}

// cancelSocket is the socket of a cancellation. Its deadline can only be brought forward: lib/pq sets one from
// connect_timeout, however long that is.
type cancelSocket struct {
	net.Conn
	ends time.Time
}

func (c *cancelSocket) SetDeadline(t time.Time) error     { return c.Conn.SetDeadline(c.sooner(t)) }
func (c *cancelSocket) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(c.sooner(t)) }
func (c *cancelSocket) SetWriteDeadline(t time.Time) error {
	return c.Conn.SetWriteDeadline(c.sooner(t))
}

func (c *cancelSocket) sooner(t time.Time) time.Time {
	if t.IsZero() || t.After(c.ends) {
		return c.ends
	}
	return t
}

var (
	_ pq.Dialer        = (*socketDialer)(nil)
	_ pq.DialerContext = (*socketDialer)(nil)
)

// socketTimeoutError says that an operation was ended by socket_timeout.
type socketTimeoutError struct {
	limit time.Duration
	err   error
}

func (e *socketTimeoutError) Error() string {
	return fmt.Sprintf("lifeguard: the operation took longer than socket_timeout=%s and its connection was closed: %v",
		readableDuration(e.limit), e.err)
}

// Timeout reports true, as net.Error has it.
func (e *socketTimeoutError) Timeout() bool { return true }

// Unwrap gives the driver's error, except driver.ErrBadConn: database/sql would answer that by running the operation
// again, which may have been done, and would take socket_timeout once more.
func (e *socketTimeoutError) Unwrap() error {
	if errors.Is(e.err, driver.ErrBadConn) {
		return nil
	}
	return e.err
}

// Is makes the error match context.DeadlineExceeded, whatever the driver's error is.
func (e *socketTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// bound is what socket_timeout lays on one operation, rows included. nil bounds nothing.
type bound struct {
	session *session
	caller  context.Context
	ctx     context.Context // the operation's, if it ends with the bound; nil if only the socket does
	stop    context.CancelFunc
	ends    time.Time
	own     bool // ends is the caller's own deadline
}

// bound bounds an operation by socket_timeout, if there is one and ctx does not end sooner.
func (s *session) bound(ctx context.Context) (context.Context, *bound) {
	limit := s.pool.cfg.SocketTimeout
	if limit <= 0 {
		return ctx, nil
	}
	b := &bound{session: s, caller: ctx, ends: time.Now().Add(limit)}
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(b.ends) {
		// The driver has that one from ctx, but the socket has to keep it, too. With a second timer for the same moment
		// nobody could tell which of them ended the operation.
		b.ends, b.own = deadline, true
		s.setDeadline(b.ends.Add(socketGrace))
		return ctx, b
	}
	b.ctx, b.stop = context.WithDeadline(ctx, b.ends)
	s.setDeadline(b.ends.Add(socketGrace))
	return b.ctx, b
}

// boundSocket is bound for an operation whose context the driver keeps beyond it, as that of a transaction, or which
// has none.
func (s *session) boundSocket(ctx context.Context) *bound {
	limit := s.pool.cfg.SocketTimeout
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
	if !over {
		b.session.setDeadline(time.Time{})
	}
	return err
}

// explain says what err means if the bound was reached, and whether it was. The bound stays: rows that have failed are
// still to be closed, for which some drivers read what is left of them.
func (b *bound) explain(err error) (_ error, over bool) {
	if b == nil || err == nil {
		return err, false
	}
	if _, explained := err.(*socketTimeoutError); explained {
		return err, true
	}
	if (b.ctx == nil || b.ctx.Err() != context.DeadlineExceeded) && time.Now().Before(b.ends) {
		return err, false
	}
	// Whatever is still under way on it, nobody is to meet it.
	b.session.bad = true
	if b.own || b.caller.Err() != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The socket kept the caller's deadline for a driver that could not.
			err = fmt.Errorf("%w, and the connection does not answer: %v", cmp.Or(b.caller.Err(), context.DeadlineExceeded), err)
		}
		return err, true
	}
	b.session.sawEnd = true
	return &socketTimeoutError{limit: b.session.pool.cfg.SocketTimeout, err: err}, true
}

// pingTimeout is how long a connection that may be dead has for an answer. One that needs longer takes longer to find out
// about than to replace.
const pingTimeout = 2 * time.Second

// ping asks a connection that may be dead for an answer, in the time of a caller who waits until patience, on the pool
// clock, or for as long as it takes if that is 0. Half of what is left to him is kept for what comes after a
// connection that does not answer.
func (s *session) ping(ctx context.Context, patience int64) error {
	p := s.pool
	limit := pingTimeout
	if patience != 0 {
		limit = min(limit, time.Duration(patience-p.now())/2)
	}
	if t := p.cfg.SocketTimeout; t > 0 {
		limit = min(limit, t)
	}
	asked, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// The end of a context alone does not end lib/pq's ping.
	stop := context.AfterFunc(asked, func() { s.setDeadline(time.Unix(1, 0)) })
	err := s.pinger.Ping(asked)
	switch {
	case stop():
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	err = &connectError{text: fmt.Sprintf("a connection to %s that was open has not answered within %s",
		p.target.PoolName(), readableDuration(limit))}
	p.silent(err)
	return err
}

func (s *session) setDeadline(t time.Time) {
	if s.socket == nil {
		return
	}
	// A socket that cannot take a deadline is closed already, which the operation finds out by itself.
	_ = s.socket.SetDeadline(t)
}

// cut ends what runs on the session, from outside: nothing else of a connection may be touched while it is used.
// It says whether it could.
func (s *session) cut() bool {
	if s.socket == nil {
		return false
	}
	return s.socket.Close() == nil
}
