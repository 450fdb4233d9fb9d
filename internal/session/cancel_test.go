package session_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"io"
	"math/big"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// watchedByDriver counts lib/pq's goroutines that wait for the end of a context.
func watchedByDriver() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "pq.(*conn).watchCancel.func1(") +
		strings.Count(string(buf[:runtime.Stack(buf, true)]), "pq.(*stmt).watchCancel.func1(")
}

// cancellations are operations that sleep on the server until they are cancelled.
var cancellations = []struct {
	name string
	run  func(ctx context.Context, db *sql.DB) error
}{
	{"exec", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "SELECT pg_sleep(60)")
		return err
	}},
	{"exec with an argument", func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, "SELECT pg_sleep($1)", 60)
		return err
	}},
	{"query", func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT pg_sleep(60)").Scan(new(string))
	}},
	{"query with an argument", func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT pg_sleep($1)", 60).Scan(new(string))
	}},
	{"prepared", func(ctx context.Context, db *sql.DB) error {
		st, err := db.PrepareContext(ctx, "SELECT pg_sleep($1)")
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx, 60)
		return err
	}},
	{"rows", func(ctx context.Context, db *sql.DB) error {
		// More than fits between the server and the reader, so that it is the rows that are cancelled.
		rows, err := db.QueryContext(ctx, "SELECT CASE WHEN n < $1 THEN repeat('x', 1000000) ELSE pg_sleep(60)::text END "+
			"FROM generate_series(1, $1) n", 20)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		return rows.Err()
	}},
}

// sleeping says whether a query of the client sleeps on the server.
func sleeping(t *testing.T, c *pooltest.Client) (is bool) {
	require.NoError(t, c.Server.QueryRow("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 "+
		"AND state = 'active' AND wait_event = 'PgSleep')", c.Application).Scan(&is))
	return is
}

// The pool cancels queries whose context ends, and needs no goroutine to wait for that; plain lib/pq, beside it, does.
func TestCancelledByPool(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, c := range []struct {
		driver  string
		watched int
	}{{"postgres", 1}, {"lifeguard", 0}} {
		for _, op := range cancellations {
			t.Run(c.driver+"/"+op.name, func(t *testing.T) {
				tap := pooltest.NewTap(t, dsn)
				client := pooltest.OpenPostgres(t, c.driver, tap.DSN, 1)
				for range 2 { // a text is kept from the second time on
					ctx, cancel := context.WithCancel(t.Context())
					failed := make(chan error, 1)
					go func() { failed <- op.run(ctx, client.DB) }()
					pooltest.Eventually(t, "the query sleeps", func() bool { return sleeping(t, client) })
					// Those of queries before this one may still be about to end.
					pooltest.Eventually(t, "goroutines of the driver", func() bool { return watchedByDriver() == c.watched })
					before := tap.Counts().Cancels
					cancel()
					assert.True(t, pooltest.WasCancelled(<-failed))
					pooltest.Eventually(t, "one request to cancel", func() bool { return tap.Counts().Cancels == before+1 })
				}
				var one int
				require.NoError(t, client.QueryRow("SELECT 1").Scan(&one))
			})
		}
	}
}

// The end of a context after its operation cancels nothing, whatever runs on the connection then.
func TestEndOfContextAfterwards(t *testing.T) {
	tap := pooltest.NewTap(t, pgtest.DSN(t))
	client := pooltest.OpenPostgres(t, "lifeguard", tap.DSN, 1)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		for _, query := range []func() error{
			func() error { return client.QueryRowContext(ctx, "SELECT 1").Scan(new(int)) },
			func() error { return client.QueryRowContext(ctx, "SELECT $1::int", 1).Scan(new(int)) },
			func() error { _, err := client.ExecContext(ctx, "SELECT $1::int", 1); return err },
			func() error { _, err := client.ExecContext(ctx, "SELECT 1/$1::int", 0); return ignore(err, "22012") },
			func() error { return ignore(client.QueryRowContext(ctx, "SELECT 1/0").Scan(new(int)), "22012") },
		} {
			require.NoError(t, query())
		}
		cancel()
	}
	assert.Zero(t, tap.Counts().Cancels)
	assert.Equal(t, 1, tap.Counts().Sessions, "and it is one connection all the time")
}

func ignore(err error, code pqerror.Code) error {
	if pooltest.IsCode(err, code) {
		return nil
	}
	return err
}

// A connection that is given up with rows open is not cancelled later on, when their context ends.
func TestEndOfContextOfAbandonedRows(t *testing.T) {
	tap := pooltest.NewTap(t, pgtest.DSN(t))
	client := pooltest.OpenPostgres(t, "lifeguard", tap.DSN, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rows, err := client.QueryContext(ctx, "SELECT generate_series(1, $1::int)", 1_000_000)
	require.NoError(t, err)
	require.True(t, rows.Next())
	over, end := context.WithCancel(t.Context())
	end()
	require.Error(t, lifeguard.Shutdown(over, client.DB), "there are rows")
	for rows.Next() {
	}
	require.Error(t, rows.Err())
	_ = rows.Close()
	cancel()
	assert.Zero(t, tap.Counts().Cancels)
}

// tlsProxy stands before the server and speaks TLS, as PostgreSQL does.
type tlsProxy struct {
	net.Listener
	encrypted, plain atomic.Int64 // connections
	nameless         atomic.Bool  // it has no certificate for anybody, and answers with an alert
	links            sync.WaitGroup
}

// newTLSProxy stands before the server of that DSN.
func newTLSProxy(t *testing.T, dsn string) *tlsProxy {
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(crand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tlsProxy{Listener: l}
	cfg := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if p.nameless.Load() {
			return nil, nil
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}}
	p.links.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.links.Go(func() {
				defer c.Close()
				var request [8]byte
				if _, err := io.ReadFull(c, request[:]); err != nil {
					return
				}
				if request != [8]byte{0, 0, 0, 8, 4, 210, 22, 47} { // SSLRequest
					p.plain.Add(1)
					return
				}
				p.encrypted.Add(1)
				up, err := net.Dial("tcp", u.Host)
				if err != nil {
					return
				}
				defer up.Close()
				_, _ = c.Write([]byte("S"))
				secure := tls.Server(c, cfg)
				p.links.Go(func() {
					_, _ = io.Copy(up, secure)
					_ = up.(*net.TCPConn).CloseWrite()
				})
				_, _ = io.Copy(secure, up)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.links.Wait()
	})
	return p
}

// dsn leads to the server of that DSN through the proxy.
func (p *tlsProxy) dsn(t *testing.T, dsn string) string {
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.Host = p.Addr().String()
	return pooltest.AddParams(t, u.String(), "sslmode=require")
}

// The key with which queries are cancelled goes over an encrypted connection where the query did: there lib/pq cancels.
func TestCancelledEncrypted(t *testing.T) {
	dsn := pgtest.DSN(t)
	proxy := newTLSProxy(t, dsn)
	db, err := sql.Open("lifeguard", proxy.dsn(t, dsn))
	require.NoError(t, err)
	defer db.Close()
	for _, query := range []string{"SELECT pg_sleep(60)", "SELECT pg_sleep($1)"} {
		before := proxy.encrypted.Load()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		var args []any
		if strings.Contains(query, "$") {
			args = append(args, 60)
		}
		_, err = db.ExecContext(ctx, query, args...)
		cancel()
		assert.True(t, pooltest.WasCancelled(err), "%v", err)
		assert.GreaterOrEqual(t, proxy.encrypted.Load(), before+1)
	}
	assert.Zero(t, proxy.plain.Load())
}
