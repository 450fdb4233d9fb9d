package pooltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// A Client is a handle on PostgreSQL whose connections the server can tell from others.
type Client struct {
	*sql.DB
	DSN         string
	Application string  // application_name of its connections
	Server      *sql.DB // a plain handle to look at the server with
}

// OpenPostgres opens a handle with at most limit connections. The driver "postgres" gives a plain handle,
// "lifeguard.Open" one of [lifeguard.Open] over the plain driver, and any other name one of sql.Open.
// The end of the test closes it; then the server must have none of its connections left.
func OpenPostgres(t testing.TB, driverName, dsn string, limit int, params ...string) *Client {
	t.Helper()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), Number())
	own := AddParams(t, dsn, append(params, "application_name="+name)...)
	limited := AddParams(t, own, "connection_limit="+strconv.Itoa(limit))
	var db *sql.DB
	var err error
	switch driverName {
	case "postgres":
		db, err = sql.Open(driverName, own)
		require.NoError(t, err)
		db.SetMaxOpenConns(limit)
		db.SetMaxIdleConns(limit)
	case "lifeguard.Open":
		db, err = lifeguard.Open("postgres", limited, Quiet)
	default:
		db, err = sql.Open(driverName, limited)
	}
	require.NoError(t, err)
	return WatchClosing(t, db, name, dsn)
}

// WatchClosing closes db at the end of the test. Then the server must have no connection of that application name left.
func WatchClosing(t testing.TB, db *sql.DB, name, dsn string) *Client {
	t.Helper()
	c := &Client{DB: db, DSN: dsn, Application: name, Server: OpenControl(t, dsn)}
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		Eventually(t, "the server has no connection of "+name, func() bool { return len(c.Backends(t)) == 0 })
	})
	return c
}

// OpenControl opens a plain handle of one connection, to look at the server with.
func OpenControl(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", AddParams(t, dsn, "application_name=control"))
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// AddParams sets parameters, each as "name=value", in the query part of a URL.
func AddParams(t testing.TB, dsn string, params ...string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	q := u.Query()
	for _, p := range params {
		name, value, _ := strings.Cut(p, "=")
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// A Backend is a process of the server that serves a client's connection.
type Backend struct{ pid, ClientPort int }

// Backends returns the client's connections as the server sees them. It lists a closed one until the server has noticed.
func (c *Client) Backends(t testing.TB) []Backend {
	rows, err := c.Server.Query("SELECT pid, client_port FROM pg_stat_activity WHERE application_name = $1", c.Application)
	if !assert.NoError(t, err) {
		return nil
	}
	var all []Backend
	for rows.Next() {
		var b Backend
		assert.NoError(t, rows.Scan(&b.pid, &b.ClientPort))
		all = append(all, b)
	}
	assert.NoError(t, rows.Err())
	return all
}

// Terminate ends all connections of the client on the server and returns when their processes have ended. Until then the
// server takes in statements that it never runs, and plain lib/pq cannot tell. For a server on another machine it
// cannot wait.
func (c *Client) Terminate(t testing.TB) {
	t.Helper()
	all := c.Backends(t)
	for _, b := range all {
		_, err := c.Server.Exec("SELECT pg_terminate_backend($1)", b.pid)
		require.NoError(t, err)
	}
	Eventually(t, "the server has ended the connections", func() bool {
		return len(c.Backends(t)) == 0 && !slices.ContainsFunc(all, func(b Backend) bool {
			process, err := os.FindProcess(b.pid)
			return err == nil && process.Signal(syscall.Signal(0)) == nil
		})
	})
}

// Fill opens n connections and leaves them idle.
func (c *Client) Fill(t testing.TB, n int) {
	t.Helper()
	conns := make([]*sql.Conn, n)
	for i := range conns {
		var err error
		conns[i], err = c.Conn(t.Context())
		require.NoError(t, err)
	}
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	require.Len(t, c.Backends(t), n)
}

// IsCode says whether the server answered with that SQLSTATE.
func IsCode(err error, code pqerror.Code) bool {
	var pqErr *pq.Error
	return errors.As(err, &pqErr) && pqErr.Code == code
}

// WasCancelled covers all answers of plain lib/pq to a context that ends in the middle of a query.
func WasCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || IsCode(err, "57014")
}

// AllSlots checks that no slot was lost: the whole limit can be checked out at once.
func (c *Client) AllSlots(t *testing.T, limit int) {
	t.Helper()
	Settled(t, PoolOf(t, c.DB))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	pids := map[int]bool{}
	for range limit {
		conn, err := c.Conn(ctx)
		require.NoError(t, err)
		defer conn.Close()
		var pid int
		require.NoError(t, conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid))
		pids[pid] = true
	}
	assert.Len(t, pids, limit)
	st := PoolOf(t, c.DB).Stats()
	assert.Equal(t, []int{limit, 0, 0}, []int{st.InUse, st.Idle, st.Waiting})
}
