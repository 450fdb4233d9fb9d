package summary_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	. "github.com/go-lifeguard/lifeguard/internal/sqltext"
	"github.com/go-lifeguard/lifeguard/internal/sqltext/summary"
)

var summaryTests = []struct {
	dialect   Dialect
	query     string
	summary   string
	operation string
	target    string
}{
	// The examples of the semantic conventions.
	{PostgreSQL, "SELECT *\nFROM   wuser_table\nWHERE  username = ?", "SELECT wuser_table", "SELECT", "wuser_table"},
	{PostgreSQL, "INSERT INTO shipping_details\n(order_id,\naddress)\nSELECT order_id, address FROM orders WHERE order_id = ?",
		"INSERT shipping_details SELECT orders", "INSERT", "shipping_details"},
	{PostgreSQL, "SELECT * FROM songs, artists WHERE songs.artist_id == artists.id", "SELECT songs artists", "SELECT", "songs"},
	{PostgreSQL, "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id)",
		"SELECT SELECT orders customers", "SELECT", "orders"},
	{PostgreSQL, `WITH recent AS (SELECT * FROM orders WHERE at > '2020-01-01'), old (id) AS NOT MATERIALIZED (DELETE FROM carts RETURNING id)
		INSERT INTO archive SELECT r.* FROM recent r JOIN old USING (id), customers ON CONFLICT DO NOTHING`,
		"SELECT orders DELETE carts INSERT archive SELECT customers", "INSERT", "archive"},
	{PostgreSQL, `SELECT * FROM "song list", s."b"`, `SELECT "song list" s."b"`, "SELECT", `"song list"`},
	{PostgreSQL, "{call some_stored_procedure(?)}", "call some_stored_procedure", "CALL", "some_stored_procedure"},

	// Queries.
	{PostgreSQL, "select 1", "select", "SELECT", ""},
	{PostgreSQL, "SELECT a, b FROM ONLY x.t AS u, LATERAL (SELECT 1 FROM v) w CROSS JOIN z WHERE 1=1 ORDER BY c, d", "SELECT x.t SELECT v z", "SELECT", "x.t"},
	{PostgreSQL, "SELECT * FROM a WHERE id IN (SELECT id FROM b) AND EXISTS (SELECT 1 FROM c)", "SELECT a SELECT b SELECT c", "SELECT", "a"},
	{PostgreSQL, "SELECT * FROM (a JOIN b ON a.x = b.x), c", "SELECT a b c", "SELECT", "c"},
	{PostgreSQL, "SELECT * FROM a JOIN b ON a.x = ARRAY[c, d], e", "SELECT a b e", "SELECT", "a"},
	{PostgreSQL, "(SELECT a FROM t) UNION ALL (SELECT b FROM u) ORDER BY 1", "SELECT t SELECT u", "SELECT", "t"},
	{PostgreSQL, "SELECT EXTRACT(year FROM c), substring(d from 2), trim(both 'x' from e) FROM t WHERE a IS NOT DISTINCT FROM b FOR UPDATE OF t",
		"SELECT t", "SELECT", "t"},
	{PostgreSQL, "SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS g(a, b)", "SELECT generate_series", "SELECT", "generate_series"},
	{PostgreSQL, "SELECT * FROM (VALUES (1, 2), (3, 4)) AS t (a, b)", "SELECT", "SELECT", ""},
	{PostgreSQL, "SELECT a INTO TEMP t FROM u", "SELECT t u", "SELECT", "t"},
	{PostgreSQL, "VALUES (1), (2)", "VALUES", "VALUES", ""},
	{PostgreSQL, "TABLE t", "TABLE t", "TABLE", "t"},
	{PostgreSQL, "(TABLE t) UNION SELECT * FROM (TABLE u) v", "TABLE t SELECT TABLE u", "SELECT", "t"},
	{PostgreSQL, "SELECT 'FROM secret', \"from\" FROM t -- FROM u", "SELECT t", "SELECT", "t"},
	{PostgreSQL, "WITH users AS (SELECT * FROM users) SELECT * FROM users", "SELECT users SELECT", "SELECT", "users"},
	{PostgreSQL, "WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT n FROM t, u) CYCLE n SET c USING p SELECT * FROM t", "SELECT SELECT u SELECT", "SELECT", "u"},
	{MySQL, "SELECT STRAIGHT_JOIN a FROM t STRAIGHT_JOIN `u v`", "SELECT t `u v`", "SELECT", "t"},
	{MySQL, "SELECT INSERT('a', 1, 2, 'b'), REPLACE(a, 'b', 'c'), TRUNCATE(a, 1) FROM t INTO OUTFILE 'x'", "SELECT t", "SELECT", "t"},
	{MySQL, `SELECT * FROM "secret"`, "SELECT", "SELECT", ""},
	{Other, "SELECT [a] FROM [dbo].[Order Details] AS o JOIN db..t ON 1 = 1 CROSS APPLY f(o.x)", "SELECT [dbo].[Order Details] db..t f", "SELECT", "[dbo].[Order Details]"},
	{Other, `SELECT * FROM public."T"`, "SELECT", "SELECT", ""},
	{Other, `SELECT * FROM [a 1], b`, "SELECT b", "SELECT", "b"},

	// Changes.
	{PostgreSQL, "INSERT INTO s.t (a, b) VALUES (1, 'secret'), (2, 'secret') ON CONFLICT (a) DO UPDATE SET b = excluded.b", "INSERT s.t", "INSERT", "s.t"},
	{PostgreSQL, "INSERT INTO t WITH a AS (SELECT * FROM b) SELECT * FROM a", "INSERT t SELECT b SELECT", "INSERT", "t"},
	{SQLite, "INSERT OR REPLACE INTO t VALUES (1)", "INSERT t", "INSERT", "t"},
	{MySQL, "INSERT IGNORE t SET a = 1 ON DUPLICATE KEY UPDATE a = 2", "INSERT t", "INSERT", "t"},
	{MySQL, "REPLACE INTO t VALUES (1)", "REPLACE t", "REPLACE", "t"},
	{PostgreSQL, "UPDATE ONLY t AS x SET a = (SELECT max(b) FROM u), c = 1 FROM v, w WHERE x.d = v.d", "UPDATE t SELECT u v w", "UPDATE", "t"},
	{MySQL, "UPDATE a, b SET a.x = b.x, a.y = 1", "UPDATE a b", "UPDATE", "a"},
	{PostgreSQL, "DELETE FROM t USING u, v WHERE t.a = u.a RETURNING *", "DELETE t u v", "DELETE", "t"},
	{MySQL, "DELETE x FROM t AS x JOIN u USING (id) WHERE 1=1", "DELETE t u", "DELETE", "t"},
	{Other, "DELETE t WHERE a = 1", "DELETE t", "DELETE", "t"},
	{PostgreSQL, "MERGE INTO t USING (SELECT * FROM u) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (a) VALUES (1)",
		"MERGE t SELECT u", "MERGE", "t"},
	{PostgreSQL, "COPY t (a, b) FROM STDIN", "COPY t", "COPY", "t"},
	{PostgreSQL, "COPY t FROM STDIN;\nSELECT\t* FROM secret\n\\.", "COPY t", "COPY", "t"},
	{PostgreSQL, "COPY (SELECT * FROM t) TO STDOUT", "COPY SELECT t", "COPY", "t"},

	// Definitions and the rest.
	{PostgreSQL, "CREATE TABLE IF NOT EXISTS s.t (a int DEFAULT 1, b text REFERENCES u (b))", "CREATE TABLE s.t", "CREATE", "s.t"},
	{PostgreSQL, "CREATE TEMP TABLE t AS SELECT * FROM u", "CREATE TABLE t SELECT u", "CREATE", "t"},
	{PostgreSQL, "CREATE MATERIALIZED VIEW IF NOT EXISTS v AS WITH q AS (SELECT 1 FROM g) SELECT * FROM q", "CREATE VIEW v SELECT g SELECT", "CREATE", "v"},
	{PostgreSQL, "CREATE OR REPLACE VIEW v AS SELECT * FROM t", "CREATE VIEW v", "CREATE", "v"},
	{PostgreSQL, "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", "CREATE INDEX i", "CREATE", "i"},
	{PostgreSQL, "CREATE INDEX ON t (a)", "CREATE INDEX t", "CREATE", "t"},
	{MySQL, "CREATE DEFINER=`root`@`localhost` SQL SECURITY INVOKER VIEW v AS SELECT 1", "CREATE VIEW v", "CREATE", "v"},
	{PostgreSQL, "CREATE FUNCTION f(a int, b int) RETURNS int AS $$ SELECT 1 FROM secret $$", "CREATE FUNCTION f", "CREATE", "f"},
	{PostgreSQL, "CREATE ROLE bob PASSWORD 'secret'", "CREATE ROLE bob", "CREATE", "bob"},
	{PostgreSQL, "ALTER TABLE ONLY t ADD COLUMN a int, ADD COLUMN b int", "ALTER TABLE t", "ALTER", "t"},
	{PostgreSQL, "DROP TABLE IF EXISTS a, b CASCADE", "DROP TABLE a b", "DROP", "a"},
	{PostgreSQL, "TRUNCATE a, b RESTART IDENTITY", "TRUNCATE a b", "TRUNCATE", "a"},
	{PostgreSQL, "LOCK TABLE a IN EXCLUSIVE MODE", "LOCK TABLE a", "LOCK", "a"},
	{PostgreSQL, "VACUUM (ANALYZE, VERBOSE) a", "VACUUM a", "VACUUM", "a"},
	{PostgreSQL, "REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH VIEW v", "REFRESH", "v"},
	{PostgreSQL, "EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1", "EXPLAIN UPDATE t", "EXPLAIN", "t"},
	{MySQL, "EXPLAIN FORMAT=TREE SELECT * FROM t", "EXPLAIN SELECT t", "EXPLAIN", "t"},
	{MySQL, "DESCRIBE t", "DESCRIBE t", "DESCRIBE", "t"},
	{SQLite, "EXPLAIN QUERY PLAN SELECT * FROM t", "EXPLAIN SELECT t", "EXPLAIN", "t"},
	{PostgreSQL, "PREPARE p (int) AS SELECT * FROM t WHERE a = $1", "PREPARE SELECT t", "PREPARE", "t"},
	{PostgreSQL, "DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE SELECT t", "DECLARE", "t"},
	{Other, "EXEC @r = dbo.p @a = 1", "EXEC dbo.p", "EXEC", "dbo.p"},
	{SQLite, "PRAGMA table_info(t)", "PRAGMA table_info", "PRAGMA", ""},
	{PostgreSQL, "BEGIN", "BEGIN", "BEGIN", ""},
	{PostgreSQL, "begin isolation level serializable", "begin", "BEGIN", ""},
	{PostgreSQL, "START TRANSACTION READ ONLY", "START TRANSACTION", "START", ""},
	{PostgreSQL, "SAVEPOINT sp0xc0001234", "SAVEPOINT", "SAVEPOINT", ""},
	{PostgreSQL, "SET app.user = secret", "SET", "SET", ""},
	{PostgreSQL, "GRANT SELECT ON t TO bob", "GRANT", "GRANT", ""},

	// Several statements.
	{PostgreSQL, "BEGIN; UPDATE t SET a = 1; COMMIT", "BEGIN UPDATE t COMMIT", "BEGIN", ""},
	{PostgreSQL, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (3);", "INSERT t", "INSERT", "t"},
	{PostgreSQL, "; ; SELECT * FROM t; SELECT * FROM u", "SELECT t SELECT u", "SELECT", "t"},

	// Nothing that is known.
	{PostgreSQL, "", "", "", ""},
	{PostgreSQL, "'secret'", "", "", ""},
	{PostgreSQL, "secret FROM t", "", "", ""},
	{PostgreSQL, "SELECT * FROM", "SELECT", "SELECT", ""},
	{PostgreSQL, "SELECT * FROM 'secret", "SELECT", "SELECT", ""},
	{PostgreSQL, "INSERT INTO", "INSERT", "INSERT", ""},
}

func TestSummary(t *testing.T) {
	for _, tt := range summaryTests {
		t.Run(tt.dialect.String()+"/"+tt.query, func(t *testing.T) {
			assert.Equal(t, tt.summary, summary.Of(tt.dialect, tt.query))
			assert.Equal(t, tt.operation, summary.Operation(tt.dialect, tt.query), "operation")
			assert.Equal(t, tt.target, summary.Target(tt.dialect, tt.query), "target")
			if !strings.Contains(tt.query, `"`) || tt.dialect == MySQL || tt.dialect == Other {
				assert.Equal(t, tt.summary, summary.Of(tt.dialect, Sanitize(tt.dialect, tt.query)), "of the sanitized query")
			}
		})
	}
}

func TestSummaryEndsWithAWholeName(t *testing.T) {
	name := strings.Repeat("é", 30)
	query := "SELECT * FROM " + strings.Repeat(name+", ", 20) + "z"
	assert.Equal(t, "SELECT"+strings.Repeat(" "+name, 8), summary.Of(PostgreSQL, query))
	assert.Equal(t, "SELECT", summary.Of(PostgreSQL, "SELECT * FROM "+strings.Repeat("x", 300)+", z"),
		"a name behind one that does not fit is not a substitute")
}

func BenchmarkOf(b *testing.B) {
	for name, query := range map[string]string{
		"Query=GORM": `SELECT * FROM "users" WHERE "users"."email" = 'a@b.c' AND "users"."deleted_at" IS NULL ORDER BY "users"."id" LIMIT 1`,
		"Query=CTE":  summaryTests[4].query,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				summary.Of(PostgreSQL, query)
			}
		})
	}
}
