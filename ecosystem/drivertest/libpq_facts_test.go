package drivertest

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// dialWith connects as the pool does, with a driver that opens its sockets itself.
func dialWith(t *testing.T, d driver.DriverContext, dsn string) (driver.Conn, error) {
	t.Helper()
	c, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	ctx, dial := libpq.WithDial(t.Context())
	conn, err := c.Connect(ctx)
	if err != nil {
		dial.HangUp()
		return nil, err
	}
	socket, ok := dial.Settled()
	assert.Nil(t, socket)
	assert.True(t, ok)
	assert.Nil(t, libpq.NewCanceller(conn, socket, libpq.SocketOptions{}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

func TestKindsOfDrivers(t *testing.T) {
	pgx, err := dialWith(t, stdlib.GetDefaultDriver().(driver.DriverContext), pgtest.DSN(t))
	require.NoError(t, err)
	maria, err := dialWith(t, mysql.MySQLDriver{}, mariatest.DSN(t))
	require.NoError(t, err)
	lite, err := new(sqlite.Driver).Open(":memory:")
	require.NoError(t, err)
	defer lite.Close()
	for conn, kind := range map[driver.Conn]libpq.Kind{pgx: libpq.PgxStdlib, maria: libpq.GoMySQL, lite: libpq.Other} {
		assert.Equal(t, kind, libpq.KindOf(conn), "%T", conn)
		_, ok := libpq.BackendPID(conn)
		assert.False(t, ok)
		assert.False(t, libpq.BinaryParameters(conn, "binary_parameters=yes"))
	}
}

func TestStatusOfSQLite(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("CREATE TABLE t (a int UNIQUE); INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)")
	require.Error(t, err)
	assert.Empty(t, libpq.Code(err))
	assert.Equal(t, "2067", libpq.Status(err))
}

// answering is the address of a server that hears something, or not, and does what it is told with each connection.
func answering(t *testing.T, do func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			do(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// failures are dials that fail, with the code or the error that there is, and whether a retry can mend them.
type failures []struct {
	name, dsn string
	code      string
	is        error
	says      string
	yes       bool
}

func (all failures) test(t *testing.T, d driver.DriverContext) {
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			_, err := dialWith(t, d, f.dsn)
			require.Error(t, err)
			assert.Equal(t, f.code, libpq.Code(err), "%v", err)
			assert.ErrorContains(t, err, f.says)
			if f.is != nil {
				assert.ErrorIs(t, err, f.is)
			}
			assert.Equal(t, f.yes, libpq.Retryable(err), "%v", err)
		})
	}
}

func TestRetryablePgx(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	server := pgtest.Start(t, "max_connections=3", "superuser_reserved_connections=0")
	dsn := server.DSN()
	pgx := stdlib.GetDefaultDriver().(driver.DriverContext)
	hear := func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)) }
	agree := func(c net.Conn) {
		hear(c)
		_, _ = c.Write([]byte("S"))
		_ = tls.Server(c, &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		}).Handshake()
	}
	wrong := strings.Replace(dsn, "secret", "guess", 1)
	any := strings.NewReplacer("sslmode=disable", "sslmode=prefer")
	failures{
		{"wrong password", wrong, "28P01", nil, "", false},
		{"wrong password, TLS preferred", any.Replace(wrong), "28P01", nil, "", false},
		{"wrong password beside a host that is down", strings.Replace(wrong, "@", "@127.0.0.1:1,", 1), "28P01", syscall.ECONNREFUSED, "", false},
		{"unknown database", strings.Replace(dsn, "/postgres?", "/nowhere?", 1), "3D000", nil, "", false},
		{"unknown parameter", dsn + "&no_such_setting=1", "42704", nil, "", false},
		{"no TLS", strings.Replace(dsn, "disable", "require", 1), "", nil, "refused TLS", false},
		{"TLS alert", "postgres://u:p@" + answering(t, agree) + "/d?sslmode=require", "", nil, "unrecognized name", false},
		{"missing key", dsn + "&sslcert=/nowhere/crt&sslkey=/nowhere/key&sslmode=require", "", nil, "no such file", false},
		{"hangs up", "postgres://u:p@" + answering(t, hear) + "/d?sslmode=disable", "", io.ErrUnexpectedEOF, "", true},
		{"hangs up, TLS preferred", "postgres://u:p@" + answering(t, hear) + "/d?sslmode=prefer", "", io.EOF, "", true},
		{"no socket file", "host=" + t.TempDir() + " user=u password=p", "", syscall.ENOENT, "", true},
		{"refused", "postgres://u:p@127.0.0.1:1/d", "", syscall.ECONNREFUSED, "", true},
	}.test(t, pgx)
	for range 3 {
		_, err := dialWith(t, pgx, dsn)
		require.NoError(t, err)
	}
	failures{
		{"full", dsn, "53300", nil, "", true},
		{"full, TLS preferred", any.Replace(dsn), "53300", nil, "", true},
	}.test(t, pgx)
}

func TestRetryableMySQL(t *testing.T) {
	dsn := mariatest.Start(t, "max_connections=10")
	cfg, err := mysql.ParseDSN(dsn)
	require.NoError(t, err)
	with := func(change func(*mysql.Config)) string {
		c := cfg.Clone()
		change(c)
		return c.FormatDSN()
	}
	at := func(network, addr string) string {
		return with(func(c *mysql.Config) { c.Net, c.Addr = network, addr })
	}
	failures{
		{"wrong password", with(func(c *mysql.Config) { c.Passwd = "guess" }), "1045", nil, "", false},
		{"unknown database", with(func(c *mysql.Config) { c.DBName = "nowhere" }), "1049", nil, "", false},
		{"hangs up", at("tcp", answering(t, func(net.Conn) {})), "", mysql.ErrInvalidConn, "", true},
		{"no socket file", at("unix", filepath.Join(t.TempDir(), "s")), "", syscall.ENOENT, "", true},
		{"refused", at("tcp", "127.0.0.1:1"), "", syscall.ECONNREFUSED, "", true},
	}.test(t, mysql.MySQLDriver{})

	for range 20 {
		if _, err = dialWith(t, mysql.MySQLDriver{}, dsn); err != nil {
			break
		}
	}
	require.Error(t, err)
	assert.Equal(t, "1040", libpq.Code(err), "%v", err)
	assert.True(t, libpq.Retryable(err))
	assert.EqualError(t, mysql.ErrInvalidConn, "invalid connection", "it is known by its text")

	silent := answering(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	d, err := mysql.MySQLDriver{}.OpenConnector(at("tcp", silent))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.Connect(ctx)
	assert.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	assert.True(t, libpq.Retryable(err), "%v", err)
}
