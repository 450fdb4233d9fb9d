package libpq

import (
	"context"
	"database/sql/driver"
	"net"
	"net/url"
	"os"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// with gives dsn, a URL, with other parameters; an empty value takes one out.
func with(t *testing.T, dsn string, params ...string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		if params[i+1] == "" {
			q.Del(params[i])
		} else {
			q.Set(params[i], params[i+1])
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// dial connects as the pool does.
func dial(ctx context.Context, dsn string, o SocketOptions, pgBouncer bool) (driver.Conn, net.Conn, error) {
	c, err := NewConnector(dsn, o, pgBouncer)
	if err != nil {
		return nil, nil, err
	}
	ctx, d := WithDial(ctx)
	conn, err := c.Connect(ctx)
	socket, ok := d.Settled()
	if err != nil || !ok {
		d.HangUp()
		if err == nil {
			err = ctx.Err()
		}
		return nil, nil, err
	}
	return conn, socket, nil
}

func mustDial(t *testing.T, dsn string) (driver.Conn, net.Conn) {
	t.Helper()
	conn, socket, err := dial(t.Context(), dsn, SocketOptions{}, false)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, socket
}

// run runs a query to its end and gives the first value of its last row.
func run(ctx context.Context, conn driver.Conn, query string, args ...driver.NamedValue) (value driver.Value, err error) {
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return read(rows)
}

func read(rows driver.Rows) (value driver.Value, err error) {
	row := make([]driver.Value, max(1, len(rows.Columns())))
	for err == nil {
		if err = rows.Next(row); err == nil {
			value = row[0]
		}
	}
	if e := rows.Close(); err.Error() == "EOF" {
		err = e
	}
	return value, err
}

// noGoroutines fails the test if it leaves one behind.
func noGoroutines(t *testing.T) {
	ignored := goleak.IgnoreCurrent()
	t.Cleanup(func() { assert.NoError(t, goleak.Find(ignored)) })
}

// libPQ has different facts known for one test.
func libPQ(t *testing.T, f *facts) {
	before := known
	known = func() *facts { return f }
	t.Cleanup(func() { known = before })
}

type otherConn struct{ driver.Conn }

func TestKindOf(t *testing.T) {
	conn, _ := mustDial(t, pgtest.DSN(t))
	assert.Equal(t, LibPQ, KindOf(conn))
	assert.Equal(t, Other, KindOf(nil))
	assert.Equal(t, Other, KindOf(otherConn{conn}))
	assert.Equal(t, Other, KindOf(&otherConn{conn}))
	assert.Equal(t, "github.com/lib/pq", packageOf(pq.Config{}))
}
