package lifeguard

import (
	"slices"
	"strings"
	"testing"
)

func TestCutStatement(t *testing.T) {
	for _, tt := range []struct {
		kind  driverKind
		query string
		want  string // the statements, between bars; with a question mark where it cannot be told
	}{
		{libPQ, "SELECT 1", "SELECT 1"},
		{libPQ, "SELECT 1;", "SELECT 1|"},
		{libPQ, "a; b ;c", "a| b |c"},
		{libPQ, "a -- x;y\n; b", "a -- x;y\n| b"},
		{libPQ, "a -- x;y", "a -- x;y"},
		{libPQ, "a - 1; - b", "a - 1| - b"},
		{libPQ, "/*;*/ a; b", "/*;*/ a| b"},
		{libPQ, "/*/;*/ a; b", "/*/;*/ a| b"},
		{libPQ, "/* /* */;*/ a; b", "?"},
		{libPQ, "/*;", "?"},
		{libPQ, "';'';'; b", "';'';'| b"},
		{libPQ, `'\'; b'`, "?"},
		{libPQ, "'; b", "?"},
		{libPQ, `";"; b`, `";"| b`},
		{libPQ, "$$;$$; b", "$$;$$| b"},
		{libPQ, "$x$;$$;$x$; b", "$x$;$$;$x$| b"},
		{libPQ, "$x$; b", "?"},
		{libPQ, "$1; $2; a$x$;a$x$", "$1| $2| a$x$|a$x$"},
		{libPQ, "$; b", "$| b"},
		{libPQ, "# x; b", "# x| b"},
		{libPQ, "é$$; b$$", "é$$| b$$"},
		{goMySQL, "# x; y\n; b", "# x; y\n| b"},
		{goMySQL, "`;`; b", "`;`| b"},
		{goMySQL, "/*! SET x=1; */ b", "?"},
		{goMySQL, "$$;$$", "$$|$$"},
	} {
		var got []string
		for rest := tt.query; ; {
			statement, after, sure := cutStatement(rest, tt.kind)
			if !sure {
				statement = "?"
			}
			got = append(got, statement)
			if len(after) == 0 {
				if sure && len(statement) < len(rest) {
					got = append(got, "")
				}
				break
			}
			rest = after
		}
		if !slices.Equal(got, strings.Split(tt.want, "|")) {
			t.Errorf("%q: %q, want %q", tt.query, strings.Join(got, "|"), tt.want)
		}
	}
}

// Whatever is not known for certain to leave statements alone has them prepared again, and what is known does not.
func TestObserve(t *testing.T) {
	for _, tt := range []struct {
		kind    driverKind
		changes bool
		queries []string
	}{
		{libPQ, false, []string{
			"", ";", "-- nothing", "/* nothing */ ;", "SELECT 1", "(SELECT 1)", "TABLE x", "VALUES (1)", "BEGIN; SELECT ';'; COMMIT",
			"INSERT INTO x VALUES ('a; SET b = 1')", "INSERT\nINTO x SELECT 1", "WITH x AS (SELECT 1) INSERT INTO y SELECT * FROM x",
			"SELECT into_y, y_into FROM x", "SELECT set_config('app.user', '1', true)", "SELECT set_config('statement_timeout', '1', false)",
			"SET statement_timeout = 1", "SET LOCAL lock_timeout TO 5", "SET SESSION app.x = 1", "RESET work_mem", "SET enable_seqscan = off",
			"LISTEN x", "FETCH 2 FROM c", "COPY x FROM STDIN", "EXPLAIN ANALYZE SELECT 1", "DEALLOCATE x", "/* a */ UPDATE x SET y = 1",
			"SELECT $$; SET timezone = 'UTC'$$", "SELECT E'\\n'",
		}},
		{libPQ, true, []string{
			"SET TimeZone = 'UTC'", "SET ROLE x", "RESET ALL", "ALTER TABLE x ADD y int", "CREATE TEMP TABLE x (y int)", "DROP TABLE x",
			"DISCARD ALL", "DEALLOCATE ALL", "DO $$BEGIN NULL; END$$", "EXECUTE x", "SELECT 1 INTO x", "SELECT 1\tINTO\tx",
			"WITH x AS (SELECT 1) SELECT * INTO y FROM x", "EXPLAIN ANALYZE EXECUTE x", "SELECT set_config($1, $2, false)",
			"INSERT INTO x SELECT set_config('search_path', 'y', false)", "/* /* */ */ SET search_path = x", "/* SET", "ÄNDERE x", "_x", "1",
			"SELECT '\\'; SET search_path = x --'", "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z", "-- a\rSET search_path = x",
		}},
		{goMySQL, false, []string{
			"SELECT 1", "REPLACE INTO x VALUES (1)", "SET @x = 1", "SET SESSION wait_timeout = 5", "SHOW TABLES",
			"DESCRIBE x", "LOCK TABLES x READ",
		}},
		{goMySQL, true, []string{"USE x", "SET sql_mode = ''", "SET NAMES latin1", "/*!40101 SET sql_mode = '' */", "ALTER TABLE x ADD y int"}},
	} {
		for _, query := range tt.queries {
			s := &session{kept: statementCache{kind: tt.kind}}
			s.observe(query)
			if s.kept.unsettled != tt.changes {
				t.Errorf("%q: change %v, want %v", query, s.kept.unsettled, tt.changes)
			}
		}
	}
}

func TestPlaceholders(t *testing.T) {
	for query, want := range map[string]int{
		"": 0, "SELECT 1": 0, "SELECT $1": 1, "SELECT $2, $12, $3": 12, "SELECT '$7'": 7, "$$ $a$ $": 0, "$99999999999999999999": maxArguments,
	} {
		if got := placeholders(query); got != want {
			t.Errorf("%q: %d, want %d", query, got, want)
		}
	}
}
