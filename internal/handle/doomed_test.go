package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"testing"

	"github.com/ngrok/sqlmw"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A connection that a shutdown has given up is closed at its return, also where other handles share the pool: its socket
// may be closed already.
func TestGivenUpIsNotReturned(t *testing.T) {
	srv := fakedriver.New()
	name := fmt.Sprint("given up", pooltest.Number())
	lifeguard.Register(name, srv.Driver(), pooltest.Quiet)
	open := func() *sql.DB {
		db, err := sql.Open(name, "x?pool_name=shared")
		require.NoError(t, err)
		return db
	}
	a, b := open(), open()
	defer b.Close()
	other := pooltest.Take(t, b)
	c := pooltest.Take(t, a)
	given := srv.Conns()
	require.Len(t, given, 2)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, lifeguard.Shutdown(ended, a), context.Canceled)
	_ = c.Close()
	pooltest.Eventually(t, "it is closed", func() bool { return srv.Open() == 1 })
	assert.Equal(t, given[:1], srv.Conns())
	assert.NoError(t, other.Close())
}

// closing calls f before each statement closes.
type closing struct {
	sqlmw.NullInterceptor
	f func()
}

func (i closing) StmtClose(_ context.Context, st driver.Stmt) error {
	i.f()
	return st.Close()
}

// A shutdown may give a connection up that lies idle, while a statement closes on it.
func TestGivenUpWhileAStatementCloses(t *testing.T) {
	srv := fakedriver.New()
	begun, goOn := make(chan struct{}), make(chan struct{})
	lifeguard.Register("given up closing", srv.Driver(), pooltest.Quiet, lifeguard.WithInterceptors(closing{f: func() { close(begun); <-goOn }}))
	open := func() *sql.DB {
		db, err := sql.Open("given up closing", "x?pool_name=closing")
		require.NoError(t, err)
		return db
	}
	a, b := open(), open()
	defer b.Close()
	c := pooltest.Take(t, a)
	var lease driver.NamedValueChecker
	require.NoError(t, c.Raw(func(dc any) error { lease = dc.(driver.NamedValueChecker); return nil }))
	require.NoError(t, c.Close())
	lost := func() bool { return lease.CheckNamedValue(&driver.NamedValue{Value: struct{}{}}) == nil }
	require.False(t, lost())
	st, err := a.Prepare("UPDATE t")
	require.NoError(t, err)
	closed := make(chan error)
	go func() { closed <- st.Close() }()
	<-begun
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	go func() { _ = lifeguard.Shutdown(ended, a) }() // whose Close waits for the statement's
	pooltest.Eventually(t, "it is given up", lost)
	close(goOn)
	require.NoError(t, <-closed)
	pooltest.Eventually(t, "it is closed", func() bool { return srv.Open() == 0 })
}

// A connection on which closing a statement has gone wrong is not lent again.
func TestSpoiledByAStatementIsNotLent(t *testing.T) {
	srv := fakedriver.New()
	lifeguard.Register("spoiled", srv.Driver(), pooltest.Quiet, lifeguard.WithInterceptors(closing{f: func() { panic("statement") }}))
	open := func() *sql.DB {
		db, err := sql.Open("spoiled", "x?pool_name=spoiled&connection_limit=1")
		require.NoError(t, err)
		return db
	}
	a, b := open(), open()
	defer a.Close()
	defer b.Close()
	_, err := a.Prepare("UPDATE t")
	require.NoError(t, err)
	c := pooltest.Take(t, b)
	assert.Equal(t, 2, srv.Dials())
	assert.NoError(t, c.Close())
}

// A driver.Conn that is closed twice counts once, so the pool keeps its limit and stays open for the others.
func TestSingleClosedTwice(t *testing.T) {
	srv := fakedriver.New()
	lifeguard.Register("single closed twice", srv.Driver(), pooltest.Quiet)
	db, err := sql.Open("single closed twice", "x")
	require.NoError(t, err)
	defer db.Close()
	open := func() (driver.Conn, error) { return db.Driver().Open("y?connection_limit=2&pool_timeout=100ms") }
	var conns [3]driver.Conn
	for i := range 2 {
		conns[i], err = open()
		require.NoError(t, err)
	}
	assert.NoError(t, conns[0].Close())
	assert.NoError(t, conns[0].Close())
	conns[2], err = open()
	require.NoError(t, err)
	_, err = open()
	assert.ErrorIs(t, err, lifeguard.ErrPoolTimeout)
	assert.LessOrEqual(t, srv.MaxOpen(), 2)
	assert.NoError(t, conns[1].Close())
	assert.NoError(t, conns[2].Close())
}
