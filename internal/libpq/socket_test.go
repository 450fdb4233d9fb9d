package libpq

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// After Settled the context of the dial may end.
func TestDialSettled(t *testing.T) {
	noGoroutines(t)
	ctx, cancel := context.WithCancel(t.Context())
	conn, socket, err := dial(ctx, pgtest.DSN(t), SocketOptions{}, false)
	require.NoError(t, err)
	defer conn.Close()
	cancel()
	assert.NotNil(t, socket)
	value, err := run(t.Context(), conn, "SELECT 1")
	require.NoError(t, err)
	assert.EqualValues(t, 1, value)
}

func TestDialEndsWithItsContext(t *testing.T) {
	noGoroutines(t)
	c, err := NewConnector(pgtest.DSN(t), SocketOptions{}, false)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	ctx, d := WithDial(ended)
	conn, err := c.Connect(ctx)
	require.NoError(t, err)
	cancel()
	socket, ok := d.Settled()
	assert.False(t, ok, "it has ended before")
	d.HangUp()
	_, err = socket.Write(nil)
	assert.ErrorIs(t, err, net.ErrClosed)
	assert.Error(t, conn.Close())
	d.HangUp()
}

// A server that says nothing is not waited for, though lib/pq itself does not look at the context any more.
func TestDialOfASilentServer(t *testing.T) {
	noGoroutines(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := dial(ctx, listen(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1000))
		cancel()
		_, _ = c.Read(make([]byte, 1))
	}), SocketOptions{}, false)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// Other drivers open their sockets themselves.
func TestDialWithoutSocket(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, d := WithDial(ctx)
	cancel()
	socket, ok := d.Settled()
	assert.Nil(t, socket)
	assert.True(t, ok)
	d.HangUp()
}

// lib/pq forgets the socket over which the server refused TLS, and opens another.
func TestDialClosesTheAttemptBefore(t *testing.T) {
	var attempts atomic.Int32
	dsn := strings.Replace(listen(t, func(c net.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Read(make([]byte, 1000))
		if attempts.Add(1) == 1 {
			_, _ = c.Write([]byte("N"))
			_, err := c.Read(make([]byte, 1))
			assert.ErrorIs(t, err, io.EOF, "the socket is closed")
			return
		}
		_, _ = io.WriteString(c, authenticated+backendKey+readyForQuery)
		_, _ = c.Read(make([]byte, 1000))
	}), "sslmode=disable", "sslmode=prefer", 1)
	// The second attempt is accepted when the first has ended.
	conn, _ := mustDial(t, dsn)
	require.NoError(t, conn.Close())
}

func TestNewConnectorRefusesDSNs(t *testing.T) {
	_, err := NewConnector("postgres://localhost/d?sslmode=maybe", SocketOptions{}, false)
	assert.Error(t, err)
}

// spy notes whether a Dial is in the context of each socket, and opens it.
type spy struct {
	*dialer
	opened  chan bool
	sockets chan net.Conn
}

func (s *spy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	_, ok := ctx.Value(dialKey{}).(*Dial)
	c, err := s.dialer.DialContext(ctx, network, address)
	s.opened <- ok
	s.sockets <- c
	return c, err
}

// lib/pq opens the socket of a cancellation in a context of its own, and a deadline from connect_timeout does not prolong it.
func TestCancellationOfTheDriver(t *testing.T) {
	connector, err := pq.NewConnector(with(t, pgtest.DSN(t), "connect_timeout", "1000"))
	require.NoError(t, err)
	s := &spy{&dialer{cancelTimeout: 20 * time.Second}, make(chan bool, 2), make(chan net.Conn, 2)}
	connector.Dialer(s)
	ctx, d := WithDial(t.Context())
	conn, err := connector.Connect(ctx)
	require.NoError(t, err)
	defer conn.Close()
	_, ok := d.Settled()
	require.True(t, ok)
	assert.True(t, <-s.opened)
	_, is := (<-s.sockets).(*net.TCPConn)
	assert.True(t, is)

	ended, cancel := context.WithCancel(ctx) // in which there still is the Dial
	defer cancel()
	rows, err := conn.(driver.QueryerContext).QueryContext(ended, "SELECT generate_series(1, 100000000)", nil)
	require.NoError(t, err)
	row := make([]driver.Value, 1)
	require.NoError(t, rows.Next(row))
	cancel()
	for err == nil {
		err = rows.Next(row)
	}
	_ = rows.Close()
	assert.False(t, <-s.opened)
	c, is := (<-s.sockets).(*cancelSocket)
	require.True(t, is)
	assert.Less(t, time.Until(c.ends), 20*time.Second)
}

func TestCancellationIsBounded(t *testing.T) {
	assert.Equal(t, 2*time.Second, SocketOptions{}.cancelTimeout())
	assert.Equal(t, 500*time.Millisecond, SocketOptions{SocketTimeout: time.Hour}.cancelTimeout())

	heard := make(chan struct{})
	dsn := listen(t, func(c net.Conn) { <-heard })
	d := &dialer{cancelTimeout: 20 * time.Millisecond}
	c, err := d.DialContext(t.Context(), "tcp", strings.Split(strings.Split(dsn, "@")[1], "/")[0])
	require.NoError(t, err)
	for _, later := range []time.Time{{}, time.Now().Add(time.Hour)} {
		require.NoError(t, c.SetDeadline(later))
		require.NoError(t, c.SetReadDeadline(later))
		require.NoError(t, c.SetWriteDeadline(later))
	}
	_, err = c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	close(heard)
	require.NoError(t, c.Close())
	_, err = d.DialTimeout("tcp", "127.0.0.1:1", time.Minute)
	assert.Error(t, err)
}

func TestCancelSocketSooner(t *testing.T) {
	ends := time.Unix(1000, 0)
	c := &cancelSocket{ends: ends}
	assert.Equal(t, ends, c.sooner(time.Time{}))
	assert.Equal(t, ends, c.sooner(ends.Add(1)))
	assert.Equal(t, ends.Add(-1), c.sooner(ends.Add(-1)))
}

// Where TLS is spoken, the key for cancelling must not go over a plain socket.
func TestNoCancellerOverTLS(t *testing.T) {
	cert, _ := certificate(t)
	over := make(chan struct{})
	dsn := listen(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 8))
		_, _ = c.Write([]byte("S"))
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		_, _ = s.Read(make([]byte, 1000))
		_, _ = io.WriteString(s, authenticated+backendKey+readyForQuery)
		<-over
	})
	t.Setenv("HOME", t.TempDir())
	conn, socket := mustDial(t, strings.Replace(dsn, "sslmode=disable", "sslmode=require", 1))
	require.NotNil(t, socket)
	pid, ok := BackendPID(conn)
	assert.True(t, ok)
	assert.EqualValues(t, specimenPID, pid)
	assert.Nil(t, NewCanceller(conn, socket, SocketOptions{}))
	close(over)
}
