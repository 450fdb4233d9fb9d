package stmtcache

import (
	"context"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// certain errors come from the statement before anything has run.
var certain = []error{
	pgError("26000", "", ""), pgError("42P05", "", ""), pgError("42P10", "", ""), pgError("08P01", "", "exec_bind_message"),
	pgError("0A000", "", "RevalidateCachedQuery"), fmt.Errorf("wrapped: %w", pgError("26000", "", "")), &MySQLError{1243}, &MySQLError{1615},
}

// early errors may be a fresh statement's as well, and come before anything runs.
var early = []error{
	pgError("22003", "unnamed portal parameter $1", ""), pgError("22P02", "unnamed portal parameter $2 = 'a \"quoted\" f(x)\nvalue'", ""),
	pgError("22P02", "unbenanntes Portal Parameter $1 = '...'", ""), &pq.Error{Code: "42804", Position: "8"}, &pq.Error{Code: "42883", Position: "30"},
}

// possible errors may be raised by what runs.
var possible = []error{
	pgError("22P02", "", ""), pgError("42804", "", ""), pgError("53200", "", ""), pgError("22012", "unnamed portal with parameters: $1 = '0'", ""),
	pgError("XX000", "", ""), pgError("08P01", "", ""), pgError("0A000", "", ""), pgError("42P10", "PL/pgSQL function f()", ""),
	pgError("26000", "SQL function \"f\"", ""), pgError("0A000", "PL/pgSQL function f()", "RevalidateCachedQuery"),
	pgError("42501", `SQL statement "SELECT 1 FROM ONLY "public"."x" x WHERE "id" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"`, ""),
	pgError("22P02", "PL/pgSQL function f(text) line 3 at RAISE\nSQL statement $1", ""), pgError("22003", "while executing command on unnamed dblink connection", ""),
	&pq.Error{Code: "42703", Position: "8", Where: "PL/pgSQL function f() line 3 at RAISE"},
}

// unrelated errors say nothing about a statement.
var unrelated = []error{
	pgError("23505", "", ""), pgError("40001", "", ""), pgError("25P02", "", ""), pgError("57014", "", ""), pgError("P0001", "", ""),
	errLost, context.Canceled, fmt.Errorf("pq: got 1 parameters but the statement requires 2"), &MySQLError{1062}, &MySQLError{1461},
}

// failing gives a rig whose kept statement gives err once.
func failing(t *testing.T, err error) *rig {
	r := newRig(t, libpq.LibPQ, 10)
	r.must(q, "prepare %", "run %")
	r.fail["run "+q] = []error{err}
	return r
}

func TestCertainlyStale(t *testing.T) {
	for _, err := range certain {
		r := failing(t, err)
		r.must(q, "run %", "prepare %", "close %", "run %")
		_, _, retries := r.shared.Counts()
		require.EqualValues(t, 1, retries)
		require.Equal(t, libpq.Code(err) == "0A000", r.shared.generation.Load() > 0, "the others learn of other columns")

		r = failing(t, err)
		rows, _, handled, failed := r.Cache.Query(t.Context(), q, arguments(1))
		require.NoError(t, failed)
		require.True(t, handled)
		require.NoError(t, rows.Close())

		// The same once more: it is the answer.
		r = failing(t, err)
		r.fail["run "+q] = []error{err, err}
		require.Equal(t, libpq.Code(err), libpq.Code(r.exec(q, 1)))
		r.took(q, "run %", "prepare %", "close %", "run %")
	}
}

func TestPerhapsStale(t *testing.T) {
	for _, err := range slices.Concat(early, possible) {
		// The parameters have the same types: the error is that of the arguments, and the query does not run again.
		r := failing(t, err)
		require.Equal(t, err, r.exec(q, 1))
		r.took(q, "run %", "prepare %", "query types", "close %")
		for range 1000 {
			r.fail["run "+q] = []error{err}
			require.Equal(t, err, r.exec(q, 1))
			r.took(q, "run %")
			r.now += int64(recheck) / 1001
		}
		_, _, retries := r.shared.Counts()
		require.Zero(t, retries)

		// They have others: it runs again only if it has not run.
		r = failing(t, err)
		other := r.shared.New(libpq.LibPQ, nil, r.scripted, false)
		require.NoError(t, other.keep(t.Context(), &Statement{cache: other, text: q}))
		r.takeLog()
		r.numbers["types"] = 2
		if slices.Contains(early, err) {
			r.must(q, "run %", "prepare %", "query types", "close %", "run %")
		} else {
			require.Equal(t, err, r.exec(q, 1))
			r.took(q, "run %", "prepare %", "query types", "close %")
		}
		other.follow()
		require.False(t, other.byText[q].fresh(), "the others learn of it")

		// Whether they have cannot be told.
		r = failing(t, err)
		r.fail["query types"] = []error{pgError("57014", "", "")}
		require.Equal(t, err, r.exec(q, 1))
		r.took(q, "run %", "prepare %", "query types", "close %")
	}
}

func TestUnrelatedErrors(t *testing.T) {
	for _, err := range unrelated {
		r := failing(t, err)
		require.Equal(t, err, r.exec(q, 1))
		r.took(q, "run %")
		r.must(q, "run %")
	}
}

// What says that it is stale, and cannot be prepared.
func TestPreparedInVain(t *testing.T) {
	for _, err := range slices.Concat(certain, early, possible) {
		// The transaction has failed, or the connection: the first error stands, and is not one that has database/sql try again.
		for _, failure := range []error{pgError("25P02", "", ""), errLost, context.DeadlineExceeded, pgError("57014", "", "")} {
			r := failing(t, err)
			r.fail["prepare "+q] = []error{failure}
			got := r.exec(q, 1)
			require.Equal(t, libpq.Code(err), libpq.Code(got))
			require.NotErrorIs(t, got, driver.ErrBadConn)
			r.took(q, "run %", "prepare %")
			require.False(t, r.byText[q].fresh())
			for range 10 { // the program's statement goes on as it is, and costs no preparation each time
				if suspect(err) == certainly {
					break
				}
				r.fail["run "+q] = []error{err}
				_, got := r.byText[q].Exec(t.Context(), arguments(1))
				require.Error(t, got)
				r.took(q, "run %")
			}
		}
		// A fresh statement would have failed like this.
		r := failing(t, err)
		r.fail["prepare "+q] = []error{pgError("42P01", "", "")}
		require.ErrorContains(t, r.exec(q, 1), "42P01")
		require.False(t, r.byText[q].fresh())
		r.takeLog()
		r.must(q, "exec %")
	}
}

func TestStaleBesideAnOpenResult(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	k, err := r.Cache.Prepare(t.Context(), q)
	require.NoError(t, err)
	r.Opened(k)
	r.inUse = true
	r.fail["run "+q] = []error{pgError("26000", "", "")}
	_, err = k.Exec(t.Context(), arguments(1))
	require.Error(t, err)
	require.False(t, k.fresh())
	r.inUse = false
	r.Closed(k)
	require.NoError(t, k.Close())
}

// The first session that meets a migration has the others prepare before they fail.
func TestMigrationAnnounced(t *testing.T) {
	r := failing(t, pgError("0A000", "", "RevalidateCachedQuery"))
	r.fail["prepare "+q] = []error{pgError("25P02", "", "")}
	before := r.shared.generation.Load()
	require.Error(t, r.exec(q, 1))
	require.Equal(t, before+1, r.shared.generation.Load())
}

func TestNameTaken(t *testing.T) {
	r := newRig(t, libpq.LibPQ, 10)
	r.fail["prepare "+q] = []error{pgError("42P05", "", "")}
	r.must(q, "prepare %", "exec %")
	r.fail["prepare "+q] = []error{pgError("42601", "", "")}
	require.ErrorContains(t, r.exec(q, 1), "42601")
	r.took(q, "prepare %")
}

// TestMySQLRoom is a server with 64 places: half of them are not the pools'.
func TestMySQLRoom(t *testing.T) {
	r := newRig(t, libpq.GoMySQL, 30)
	r.numbers[mostPrepared] = 64
	other := r.shared.New(libpq.GoMySQL, nil, r.scripted, false)
	use := func(c *Cache, text string) {
		k, err := c.Prepare(t.Context(), text)
		require.NoError(t, err)
		_, err = k.Exec(t.Context(), arguments(1))
		require.NoError(t, err)
		require.NoError(t, k.Close())
	}
	round := func() {
		for i := range 30 {
			r.numbers[nowPrepared] = int64(len(r.alive))
			use(r.Cache, fmt.Sprintf("SELECT %d", i))
			use(other, fmt.Sprintf("SELECT %d", i))
		}
	}
	round()
	require.EqualValues(t, 8, r.shared.kept.Load(), "a quarter of what is left")
	require.Len(t, r.alive, 8)
	require.EqualValues(t, len(r.byText)+len(other.byText), r.shared.kept.Load())
	for range 9 {
		r.now += int64(time.Second)
		round()
	}
	require.Greater(t, r.shared.kept.Load(), int64(24))
	require.LessOrEqual(t, r.shared.kept.Load(), int64(32), "half of all")

	// Others fill the server: the pool gives back its part of what is above the half.
	before := r.shared.kept.Load()
	r.now += int64(time.Second)
	r.numbers[nowPrepared] = 64
	for range 2 { // a text that is met once pushes out nothing
		use(r.Cache, "SELECT one more")
		use(other, "SELECT one more")
	}
	require.InDelta(t, before/2, r.shared.kept.Load(), 1)
	require.EqualValues(t, len(r.byText)+len(other.byText), r.shared.kept.Load())
}

// A pool that has all its texts, and only prepares them again, gives back as well.
func TestMySQLGivesBackAtRest(t *testing.T) {
	r := newRig(t, libpq.GoMySQL, 10)
	r.numbers[mostPrepared] = 64
	round := func() {
		for i := range 12 {
			k, err := r.Cache.Prepare(t.Context(), fmt.Sprintf("SELECT %d", i%4))
			require.NoError(t, err)
			_, err = k.Exec(t.Context(), arguments(1))
			require.NoError(t, err)
			require.NoError(t, k.Close())
		}
	}
	round()
	require.Len(t, r.byText, 4)
	r.numbers[nowPrepared] = 64
	r.now += int64(validity)
	round()
	require.Len(t, r.byText, 2)
	require.Len(t, r.alive, 2)
}

// TestMySQLFull is a server that has no place left, between two looks at it.
func TestMySQLFull(t *testing.T) {
	r := newRig(t, libpq.GoMySQL, 10)
	other := r.shared.New(libpq.GoMySQL, nil, r.scripted, false)
	prepare := func(c *Cache, text string) error {
		k, err := c.Prepare(t.Context(), text)
		if err == nil {
			require.NoError(t, k.Close())
		}
		return err
	}
	for i := range 5 {
		require.NoError(t, prepare(r.Cache, fmt.Sprintf("SELECT %d", i)))
		require.NoError(t, prepare(other, fmt.Sprintf("SELECT %d", i)))
	}
	const text = "SELECT full"
	full := &MySQLError{1461}
	r.fail["prepare "+text] = []error{full, full, full}
	require.NoError(t, prepare(r.Cache, text), "in the end there is a place")
	require.Empty(t, r.byText, "a session that lies idle now keeps no place")
	require.Len(t, other.byText, 5)
	require.NoError(t, prepare(other, "SELECT 1"))
	require.Empty(t, other.byText, "the others give theirs up, too")
	require.NoError(t, prepare(r.Cache, "SELECT 1"))
	require.Zero(t, r.shared.kept.Load(), "until the server is asked again nothing is kept")
	require.Empty(t, r.alive)
	r.fail["prepare "+text] = []error{full, full}
	require.Equal(t, full, prepare(r.Cache, text), "the pool keeps nothing: waiting frees no place")
	r.now += int64(time.Second)
	require.NoError(t, prepare(other, "SELECT 1"))
	require.Len(t, other.byText, 1, "a second later the server is asked again")
}

func TestMySQLSaysNothing(t *testing.T) {
	for _, question := range []string{mostPrepared, nowPrepared} {
		r := newRig(t, libpq.GoMySQL, 10)
		r.fail["query "+question] = []error{&MySQLError{1227}}
		for _, kept := range []bool{false, true, true} {
			k, err := r.Cache.Prepare(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, kept, k.kept)
			require.NoError(t, k.Close())
			r.now += int64(time.Second)
		}
	}
}

// Sessions share counters, the generation and the room on a MySQL server.
func TestSharedStress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var now atomic.Int64
	s := NewShared(Config{Size: 8, Now: func() int64 { return now.Add(int64(10 * time.Millisecond)) }})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { sessionStress(t, s, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for before := [3]uint64{}; ; {
		hits, misses, retries := s.Counts()
		require.True(t, hits >= before[0] && misses >= before[1] && retries >= before[2], "a counter went down")
		before = [3]uint64{hits, misses, retries}
		select {
		case <-done:
			require.Zero(t, s.kept.Load())
			require.Positive(t, s.generation.Load())
			hits, misses, retries = s.Counts()
			require.NotContains(t, []uint64{hits, misses, retries}, uint64(0))
			return
		default:
		}
	}
}

func sessionStress(t *testing.T, s *Shared, random *rand.Rand) {
	conn := newScripted(t)
	conn.numbers[mostPrepared] = 100
	for range 20 {
		c := s.New(libpq.GoMySQL, nil, conn, false)
		for range 100 {
			text := fmt.Sprintf("SELECT %d", random.IntN(12))
			switch n := random.IntN(1000); {
			case n < 1:
				conn.fail["prepare "+text] = []error{&MySQLError{1461}}
			case n < 60:
				conn.fail["run "+text] = []error{&MySQLError{1615}}
			case n < 80:
				text = "ALTER TABLE x ADD y int"
			}
			k, err := c.Prepare(t.Context(), text)
			if !assert.NoError(t, err) {
				return
			}
			lentOut := k.holder == lent
			full := len(conn.fail["prepare "+text]) > 0 // which prevents that it is healed
			_, err = k.Exec(t.Context(), nil)
			assert.True(t, err == nil || !lentOut || full, "healed")
			assert.NoError(t, k.Close())
			assert.LessOrEqual(t, len(c.byText), 8)
			c.Ended()
		}
		alive := len(conn.alive)
		assert.Len(t, c.byText, alive)
		c.Close()
		clear(conn.alive)
	}
}
