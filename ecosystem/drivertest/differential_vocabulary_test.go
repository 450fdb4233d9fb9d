package drivertest

// A vocabulary is what random scripts are composed of, for one dialect of SQL. Each phrase may fail where a script uses
// it: errors are compared, too.
type vocabulary struct {
	params   []string // of both DSNs
	twoHands bool     // two connections may be held at once, because a wait for a lock ends soon
	setup    []string
	queries  []phrase
	settings []string // changes of one session
	schema   []string // changes that everybody sees
	begin    []string
	inTx     []string
	final    []string // what is there at the end
}

// A phrase is a query and what its arguments may be, a letter each: see composer.argument.
type phrase struct{ sql, kinds string }

var postgresVocabulary = &vocabulary{
	params:   []string{"lock_timeout=150"},
	twoHands: true,
	setup: []string{
		"CREATE TYPE mood AS ENUM ('sad', 'ok')",
		"CREATE DOMAIN small AS int CHECK (VALUE < 100)",
		"CREATE TABLE items (id int PRIMARY KEY, n int, s text, at timestamptz, m mood)",
		"INSERT INTO items VALUES (1, 10, 'one', '2026-01-01 12:00+00', 'ok'), (2, 20, 'two', NULL, 'sad'), (3, NULL, NULL, NULL, NULL)",
		"CREATE SCHEMA one; CREATE TABLE one.items (id bigint, n text, s varchar(9), extra bool); INSERT INTO one.items VALUES (1, '10', 'uno', true)",
		"CREATE SCHEMA two",
		"CREATE FUNCTION f(n numeric) RETURNS text LANGUAGE sql AS $$SELECT 'numeric ' || n$$",
		"CREATE VIEW shown AS SELECT id, n FROM items",
		"CREATE SEQUENCE tried",
		"CREATE ROLE {reader}; GRANT USAGE ON SCHEMA one, two TO {reader}; GRANT SELECT ON items, shown TO {reader}",
	},
	queries: []phrase{
		{"SELECT * FROM items WHERE id >= $1 ORDER BY id", "i"},
		{"SELECT id, n FROM items WHERE n = $1 ORDER BY id", "v"},
		{"SELECT id FROM items WHERE s = $1 ORDER BY id", "s"},
		{"SELECT id, s FROM items WHERE m >= $1 ORDER BY id", "m"},
		{"SELECT at FROM items WHERE id = $1", "i"},
		{"INSERT INTO items (id, n, s) VALUES ($1, $2, $3)", "ivs"},
		{"INSERT INTO items (id, n) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = excluded.n", "iv"},
		{"INSERT INTO items (id, m) VALUES ($1, $2) RETURNING *", "im"},
		{"INSERT INTO items (id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING", "it"},
		{"UPDATE items SET n = $1 WHERE id = $2", "vi"},
		{"UPDATE items SET s = s || $1 WHERE id = $2 RETURNING s", "si"},
		{"UPDATE items SET at = $1 WHERE id = $2 RETURNING at AT TIME ZONE 'UTC'", "ti"},
		{"DELETE FROM items WHERE id = $1", "i"},
		{"SELECT f($1)", "v"},
		{"SELECT f($1::int), f($1::numeric)", "i"},
		{"SELECT * FROM shown WHERE id >= $1 ORDER BY id", "i"},
		{"SELECT '2026-01-01 12:00'::timestamptz AT TIME ZONE 'UTC', $1::int", "i"},
		{"SELECT ('01/02/2026'::date + $1::int)::text, ('1 day 2 hours'::interval * $1)::text", "i"},
		{`SELECT 'a\n' || $1::text`, "s"},
		{`SELECT E'a\n' || $1::text`, "s"},
		{"SELECT 'ok'::mood > $1::mood", "m"},
		{"SELECT $1::small", "i"},
		{"SELECT i.id, o.s FROM items i JOIN one.items o ON i.id = o.id WHERE o.n = $1 ORDER BY 1", "s"},
		{"SELECT current_user = session_user, $1::int", "i"},
		{"SELECT nextval('tried') > 0, 10 / (SELECT $1::int)", "i"}, // a division of the argument alone may fail while it is planned
		{"SELECT 'items'::regclass::text, $1::int", "i"},
		{"SELECT current_schemas(false)::text, $1::int", "i"},
		{"SELECT 'now'::timestamptz > '2026-01-01', $1::int", "i"},
		{"SELECT 'now'::timestamptz AS t, $1::int", "i"},
		{"WITH gone AS (DELETE FROM items WHERE id = $1 RETURNING *) SELECT count(*) FROM gone", "i"},
		{"MERGE INTO items USING (SELECT $1::int AS id) x ON items.id = x.id WHEN MATCHED THEN UPDATE SET n = 5 WHEN NOT MATCHED THEN INSERT (id) VALUES (x.id)", "i"},
		{"VALUES ($1::int, $2::text)", "is"},
		{"SELECT set_config('search_path', $1, $2)", "pb"},
		{"SELECT set_config('TimeZone', $1, $2)", "zb"},
		{"SELECT to_jsonb(items) FROM items WHERE id = $1", "i"},
	},
	settings: []string{
		"SET TimeZone = 'Asia/Tokyo'", "SET TIME ZONE 'America/New_York'", "SET LOCAL TIME ZONE -5", "RESET TimeZone",
		"SET search_path = one, public", "SET search_path TO two, one, public", "SET LOCAL search_path = one", "RESET search_path",
		"SET SESSION search_path = public", "SET SCHEMA 'one'", "SET DateStyle = 'SQL, DMY'", "SET DateStyle TO ISO", "SET IntervalStyle = iso_8601",
		"SET standard_conforming_strings = off", "SET standard_conforming_strings = on", "SET ROLE {reader}", "RESET ROLE", "RESET ROLE",
		"SET SESSION AUTHORIZATION {reader}", "RESET SESSION AUTHORIZATION", "RESET SESSION AUTHORIZATION", "RESET ALL", "DISCARD ALL", "DISCARD TEMP",
		"DISCARD PLANS", "DEALLOCATE ALL", "SET plan_cache_mode = force_generic_plan", "SET work_mem = '1MB'", "SET app.tenant = 'x'",
		"CREATE TEMP TABLE items (id int, n text, w int)", "CREATE TEMP TABLE items ON COMMIT DROP AS SELECT 1 AS id, 'temporary' AS s",
		"DROP TABLE IF EXISTS pg_temp.items", "CREATE TEMP VIEW shown AS SELECT 1 AS id, 'temporary' AS n", "SET transform_null_equals = on",
		"DO $$BEGIN PERFORM set_config('TimeZone', 'Europe/Berlin', false); END$$", "SELECT 1; SET TimeZone = 'Asia/Kolkata'",
		"SELECT set_config('search_path', 'two, public', false)", "PREPARE own AS SELECT 1", "SHOW TimeZone", "LISTEN news",
	},
	schema: []string{
		"ALTER TABLE items ADD COLUMN c1 int DEFAULT 5", "ALTER TABLE items DROP COLUMN c1", "ALTER TABLE items ADD COLUMN c2 text",
		"ALTER TABLE items DROP COLUMN IF EXISTS c2, ADD COLUMN c3 bool", "ALTER TABLE items DROP COLUMN m CASCADE",
		"ALTER TABLE items ALTER n TYPE bigint", "ALTER TABLE items ALTER n TYPE text", "ALTER TABLE items ALTER s TYPE varchar(9)",
		"DROP VIEW IF EXISTS shown; ALTER TABLE items ALTER n TYPE text", "DROP VIEW IF EXISTS shown; ALTER TABLE items ALTER n TYPE bigint USING n::bigint",
		"DROP VIEW IF EXISTS shown; ALTER TABLE items ALTER n TYPE numeric USING n::numeric",
		"ALTER TABLE items ALTER at TYPE timestamp USING at AT TIME ZONE 'UTC'", "ALTER TABLE items ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC'",
		"ALTER TABLE items ALTER at TYPE text", "ALTER TABLE items RENAME COLUMN s TO t", "ALTER TABLE items RENAME COLUMN t TO s",
		"DROP TABLE items CASCADE", "DROP TABLE IF EXISTS items CASCADE; CREATE TABLE items (s varchar(20), id bigint, n numeric)",
		"CREATE TABLE items (id int, n int, s text, at timestamp, m mood)", "ALTER TABLE items RENAME TO others", "ALTER TABLE others RENAME TO items",
		"CREATE OR REPLACE VIEW shown AS SELECT id, n, 'more' AS extra FROM items", "DROP VIEW shown", "CREATE VIEW shown AS SELECT id::text AS n, id FROM items",
		"CREATE FUNCTION f(n int) RETURNS text LANGUAGE sql AS $$SELECT 'int ' || n$$", "DROP FUNCTION f(int)",
		"CREATE OR REPLACE FUNCTION f(n numeric) RETURNS text LANGUAGE sql AS $$SELECT 'other ' || n$$",
		"CREATE FUNCTION one.f(n numeric) RETURNS int LANGUAGE sql AS $$SELECT 1$$", "CREATE FUNCTION f(n text) RETURNS text LANGUAGE sql AS $$SELECT 'text ' || n$$",
		"ALTER TYPE mood ADD VALUE IF NOT EXISTS 'happy'", "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'", "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'",
		"ALTER DOMAIN small ADD CONSTRAINT less CHECK (VALUE < 2)", "ALTER DOMAIN small DROP CONSTRAINT less",
		"CREATE UNIQUE INDEX IF NOT EXISTS items_n ON items (n)", "DROP INDEX IF EXISTS items_n", "ALTER TABLE items DROP CONSTRAINT items_pkey",
		"ALTER TABLE one.items SET SCHEMA two", "ALTER TABLE two.items SET SCHEMA one", "CREATE TABLE two.items AS SELECT 7 AS id, 'two' AS s",
		"DROP TABLE IF EXISTS two.items", "SELECT 8 AS id, 'into' AS n INTO two.items", "GRANT SELECT ON items TO {reader}", "REVOKE ALL ON items FROM {reader}",
		"DO $$BEGIN ALTER TABLE items ADD COLUMN c4 int; END$$", "ALTER TABLE items ADD COLUMN c5 int; SELECT 1/0",
		"CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.s := upper(NEW.s); RETURN NEW; END$$; " +
			"CREATE TRIGGER loud BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION loud()",
		"ALTER TABLE items ENABLE ROW LEVEL SECURITY", "CREATE POLICY odd ON items USING (id % 2 = 1)", "ALTER SCHEMA one RENAME TO three",
		"ALTER SCHEMA three RENAME TO one", "CREATE OR REPLACE RULE none AS ON DELETE TO items DO INSTEAD NOTHING",
	},
	begin: []string{"BEGIN", "START TRANSACTION", "BEGIN; SELECT 1", `BEGIN; SELECT E'a\\b'`},
	inTx:  []string{"SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "BEGIN", "COMMIT AND CHAIN"},
	final: []string{
		"SELECT * FROM public.items ORDER BY id", "SELECT last_value FROM tried", "SELECT * FROM one.items ORDER BY id",
	},
}

var mariaVocabulary = &vocabulary{
	params: []string{"lock_wait_timeout=5", "innodb_lock_wait_timeout=5"},
	setup: []string{
		"CREATE TABLE items (id INT PRIMARY KEY, n INT, s VARCHAR(20), at TIMESTAMP NULL, m ENUM('sad', 'ok'))",
		"INSERT INTO items VALUES (1, 10, 'one', '2026-01-01 12:00:00', 'ok'), (2, 20, 'two', NULL, 'sad'), (3, NULL, NULL, NULL, NULL)",
		"CREATE DATABASE {database}_other",
		"CREATE TABLE {database}_other.items (s VARCHAR(9), id BIGINT, n VARCHAR(9))",
		"INSERT INTO {database}_other.items VALUES ('other', 1, '10')",
		"CREATE VIEW shown AS SELECT id, n FROM items",
		"CREATE FUNCTION f(n INT) RETURNS INT DETERMINISTIC RETURN n * 2",
	},
	queries: []phrase{
		{"SELECT * FROM items WHERE id >= $1 ORDER BY id", "i"},
		{"SELECT id, n FROM items WHERE n = $1 ORDER BY id", "v"},
		{"SELECT id FROM items WHERE s = $1 ORDER BY id", "s"},
		{"INSERT INTO items (id, n, s) VALUES ($1, $2, $3)", "ivs"},
		{"INSERT INTO items (id, n) VALUES ($1, $2) ON DUPLICATE KEY UPDATE n = n + 1", "iv"},
		{"UPDATE items SET n = $1 WHERE id = $2", "vi"},
		{"UPDATE items SET at = $1 WHERE id = $2", "ti"},
		{"DELETE FROM items WHERE id = $1", "i"},
		{"SELECT at, m FROM items WHERE id = $1", "i"},
		{"SELECT f($1)", "v"},
		{"SELECT * FROM shown WHERE id >= $1 ORDER BY id", "i"},
		{"SELECT 'a' || $1, 'A' = 'a', CHARSET('a')", "s"},
		{"SELECT 'a\\n', $1", "s"},
		{"SELECT DATABASE(), @x, $1", "i"},
		{"SELECT UNIX_TIMESTAMP('2026-01-01 12:00:00'), $1", "i"},
		{"SELECT $1 + 1, $2", "vs"},
	},
	settings: []string{
		"SET sql_mode = 'ANSI'", "SET SESSION sql_mode = DEFAULT", "SET @@sql_mode = 'NO_BACKSLASH_ESCAPES'", "SET sql_mode = ''", "SET NAMES latin1",
		"SET NAMES utf8mb4", "SET CHARACTER SET utf8mb4", "SET collation_connection = utf8mb4_bin", "SET time_zone = '+09:00'", "SET time_zone = DEFAULT",
		"SET @x = 1", "SET @x = 'text'", "USE {database}_other", "USE {database}", "USE {database}", "CREATE TEMPORARY TABLE items (id INT, w VARCHAR(9))",
		"DROP TEMPORARY TABLE IF EXISTS items", "SET STATEMENT sql_mode = 'ANSI' FOR SELECT 1", "SET autocommit = 1", "SHOW TABLES",
	},
	schema: []string{
		"ALTER TABLE items ADD COLUMN c1 INT DEFAULT 5", "ALTER TABLE items DROP COLUMN c1", "ALTER TABLE items ADD COLUMN c2 VARCHAR(9) FIRST",
		"ALTER TABLE items MODIFY n BIGINT", "ALTER TABLE items MODIFY n VARCHAR(20)", "ALTER TABLE items MODIFY n DOUBLE",
		"ALTER TABLE items CHANGE s t VARCHAR(30)", "ALTER TABLE items CHANGE t s VARCHAR(5)", "ALTER TABLE items MODIFY m ENUM('happy', 'sad', 'ok')",
		"DROP TABLE items", "CREATE TABLE items (s VARCHAR(9), id BIGINT, n DECIMAL(5, 1))", "RENAME TABLE items TO others", "RENAME TABLE others TO items",
		"CREATE OR REPLACE VIEW shown AS SELECT id, n, 'more' AS extra FROM items", "DROP VIEW shown", "CREATE UNIQUE INDEX items_n ON items (n)",
		"DROP INDEX items_n ON items", "TRUNCATE items", "CREATE OR REPLACE FUNCTION f(n INT) RETURNS VARCHAR(9) DETERMINISTIC RETURN CONCAT('f', n)",
		"DROP FUNCTION f", "CREATE TRIGGER loud BEFORE INSERT ON items FOR EACH ROW SET NEW.s = UPPER(NEW.s)", "DROP TRIGGER loud",
		"ALTER TABLE items DROP PRIMARY KEY", "ALTER TABLE {database}_other.items ADD COLUMN c INT",
	},
	begin: []string{"BEGIN", "START TRANSACTION"},
	inTx:  []string{"SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "RELEASE SAVEPOINT a"},
	final: []string{"SELECT * FROM {database}.items ORDER BY id"},
}
