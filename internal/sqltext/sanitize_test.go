package sqltext_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"

	. "github.com/go-lifeguard/lifeguard/internal/sqltext"
)

var sanitizeTests = []struct {
	name    string
	dialect Dialect
	query   string
	want    string
}{
	// What query builders and ORMs write.
	{"GORM find", PostgreSQL,
		`SELECT * FROM "users" WHERE "users"."email" = 'a@b.c' AND "users"."deleted_at" IS NULL ORDER BY "users"."id" LIMIT 1`,
		`SELECT * FROM "users" WHERE "users"."email" = ? AND "users"."deleted_at" IS NULL ORDER BY "users"."id" LIMIT ?`},
	{"GORM insert", PostgreSQL,
		`INSERT INTO "users" ("name","age") VALUES ($1,$2),($3,$4),($5,$6) ON CONFLICT ("id") DO UPDATE SET "name"="excluded"."name" RETURNING "id"`,
		`INSERT INTO "users" ("name","age") VALUES ($1,$2), … ON CONFLICT ("id") DO UPDATE SET "name"="excluded"."name" RETURNING "id"`},
	{"GORM on MySQL", MySQL,
		"UPDATE `users` SET `name`='hello',`updated_at`='2013-11-17 21:34:10' WHERE id=111 AND `users`.`deleted_at` IS NULL",
		"UPDATE `users` SET `name`=?,`updated_at`=? WHERE id=? AND `users`.`deleted_at` IS NULL"},
	{"GORM on SQLite", SQLite,
		"SELECT count(*) FROM sqlite_master WHERE type='table' AND name=\"users\"",
		"SELECT count(*) FROM sqlite_master WHERE type=? AND name=?"},
	{"sqlx named", PostgreSQL,
		"INSERT INTO person (first_name, last_name)\n\tVALUES (:first_name, :last_name)",
		"INSERT INTO person (first_name, last_name) VALUES (:first_name, :last_name)"},
	{"sqlx.In", MySQL,
		"SELECT * FROM users WHERE level IN (?, ?, ?, ?);",
		"SELECT * FROM users WHERE level IN (?);"},
	{"bun", PostgreSQL,
		`WITH "_data" ("id", "title") AS (VALUES (1::BIGINT, 'x'::VARCHAR), (2::BIGINT, 'y'::VARCHAR)) UPDATE "books" AS "b" SET title = _data.title FROM _data WHERE (b.id = _data.id)`,
		`WITH "_data" ("id", "title") AS (VALUES (?::BIGINT, ?::VARCHAR), …) UPDATE "books" AS "b" SET title = _data.title FROM _data WHERE (b.id = _data.id)`},

	// Strings.
	{"doubled quote", PostgreSQL, `SELECT 'it''s', 'two'`, `SELECT ?, ?`},
	{"empty", PostgreSQL, `SELECT '', ''`, `SELECT ?, ?`},
	{"next to each other", MySQL, `SELECT 'a' 'b' "c", 1`, `SELECT ?, ?`},
	{"prefixes", PostgreSQL, `SELECT E'a\'b', U&'d\0061t' UESCAPE '!', N'n', B'01', X'1F', e'\\', 'x'`,
		`SELECT ?, ? UESCAPE ?, ?, ?, ?, ?, ?`},
	{"no prefix", PostgreSQL, `SELECT date'2020-01-01', type 'x'`, `SELECT date ?, type ?`},
	{"dollars", PostgreSQL, `SELECT $$it's$$, $a$ $b$ 'x $a$, $1, a$b$c`, `SELECT ?, ?, $1, a$b$c`},
	{"dollar behind a number", PostgreSQL, `SELECT 1$$it's$$, a`, `SELECT ? ?, a`},
	{"dollars in a name", MySQL, `SELECT $a$ 'x $a$ secret', b`, `SELECT ?`},
	{"no prefix behind what PostgreSQL takes for a letter", PostgreSQL, "SELECT \u00a0E'\\', 'secret'", "SELECT E ?"},
	{"DO", PostgreSQL, "DO $$ BEGIN PERFORM secret('x'); END $$ LANGUAGE plpgsql", "DO ? LANGUAGE plpgsql"},
	{"function body", PostgreSQL, "CREATE FUNCTION f(int) RETURNS int AS $fn$ SELECT 'x' $fn$ LANGUAGE sql",
		"CREATE FUNCTION f(int) RETURNS int AS ? LANGUAGE sql"},
	{"MySQL's double quotes", MySQL, `SELECT * FROM t WHERE a = "it's" AND b = "say ""x""" AND c = 'x'`,
		`SELECT * FROM t WHERE a = ? AND b = ? AND c = ?`},
	{"MySQL's introducers", MySQL, `SELECT _utf8mb4'x', _latin1 "y", N'z', x'41'`, `SELECT _utf8mb4 ?, _latin1 ?, ?, ?`},
	{"names in double quotes", PostgreSQL, `SELECT "it's", "a""b".c FROM "T"`, `SELECT "it's", "a""b".c FROM "T"`},
	{"names in every quote", SQLite, "SELECT \"it's\", `it's`, [it's], 'x' FROM t", "SELECT \"it's\", `it's`, [it's], ? FROM t"},
	{"a string in double quotes", SQLite, `SELECT "a" FROM t WHERE "b" = "x" AND c LIKE "y%" AND d IN ("z", "w") AND t.e = "t"."f"`,
		`SELECT "a" FROM t WHERE "b" = ? AND c LIKE ? AND d IN (?) AND t.e = "t"."f"`},
	{"backslash at the end", SQLite, `SELECT * FROM t WHERE a LIKE ? ESCAPE '\' AND b = 'x'`, `SELECT * FROM t WHERE a LIKE ? ESCAPE ? AND b = ?`},
	{"ESCAPE", PostgreSQL, `SELECT * FROM t WHERE a LIKE 'x\_%' ESCAPE '\' AND b = 'y'`, `SELECT * FROM t WHERE a LIKE ? ESCAPE ? AND b = ?`},
	{"backslash that escapes nothing", PostgreSQL, `SELECT 'C:\dir', '\\', b`, `SELECT ?, ?, b`},

	// Where the server's settings decide, everything from there on is hidden.
	{"backslash and quote", PostgreSQL, `SELECT a, 'it\'s', 'x' FROM t`, `SELECT a, ?`},
	{"backslash and quote, MySQL", MySQL, `SELECT a, 'it\'s', 'x' FROM t`, `SELECT a, ?`},
	{"MySQL runs some comments", MySQL, `SELECT /*! STRAIGHT_JOIN */ a, /*!80000 '*/ x' */ b`, `SELECT a, ?`},
	{"unterminated string", PostgreSQL, `SELECT a, 'it is`, `SELECT a, ?`},
	{"unterminated dollars", PostgreSQL, `SELECT a, $x$ it is $y$`, `SELECT a, ?`},
	{"unterminated name", PostgreSQL, `SELECT a, "it is`, `SELECT a, ?`},
	{"unterminated comment", PostgreSQL, `SELECT a /* it /* is */ secret`, `SELECT a ?`},
	{"unterminated bracket", Other, "SELECT a, [it's, 'secret'", "SELECT a, [?"},
	{"Tcl's variables", SQLite, "SELECT a, $a(it's), 'secret'", "SELECT a, ?"},
	{"unterminated backtick", MySQL, "SELECT a, `it is", `SELECT a, ?`},

	// Numbers.
	{"numbers", PostgreSQL, `SELECT 1, 1.5, .5, 5., 1e10, 1E-10, 1.5e+3, 0x1F, 0b01, 0o17, 1_000.5, 12abc`,
		`SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?`},
	{"signs", PostgreSQL, `SELECT -1, a-1, a - 1, (a)-1, a[1]-1, 2-1, a = - 1 OR -a > +1`,
		`SELECT ?, a-?, a - ?, (a)-?, a[?]-?, ?-?, a = ? OR -a > ?`},
	{"signs that are no comment", MySQL, `SELECT 5--1, a--b`, `SELECT ?-?, a- -b`},
	{"names with digits", PostgreSQL, `SELECT t1.c2, _3 FROM v8.t1`, `SELECT t1.c2, _3 FROM v8.t1`},
	{"money", Other, `SELECT $10.50, €10, @p1`, `SELECT ?, ?, @p1`},

	// Comments.
	{"line", PostgreSQL, "SELECT a--b'c\n, d -- e", "SELECT a , d"},
	{"nested", PostgreSQL, "SELECT/* a /* b */ 'c */d/**/FROM t", "SELECT d FROM t"},
	{"not nested", SQLite, "SELECT /* a /* b */ c", "SELECT c"},
	{"behind an operator", PostgreSQL, "SELECT a=/* secret */1, b=-- secret\n2", "SELECT a= ?, b= ?"},
	{"hash", MySQL, "SELECT a # it's\n, b", "SELECT a , b"},
	{"hash is an operator", PostgreSQL, "SELECT a # b, c #>> '{d}'", "SELECT a # b, c #>> ?"},
	{"hints", MySQL, "SELECT /*+ MAX_EXECUTION_TIME(1000) */ a FROM t", "SELECT a FROM t"},
	{"query tags", PostgreSQL, "SELECT 1 /*traceparent='00-ab-cd-01',tenant='x'*/", "SELECT ?"},

	// Operators that look like something else.
	{"JSON", PostgreSQL, `SELECT data->>'key', data->'a'->0, data#>'{a,b}', data @> '{"a":1}'::jsonb FROM t WHERE data ? 'key' AND data ?| array['a','b'] AND data ?& $1`,
		`SELECT data->>?, data->?->?, data#>?, data @> ?::jsonb FROM t WHERE data ? ? AND data ?| array[?] AND data ?& $1`},
	{"casts", PostgreSQL, `SELECT '2020-01-01'::date, CAST('1' AS int), 1::text, interval '1 day'`,
		`SELECT ?::date, CAST(? AS int), ?::text, interval ?`},
	{"arrays", PostgreSQL, `SELECT ARRAY[1,2,3], a[1], a[1:2], '{1,2}'::int[], b <@ARRAY['x']`,
		`SELECT ARRAY[?], a[?], a[?:?], ?::int[], b <@ARRAY[?]`},
	{"placeholders", SQLite, `SELECT ?, ?12, :a, @b, $c, $12`, `SELECT ?, ?12, :a, @b, $c, $12`},
	{"variables", MySQL, `SELECT @a := 1, @@global.b, 'u'@'h'`, `SELECT @a := ?, @@global.b, ?@?`},
	{"window", PostgreSQL,
		`SELECT id, row_number() OVER (PARTITION BY a ORDER BY b DESC ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM t WHERE c IS NOT NULL AND d = TRUE`,
		`SELECT id, row_number() OVER (PARTITION BY a ORDER BY b DESC ROWS BETWEEN ? PRECEDING AND CURRENT ROW) FROM t WHERE c IS NOT NULL AND d = TRUE`},
	{"CTE", PostgreSQL,
		"WITH RECURSIVE t(n) AS (\n  VALUES (1)\n  UNION ALL\n  SELECT n+1 FROM t WHERE n < 100\n)\nSELECT sum(n) FROM t",
		"WITH RECURSIVE t(n) AS ( VALUES (?) UNION ALL SELECT n+? FROM t WHERE n < ? ) SELECT sum(n) FROM t"},

	// Lists.
	{"IN", PostgreSQL, "a IN (1, 2,\n3) AND b NOT IN ('x')", "a IN (?) AND b NOT IN (?)"},
	{"IN with placeholders", PostgreSQL, "a IN ($1) OR a IN ($1,$2,$3)", "a IN (?) OR a IN (?)"},
	{"IN with casts", PostgreSQL, "a IN ($1::uuid, $2::uuid)", "a IN (?::uuid)"},
	{"IN with others", PostgreSQL, "a IN (1, NULL, 2, b, 3, b, -4)", "a IN (?, NULL, b, b)"},
	{"IN with rows", PostgreSQL, "(a, b) IN ((1, 'x'), (2, 'y'))", "(a, b) IN ((?, ?))"},
	{"IN with a query", PostgreSQL, "a IN (SELECT b FROM c WHERE d = $1)", "a IN (SELECT b FROM c WHERE d = $1)"},
	{"IN with functions", MySQL, "a IN (lower('x'), lower('y'), concat('x', 'y'))", "a IN (lower(?), concat(?, ?))"},
	{"IN that does not end", PostgreSQL, "a IN (1, 2, 3", "a IN (?, ?"},
	{"VALUES", PostgreSQL, "INSERT INTO t VALUES (1, DEFAULT, now()), (2, 3, 4) RETURNING id", "INSERT INTO t VALUES (?, DEFAULT, now()), … RETURNING id"},
	{"VALUES once", PostgreSQL, "INSERT INTO t VALUES ($1, 2)", "INSERT INTO t VALUES ($1, ?)"},
	{"VALUES ROW", MySQL, "VALUES ROW(1,2), ROW(3,4) ORDER BY 1", "VALUES ROW(?,?), … ORDER BY ?"},
	{"VALUES, the function", MySQL, "INSERT INTO t (a) VALUES (1),(2) ON DUPLICATE KEY UPDATE a=VALUES(a), b=VALUES(b)",
		"INSERT INTO t (a) VALUES (?), … ON DUPLICATE KEY UPDATE a=VALUES(a), b=VALUES(b)"},
	{"VALUES in an unfinished IN", PostgreSQL, "a IN (b, VALUES ($1 = 1), (2)", "a IN (b, VALUES ($1 = ?), …"},
	{"VALUES in brackets", PostgreSQL, "SELECT * FROM (VALUES (1,'a'),(2,'b')) AS t(x,y)", "SELECT * FROM (VALUES (?,?), …) AS t(x,y)"},

	// Other statements.
	{"several", PostgreSQL, "BEGIN; UPDATE t SET a = 'x'; COMMIT;", "BEGIN; UPDATE t SET a = ?; COMMIT;"},
	{"EXPLAIN", PostgreSQL, "EXPLAIN (ANALYZE, FORMAT json) SELECT 1", "EXPLAIN (ANALYZE, FORMAT json) SELECT ?"},
	{"CREATE TABLE", MySQL,
		"CREATE TABLE IF NOT EXISTS `t` (`id` bigint(20) NOT NULL AUTO_INCREMENT, `s` enum('a','b') DEFAULT 'a', password varchar(255)) ENGINE=InnoDB COMMENT='x'",
		"CREATE TABLE IF NOT EXISTS `t` (`id` bigint(?) NOT NULL AUTO_INCREMENT, `s` enum(?,?) DEFAULT ?, password varchar(?)) ENGINE=InnoDB COMMENT=?"},
	{"COPY", PostgreSQL, "COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, NULL '')", "COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, NULL ?)"},
	{"COPY and data", PostgreSQL, "COPY t FROM STDIN;\nsecret\t1\n\\.\n", "COPY t FROM STDIN; ?"},
	{"COPY and data at once", PostgreSQL, "COPY t FROM STDIN\nsecret\t1\n\\.\n", "COPY t FROM STDIN ?"},

	// Passwords.
	{"ROLE", PostgreSQL, "ALTER ROLE bob WITH LOGIN PASSWORD 'secret' VALID UNTIL '2030-01-01'", "ALTER ROLE bob WITH LOGIN PASSWORD ? VALID UNTIL ?"},
	{"ROLE, wrong quotes", PostgreSQL, `ALTER ROLE bob PASSWORD "secret"; SELECT 1`, "ALTER ROLE bob PASSWORD ?; SELECT ?"},
	{"ROLE, no quotes", PostgreSQL, `CREATE USER bob PASSWORD secret VALID UNTIL '2030-01-01'`, "CREATE USER bob PASSWORD ?"},
	{"no password", PostgreSQL, `ALTER ROLE bob PASSWORD NULL`, "ALTER ROLE bob PASSWORD NULL"},
	{"IDENTIFIED BY", MySQL, "CREATE USER 'bob'@'%' IDENTIFIED WITH mysql_native_password BY 'secret' PASSWORD EXPIRE INTERVAL 90 DAY",
		"CREATE USER ?@? IDENTIFIED WITH mysql_native_password BY ? PASSWORD EXPIRE INTERVAL ? DAY"},
	{"IDENTIFIED BY, no quotes", Other, `ALTER USER bob IDENTIFIED BY secret REPLACE old`, "ALTER USER bob IDENTIFIED BY ?"},
	{"IDENTIFIED BY, in quotes", Other, `ALTER USER bob IDENTIFIED BY "secret" REPLACE old`, "ALTER USER bob IDENTIFIED BY ? REPLACE ?"},
	{"a column", PostgreSQL, "SELECT password FROM users WHERE password = $1", "SELECT password FROM users WHERE password = $1"},

	// Unknown databases.
	{"double quotes", Other, `SELECT "a" FROM t WHERE b = "it's"`, `SELECT ? FROM t WHERE b = ?`},
	{"SQL Server", Other, `SELECT TOP 10 [a], [Order Details].[b c] FROM [dbo].[t] WHERE c = N'x' AND d = 0x1F`,
		`SELECT TOP ? [a], [Order Details].[b c] FROM [dbo].[t] WHERE c = ? AND d = ?`},
	{"SQL Server, quote in brackets", Other, `SELECT a, [it's], 'x' FROM t`, `SELECT a, [it ?`},
	{"SQL Server, quote and brackets in brackets", Other, `SELECT [a]]it's], 'secret' FROM t`, `SELECT [a]]it ?`},
	{"arrays of strings", Other, `SELECT ['a', 'b'], [1, 2] FROM t`, `SELECT [?, ?], [?, ?] FROM t`},
	{"Oracle", Other, `SELECT q'[a]', nq'!b!' FROM dual WHERE a = :1`, `SELECT ?, ? FROM dual WHERE a = :?`},
	{"Oracle, quote inside", Other, `SELECT a, q'[it's]', 'x' FROM dual`, `SELECT a, ?`},
	{"BigQuery", Other, "SELECT '''a''', r\"b\" FROM `p.d.t`", "SELECT ?, ? FROM `p.d.t`"},
	{"BigQuery, quote inside", Other, "SELECT a, '''it's''', 'x'", "SELECT a, ?"},
	{"return in a comment", Other, "SELECT a -- b\r, it's\n, 'secret'", "SELECT a ?"},
	{"nested or not", Other, "SELECT a /* b /* c */ d */", "SELECT a ?"},
	{"ESCAPE", Other, `SELECT a FROM t WHERE a LIKE 'x' ESCAPE '\' AND b = 'y'`, `SELECT a FROM t WHERE a LIKE ? ESCAPE ? AND b = ?`},
	{"invalid dialect", 99, `SELECT "a", 'b'`, `SELECT ?, ?`},

	// The result is text for one line.
	{"whitespace", PostgreSQL, "\n  SELECT\t a ,\r\n\u00a0b\u2028FROM  \"t\n1\"  ", "SELECT a , b FROM \"t 1\""},
	{"control characters", PostgreSQL, "SELECT\x00a\x1b[31m,\u202e\"b\x07\"", "SELECT a [?, \"b \""},
	{"invalid UTF-8", PostgreSQL, "SELECT \"a\xff\", b\xff, '\xff'", "SELECT \"a\ufffd\", b\ufffd, ?"},
	{"nothing", PostgreSQL, "", ""},
	{"nothing but a comment", PostgreSQL, " -- x", ""},
}

func TestSanitize(t *testing.T) {
	for _, tt := range sanitizeTests {
		t.Run(tt.dialect.String()+"/"+tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, Sanitize(tt.dialect, tt.query))
			assert.Equal(t, tt.want, Sanitize(tt.dialect, tt.want), "sanitized twice")
		})
	}
}

func TestSanitizeCutsLongQueries(t *testing.T) {
	names := strings.Repeat("naïve, ", 1000)
	for pad := range 10 {
		got := Sanitize(PostgreSQL, "SELECT "+strings.Repeat("x", pad)+names)
		assert.LessOrEqual(t, len(got), MaxLen)
		assert.Greater(t, len(got), MaxLen-20)
		assert.True(t, utf8.ValidString(got))
		assert.Regexp(t, `naïve,? …$`, got)
		assert.Equal(t, got, Sanitize(PostgreSQL, got), "sanitized twice")

		got = Sanitize(SQLite, "SELECT "+strings.Repeat("x", pad)+strings.Repeat(` = "t"."c"`, 1000))
		assert.Equal(t, got, Sanitize(SQLite, got), "sanitized twice")
	}

	exact := "SELECT " + strings.Repeat("x", MaxLen-len("SELECT "))
	assert.Equal(t, exact, Sanitize(PostgreSQL, exact), "what just fits is not cut")
	assert.Equal(t, "SELECT …", Sanitize(PostgreSQL, exact+"x"))
	assert.Equal(t, "…", Sanitize(PostgreSQL, strings.Repeat("x", MaxLen+1)))

	bulk := "INSERT INTO t (a, b) VALUES (1, 'secret')" + strings.Repeat(", (1, 'secret')", 100_000)
	assert.Equal(t, "INSERT INTO t (a, b) VALUES (?, ?), …", Sanitize(PostgreSQL, bulk))
	assert.Equal(t, "SELECT ? …", Sanitize(PostgreSQL, "SELECT '"+strings.Repeat("secret", 100_000)+"' FROM t"))
}

func BenchmarkSanitize(b *testing.B) {
	for name, query := range map[string]string{
		"Query=GORM": sanitizeTests[0].query,
		"Query=CTE":  "WITH recent AS (SELECT * FROM orders WHERE at > '2020-01-01'), old (id) AS (DELETE FROM carts RETURNING id) INSERT INTO archive SELECT r.* FROM recent r JOIN old USING (id)",
		"Query=Bulk": "INSERT INTO t (a, b) VALUES (1, 'x')" + strings.Repeat(", (1, 'x')", 1000),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(query)))
			for b.Loop() {
				Sanitize(PostgreSQL, query)
			}
		})
	}
}
