package handle_test

import (
	"context"
	"database/sql"
	"testing"

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
	lifeguard.Register("given up", srv.Driver(), pooltest.Quiet)
	open := func() *sql.DB {
		db, err := sql.Open("given up", "x?pool_name=shared")
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
