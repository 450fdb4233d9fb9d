package lifeguard

import (
	"context"
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

// cancelTimeout bounds the second connection over which lib/pq asks the server to cancel a query. lib/pq waits for it
// ten seconds to open and for ever to close, and its caller with it.
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
		if err := c.SetDeadline(deadline); err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	}
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	request.opened(c)
	return c, nil
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

// Unwrap gives the driver's error; Is makes the error match context.DeadlineExceeded, whatever that is.
func (e *socketTimeoutError) Unwrap() error        { return e.err }
func (e *socketTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// bound is what socket_timeout lays on one operation, rows included. nil bounds nothing.
type bound struct {
	session *session
	caller  context.Context
	ctx     context.Context // nil if only the socket is bounded
	stop    context.CancelFunc
	ends    time.Time
}

// bound bounds an operation by socket_timeout, if there is one and ctx does not end sooner.
func (s *session) bound(ctx context.Context) (context.Context, *bound) {
	limit := s.pool.cfg.SocketTimeout
	if limit <= 0 {
		return ctx, nil
	}
	b := &bound{session: s, caller: ctx, ends: time.Now().Add(limit)}
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(b.ends) {
		b.ends = deadline // the caller's own, which the socket has to keep all the same
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
	over := b.ctx != nil && b.ctx.Err() == context.DeadlineExceeded || !time.Now().Before(b.ends)
	if b.stop != nil {
		b.stop()
	}
	if err == nil || !over {
		b.session.setDeadline(time.Time{})
		return err
	}
	// Whatever is still under way on it, nobody is to meet it.
	b.session.bad = true
	if ended := b.caller.Err(); ended != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ended // the socket kept the caller's own deadline for a driver that could not
		}
		return err
	}
	b.session.sawEnd = true
	return &socketTimeoutError{limit: b.session.pool.cfg.SocketTimeout, err: hideBadConn(err)}
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
