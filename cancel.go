package lifeguard

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"io"
	"net"
)

// canceller asks PostgreSQL to cancel what runs on a session when the context of its caller ends.
//
// lib/pq can do that, too, and starts a goroutine for every operation whose context may end, which is nearly all that a
// service does; that of a prepared statement it waits for at the end. Beside a query of fifty microseconds that is a
// fifth of the time. So lib/pq is given a context that does not end, as far as it can see, and the end of the real one is
// noticed with [context.AfterFunc], which costs a goroutine only when it comes.
//
// It belongs to the owner of the session. Only deliver runs on another goroutine, and reads nothing that changes.
type canceller struct {
	pool      *Pool
	request   []byte      // what to send, of PostgreSQL's protocol; nil where lib/pq has to do it
	to        net.Addr    // where
	stop      func() bool // of the operation that is watched; nil if none is
	fresh     bool        // it has begun in the present operation, whose rows are to end it
	hidden    endless
	delivered chan bool // whether the server has done as it was asked; has room for one
	delivery  func()    // deliver, which would have to be made anew each time
}

// endless hides the end of a context.
type endless struct{ context.Context }

func (*endless) Done() <-chan struct{} { return nil }

const cancelRequestCode = 1234<<16 | 5678

// newCanceller gives the canceller of a new session. Without a request it leaves everything to the driver: also where the
// connection is encrypted, as the key for cancelling would have to be, or was not opened by the pool.
func newCanceller(p *Pool, conn driver.Conn, socket net.Conn) (c canceller) {
	if socket == nil || socket.RemoteAddr().String() == "" {
		return c
	}
	pid, key, ok := cancelKey(conn, socket)
	if !ok {
		return c
	}
	r := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	r = binary.BigEndian.AppendUint32(r, cancelRequestCode)
	r = binary.BigEndian.AppendUint32(r, pid)
	c.pool, c.request, c.to = p, append(r, key...), socket.RemoteAddr()
	c.delivered = make(chan bool, 1)
	return c
}

// watch begins to watch ctx for an operation, where there is a request, and gives the context for the driver. If watched
// is true, the session's unwatch follows when the operation has ended, with its rows; if not, ctx is left to the driver.
func (c *canceller) watch(ctx context.Context) (_ context.Context, watched bool) {
	if c.stop != nil || ctx.Done() == nil {
		return ctx, false
	}
	if c.delivery == nil {
		c.delivery = c.deliver
	}
	c.hidden.Context = ctx
	c.stop = context.AfterFunc(ctx, c.delivery)
	return &c.hidden, true
}

// abandon ends the watch on a session that is given up, perhaps with rows that nobody has closed.
func (c *canceller) abandon() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// deliver sends the request over a connection of its own, which the server closes when it has done what it was asked for.
// It is called once for each operation at the most.
func (c *canceller) deliver() {
	arrived := false
	defer func() { c.delivered <- arrived }()
	socket, err := newSocketDialer(c.pool.cfg).DialContext(context.Background(), c.to.Network(), c.to.String())
	if err != nil {
		return // then the operation runs to its end, or into socket_timeout
	}
	defer func() { _ = socket.Close() }()
	if _, err = socket.Write(c.request); err == nil {
		_, err = io.Copy(io.Discard, socket)
	}
	arrived = err == nil
}

// watch is canceller.watch, unless interceptors stand between the session and the rows: they may close them without
// anybody's notice.
func (s *session) watch(ctx context.Context) (_ context.Context, watched bool) {
	if s.cancels.request == nil || s.intercepted != nil {
		return ctx, false
	}
	return s.cancels.watch(ctx)
}

// watchFor is watch for what is done with a statement. lib/pq's COPY is not cancelled like a query.
func (s *session) watchFor(ctx context.Context, k *prepared) (_ context.Context, watched bool) {
	if k.copying {
		return ctx, false
	}
	return s.watch(ctx)
}

// unwatch ends the watch, and says whether the server was asked to cancel the operation. If it was, unwatch waits until that
// has arrived or is given up: what comes next on the session is not to be met by it.
func (s *session) unwatch() (cancelled bool) {
	c := &s.cancels
	if c.stop == nil {
		return false
	}
	cancelled = !c.stop()
	c.stop, c.hidden.Context = nil, nil
	if cancelled && !<-c.delivered {
		s.bad = true // it may still arrive
	}
	return cancelled
}
