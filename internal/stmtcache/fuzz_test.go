package stmtcache

import (
	"context"
	"database/sql/driver"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var texts = flag.Int("texts", 400, "texts that TestKeepable makes up")

// choices makes a text out of bytes.
type choices struct{ data []byte }

func (c *choices) next() int {
	if len(c.data) == 0 {
		return 0
	}
	n := int(c.data[0])
	c.data = c.data[1:]
	return n
}

func (c *choices) of(list ...string) string { return list[c.next()%len(list)] }

// most gives the first of a list most of the time.
func (c *choices) most(list ...string) string {
	if n := c.next(); n >= 226 {
		return list[n%len(list)]
	}
	return list[0]
}

func (c *choices) gap() string {
	return c.most(" ", "\n", "\t", "/**/", "/* ' */", "-- ;'\n", " /* now */ ", "\r\n", "--\r", "/* /* */ */", "/* */ -- $$\n\n", "\f", "", "\v")
}

// text is a text of one or more statements.
func (c *choices) text() string {
	s := c.most("", "-- x\n", "/* ; */", "(", "\n", "/* SET */ ", ";")
	closing := ""
	if s == "(" {
		closing = ")"
	}
	s += c.statement() + closing
	for c.next() > 220 {
		s += c.gap() + ";" + c.gap() + c.statement()
	}
	s += c.most("", ";", " ; ", "-- x", ";;", "/* x */", "'", "\x00", "\\")
	if c.next() > 240 { // anything at any place
		at := c.next() % (len(s) + 1)
		s = s[:at] + c.of("'", `"`, "$$", "\\", "--", "/*", "*/", ";", "\n", "E", "U&", "$1", "$a$", "é", "@", "`", "#", ":") + s[at:]
	}
	return s
}

func (c *choices) statement() string {
	g := c.gap
	switch c.next() % 30 {
	case 0:
		return c.of(
			"SET"+g()+"search_path"+g()+"="+g()+"other", "set time zone 'Asia/Tokyo'", "SET LOCAL timezone = 'Asia/Tokyo'", "RESET timezone", "DISCARD ALL",
			"DEALLOCATE ALL", "SET ROLE pg_monitor", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET datestyle = 'German'",
			"PREPARE own AS SELECT 1", "SET standard_conforming_strings = off", "SET\nDateStyle TO iso",
		)
	case 1:
		return c.of("CREATE", "create", "CREATE/**/") + g() + c.of("TEMP", "TEMPORARY", "UNLOGGED", "") + " TABLE" + g() + c.name() + " (a int)"
	case 2:
		return c.of("BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "END", "SAVEPOINT x", "ROLLBACK TO x", "RELEASE x", "ABORT", "COMMIT AND CHAIN")
	case 3:
		return "SELECT" + g() + c.expression() + g() + "AS a" + g() + "INTO" + g() + c.of("", "TEMP ", "TABLE ") + c.name()
	case 4:
		return "SELECT" + g() + c.of("set_config", `"set_config"`, "pg_catalog.set_config", "Set_Config", `pg_catalog . "set_config"`) + g() + "('timezone', 'Asia/Tokyo', false)"
	case 5:
		return c.of("DO $$BEGIN PERFORM set_config('timezone', 'Asia/Tokyo', false); END$$", "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1 a",
			"DECLARE c CURSOR FOR SELECT 1", "FETCH c", "TABLE t", "LOCK TABLE t", "SHOW timezone", "TRUNCATE u", "LISTEN x", "NOTIFY x", "EXECUTE own",
			"ALTER TABLE t ADD COLUMN extra int", "DROP TABLE IF EXISTS made", "CALL p()", "ALTER DATABASE nowhere SET timezone = 'x'")
	case 6, 7:
		return c.of("INSERT", "insert", "INSERT/* x */") + g() + "INTO" + g() + "u" + g() + "VALUES" + g() + "(" + c.expression() + ")" + g() +
			c.of("", "ON CONFLICT DO NOTHING", "ON CONFLICT (a) DO UPDATE SET a = $1", "RETURNING a", "ON CONFLICT (a) WHERE a <> $1 DO NOTHING")
	case 8:
		return "UPDATE" + g() + "u SET a =" + g() + c.expression() + g() + c.of("", "RETURNING a", "WHERE a <> ''")
	case 9:
		return "WITH" + g() + c.of("x", `"x;"`, "time") + " AS (SELECT " + c.expression() + " AS a)" + g() + c.of("SELECT * FROM x", `TABLE "x;"`, "SELECT a INTO made FROM x",
			"INSERT INTO u SELECT a::text FROM x RETURNING a", "SELECT * FROM time")
	case 10:
		return c.of("VALUES", "values") + g() + "(" + c.expression() + "," + g() + c.expression() + ")"
	case 11:
		return "MERGE INTO u USING t ON u.a = t.a WHEN MATCHED THEN UPDATE SET a =" + g() + c.expression()
	case 12:
		return c.of("DELETE", "Delete") + g() + "FROM u WHERE a =" + g() + c.expression()
	}
	s := c.of("SELECT", "select", "SeLeCt") + g() + c.expression()
	for c.next() > 128 {
		s += g() + "," + g() + c.expression()
	}
	return s + c.of("", g()+"FROM t", g()+"FROM"+g()+"t"+g()+"WHERE"+g()+"a = "+c.expression(), g()+"FROM t ORDER BY 1", g()+"LIMIT 1")
}

func (c *choices) name() string {
	return c.of("made", `"made"`, `"ma""de;"`, "public.made", "U&\"m\\0061de\"", "made$x", "t")
}

func (c *choices) expression() string {
	g := c.gap
	s := c.literal()
	switch c.next() % 12 {
	case 0:
		return c.of("timestamptz", "date", "timestamp", "TIMETZ", "time with time zone", "time(2)"+g()+"WITH"+g()+"TIME ZONE") + g() + s
	case 1, 2:
		return s + g() + "::" + g() + c.of("timestamptz", "date", `"timestamptz"`, "timestamp with time zone", "timetz", "pg_catalog.timestamptz", "_timetz")
	case 3:
		return s + "::" + c.of("tstzrange", "timestamptz[]", "moment", "_timestamptz", "tstzmultirange", "text", "moments", "always") + "::text"
	case 4:
		return "CAST(" + s + g() + "AS" + g() + c.of("timestamptz", "timestamp", "text", "time WITH TIME ZONE") + ")"
	case 5:
		return c.of("now()", "current_timestamp", "transaction_timestamp()::text", "localtime", "current_date", "current_setting('timezone')", "now ( )")
	case 6:
		return c.of("1", "1.5e3", "0", "a", "$1", "$1::text", "$2", "1--1\n", "2*-1", "3 /* */ /1", "1$1", "$1$$x$$", "@ -1", "1 <> -1", "a$b", "'a' < 'b'")
	case 7:
		return c.of("coalesce", "concat", "pg_typeof") + "(" + c.expression() + ", " + c.expression() + ")"
	case 8:
		return s + g() + "||" + g() + c.literal()
	case 9:
		return "(" + s + ")" + c.of("::timestamptz", "::text::timestamptz", "::date") + c.of("", "::text", " AT TIME ZONE 'UTC'")
	}
	return s
}

func (c *choices) content() string {
	return c.of("now", "NOW", "Now", " now ", "today", "2024-01-01 12:00", "12:00 Europe/Berlin", "x", "", "[now,)", "{now}", `(now,1)`, `[n"o"w,)`, `("n""o""w",1)`, `(n"ow",1)`,
		`{"now"}`, "it''s", ";", "-- ", "/*", "$$", `{[n"o"w,)}`, "n", "ow", "snow", "epoch", "infinity", "yesterday", "{{now}}", "now/**/")
}

// literal writes a string in one of many ways.
func (c *choices) literal() string {
	s := c.content()
	half := len(s) / 2
	switch c.next() % 14 {
	case 0:
		return c.of("E", "e") + "'" + strings.NewReplacer("n", c.of(`\x6e`, `\156`, `\u006e`, "n"), "o", c.of("o", `\o`)).Replace(s) + "'"
	case 1:
		escape := c.of(`\`, "!")
		s = c.of("U&", "u&", "U&/**/", "U & ") + "'" + strings.Replace(s, "n", escape+"006e", 1) + "'"
		if escape == "!" {
			s += c.of(" UESCAPE '!'", "UESCAPE'!'")
		}
		return s
	case 2:
		return "$$" + s + "$$"
	case 3:
		tag := c.of("$a$", "$é$", "$_1$", "$now$")
		return tag + s + tag
	case 4, 5:
		return "'" + s[:half] + "'" + c.gap() + c.of("\n", " ", "--\n", "/**/\n", "-- x\n\n", "\r") + c.gap() + "'" + s[half:] + "'"
	case 6:
		return c.of("N", "n", "B", "X", "") + "'" + s + "'"
	case 7:
		return "'" + s + `\'` + c.of("'", "", " || '")
	case 8:
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return "'" + s + "'"
}

// keepableServer is what the texts run on.
type keepableServer struct {
	*pgSession
	t testing.TB
}

func newKeepableServer(t testing.TB) *keepableServer {
	s := &keepableServer{plainSession(t, pgtest.DSN(t)), t}
	s.do(`CREATE TABLE t (a text); INSERT INTO t VALUES ('now'), ('x'); CREATE TABLE u (a text UNIQUE);
		CREATE TYPE moment AS (at timestamptz, n int); CREATE DOMAIN always AS timestamptz; CREATE DOMAIN moments AS moment;
		CREATE PROCEDURE p() LANGUAGE sql AS $$ SELECT set_config('timezone', 'Asia/Tokyo', false) $$`)
	return s
}

// run runs a prepared statement with as many arguments as it takes.
func (s *keepableServer) run(st driver.Stmt) string {
	args := make([]driver.NamedValue, st.NumInput())
	for i := range args {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: "1"}
	}
	rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return outcome("", err)
	}
	return outcome(readAll(rows))
}

func outcome(result string, err error) string {
	if err != nil {
		return "error " + code(err)
	}
	return result
}

// world is what a harmless text must leave as it is.
func (s *keepableServer) world() (string, error) {
	return s.query(`SELECT (SELECT md5(string_agg(name || '=' || coalesce(setting, ''), ',' ORDER BY name)) FROM pg_settings WHERE name NOT LIKE 'transaction_%'),
		(SELECT count(*) || max(oid)::text FROM pg_class), (SELECT count(*) FROM pg_attribute), (SELECT count(*) FROM pg_prepared_statements), current_user`)
}

// check runs text in every way that shows whether what read says of it is true.
func (s *keepableServer) check(text string) (effect, bool) {
	does := read(text, false)
	before, err := s.world()
	require.NoError(s.t, err)
	ran := false
	if does == keepable {
		ran = s.checkKept(text)
	}
	if does&(session|pool) == 0 && strings.IndexByte(text, 0) < 0 {
		err := s.exec(text)
		ran = ran || err == nil
		after, err := s.world()
		if err == nil {
			require.Equal(s.t, before, after, "read says %06b: %q", does, text)
		}
		s.do("ROLLBACK")
		after, err = s.world()
		require.NoError(s.t, err)
		require.Equal(s.t, before, after, "read says %06b: %q", does, text)
	}
	return does, ran
}

// checkKept compares what a statement says that was prepared before with what one says that is prepared now.
func (s *keepableServer) checkKept(text string) bool {
	kept, failed := s.Prepare(context.Background(), text)
	s.do("BEGIN")
	defer s.do("ROLLBACK")
	s.do("SAVEPOINT before")
	fresh, err := s.Prepare(context.Background(), text)
	require.Equal(s.t, code(failed), code(err), text)
	if err != nil {
		return false
	}
	for range 2 {
		want := s.run(fresh)
		s.do("ROLLBACK TO before")
		require.Equal(s.t, want, s.run(kept), "%q", text)
		s.do("ROLLBACK TO before")
	}
	require.NoError(s.t, kept.Close())
	require.NoError(s.t, fresh.Close())
	return true
}

// TestKeepable makes texts up and compares on the server.
func TestKeepable(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newKeepableServer(t)
	counts := map[string]int{}
	n := *texts
	if testing.Short() {
		n /= 20
	}
	for range n {
		data := make([]byte, 64)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 {
			s.do("SET standard_conforming_strings = " + []string{"on", "off"}[random.IntN(2)])
		}
		does, ran := s.check((&choices{data}).text())
		counts[fmt.Sprintf("%06b, ran: %v", does, ran)]++
	}
	t.Log(counts)
	require.Positive(t, counts["000001, ran: true"])
	require.Positive(t, counts["000000, ran: true"])
}

func FuzzKeepable(f *testing.F) {
	s := newKeepableServer(f)
	f.Add([]byte("a seed"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s.t, s.pgSession.t = t, t
		s.check((&choices{data}).text())
	})
}
