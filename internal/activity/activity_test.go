package activity_test

import (
	"database/sql"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard/internal/activity"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// named makes the view's own connection known to the server.
const named = "&application_name=view"

func newView(t *testing.T, dsn string) *activity.View {
	t.Helper()
	v, err := activity.New(dsn)
	require.NoError(t, err)
	t.Cleanup(v.Close)
	return v
}

// tooOld is an age at which an answer is not given again.
const tooOld = 500 * time.Millisecond

// hasty is a clock that goes as the machine's does, and jumps.
type hasty struct{ ahead atomic.Int64 }

func (h *hasty) now() time.Time       { return time.Now().Add(time.Duration(h.ahead.Load())) }
func (h *hasty) jump(d time.Duration) { h.ahead.Add(int64(d)) }

// newHastyView is newView with a clock that jumps.
func newHastyView(t *testing.T, dsn string) (*activity.View, *hasty) {
	t.Helper()
	v, clock := newView(t, dsn), &hasty{}
	v.SetClock(clock.now)
	return v, clock
}

// session is a connection beside the view, and its process.
func session(t *testing.T, dsn string) (*sql.Conn, int64) {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	var pid int64
	require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid))
	return conn, pid
}

// once asks anew, and waits for what takes a server a while to show.
func once(t *testing.T, v *activity.View, clock *hasty, shows func(map[int64]activity.Session) bool) map[int64]activity.Session {
	t.Helper()
	var all map[int64]activity.Session
	require.Eventually(t, func() bool {
		clock.jump(tooOld)
		var err error
		all, _, err = v.Sessions()
		return err == nil && shows(all)
	}, 30*time.Second, 10*time.Millisecond)
	return all
}

func TestSessions(t *testing.T) {
	dsn := pgtest.DSN(t)
	first, holder := session(t, dsn+"&application_name=holder")
	second, blocked := session(t, dsn+"&application_name=blocked")
	for _, text := range []string{"CREATE TABLE seats (id int)", "INSERT INTO seats VALUES (1)", "BEGIN", "UPDATE seats SET id = id"} {
		_, err := first.ExecContext(t.Context(), text)
		require.NoError(t, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := second.ExecContext(t.Context(), "UPDATE seats SET id = id")
		done <- err
	}()
	v, clock := newHastyView(t, dsn+named)
	all := once(t, v, clock, func(all map[int64]activity.Session) bool { return len(all[blocked].Blockers) > 0 })
	assert.Equal(t, "idle in transaction", all[holder].State)
	assert.Equal(t, "holder", all[holder].Application)
	assert.Empty(t, all[holder].WaitEvent, "its client is no news")
	assert.Equal(t, "active", all[blocked].State)
	assert.Equal(t, "Lock: transactionid", all[blocked].WaitEvent)
	assert.Equal(t, []int64{holder}, all[blocked].Blockers)
	assert.Positive(t, all[blocked].For)
	assert.GreaterOrEqual(t, all[blocked].Age, all[blocked].For)
	for _, s := range all {
		assert.NotEqual(t, "view", s.Application, "its own is not there")
	}
	_, err := first.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, <-done)
}

// However often it is called, it asks at most twice a second, and on one connection.
func TestAsksTwiceASecond(t *testing.T) {
	dsn := pgtest.DSN(t)
	v := newView(t, dsn+named)
	began := time.Now()
	now := began
	v.SetClock(func() time.Time { return now })
	questions := map[int64]bool{}
	for ; now.Before(began.Add(3 * time.Second)); now = now.Add(100 * time.Millisecond) {
		for range 3 {
			_, asked, err := v.Sessions()
			require.NoError(t, err)
			questions[asked.Sub(began).Milliseconds()] = true
		}
	}
	assert.Equal(t, map[int64]bool{0: true, 500: true, 1000: true, 1500: true, 2000: true, 2500: true}, questions)
	assert.Equal(t, 1, views(t, dsn))
}

// views counts the connections of views on the server.
func views(t *testing.T, dsn string) (n int) {
	t.Helper()
	db, err := sql.Open("postgres", dsn)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'view'").Scan(&n))
	return n
}

// A closed view leaves nothing, and opens again when it is asked.
func TestClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dsn := pgtest.DSN(t)
	v, clock := newHastyView(t, dsn+named)
	v.Close() // of one that was never asked
	for range 2 {
		_, _, err := v.Sessions()
		require.NoError(t, err)
		assert.Equal(t, 1, views(t, dsn))
		v.Close()
		v.Close()
		require.NoError(t, goleak.Find(before))
		require.Eventually(t, func() bool { return views(t, dsn) == 0 }, 10*time.Second, 10*time.Millisecond)
		clock.jump(tooOld)
	}
}

// What is read cannot write: a function of the question's, replaced by one that does, is refused.
func TestReadsOnly(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn, _ := session(t, dsn)
	for _, text := range []string{"CREATE TABLE written (n int)", `CREATE FUNCTION public.pg_backend_pid() RETURNS int LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO written VALUES (1); RETURN 0; END $$`} {
		_, err := conn.ExecContext(t.Context(), text)
		require.NoError(t, err)
	}
	_, _, err := newView(t, dsn+"&search_path=public,pg_catalog").Sessions()
	var refused *pq.Error
	require.ErrorAs(t, err, &refused)
	assert.EqualValues(t, "25006", refused.Code, "read_only_sql_transaction")
}

// A server that falls silent is waited for as long as one that never answers, and those who wait together wait once.
func TestSilentServer(t *testing.T) {
	const patience = 2500 * time.Millisecond // a second for the answer, one for the driver to let go, and a busy machine
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	proxy, err := faultproxy.New(u.Host)
	require.NoError(t, err)
	defer proxy.Close()
	u.Host = proxy.Addr()
	dsn := u.String()
	v, clock := newHastyView(t, dsn+named)
	_, _, err = v.Sessions()
	require.NoError(t, err)
	proxy.Lose(faultproxy.ToClient)
	proxy.LoseNew(faultproxy.ToClient)
	clock.jump(tooOld)
	began := time.Now()
	answers := make(chan error)
	for range 5 {
		go func() {
			_, _, err := v.Sessions()
			answers <- err
		}()
	}
	for range 5 {
		assert.ErrorContains(t, <-answers, "has not answered within a second")
	}
	assert.Less(t, time.Since(began), patience)
	require.NoError(t, proxy.Heal())
	once(t, v, clock, func(map[int64]activity.Session) bool { return true })
}
