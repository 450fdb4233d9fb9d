package libpq

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"io"
	"net"
)

// A Canceller asks PostgreSQL to cancel the operation of a connection when the context of its caller ends.
//
// lib/pq can do that, too. But it starts a goroutine for every operation whose context may end, which are nearly all of a
// service's, and with a statement it waits for that goroutine: a fifth of the time of a query of fifty microseconds. So
// lib/pq gets a context that does not seem to end, and [context.AfterFunc] notices the end of the real one.
//
// It belongs to the owner of the connection. Only deliver runs on another goroutine, and reads nothing that changes. A nil
// Canceller watches nothing.
type Canceller struct {
	request   []byte // of PostgreSQL's protocol
	to        net.Addr
	dialer    dialer
	stop      func() bool // of the operation under watch; nil if there is none
	hidden    endless
	delivered chan bool // whether the server has done as it was asked; has room for one
	delivery  func()    // deliver; as a method value it would be allocated for each operation
}

// endless hides the end of a context.
type endless struct{ context.Context }

func (*endless) Done() <-chan struct{} { return nil }

const cancelRequestCode = 1234<<16 | 5678

// NewCanceller gives the canceller of a new connection, opened over socket. It is nil where cancelling is left to the
// driver: it is not lib/pq, or the connection is encrypted, as the key for cancelling would have to be, or socket is nil.
func NewCanceller(conn driver.Conn, socket net.Conn, o SocketOptions) *Canceller {
	if socket == nil || socket.RemoteAddr() == nil || socket.RemoteAddr().String() == "" {
		return nil
	}
	pid, key, ok := cancelKey(conn, socket)
	if !ok {
		return nil
	}
	r := binary.BigEndian.AppendUint32(nil, uint32(12+len(key)))
	r = binary.BigEndian.AppendUint32(r, cancelRequestCode)
	r = binary.BigEndian.AppendUint32(r, pid)
	c := &Canceller{
		request: append(r, key...), to: socket.RemoteAddr(), dialer: dialer{cancelTimeout: o.cancelTimeout()},
		delivered: make(chan bool, 1),
	}
	c.delivery = c.deliver
	return c
}

// Watch begins to watch ctx for an operation, and gives the context for the driver, which is valid until Unwatch. If it is
// true, Unwatch has to follow when the operation has ended, with its rows. If not, ctx is left to the driver: it cannot
// end, or another operation, whose rows are open, is under watch.
func (c *Canceller) Watch(ctx context.Context) (context.Context, bool) {
	if c == nil || c.stop != nil || ctx.Done() == nil {
		return ctx, false
	}
	c.hidden.Context = ctx
	c.stop = context.AfterFunc(ctx, c.delivery)
	return &c.hidden, true
}

// Unwatch ends the watch. It says whether the server was asked to cancel the operation, and whether the request arrived:
// it waits for that, because the request must not meet the next operation. One that has not arrived within its time may
// still do so, and the connection must not be used again.
func (c *Canceller) Unwatch() (cancelled, arrived bool) {
	if c == nil || c.stop == nil {
		return false, false
	}
	cancelled = !c.stop()
	c.stop, c.hidden.Context = nil, nil
	return cancelled, cancelled && <-c.delivered
}

// Abandon ends the watch on a connection that is given up, perhaps with rows that nobody has closed. It does not wait.
func (c *Canceller) Abandon() {
	if c != nil && c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// deliver sends the request over a connection of its own, which the server closes when it has passed the request on.
// context.AfterFunc runs it at most once for each Watch, and it ends with the cancellation's timeout.
func (c *Canceller) deliver() {
	arrived := false
	defer func() { c.delivered <- arrived }()
	socket, err := c.dialer.cancellation(context.Background(), c.to.Network(), c.to.String())
	if err != nil {
		return // the operation runs to its end, or into socket_timeout
	}
	defer func() { _ = socket.Close() }()
	if _, err = socket.Write(c.request); err == nil {
		_, err = io.Copy(io.Discard, socket)
	}
	arrived = err == nil
}
