package libpq

import (
	"context"
	"database/sql/driver"
	"net"
	"regexp"
	"sync"
	"time"

	"github.com/lib/pq"
)

// SocketOptions bounds what happens on sockets.
type SocketOptions struct {
	SocketTimeout time.Duration // socket_timeout; with one, a cancellation takes no longer than half a second
	CountSent     bool          // for Sent
}

// cancelTimeout bounds the second connection over which the server is asked to cancel a query. Where lib/pq asks, it waits
// ten seconds for that connection to open and for ever for its end, and its caller with it.
func (o SocketOptions) cancelTimeout() time.Duration {
	if o.SocketTimeout > 0 {
		return 500 * time.Millisecond
	}
	return 2 * time.Second
}

// binaryParametersSet finds the parameter as it is written in a DSN of either form.
var binaryParametersSet = regexp.MustCompile(`(^|[\s?&])binary_parameters\s*=`)

// NewConnector gives lib/pq's connector for dsn. The context of its Connect has to be one of [WithDial]: a socket that is
// opened without is taken for a cancellation, and bounded.
//
// With pgBouncer, binary_parameters is on unless dsn says otherwise. A query with arguments takes lib/pq two round trips
// without it, between which a pooler in transaction mode may change the server connection.
//
// The error may show dsn.
func NewConnector(dsn string, o SocketOptions, pgBouncer bool) (driver.Connector, error) {
	return newConnector(dsn, o, func(cfg *pq.Config) {
		if pgBouncer && !binaryParametersSet.MatchString(dsn) {
			cfg.BinaryParameters = true
		}
	})
}

func newConnector(dsn string, o SocketOptions, adjust func(*pq.Config)) (driver.Connector, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, err
	}
	adjust(&cfg)
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	if known().dials {
		c.Dialer(&dialer{cancelTimeout: o.cancelTimeout(), countSent: o.CountSent})
	}
	return c, nil
}

// dialer opens the sockets of lib/pq's connections, so that the pool can reach them. In a network that swallows packets,
// a read is ended by the deadline of its socket and by nothing else.
type dialer struct {
	net.Dialer
	cancelTimeout time.Duration
	countSent     bool
}

var (
	_ pq.Dialer        = (*dialer)(nil)
	_ pq.DialerContext = (*dialer)(nil)
)

// DialTimeout completes pq.Dialer. lib/pq prefers DialContext.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext opens a socket: for the Dial in ctx, or else for a cancellation of lib/pq's, which has a context of its own.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dial, ok := ctx.Value(dialKey{}).(*Dial)
	if !ok {
		return d.cancellation(ctx, network, address)
	}
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.countSent {
		c = &countingSocket{Conn: c}
	}
	dial.opened(c)
	return c, nil
}

// cancellation opens a socket that ends with cancelTimeout.
func (d *dialer) cancellation(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cancelTimeout)
	defer cancel()
	ends, _ := ctx.Deadline()
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(ends); err != nil {
		_ = c.Close()
		return nil, err
	}
	return &cancelSocket{c, ends}, nil
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

// dialKey marks the context of a dial; its value is the *Dial.
type dialKey struct{}

// A Dial is one attempt to connect. It notes the socket that lib/pq opened for it, and ends it when the context ends:
// lib/pq looks at the context while the socket opens, and no longer while it waits for the server's greeting. Drivers that
// open their sockets themselves leave it empty. It is safe for concurrent use.
type Dial struct {
	ctx context.Context

	mu     sync.Mutex
	socket net.Conn    // guarded by mu; the last one
	stop   func() bool // guarded by mu; ends the watch over ctx
}

// WithDial gives a context for one Connect, and its Dial.
func WithDial(ctx context.Context) (context.Context, *Dial) {
	d := &Dial{ctx: ctx}
	return context.WithValue(ctx, dialKey{}, d), d
}

func (d *Dial) opened(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		d.stop()
		_ = d.socket.Close() // an attempt before this one, which lib/pq leaves open with sslmode=prefer and =allow
	}
	d.socket = c
	d.stop = context.AfterFunc(d.ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// Settled ends the watch over the context when Connect has succeeded, and gives the socket, nil if there is none to reach.
// It is false if the context ended all the same: the connection must not be used.
func (d *Dial) Settled() (net.Conn, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.socket, d.stop == nil || d.stop()
}

// HangUp closes the socket when Connect has failed. A driver that panicked has left it open, and nobody would count it.
func (d *Dial) HangUp() {
	if socket, _ := d.Settled(); socket != nil {
		_ = socket.Close()
	}
}
