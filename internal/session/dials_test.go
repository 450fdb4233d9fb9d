package session_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// brittle is a listener before the server, which at times ends dials in a way of its own.
type brittle struct {
	net.Listener
	breaking atomic.Bool
	serving  sync.WaitGroup
}

// newBrittle stands before the server at that address. While it is breaking, it ends each dial by each.
func newBrittle(t *testing.T, server string, each func(*net.TCPConn)) *brittle {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	b := &brittle{Listener: l}
	b.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.serving.Go(func() {
				defer c.Close()
				if b.breaking.Load() {
					_ = c.SetDeadline(time.Now().Add(5 * time.Second))
					each(c.(*net.TCPConn))
					return
				}
				up, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				b.serving.Go(func() {
					_, _ = io.Copy(c, up)
					_ = c.Close()
				})
				_, _ = io.Copy(up, c)
				_ = up.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.serving.Wait()
	})
	return b
}

// TestDialsThatFail has a listener end dials in ways that lib/pq answers in ways of its own.
func TestDialsThatFail(t *testing.T) {
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	open := func(t *testing.T, params string, each func(*net.TCPConn)) (*sql.DB, *brittle) {
		t.Helper()
		b := newBrittle(t, u.Host, each)
		through := *u
		through.Host = b.Addr().String()
		db, err := lifeguard.Open("postgres", pooltest.AddParams(t, through.String(), params), pooltest.Quiet)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db, b
	}
	t.Run("the driver panics", func(t *testing.T) {
		// A message that is shorter than its own length: what was opened for it must not stay open.
		ended := make(chan error, 100)
		db, b := open(t, "pool_timeout=10", func(c *net.TCPConn) {
			c.Read(make([]byte, 1000))
			c.Write(make([]byte, 8))
			_, err := io.Copy(io.Discard, c)
			ended <- err
		})
		b.breaking.Store(true)
		assert.ErrorContains(t, db.Ping(), "the driver panicked while it opened a connection")
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
			t.Error("the socket of the dial is still open")
		}
	})
	for when, each := range map[string]func(*net.TCPConn){
		"reset before the driver has said anything": func(c *net.TCPConn) { c.SetLinger(0) },
		"reset while the driver logs in": func(c *net.TCPConn) {
			c.Read(make([]byte, 1000))
			c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}) // asks for the password
			c.SetLinger(0)
		},
		"ended while the driver logs in": func(c *net.TCPConn) { c.Read(make([]byte, 1000)) },
	} {
		t.Run(when, func(t *testing.T) {
			// A pool that has never connected says so, as the plain driver does.
			db, b := open(t, "pool_timeout=60", each)
			b.breaking.Store(true)
			for range 5 {
				toldAtOnce(t, db, "")
			}
			// The server of one that had a connection may be on its way up: there is a reason to wait, and to say how long.
			db, b = open(t, "pool_timeout=60", each)
			require.NoError(t, db.Ping())
			b.breaking.Store(true)
			pooltest.PoolOf(t, db).Reset()
			for range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				assert.ErrorIs(t, db.PingContext(ctx), lifeguard.ErrPoolTimeout)
				cancel()
			}
		})
	}
}

// toldAtOnce has a caller hear of a failed dial without a wait. Its error has that text in it.
func toldAtOnce(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	begin := time.Now()
	_, err := db.ExecContext(t.Context(), "SELECT 1")
	require.ErrorContains(t, err, text)
	assert.NotErrorIs(t, err, lifeguard.ErrPoolTimeout)
	assert.Less(t, time.Since(begin), 20*time.Second, "pool_timeout is a minute")
}

// TestFinalDialErrors has a pool with a connection in use fail to open another for reasons that no retry can mend. The
// caller hears of them at once, and the connection goes on.
func TestFinalDialErrors(t *testing.T) {
	dsn := pgtest.DSN(t)
	rotated := newRole(t, dsn)
	secure := newTLSProxy(t, dsn)
	certFile, keyFile := keyPair(t)
	for _, c := range []struct {
		name, dsn string
		spoil     func(t *testing.T)
		text      string
	}{
		{"alert of TLS", secure.dsn(t, dsn), func(*testing.T) { secure.nameless.Store(true) }, "unrecognized name"},
		{"missing key file", pooltest.AddParams(t, secure.dsn(t, dsn), "sslcert="+certFile, "sslkey="+keyFile),
			func(t *testing.T) { require.NoError(t, os.Remove(keyFile)) }, "no such file"},
		{"password rotated", rotated.dsn, func(t *testing.T) { rotated.alter(t, "PASSWORD 'next'") }, "28P01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			secure.nameless.Store(false)
			db, err := lifeguard.Open("postgres", pooltest.AddParams(t, c.dsn, "pool_timeout=60"), pooltest.Quiet)
			require.NoError(t, err)
			defer func() { assert.NoError(t, db.Close()) }()
			held, err := db.Conn(t.Context())
			require.NoError(t, err)
			c.spoil(t)
			for range 3 {
				toldAtOnce(t, db, c.text)
			}
			assert.NoError(t, held.PingContext(t.Context()))
			assert.NoError(t, held.Close())
			assert.NoError(t, db.PingContext(t.Context()), "on the connection that is open")
		})
	}
}

// TestUnknownParameterBehindPooler has PgBouncer refuse a parameter that it does not know, with the code of a protocol
// violation. No retry mends it.
func TestUnknownParameterBehindPooler(t *testing.T) {
	dsn := bouncertest.Start(t, pgtest.DSN(t))
	db, err := lifeguard.Open("postgres", pooltest.AddParams(t, dsn, "pool_timeout=60", "work_mem=4MB"), pooltest.Quiet)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { toldAtOnce(t, db, "08P01") })
	}
	wg.Wait()
	toldAtOnce(t, db, "08P01")
}

// TestDeadlineExplained has a caller's own deadline end its wait, long before pool_timeout. The error says what the
// caller waited for.
func TestDeadlineExplained(t *testing.T) {
	wait := func(t *testing.T, db *sql.DB) *lifeguard.PoolTimeoutError {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "SELECT 1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
		var timeout *lifeguard.PoolTimeoutError
		require.ErrorAs(t, err, &timeout)
		assert.ErrorContains(t, err, "when the caller's deadline passed")
		return timeout
	}
	dsn := pgtest.DSN(t)
	t.Run("full pool", func(t *testing.T) {
		db := pooltest.OpenPostgres(t, "lifeguard", dsn, 1, "pool_timeout=60").DB
		held, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer held.Close()
		timeout := wait(t, db)
		require.Len(t, timeout.Holders, 1)
		assert.ErrorContains(t, timeout, "TestDeadlineExplained")
		assert.NoError(t, timeout.Err)
	})
	t.Run("dead server", func(t *testing.T) {
		tap := pooltest.NewTap(t, dsn)
		db := pooltest.OpenPostgres(t, "lifeguard.Open", tap.DSN, 1, "pool_timeout=60").DB
		require.NoError(t, db.Ping())
		require.NoError(t, tap.Admit(faultproxy.Refuse))
		tap.Cut(faultproxy.RST)
		assert.ErrorContains(t, wait(t, db), "connection refused")
		require.NoError(t, tap.Heal())
	})
	t.Run("no room on the server", func(t *testing.T) {
		role := newRole(t, dsn)
		role.alter(t, "CONNECTION LIMIT 1")
		db, err := lifeguard.Open("postgres", pooltest.AddParams(t, role.dsn, "pool_timeout=60"), pooltest.Quiet)
		require.NoError(t, err)
		defer func() { assert.NoError(t, db.Close()) }()
		held, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer held.Close()
		timeout := wait(t, db)
		assert.True(t, pooltest.IsCode(timeout, "53300"), "%v", timeout)
		assert.ErrorContains(t, timeout, "lower connection_limit, or raise max_connections")
	})
}

// role is one of the server's that the test may change.
type role struct {
	name, dsn string
	admin     *sql.DB
}

// newRole makes a role that is no superuser. The end of the test drops it.
func newRole(t *testing.T, dsn string) *role {
	t.Helper()
	r := &role{name: fmt.Sprintf("role_%d_%d", os.Getpid(), pooltest.Number()), admin: pooltest.OpenControl(t, dsn)}
	_, err := r.admin.Exec("CREATE ROLE " + r.name + " LOGIN PASSWORD 'first'")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := r.admin.Exec("DROP ROLE " + r.name)
		assert.NoError(t, err)
	})
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(r.name, "first")
	r.dsn = u.String()
	return r
}

func (r *role) alter(t *testing.T, how string) {
	t.Helper()
	_, err := r.admin.Exec("ALTER ROLE " + r.name + " " + how)
	require.NoError(t, err)
}

// keyPair writes a client's certificate and its key into files.
func keyPair(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	require.NoError(t, err)
	self := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(crand.Reader, self, self, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return certFile, keyFile
}
