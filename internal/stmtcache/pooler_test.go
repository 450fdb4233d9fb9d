package stmtcache

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/bouncertest"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// Where nothing says which process was told to the driver, nothing is kept.
func TestUnknownProcess(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.trusted, r.raw = false, &noPID{}
	for range 3 {
		r.must(q, "exec %")
	}
	k, err := r.Cache.Prepare(t.Context(), q)
	require.NoError(t, err)
	require.NoError(t, k.Close())
	r.took(q, "prepare %", "close %")
	require.NoError(t, r.exec("ALTER TABLE x ADD y int"))
	require.NotZero(t, r.shared.generation.Load(), "other sessions may keep some")
}

type noPID struct{ driver.Conn }

func TestExplain(t *testing.T) {
	for kind, hint := range map[libpq.Kind]bool{libpq.LibPQ: true, libpq.PgxStdlib: true, libpq.GoMySQL: false, libpq.Other: false} {
		c := newRig(t, kind, 10).Cache
		require.NoError(t, c.Explain(nil))
		for _, err := range []error{pgError("26000", "", ""), fmt.Errorf("wrapped: %w", pgError("42P05", "", "")), &stateError{"26000"}} {
			if !hint {
				require.Equal(t, err, c.Explain(err))
				continue
			}
			explained := c.Explain(err)
			require.ErrorContains(t, explained, "pgbouncer=true")
			require.Equal(t, libpq.Code(err), libpq.Code(explained))
		}
		require.NotContains(t, c.Explain(pgError("22P02", "", "")).Error(), "pgbouncer")
		require.NotContains(t, c.Explain(context.Canceled).Error(), "pgbouncer")
	}
	r := newRig(t, libpq.LibPQ, 10)
	require.IsType(t, &pq.Error{}, r.Explain(pgError("26000", "", "")))
	require.NoError(t, r.exec("DEALLOCATE ALL"))
	require.NotContains(t, r.Explain(pgError("26000", "", "")).Error(), "pgbouncer", "the program has done that")
}

type stateError struct{ code string }

func (e *stateError) Error() string    { return "state " + e.code }
func (e *stateError) SQLState() string { return e.code }

// Behind a pooler nothing is kept, whatever its mode, and one warning says so.
func TestBehindPgBouncer(t *testing.T) {
	t.Logf("PgBouncer %s", bouncertest.Version(t))
	for _, settings := range [][]string{{"pool_mode=transaction"}, {"pool_mode=session"}} {
		p := newParty(t, bouncertest.Start(t, pgtest.DSN(t), settings...))
		for range 2 {
			s := p.session()
			for i := range 5 {
				require.Equal(t, fmt.Sprint(i), s.get("SELECT $1::int", i))
			}
			require.Zero(t, s.prepared)
			require.Equal(t, "0", s.keptOn())
		}
		require.Equal(t, 1, strings.Count(p.logged.String(), "a connection pooler stands"), p.logged.String())
	}
}
