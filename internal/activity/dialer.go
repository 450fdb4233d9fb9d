package activity

import (
	"context"
	"net"
	"time"

	"github.com/lib/pq"
)

// dialer gives connections whose reads and writes end in time. The end of a context alone does not end lib/pq's wait for
// a server that takes the connection and is silent then.
type dialer struct{}

var (
	_ pq.Dialer        = dialer{}
	_ pq.DialerContext = dialer{}
)

// Dial completes pq.Dialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialTimeout(network, address, timeout)
}

// DialTimeout takes a timeout at most.
func (d dialer) DialTimeout(network, address string, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), min(within, timeout))
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext is what lib/pq calls.
func (dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn{c}, nil
}

type conn struct{ net.Conn }

func (c conn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c conn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
