package stmtcache

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fallback"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var (
	scripts    = flag.Int("scripts", 3, "scripts that TestRandomScripts makes up; make random has 200")
	scriptSeed = flag.Uint64("scriptseed", 0, "the seed of the first script; 0: any")
)

// randomQueries are few, so that each is kept while the world changes, and have arguments that mostly fit.
var randomQueries = []struct {
	text string
	args [][]any
}{
	{"SELECT * FROM t WHERE id >= $1 ORDER BY id, 2", [][]any{{1}}},
	{"INSERT INTO t (id, v) VALUES ($1, $2) RETURNING v::text", [][]any{{1, 1}, {2, at}, {3, at}, {4, int64(1) << 40}, {5, "12"}, {5, "x"}}},
	{"SELECT id, v::text, pg_typeof(v)::text FROM t WHERE v = $1 ORDER BY id", [][]any{{1}, {"12"}, {at}}},
	{"SELECT '03/04/2024 12:00'::timestamptz::text || $1::text, extract(epoch FROM '20240304 12:00'::timestamptz)::int8", [][]any{{"!"}}},
	{"SELECT m::text FROM moods WHERE m = $1", [][]any{{"happy"}, {"glad"}}},
	{"SELECT f($1)::text", [][]any{{"1"}}},
	{"SELECT * FROM s WHERE $1::text <> ''", [][]any{{"!"}}},
	{"SELECT * FROM s WHERE s = $1", [][]any{{"b"}, {"a"}}},
	{"SELECT name FROM v WHERE name = $1", [][]any{{"ONE"}, {"one"}}},
	{"SELECT $1 || 's'::regclass::text, 's'::regclass::oid = to_regclass('s')", [][]any{{"!"}}},
}

var at = time.Date(2026, 1, 1, 12, 0, 0, 0, time.FixedZone("", 5*3600))

var randomArguments = []any{1, "x", at, nil, true, []byte("a")}

var randomDDL = []string{
	"ALTER TABLE t ALTER v TYPE text", "ALTER TABLE t ALTER v TYPE int USING 7", "ALTER TABLE t ALTER v TYPE bigint USING 8", "ALTER TABLE t ALTER v TYPE timestamp USING NULL",
	"ALTER TABLE t ALTER v TYPE timestamptz USING NULL", "ALTER TABLE t ADD IF NOT EXISTS extra int DEFAULT 5", "ALTER TABLE t DROP IF EXISTS extra",
	"DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (v text, id bigint)", "ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'", "ALTER TYPE mood RENAME VALUE 'glad' TO 'happy'",
	"DROP FUNCTION IF EXISTS f(text)", "CREATE OR REPLACE FUNCTION f(a text) RETURNS text LANGUAGE sql AS $$ SELECT 'text ' || a $$",
	"CREATE TABLE a.s AS SELECT 'a' AS s", "DROP TABLE a.s", "CREATE TABLE b.s AS SELECT 'b'::varchar(9) AS s, 'b' AS z", "DROP TABLE b.s",
	"DROP VIEW v; CREATE VIEW v AS SELECT 'one'::citext AS name", "DROP VIEW v; CREATE VIEW v AS SELECT 'one'::text AS name",
	"DO $$BEGIN ALTER TABLE t ALTER v TYPE text; END$$", "SELECT 1; ALTER TABLE t ADD IF NOT EXISTS extra int", "SELECT 'made' AS s INTO a.s",
}

var randomSettings = []string{
	"SET search_path = a, public", "SET search_path = b, public", "SET LOCAL search_path = b, a, public", "RESET search_path", "SET timezone = 'Asia/Tokyo'", "SET LOCAL TIME ZONE 'UTC'",
	"SET datestyle = 'German, DMY'", "RESET ALL", "SELECT set_config('search_path', 'b, public', true)", "SELECT set_config('timezone', 'America/New_York', false)", "DISCARD ALL", "DEALLOCATE ALL",
	"CREATE TEMP TABLE s AS SELECT 'temp' AS s", "DROP TABLE pg_temp.s", "CREATE TEMP TABLE t (id int, v text)", "DROP TABLE pg_temp.t", "SELECT 1; SET search_path = b",
	"CREATE TEMP TABLE s ON COMMIT DROP AS SELECT 'until the end' AS s", "DISCARD TEMP", "SET lock_timeout = 100", "/* x */ SET\nsearch_path TO a, public", "SET ROLE pg_monitor", "RESET ROLE",
}

var randomTransactions = []string{
	"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT x", "ROLLBACK TO x", "RELEASE x", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "ABORT", "START TRANSACTION", "END; SELECT 1",
}

const randomSchema = `CREATE EXTENSION citext; CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE t (id int, v int); INSERT INTO t VALUES (1, 1), (2, 2); CREATE TYPE mood AS ENUM ('happy', 'sad');
	CREATE TABLE moods (m mood); INSERT INTO moods VALUES ('happy'); CREATE TABLE s AS SELECT 'public' AS s; CREATE VIEW v AS SELECT 'one'::text AS name;
	CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS $$ SELECT a $$; GRANT USAGE ON SCHEMA a TO pg_monitor`

// world is where a script runs: three connections, of which the third is no party to the pool.
type scriptWorld struct {
	sessions [3]*pgSession
	party    *party
	queries  []int // the few that this script runs
}

func newScriptWorld(t *testing.T, cached bool) *scriptWorld {
	dsn := strings.Replace(pgtest.DSN(t), "?", "?lock_timeout=40&timezone=UTC&", 1)
	w := &scriptWorld{party: newParty(t, dsn)}
	for i := range w.sessions {
		if cached && i < 2 {
			w.sessions[i] = w.party.session()
		} else {
			w.sessions[i] = plainSession(t, dsn)
		}
	}
	require.NoError(t, w.sessions[2].exec(randomSchema))
	return w
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// step does something at random and says what came of it. It draws the same in each world.
func (w *scriptWorld) step(r *rand.Rand) (what, got string) {
	who := pick(r, []int{0, 0, 0, 1, 1, 2})
	s := w.sessions[who]
	kind := r.IntN(24)
	chosen, ddl, setting, transaction := randomQueries[pick(r, w.queries)], pick(r, randomDDL), pick(r, randomSettings), pick(r, randomTransactions)
	query, args := chosen.text, slices.Clone(pick(r, chosen.args))
	if r.IntN(20) == 0 {
		args[len(args)-1] = pick(r, randomArguments)
	}
	times := 1 + r.IntN(4)
	switch {
	case kind == 0:
		what, got = ddl, outcome("", s.exec(ddl))
	case kind == 1:
		what, got = setting, outcome("", s.exec(setting))
	case kind == 2:
		what, got = transaction, outcome("", s.exec(transaction))
	case kind == 3 && s.exec("BEGIN") == nil: // as the handle does it
		what, got = ddl+" in a transaction of the handle's", outcome("", s.exec(ddl))
		for range times {
			got += " " + outcome(s.query(query, args...))
		}
		s.end([]string{"COMMIT", "ROLLBACK"}[times%2])
	case kind == 4:
		what, got = "prepared: "+query, s.prepareAndRun(query, args)
	default:
		what = query
		for range times {
			got += " " + outcome(s.query(query, args...))
		}
	}
	if strings.Contains(got, "25P02") {
		_ = s.exec("ROLLBACK")
	}
	if who == 2 && kind < 4 {
		w.party.now += int64(validity) // a change by another client is known after that
	} else {
		w.party.now += int64(validity) / 60
	}
	return fmt.Sprintf("%d: %s %v", who, what, args), got
}

func (s *pgSession) prepareAndRun(query string, args []any) string {
	if s.cache == nil {
		st, err := s.Prepare(s.t.Context(), query)
		if err != nil {
			return outcome("", err)
		}
		defer func() { _ = st.Close() }()
		rows, err := fallback.Stmt{Stmt: st}.QueryContext(s.t.Context(), s.named(args))
		if err != nil {
			return outcome("", err)
		}
		return outcome(readAll(rows))
	}
	k, err := s.cache.Prepare(s.t.Context(), query)
	if err != nil {
		return outcome("", err)
	}
	defer func() { _ = k.Close() }()
	rows, err := k.Query(s.t.Context(), s.named(args))
	if err != nil {
		return outcome("", err)
	}
	s.cache.Opened(k)
	defer s.cache.Closed(k)
	return outcome(readAll(rows))
}

// TestRandomScripts runs the same script on the plain driver and on caches, and compares what came of every step.
func TestRandomScripts(t *testing.T) {
	seed := *scriptSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	count := *scripts
	if testing.Short() {
		count = 1
	}
	for n := range uint64(count) {
		t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) {
			plain, cached := newScriptWorld(t, false), newScriptWorld(t, true)
			script := [2]*rand.Rand{rand.New(rand.NewPCG(seed+n, 1)), rand.New(rand.NewPCG(seed+n, 1))}
			plain.queries = script[0].Perm(len(randomQueries))[:4]
			cached.queries = script[1].Perm(len(randomQueries))[:4]
			var log []string
			for range 300 {
				what, want := plain.step(script[0])
				_, got := cached.step(script[1])
				log = append(log, what+" -> "+want)
				if want != got {
					t.Fatalf("%s\nplain:  %s\ncached: %s", strings.Join(log, "\n"), want, got)
				}
			}
			if testing.Verbose() {
				t.Log(strings.Join(log, "\n"))
			}
			hits, _, _ := cached.party.shared.Counts()
			require.Positive(t, hits)
		})
	}
}
