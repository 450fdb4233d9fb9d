package stmtcache

import (
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		mysql   bool
		want    effect
		queries []string
	}{
		{"kept", false, keepable, []string{
			"SELECT 1", "(SELECT $1)", "select a from b where c = $1", "VALUES ($1)", "INSERT INTO x VALUES ($1)", "UPDATE x SET y = $1",
			"DELETE FROM x", "MERGE INTO x USING y ON true WHEN MATCHED THEN DO NOTHING", "WITH x AS (SELECT 1) INSERT INTO y SELECT * FROM x",
			"INSERT\n/* a; b */INTO -- c\r\nx SELECT 1;", "SELECT ';'", `SELECT ";"`, "SELECT 'it''s'", "SELECT now(), current_date",
			"SELECT into_y, y_into FROM x", "SELECT a - - b", "SELECT E'x'", "SELECT 'a' , 'b'",
			"SELECT x AT TIME ZONE 'UTC'", "SELECT timestamptz '2024-01-01'", "INSERT INTO x VALUES ($1) ON CONFLICT (a) WHERE b = 'c' DO UPDATE SET d = $2",
			"SELECT a#>>b", "SELECT x::now", "UPDATE x SET pg_a = $1", "INSERT INTO x (pg_a) SELECT pg_b FROM pg_class", "SELECT pg_a FROM pg_proc FOR UPDATE",
			"INSERT INTO pg_temp.x VALUES ($1)", "DELETE FROM x USING pg_class",
		}},
		{"not kept, harmless", false, 0, []string{
			"", ";", "-- nothing", "/* nothing */ ;", "TABLE x", "SELECT 1; SELECT 2", "SELECT 'now'", "SELECT 'x noW y'",
			"SELECT '[n\"o\"w,)'::tsrange", "SELECT date 'Yesterday'", "SELECT 'to' 'day'", "SELECT 'n'\n'ow'", "SELECT 'n' -- x\n 'ow'",
			"SELECT $$now$$::date", "SELECT $1::timetz", `SELECT x::"timetz"`, "SELECT x::_timetz", "SELECT time(3) WITH time ZONE '12:00 Europe/Berlin'",
			"INSERT INTO x VALUES ($1) ON CONFLICT (a) WHERE b = $2 DO NOTHING", "COPY x FROM STDIN", "DECLARE c CURSOR FOR SELECT 1", "FETCH c",
			"LISTEN x", "SAVEPOINT x", "SHOW x", "SELECT $$; SET timezone = 'UTC'$$", "SELECT $x$;$$;$x$; SELECT 1",
			"INSERT INTO x VALUES ('a; SET b = 1'); SELECT 1", "SELECT 'knowledge'", "VACUUM", "ANALYZE x",
		}},
		{"session", false, session, []string{
			"SET TimeZone = 'UTC'", "SET ROLE x", "RESET ALL", "SET LOCAL a.b = 1", "SELECT set_config($1, $2, false)", `SELECT "set_config"($1, $2, false)`,
			"INSERT INTO x SELECT pg_catalog.Set_Config('search_path', 'y', false)", "/* x */ SET -- y\n search_path = other", "CREATE TEMP TABLE x (y int)",
			"create temporary view x as select 1", "SELECT 1; SET search_path = x", "SELECT $1$$;$$; SET search_path = x",
		}},
		{"forgets", false, session | forgets, []string{"DISCARD ALL", "DEALLOCATE ALL", "deallocate x"}},
		{"call", false, session | undoes, []string{"CALL x($1)"}},
		{"begins", false, begins, []string{"BEGIN", "begin; SELECT ';'", "START TRANSACTION READ ONLY"}},
		{"ends, and begins", false, ends | begins, []string{"SELECT 1; COMMIT AND CHAIN", "ROLLBACK WORK AND CHAIN", "COMMIT; BEGIN; ROLLBACK; BEGIN"}},
		{"begins in MySQL", true, begins, []string{"BEGIN WORK", "START TRANSACTION", "begin"}},
		{"ends", false, ends, []string{"COMMIT", "end", "abort work", "ROLLBACK;", "BEGIN; SELECT 1; COMMIT"}},
		{"savepoint, lock", false, undoes, []string{"LOCK TABLE x", "TRUNCATE x", "ROLLBACK TO x", "rollback transaction to savepoint x"}},
		{"pool", false, unknown, []string{
			"ALTER TABLE x ADD y int", "/* a note */ alter table x drop y", "CREATE TABLE x (y int)", "DROP TABLE x", "DO $$BEGIN NULL; END$$", "EXECUTE x",
			"SELECT 1 INTO x", "SELECT 1\tINTO\tx", "WITH x AS (SELECT 1) SELECT * INTO y FROM x", "EXPLAIN ANALYZE SELECT 1", "COMMIT PREPARED 'x'",
			"IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z", "SELECT 1; ALTER TABLE x ADD y int", "CHECKPOINT", "_x", "1", "'x'", "selects", "\xc4ndere x",
			"a_very_long_word", "CREATE UNLOGGED TABLE x ()", `"SELECT"`, "UPDATE pg_proc SET x = $1", `DELETE FROM ONLY "pg_catalog"."pg_cast"`,
			"WITH x AS (INSERT INTO pg_enum VALUES ($1)) SELECT 1", "merge into PG_Class using x on true when matched then do nothing",
		}},
		{"not understood", false, unknown, []string{
			`SELECT '\'; SET search_path = x --'`, `SELECT E'\x6eow'`, `SELECT U&'n!006fw' UESCAPE '!'`, `SELECT u&"x"`, "SELECT '", `SELECT "`,
			"/* /* */ */ SELECT 1", "/* SET", "-- a\rSELECT 1", "SELECT $x$", "SELECT $x", "SELECT 1\x00", "/*! SELECT 1 */", "/*M! x */ SELECT 1", `SELECT \ 1`,
		}},
		{"not understood, and may begin", false, unknown | begins, []string{
			`BEGIN; SELECT E'\n'`, `SELECT E'\n'; start transaction`, `SELECT '\'; BEGIN; SELECT '`, "BEGIN; SELECT $x$", "BEGIN\x00", "-- a\rBEGIN",
		}},
		{"ends, and is not understood", false, unknown | ends, []string{`COMMIT; SELECT E'\n'`}},
		{"not kept in MySQL", true, 0, []string{"SELECT ROW_COUNT(), ?", "SELECT `Row_Count`(), ?", `SELECT "found_rows"(), ?`}},
		{"kept in MySQL", true, keepable, []string{
			"SELECT ?", "REPLACE INTO x VALUES (?)", "SELECT `;` FROM x # now; y\n", "SELECT 5--1", "SELECT 'now'", "SELECT \"x;\" 'y'", "SELECT a$b$c", "SELECT $$;",
			"SELECT x INTO OUTFILE 'y'", "UPDATE pg_x SET y = ?",
		}},
		{"not kept in MySQL, harmless", true, 0, []string{"SELECT @x", "SELECT ROW_COUNT(), ?", "INSERT INTO x SELECT found_rows() + ?", "SHOW TABLES", "UNLOCK TABLES", "-- x"}},
		{"session in MySQL", true, session, []string{"USE x", "SET @x = 1", "SET sql_mode = ''", "SELECT 1; USE x"}},
		{"pool in MySQL", true, unknown, []string{
			"BEGIN NOT ATOMIC SET @x = 1", "/*!40101 SET sql_mode = '' */", "ALTER TABLE x ADD y int", "XA START 'x'", "EXECUTE x", "SELECT `\xe4\xbd\xa0`",
			"HANDLER x OPEN", "x: BEGIN",
		}},
	} {
		for _, query := range tt.queries {
			if got := read(query, tt.mysql); got != tt.want {
				t.Errorf("%s: %q: %06b, want %06b", tt.name, query, got, tt.want)
			}
		}
	}
}

func TestReadLongTexts(t *testing.T) {
	long := "SELECT '" + strings.Repeat("x", maxText) + "'"
	if got := read(long, false); got != 0 {
		t.Errorf("%d bytes: %06b", len(long), got)
	}
	if got := read("SET search_path = x -- "+strings.Repeat("x", maxText), false); got != session {
		t.Errorf("a long SET: %06b", got)
	}
}

func BenchmarkRead(b *testing.B) {
	const query = "SELECT id, name, created_at FROM customers WHERE region = $1 AND state = 'open' ORDER BY created_at DESC LIMIT 20"
	b.SetBytes(int64(len(query)))
	for b.Loop() {
		read(query, false)
	}
}
