package stmtcache

import (
	"context"
	"database/sql/driver"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

const q = "SELECT $1"

func TestKept(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.must(q, "prepare %", "run %")
	for range 3 {
		r.must(q, "run %")
	}
	hits, misses, retries := r.shared.Counts()
	assert.Equal(t, []uint64{3, 1, 0}, []uint64{hits, misses, retries})
	require.NoError(t, r.exec("SELECT 1"))
	r.took("SELECT 1", "exec %") // without arguments the driver needs one round trip
	require.NoError(t, r.exec("SELECT 'now', $1", 1))
	r.took("SELECT 'now', $1", "exec %")
}

func TestHitAllocatesNothing(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	args := arguments(1)
	use := func() {
		k, err := r.direct(t.Context(), q, args)
		require.NoError(t, err)
		require.True(t, k.kept)
	}
	use()
	require.Zero(t, testing.AllocsPerRun(100, use))
}

func TestNothingKeptForOtherDrivers(t *testing.T) {
	for _, kind := range []libpq.Kind{libpq.Other, libpq.PgxStdlib} {
		r := newRig(t, kind, 10)
		for _, query := range []string{q, "ALTER TABLE x ADD y int"} {
			_, handled, err := r.Cache.Exec(t.Context(), query, arguments(1))
			require.NoError(t, err)
			require.False(t, handled)
			k, err := r.Cache.Prepare(t.Context(), query)
			require.NoError(t, err)
			r.Ended()
			require.NoError(t, k.Close())
			r.took(query, "prepare %", "close %")
		}
	}
}

// With a size of 0 the driver does what it does, and with binary_parameters where the program has no statement.
func TestTurnedOff(t *testing.T) {
	for size, after := range map[int][]string{0: {"close %"}, 10: nil} {
		r := newRig(t, libpq.LibPQ, size)
		if size > 0 {
			r.Cache = r.shared.New(libpq.LibPQ, nil, r.scripted, true)
			r.trusted = true
		}
		direct := func() {
			_, _, handled, err := r.Cache.Query(t.Context(), q, arguments(1))
			require.NoError(t, err)
			require.False(t, handled, size)
		}
		direct()
		k, err := r.Cache.Prepare(t.Context(), q)
		require.NoError(t, err)
		r.took(q, "prepare %")
		r.TakeOver(func() { require.NoError(t, k.Close()) })
		r.took(q, after...)
		direct()
		k, err = r.Cache.Prepare(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, size > 0, k.holder == lent)
	}
}

func TestPgBouncer(t *testing.T) {
	for _, kind := range []libpq.Kind{libpq.LibPQ, libpq.PgxStdlib} {
		r := newRig(t, kind, 10)
		r.shared.PgBouncer = true
		r.Cache = r.shared.New(kind, nil, r.scripted, true)
		k, err := r.Cache.Prepare(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, -1, k.NumInput())
		_, err = k.Exec(t.Context(), arguments(1))
		require.NoError(t, err)
		rows, err := k.Query(t.Context(), arguments(1))
		require.NoError(t, err)
		require.NoError(t, rows.Close())
		require.NoError(t, k.Close())
		r.took(q, "exec %", "query %")
	}
	r := newRig(t, libpq.LibPQ, 10)
	r.shared.PgBouncer = true
	r.Cache = r.shared.New(libpq.LibPQ, nil, r.scripted, true)
	const copyIn = "/* in */ copy x FROM STDIN"
	k, err := r.Cache.Prepare(t.Context(), copyIn)
	require.NoError(t, err)
	require.NoError(t, k.Close())
	r.took(copyIn, "prepare %", "close %")
}

func TestValidity(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.must(q, "prepare %", "run %")
	r.must(q, "run %")
	r.must(q, "run %")
	r.now += int64(validity) - 1
	r.must(q, "run %")
	r.now++
	r.must(q, "close %", "prepare %", "run %")
	r.now += int64(validity)
	r.must(q, "exec %") // used once only: as the driver runs it
	r.must(q, "close %", "prepare %", "run %")
	r.must(q, "run %")
	r.now += 100 * int64(validity)
	r.must(q, "exec %")
	r.now += int64(validity)
	r.must(q, "exec %") // once in each period
}

// A statement that changes of settings outlive is prepared again only if it is used often between them.
func TestSessionChanges(t *testing.T) {
	for _, change := range []string{"SET search_path = x", "CREATE TEMP TABLE x ()", "DISCARD ALL", "CALL x()", "SELECT set_config('a', 'b', false)"} {
		r := newRig(t, libpq.LibPQ, 10)
		other := r.shared.New(libpq.LibPQ, nil, r.scripted, false)
		other.trusted = true
		r.must(q, "prepare %", "run %")
		err := other.keep(t.Context(), &Statement{cache: other, text: "SELECT 2"})
		require.NoError(t, err)
		r.takeLog()
		require.NoError(t, r.exec(change))
		r.takeLog()
		r.must(q, "exec %")
		r.must(q, "close %", "prepare %", "run %")
		r.must(q, "run %")
		r.must(q, "run %")
		r.Ended() // the change may be undone
		r.must(q, "close %", "prepare %", "run %")
		r.Ended() // nothing more is
		r.must(q, "run %")
		other.follow()
		require.True(t, other.byText["SELECT 2"].fresh(), "%s is this session's alone", change)
	}
}

func TestTransactionsByHand(t *testing.T) {
	for _, end := range []string{"COMMIT", "ROLLBACK", "END", "abort"} {
		r := newRig(t, libpq.LibPQ, 10)
		for _, text := range []string{"BEGIN", end, "BEGIN", "SAVEPOINT a", "ROLLBACK TO a", end} {
			require.NoError(t, r.exec(text))
		}
		r.takeLog()
		r.must(q, "prepare %", "run %")
		require.NoError(t, r.exec("BEGIN"))
		require.NoError(t, r.exec(end))
		r.takeLog()
		r.must(q, "run %") // nothing was changed
		for _, step := range []string{"SET LOCAL a = b", "ROLLBACK TO a", "ROLLBACK TO a", end} {
			require.NoError(t, r.exec(step))
			require.False(t, r.byText[q].fresh(), step)
			err := r.keep(t.Context(), &Statement{cache: r.Cache, text: q})
			require.NoError(t, err)
		}
		require.NoError(t, r.exec(end))
		require.True(t, r.byText[q].fresh())
	}
}

// DDL reaches all sessions when it has run, when its transaction has ended, and when its rows have been read.
func TestPoolChanges(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	other := r.shared.New(libpq.LibPQ, nil, r.scripted, false)
	other.trusted = true
	moved := func(what string) {
		t.Helper()
		other.follow()
		if k := other.byText[q]; k != nil {
			require.False(t, k.fresh(), what)
		}
		err := other.keep(t.Context(), &Statement{cache: other, text: q})
		require.NoError(t, err)
		other.follow()
		require.True(t, other.byText[q].fresh())
	}
	still := func() {
		t.Helper()
		other.follow()
		require.True(t, other.byText[q].fresh())
	}
	moved("first")
	require.NoError(t, r.exec("ALTER TABLE x ADD y int"))
	moved("DDL")
	r.Ended()
	moved("the end of its transaction")
	r.Ended()
	still()
	for _, end := range []string{"COMMIT", "ROLLBACK"} {
		require.NoError(t, r.exec("BEGIN"))
		still()
		r.fail["exec DROP TABLE x"] = []error{pgError("42P01", "", "")}
		require.Error(t, r.exec("DROP TABLE x"))
		moved("failed DDL, of which a part may have run")
		require.NoError(t, r.exec("SAVEPOINT a"))
		still()
		require.NoError(t, r.exec(end))
		moved(end)
		require.NoError(t, r.exec(end))
		still()
	}
	rows, k, handled, err := r.Cache.Query(t.Context(), "SELECT 1; ALTER TABLE x ADD y int", nil)
	require.NoError(t, err)
	require.True(t, handled)
	require.Nil(t, k)
	r.Opened(nil)
	moved("DDL beside a query")
	require.NoError(t, rows.Close())
	r.Closed(nil)
	moved("the end of its result")
	own, err := r.Cache.Prepare(t.Context(), "ALTER TABLE x ADD y int")
	require.NoError(t, err)
	still()
	_, err = own.Exec(t.Context(), nil)
	require.NoError(t, err)
	moved("prepared DDL")
	require.NoError(t, own.Close())
}

// A statement that was being prepared while the pool changed is stale, and not used again.
func TestChangeDuringPrepare(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.conn = &beforePrepare{r.scripted, func() { r.shared.generation.Add(1) }}
	require.NoError(t, r.exec(q, 1))
	r.follow()
	require.False(t, r.byText[q].fresh())
}

type beforePrepare struct {
	*scripted
	then func()
}

func (b *beforePrepare) Prepare(ctx context.Context, query string) (driver.Stmt, error) {
	b.then()
	return b.scripted.Prepare(ctx, query)
}

// While a change is under way, nobody uses a statement that was prepared before.
func TestChangeUnderWay(t *testing.T) {
	for _, change := range []struct{ before, text string }{
		{"", "ALTER TABLE x ADD y int"}, {"CREATE TABLE x ()", "LOCK TABLE x"}, {"CREATE TABLE x ()", "COMMIT"}, {"", "SELECT 1; DROP TABLE x"},
	} {
		for _, run := range []func(c *Cache) error{
			func(c *Cache) error {
				_, _, err := c.Exec(t.Context(), change.text, nil)
				return err
			},
			func(c *Cache) error {
				_, k, _, err := c.Query(t.Context(), change.text, nil)
				if err == nil {
					c.Opened(k)
					c.Closed(k)
				}
				return err
			},
			func(c *Cache) error {
				k, err := c.Prepare(t.Context(), change.text)
				require.NoError(t, err)
				_, err = k.Exec(t.Context(), nil)
				require.NoError(t, k.Close())
				return err
			},
		} {
			r := newRig(t, libpq.LibPQ, 10)
			other := r.shared.New(libpq.LibPQ, nil, newScripted(t), false)
			if change.before != "" {
				_, _, err := other.Exec(t.Context(), change.before, nil)
				require.NoError(t, err)
			}
			r.must(q, "prepare %", "run %")
			other.conn.(*scripted).during = func() { r.must(q, "exec %") }
			require.NoError(t, run(other))
			require.Zero(t, r.shared.changing.Load())
			r.must(q, "exec %") // once: it may be a text that is not met again
			r.must(q, "close %", "prepare %", "run %")
		}
	}
}

// A change is under way until its result has been read, or its session has ended.
func TestChangeWithAResult(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.must(q, "prepare %", "run %")
	other := r.shared.New(libpq.LibPQ, nil, newScripted(t), false)
	_, _, _, err := other.Query(t.Context(), "SELECT 1; DROP TABLE x", nil)
	require.NoError(t, err)
	other.Opened(nil)
	r.must(q, "exec %")
	r.must(q, "exec %")
	other.Closed(nil)
	r.must(q, "exec %")
	r.must(q, "close %", "prepare %", "run %")

	other.conn.(*scripted).fail["query DROP TABLE x"] = []error{pgError("42P01", "", "")}
	_, _, _, err = other.Query(t.Context(), "DROP TABLE x", nil)
	require.Error(t, err)
	require.Zero(t, r.shared.changing.Load())

	other.conn.(*scripted).during = func() { panic("the driver's") }
	require.Panics(t, func() { _, _, _ = other.Exec(t.Context(), "DROP TABLE x", nil) })
	require.EqualValues(t, 1, r.shared.changing.Load())
	other.Close()
	require.Zero(t, r.shared.changing.Load())
}

func TestBounded(t *testing.T) {
	for _, kind := range []libpq.Kind{libpq.LibPQ, libpq.GoMySQL} {
		r := newRig(t, kind, 10)
		for i := range 300 {
			k, err := r.Cache.Prepare(t.Context(), fmt.Sprintf("SELECT %d", i%60))
			require.NoError(t, err)
			require.NoError(t, k.Close())
			require.LessOrEqual(t, len(r.alive), 10)
			require.Len(t, r.alive, len(r.byText))
		}
		require.EqualValues(t, 10, r.shared.kept.Load())
		r.Cache.Close()
		require.Zero(t, r.shared.kept.Load())
	}
}

// Rows of a COPY change nothing, whatever its text has.
func TestCopyChangesNothing(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	in, err := r.Cache.Prepare(t.Context(), `COPY x FROM STDIN WITH (FORMAT csv, ESCAPE '\\')`)
	require.NoError(t, err)
	require.True(t, in.Copying())
	_, err = in.Exec(t.Context(), arguments(1))
	require.NoError(t, err)
	require.NoError(t, in.Close())
	require.Zero(t, r.shared.generation.Load())
}

// A change that ends while a statement is looked for has been made before it is found.
func TestChangeEndsMeanwhile(t *testing.T) {
	r := newRig(t, libpq.GoMySQL, 10)
	other := r.shared.New(libpq.GoMySQL, nil, r.scripted, false)
	for _, text := range []string{"SELECT 1", q} {
		_, err := r.statementFor(t.Context(), text)
		require.NoError(t, err)
		r.now++
	}
	r.shared.budget.Store(1) // SELECT 1 is given back, which takes a moment
	other.begin(pool)
	r.during = func() { other.end(pool) }
	k, err := r.statementFor(t.Context(), q)
	require.NoError(t, err)
	require.Nil(t, r.during)
	require.Nil(t, k.parent)
}

// Texts that are made up for one query cost what they cost on the driver, and push out nothing.
func TestSingleUses(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.must(q, "prepare %", "run %")
	for i := range 9 {
		text := fmt.Sprintf("SELECT %d", i)
		r.must(text, "prepare %", "run %")
		r.now++
	}
	for i := range 1000 {
		text := fmt.Sprintf("SELECT %d, $1", i)
		r.must(text, "exec %")
		if i%7 == 0 {
			r.must(q, "run %")
		}
	}
	r.must("SELECT 5", "run %")

	// Those that are stale make place, one for one, and what is used often stays.
	r.now += int64(validity)
	r.must(q, "close %", "prepare %", "run %")
	for i := range 1000 {
		r.must(fmt.Sprintf("SELECT %d, $1", i), "exec %")
	}
	for i := range 9 {
		text := fmt.Sprintf("SELECT again %d, $1", i)
		r.must(text, "exec %")
		r.must(text, fmt.Sprintf("close SELECT %d", i), "prepare %", "run %")
	}
	r.must("SELECT one more", "exec %")
	require.Len(t, r.byText, 10)
}

// A text whose arguments fail is prepared anew every second. It does not keep the stale ones in their places.
func TestStaleMakesPlaceBesideErrors(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 2)
	r.must(q, "prepare %", "run %")
	r.now++
	r.must("SELECT 2", "prepare %", "run %")
	r.must("SELECT new", "exec %")
	for range 5 {
		r.now += int64(recheck)
		r.fail["run "+q] = []error{pgError("22P02", "unnamed portal parameter $1 = ''", "")}
		require.Error(t, r.exec(q, 1))
	}
	r.takeLog()
	r.must("SELECT new", "exec %")
	r.must("SELECT new", "close SELECT 2", "prepare %", "run %")
}

// What the program has open is not closed under it, and prepared once for all who prepare it.
func TestProgramsStatements(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 2)
	var open []*Statement
	for i := range 4 {
		k, err := r.Cache.Prepare(t.Context(), fmt.Sprintf("SELECT %d", i))
		require.NoError(t, err)
		open = append(open, k)
	}
	again, err := r.Cache.Prepare(t.Context(), "SELECT 0")
	require.NoError(t, err)
	require.NotSame(t, open[0], again, "lib/pq asks the server")
	require.NoError(t, again.Close())
	for range 3 {
		for i := range 20 {
			require.NoError(t, r.exec(fmt.Sprintf("SELECT %d, $1", i), 1))
		}
		for _, k := range open {
			_, err := k.Exec(t.Context(), arguments(1))
			require.NoError(t, err)
		}
	}
	// A change of settings does not concern the program's statement, only who prepares its text now.
	require.NoError(t, r.exec("SET a = b"))
	fresh, err := r.Cache.Prepare(t.Context(), "SELECT 0")
	require.NoError(t, err)
	require.NotSame(t, open[0], fresh)
	for _, k := range append(open, fresh) {
		_, err := k.Exec(t.Context(), arguments(1))
		require.NoError(t, err)
		require.NoError(t, k.Close())
	}
	require.Len(t, r.alive, len(r.byText))
}

// database/sql prepares a statement of a handle again when its connection has become another lease's. The server is not asked
// again, and no kept statement is trusted for longer than its time.
func TestTakeOver(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	prepared := func(want ...string) *Statement {
		t.Helper()
		k, err := r.Cache.Prepare(t.Context(), q)
		require.NoError(t, err)
		r.took(q, want...)
		return k
	}
	run := func(k *Statement, code string, want ...string) {
		t.Helper()
		if code != "" {
			r.fail["run "+q] = []error{pgError(code, "", "")}
		}
		_, err := k.Exec(t.Context(), arguments(1))
		if r.took(q, want...); len(want) == 1 && code != "" {
			require.Error(t, err)
		} else {
			require.NoError(t, err)
		}
	}
	next := func(k *Statement) { r.TakeOver(func() { require.NoError(t, k.Close()) }) }

	k := prepared("prepare %")
	run(k, "", "run %")
	next(k)
	k = prepared()
	run(k, "", "run %")
	run(k, "26000", "run %", "prepare %", "close %", "run %") // it may have been stale before the program asked
	run(k, "26000", "run %")                                  // now it is the program's own
	require.NoError(t, k.Close())
	k = prepared("prepare %")
	require.NoError(t, k.Close())

	r = newRig(t, libpq.LibPQ, 10)
	k = prepared("prepare %")
	next(k)
	r.now += int64(validity) - 1
	k = prepared()
	run(k, "", "run %")
	r.now++
	run(k, "", "prepare %", "close %", "run %")
	r.now += int64(time.Hour)
	run(k, "", "run %") // as old as the driver's would be
	require.NoError(t, k.Close())
	require.Len(t, r.alive, 1)
}

// While a result is open nothing is prepared or closed, and lib/pq's refusal comes where a statement stands in for a query.
func TestOpenResults(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 2)
	own, err := r.Cache.Prepare(t.Context(), "SELECT 'now'")
	require.NoError(t, err)
	rows, k, handled, err := r.Cache.Query(t.Context(), q, arguments(1))
	require.NoError(t, err)
	require.True(t, handled)
	require.NotNil(t, k)
	r.Opened(k)
	r.inUse = true
	for _, query := range []string{q, "SELECT 2", "SELECT 'now'", "SET a = b"} {
		require.ErrorIs(t, r.exec(query, 1), errInProgress)
	}
	require.NoError(t, own.Close())
	require.NoError(t, rows.Close())
	r.inUse = false
	r.takeLog()
	r.Closed(k)
	r.took("SELECT 'now'", "close %")

	// Of a query that ran on no statement, the driver says so.
	_, _, _, err = r.Cache.Query(t.Context(), "SELECT 1", nil)
	require.NoError(t, err)
	r.Opened(nil)
	r.inUse = true
	r.takeLog()
	r.must("SELECT 3", "exec %")
	r.inUse = false
	r.Closed(nil)

	// So does it during a COPY.
	own, err = r.Cache.Prepare(t.Context(), "SELECT 'now'")
	require.NoError(t, err)
	in, err := r.Cache.Prepare(t.Context(), "COPY x FROM STDIN")
	require.NoError(t, err)
	require.True(t, in.Copying())
	r.takeLog()
	require.NoError(t, own.Close())
	r.must(q, "exec %")
	require.NoError(t, in.Close())
	r.took("", "close COPY x FROM STDIN", "close SELECT 'now'")
	r.must(q, "run %")
}

// A text that comes once in each period pushes out nothing.
func TestPeriodsOfTexts(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 1)
	r.must(q, "prepare %", "run %")
	const text = "SELECT 2"
	for range 5 {
		r.must(text, "exec %")
		r.now += int64(validity)
	}
	r.must(text, "exec %")
	r.now += int64(time.Millisecond)
	require.NoError(t, r.exec(text, 1))
	r.took(text, "close "+q, "prepare %", "run %")
}
