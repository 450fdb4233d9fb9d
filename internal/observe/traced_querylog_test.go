package observe_test

import (
	"context"
	"database/sql/driver"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// everything runs one operation of each kind, of which one is slow and one fails.
func everything(t *testing.T, d *traced) {
	_, err := d.ExecContext(d.ctx, "UPDATE t SET name = 'secret' WHERE id = 4711")
	require.NoError(t, err)
	_, err = d.ExecContext(d.ctx, "UPDATE slow SET name = $1", "secret")
	require.NoError(t, err)
	require.NoError(t, readRows(d))
	require.NoError(t, commit(d))
	d.srv.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error { return sqlError{"23505"} })
	_, err = d.ExecContext(d.ctx, "INSERT INTO t VALUES ('secret')")
	require.Error(t, err)
}

func TestQueryLog(t *testing.T) {
	const slow = `level=WARN msg="lifeguard: slow query" pool=fake operation=UPDATE duration=1s wait=0s ` +
		`caller="observe_test.everything in traced_querylog_test.go" query="UPDATE slow SET name = ?"`
	for mode, want := range map[lifeguard.QueryLogMode][]string{
		lifeguard.QueryLogOff:  nil,
		lifeguard.QueryLogSlow: {slow},
		lifeguard.QueryLogAll: {
			`level=DEBUG msg="lifeguard: query" pool=fake operation=CONNECT duration=100ms caller="observe_test.everything in traced_querylog_test.go"`,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=UPDATE duration=0s wait=100ms ` +
				`caller="observe_test.everything in traced_querylog_test.go" query="UPDATE t SET name = ? WHERE id = ?"`,
			slow,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=SELECT duration=0s wait=0s rows=1 ` +
				`caller="observe_test.readRows in traced_test.go" query="SELECT a FROM t"`,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=BEGIN duration=0s wait=0s caller="observe_test.commit in traced_test.go"`,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=COMMIT duration=0s wait=0s caller="observe_test.commit in traced_test.go"`,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=INSERT duration=0s wait=0s error=23505 ` +
				`caller="observe_test.everything in traced_querylog_test.go" query="INSERT INTO t VALUES (?)"`,
		},
	} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openTraced(t, func(c *lifeguard.Config) { c.QueryLog, c.Trace = mode, lifeguard.TraceOff })
				d.srv.OnDial(func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil })
				everything(t, d)
				assert.NotContains(t, d.log.String(), "secret")
				assert.NotContains(t, d.log.String(), "4711")
				assert.Equal(t, want, d.lines())
				assert.Empty(t, d.spans.Ended())
			})
		})
	}
}

// A long wait for a connection is logged as what it is.
func TestQueryLogWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openTraced(t, func(c *lifeguard.Config) { c.QueryLog, c.Trace = lifeguard.QueryLogSlow, lifeguard.TraceOff })
		d.srv.OnDial(func(context.Context) error { time.Sleep(500 * time.Millisecond); return nil })
		_, err := d.ExecContext(d.ctx, "UPDATE t")
		require.NoError(t, err)
		assert.Equal(t, []string{`level=WARN msg="lifeguard: long wait for a connection" pool=fake operation=CONNECT duration=500ms ` +
			`caller="observe_test.TestQueryLogWait.func1 in traced_querylog_test.go"`}, d.lines())
		assert.Zero(t, d.pool.Stats().SlowQueries)
	})
}
