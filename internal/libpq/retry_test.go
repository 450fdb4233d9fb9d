package libpq

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// dialError is how a dial with lib/pq fails.
func dialError(t *testing.T, dsn string) error {
	t.Helper()
	conn, _, err := dial(t.Context(), dsn, SocketOptions{}, false)
	if err == nil {
		_ = conn.Close()
	}
	require.Error(t, err)
	return err
}

func TestRetryableAnswersOfAServer(t *testing.T) {
	dsn := pgtest.DSN(t)
	at := strings.Split(strings.Split(dsn, "@")[1], "/")[0]
	bouncer := bouncertest.Start(t, dsn)
	for _, c := range []struct {
		name, dsn, code string
	}{
		{"wrong password", "postgres://lifeguard:guess@" + at + "/postgres?sslmode=disable", "28P01"},
		{"unknown database", "postgres://lifeguard:secret@" + at + "/nowhere?sslmode=disable", "3D000"},
		{"unknown parameter", with(t, dsn, "no_such_setting", "1"), "42704"},
		{"bad value of a parameter", with(t, dsn, "statement_timeout", "soon"), "22023"},
		{"unknown parameter at a pooler", with(t, bouncer, "no_such_setting", "1"), "08P01"},
		{"wrong password at a pooler", strings.Replace(bouncer, "secret", "guess", 1), "08P01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := dialError(t, c.dsn)
			assert.Equal(t, c.code, Code(err), "%v", err)
			assert.False(t, Retryable(err), "%v", err)
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		err := dialError(t, with(t, dsn, "sslmode", "require"))
		assert.ErrorIs(t, err, pq.ErrSSLNotSupported)
		assert.False(t, Retryable(err))
	})
	t.Run("role of the server", func(t *testing.T) {
		err := dialError(t, with(t, dsn, "target_session_attrs", "standby"))
		assert.ErrorContains(t, err, "server is not in hot standby mode")
		assert.False(t, Retryable(err))
	})
}

// A server that is full, that goes down and that is down will be back.
func TestRetryableComingAndGoing(t *testing.T) {
	server := pgtest.Start(t, "max_connections=3", "superuser_reserved_connections=0")
	var held []driver.Conn
	for range 3 {
		conn, _ := mustDial(t, server.DSN())
		held = append(held, conn)
	}
	full := dialError(t, server.DSN())
	assert.Equal(t, "53300", Code(full), "%v", full)
	assert.True(t, Retryable(full))
	require.NoError(t, held[0].Close())

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.Stop(t, "smart") // waits for those who are connected
	}()
	var leaving error
	for Code(leaving) != "57P03" {
		conn, _, err := dial(t.Context(), server.DSN(), SocketOptions{}, false)
		if leaving = err; err == nil {
			_ = conn.Close()
		} else if code := Code(err); code != "53300" && code != "57P03" {
			t.Fatalf("got %v, want that the server is shutting down", err)
		}
	}
	assert.True(t, Retryable(leaving))
	for _, conn := range held[1:] {
		_ = conn.Close()
	}
	<-stopped
	down := dialError(t, server.DSN())
	assert.ErrorIs(t, down, syscall.ECONNREFUSED)
	assert.True(t, Retryable(down))

	// The error of several hosts: one that is down can be waited for, unless another has said no.
	several := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=1,%d dbname=postgres user=lifeguard password=secret sslmode=disable", server.Port())
	assert.True(t, Retryable(dialError(t, several)))
	server.Start(t)
	err := dialError(t, strings.Replace(several, "secret", "guess", 1))
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Equal(t, "28P01", Code(err))
	assert.False(t, Retryable(err))
	err = dialError(t, several+" target_session_attrs=standby")
	assert.ErrorContains(t, err, "hot standby")
	assert.True(t, Retryable(err), "the standby may be the one that is down")
}

// A listener that does something to each connection.
func listen(t *testing.T, do func(net.Conn)) (dsn string) {
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
	return "postgres://u:p@" + l.Addr().String() + "/d?sslmode=disable"
}

func TestRetryableSockets(t *testing.T) {
	hear := func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)) }
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) { hear(c); _, _ = io.WriteString(c, text) }
	}
	for _, c := range []struct {
		name string
		do   func(net.Conn)
		want any // an error, or a part of its text
		yes  bool
	}{
		{"hangs up", hear, io.EOF, true},
		{"hangs up in a message", say(authenticated + "K\x00"), io.ErrUnexpectedEOF, true},
		{"resets", func(c net.Conn) { hear(c); _ = c.(*net.TCPConn).SetLinger(0) }, syscall.ECONNRESET, true},
		{"cannot start a process", say("Ecould not fork new process for connection: Out of memory\n\x00"), "could not fork", true},
		{"wants another login", say("R\x00\x00\x00\x08\x00\x00\x00\x02"), "pq: unsupported authentication", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := dialError(t, listen(t, c.do))
			switch want := c.want.(type) {
			case error:
				assert.ErrorIs(t, err, want)
			case string:
				assert.ErrorContains(t, err, want)
			}
			assert.Equal(t, c.yes, Retryable(err), "%v", err)
		})
	}
	t.Run("does not answer", func(t *testing.T) {
		heard := make(chan struct{})
		dsn := listen(t, func(c net.Conn) { hear(c); close(heard); hear(c) })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _, err := dial(ctx, dsn, SocketOptions{}, false)
		<-heard
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.True(t, Retryable(err))
	})
	t.Run("does not take connections", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
		defer cancel()
		_, _, err := dial(ctx, "postgres://u:p@127.0.0.1:1/d?sslmode=disable", SocketOptions{}, false)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.True(t, Retryable(err), "%v", err)
	})
	t.Run("is given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := dial(ctx, "postgres://u:p@127.0.0.1:1/d?sslmode=disable", SocketOptions{}, false)
		assert.False(t, Retryable(err), "%v", err)
	})
}

func TestRetryableUnixSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "libpq") // of a name that is short enough for a socket
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	dsn := "host=" + dir + " user=u password=p sslmode=disable"
	missing := dialError(t, dsn)
	assert.ErrorIs(t, missing, fs.ErrNotExist)
	assert.True(t, Retryable(missing), "not there yet")

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, ".s.PGSQL.5432"), Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	left := dialError(t, dsn)
	assert.ErrorIs(t, left, syscall.ECONNREFUSED)
	assert.True(t, Retryable(left), "left by a server that was killed")
}

// certificate makes one for a server that nobody vouches for.
func certificate(t *testing.T) (cert tls.Certificate, certFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"elsewhere"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certFile = filepath.Join(t.TempDir(), "server.crt")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, certFile
}

// listenTLS agrees to TLS, as a server does that is asked for it.
func listenTLS(t *testing.T, cfg *tls.Config) (dsn string) {
	return strings.Replace(listen(t, func(c net.Conn) {
		var request [8]byte
		if _, err := io.ReadFull(c, request[:]); err != nil {
			return
		}
		_, _ = c.Write([]byte("S"))
		s := tls.Server(c, cfg)
		if s.Handshake() == nil {
			_, _ = s.Read(make([]byte, 1000))
		}
	}), "?sslmode=disable", "?", 1)
}

func TestRetryableTLS(t *testing.T) {
	cert, certFile := certificate(t)
	_, otherFile := certificate(t)
	trusting := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	none := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
	alerting := listenTLS(t, &tls.Config{GetCertificate: none})
	wanting := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
	plain := strings.Replace(listen(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 8))
		_, _ = io.WriteString(c, "SHTTP/1.1 400 Bad Request\r\n\r\n")
		_, _ = c.Read(make([]byte, 1000))
	}), "sslmode=disable", "sslmode=require", 1)
	t.Setenv("HOME", t.TempDir())
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		name, dsn, want string
	}{
		{"alert: unrecognized name", alerting + "sslmode=require", "unrecognized name"},
		{"alert: no client certificate", wanting + "sslmode=require", "certificate required"},
		{"unknown authority, verify-full", trusting + "sslmode=verify-full&sslrootcert=" + otherFile, "x509: "},
		{"unknown authority, verify-ca", trusting + "sslmode=verify-ca&sslrootcert=" + otherFile, "x509: "},
		{"another host", trusting + "sslmode=verify-full&sslrootcert=" + certFile, "x509: "},
		{"no TLS after all", plain, "tls: "},
		{"missing root certificate", trusting + "sslmode=verify-ca&sslrootcert=" + missing, "no such file"},
		{"missing key", trusting + "sslmode=require&sslcert=" + certFile + "&sslkey=" + missing, "no such file"},
		{"a certificate for a key", trusting + "sslmode=require&sslcert=" + certFile + "&sslkey=" + certFile, "private key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := dialError(t, c.dsn)
			require.ErrorContains(t, err, c.want)
			assert.False(t, Retryable(err), "%v", err)
			assert.False(t, Retryable(errors.Join(syscall.ECONNREFUSED, err)), "the answer of one of several addresses")
		})
	}
	t.Run("hangs up during the handshake", func(t *testing.T) {
		err := dialError(t, strings.Replace(listen(t, func(c net.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 8))
			_, _ = c.Write([]byte("S"))
			_, _ = c.Read(make([]byte, 1000))
			_ = c.(*net.TCPConn).SetLinger(0)
		}), "sslmode=disable", "sslmode=verify-ca", 1))
		assert.True(t, Retryable(err), "%v", err)
	})
}

// nameServer answers all questions with a code of DNS, or not at all.
func nameServer(t *testing.T, code byte) *net.Resolver {
	s, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1000); ; {
			n, from, err := s.ReadFrom(buf)
			if err != nil {
				return
			}
			if code > 0 {
				buf[2], buf[3] = buf[2]|0x80, buf[3]&0xf0|code
				_, _ = s.WriteTo(buf[:n], from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.LocalAddr().String())
	}}
}

func TestRetryableNames(t *testing.T) {
	deaf := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", "127.0.0.1:1") // refuses
	}}
	for _, c := range []struct {
		name     string
		resolver *net.Resolver
		yes      bool
	}{
		{"no such host", nameServer(t, 3), false},
		{"the name server fails", nameServer(t, 2), true},
		{"the name server does not answer", nameServer(t, 0), true},
		{"the name server is down", deaf, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if !strings.Contains(c.name, "not answer") {
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
			}
			defer cancel()
			d := net.Dialer{Resolver: c.resolver}
			_, err := d.DialContext(ctx, "tcp", "database.example.:5432")
			require.Error(t, err)
			assert.Equal(t, c.yes, Retryable(err), "%v", err)
			assert.Equal(t, c.yes, Retryable(fmt.Errorf("connecting: %w", err)))
		})
	}
}

type mySQLError struct{ Number uint16 }

// MySQLError is named as go-sql-driver/mysql's. With the driver itself, this is tested in ecosystem/drivertest.
type MySQLError mySQLError

func (e *MySQLError) Error() string { return "Error " + strconv.Itoa(int(e.Number)) }

// Errors that a test cannot bring about.
func TestRetryableOthers(t *testing.T) {
	for _, c := range []struct {
		err error
		yes bool
	}{
		{nil, false},
		{errors.New("something else"), false},
		{context.Canceled, false},
		{context.DeadlineExceeded, true},
		{driver.ErrBadConn, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EACCES)}, false},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}, false},
		{&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EAGAIN)}, true},
		{&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}, false},
		{&fs.PathError{Op: "open", Path: "client.key", Err: syscall.ENOENT}, false},
		{&fs.PathError{Op: "open", Path: "client.key", Err: syscall.ECONNREFUSED}, false},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, false},
		{&pq.Error{Code: "08001"}, true},
		{&pq.Error{Code: "08006"}, true},
		{&pq.Error{Code: "08P01"}, false},
		{&pq.Error{Code: "53400"}, true},
		{&pq.Error{Code: "57P01"}, true},
		{&pq.Error{Code: "57014"}, false},
		{fmt.Errorf("dial: %w", &MySQLError{1040}), true},
		{&MySQLError{1203}, true},
		{&MySQLError{1053}, true},
		{&MySQLError{1045}, false},
		{&MySQLError{5300}, false},
		{errors.New("invalid connection"), true},
		{errors.Join(), false},
		// What pgx says with sslmode=prefer of a server without TLS: both attempts together.
		{errors.Join(errors.New("tls error: server refused TLS connection"), &pq.Error{Code: "57P03"}), true},
		{errors.Join(errors.New("tls error: server refused TLS connection"), &pq.Error{Code: "28P01"}), false},
		{errors.Join(syscall.ECONNREFUSED, syscall.ECONNREFUSED), true},
		{fmt.Errorf("%w, %w", syscall.ECONNREFUSED, x509.UnknownAuthorityError{}), false},
	} {
		assert.Equal(t, c.yes, Retryable(c.err), "%v", c.err)
	}
}
