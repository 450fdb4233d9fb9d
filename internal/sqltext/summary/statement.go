package summary

import (
	"strings"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// statement begins the statement whose verb the word at i is, if it is one.
func (w *walker) statement(upper string) bool {
	s := w.top()
	call := w.IsPunct(w.peek(1), '(')
	switch upper {
	case "SELECT":
		w.clause(upper)
		return true
	case "WITH":
		*s = scope{with: withName, body: s.body}
		return true
	case "INSERT", "UPDATE", "MERGE", "DELETE":
		if call {
			return false // MySQL has a function INSERT
		}
		w.verb(upper)
		s.want = upper != "DELETE" || !w.hasFrom()
		s.list = upper == "UPDATE" || upper == "DELETE"
		return true
	}
	if upper == "TABLE" && !call {
		w.verb(upper)
		s.want = true
		return true
	}
	if len(w.scopes) > 1 {
		// The rest is not found in brackets, or, like VALUES, says nothing there.
		if upper == "VALUES" {
			*s = scope{body: s.body}
			return true
		}
		return false
	}
	return w.outerStatement(upper)
}

// outerStatement begins one of the statements that stand in no brackets.
func (w *walker) outerStatement(upper string) bool {
	s := w.top()
	switch upper {
	case "REPLACE", "UPSERT":
		w.verb(upper)
		s.want = true
	case "VALUES":
		w.verb(upper)
	case "COPY", "CALL", "EXEC":
		w.verb(upper)
		s.want = true
	case "EXECUTE":
		w.verb(upper)
		s.want = !w.IsWord(w.peek(1), "IMMEDIATE")
	case "EXPLAIN", "DESCRIBE", "DESC":
		w.explain(upper)
	case "CREATE", "ALTER", "DROP", "REFRESH", "RENAME":
		w.define(upper)
	case "TRUNCATE", "LOCK", "VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "OPTIMIZE", "REPAIR", "CHECK":
		w.maintain(upper)
	case "PREPARE":
		w.prepare(upper)
	case "DECLARE":
		w.verb(upper)
		w.opaque = w.peek(1).Kind == sqltext.Param
	case "PRAGMA":
		w.verb(upper)
		w.opaque = true
		if n := w.peek(1); n.Kind == sqltext.Word {
			w.emit(object, w.Text(n))
			w.i++
		}
	case "START":
		w.verb(upper)
		w.opaque = true
		if w.IsWord(w.peek(1), "TRANSACTION") {
			w.i++
			w.emit(object, w.Text(w.Tokens[w.i]))
		}
	case "ABORT", "ATTACH", "BACKUP", "BEGIN", "CHECKPOINT", "CLOSE", "COMMENT", "COMMIT", "DEALLOCATE", "DENY",
		"DETACH", "DISCARD", "DO", "END", "FETCH", "FLUSH", "GRANT", "HANDLER", "IMPORT", "INSTALL", "KILL",
		"LISTEN", "LOAD", "MOVE", "NOTIFY", "PURGE", "REASSIGN", "RELEASE", "RESET", "RESTORE", "REVOKE",
		"ROLLBACK", "SAVE", "SAVEPOINT", "SECURITY", "SET", "SHOW", "UNINSTALL", "UNLISTEN", "UNLOCK", "USE", "XA":
		w.verb(upper)
		w.opaque = true
	default:
		return false
	}
	return true
}

func (w *walker) verb(upper string) {
	w.emit(verb, w.Text(w.Tokens[w.i]))
	s := w.top()
	*s = scope{verb: upper, body: s.body}
}

// hasFrom tells whether a FROM belongs to the DELETE at i. The names before it
// are aliases of tables behind it.
func (w *walker) hasFrom() bool {
	depth := 0
	for _, t := range w.Tokens[w.i:min(w.i+64, len(w.Tokens))] {
		switch {
		case w.IsPunct(t, '('):
			depth++
		case w.IsPunct(t, ')'):
			if depth--; depth < 0 {
				return false
			}
		case w.IsPunct(t, ';') || (depth == 0 && w.IsWord(t, "WHERE")):
			return false
		case depth == 0 && w.IsWord(t, "FROM"):
			return true
		}
	}
	return false
}

// skipBrackets goes to the last token of the brackets that begin behind i.
func (w *walker) skipBrackets() {
	if !w.IsPunct(w.peek(1), '(') {
		return
	}
	depth := 0
	for w.i+1 < len(w.Tokens) {
		w.i++
		switch t := w.Tokens[w.i]; {
		case w.IsPunct(t, '('):
			depth++
		case w.IsPunct(t, ')'):
			depth--
		}
		if depth == 0 {
			return
		}
	}
}

// skipWords goes to the last of the given words that follow i.
func (w *walker) skipWords(keywords ...string) {
	for w.peek(1).Kind == sqltext.Word && sqltext.IsAnyOf(w.Text(w.peek(1)), keywords...) {
		w.i++
	}
}

// explain handles EXPLAIN and its options; the statement follows, or, in MySQL,
// a table.
func (w *walker) explain(upper string) {
	w.verb(upper)
	w.skipBrackets()
	w.skipWords("ANALYZE", "ANALYSE", "VERBOSE", "EXTENDED", "PARTITIONS", "QUERY", "PLAN", "PIPELINE", "AST", "SYNTAX")
	if w.IsWord(w.peek(1), "FORMAT") {
		w.i++
		if w.IsOperator(w.peek(1), '=') {
			w.i++
		}
		w.i++
	}
	s := w.top()
	s.start = true
	if next := w.peek(1); next.Kind == sqltext.Quoted || (next.Kind == sqltext.Word && !w.isVerb(next)) {
		s.start, s.want = false, true
		w.opaque = true
	}
}

func (w *walker) isVerb(t sqltext.Token) bool {
	return sqltext.IsAnyOf(w.Text(t), "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "WITH", "VALUES", "TABLE",
		"EXECUTE", "CREATE", "DECLARE", "REFRESH", "FOR")
}

// define handles the definition of tables and other objects.
func (w *walker) define(upper string) {
	w.verb(upper)
	w.opaque = true
	s := w.top()
	kind := ""
	for kind == "" {
		next := w.peek(1)
		if next.Kind != sqltext.Word {
			return
		}
		switch k := strings.ToUpper(w.Text(next)); k {
		case "OR", "REPLACE", "TEMP", "TEMPORARY", "GLOBAL", "LOCAL", "UNLOGGED", "UNIQUE", "CLUSTERED",
			"NONCLUSTERED", "FULLTEXT", "SPATIAL", "VIRTUAL", "EXTERNAL", "FOREIGN", "MATERIALIZED", "RECURSIVE",
			"CONSTRAINT", "AGGREGATE", "TRANSIENT", "DYNAMIC", "EVENT_TRIGGER", "TRUSTED", "PROCEDURAL", "NO", "FORCE":
			w.i++
		case "DEFINER", "ALGORITHM", "SQL":
			// MySQL: DEFINER = `root`@`localhost` SQL SECURITY INVOKER VIEW v
			for n := 0; n < 8 && !isObject(strings.ToUpper(w.Text(w.peek(1)))); n++ {
				w.i++
			}
			if !isObject(strings.ToUpper(w.Text(w.peek(1)))) {
				return
			}
		default:
			if !isObject(k) {
				return
			}
			w.i++
			kind = k
			w.emit(object, w.Text(next))
		}
	}
	if kind == "SYSTEM" {
		return
	}
	stores := kind == "TABLE" || w.IsWord(w.peek(-1), "MATERIALIZED")
	w.skipWords("IF", "NOT", "EXISTS", "CONCURRENTLY", "ONLY")
	if kind == "INDEX" {
		w.skipWords("ON", "ONLY") // an index that gets its name from the server
	}
	s.want, s.list = true, upper == "DROP"
	if upper == "CREATE" && stores {
		w.opaque = false // CREATE TABLE t AS SELECT …
	}
}

func isObject(upper string) bool {
	switch upper {
	case "TABLE", "VIEW", "INDEX", "SEQUENCE", "SCHEMA", "DATABASE", "FUNCTION", "PROCEDURE", "ROUTINE", "TRIGGER",
		"TYPE", "DOMAIN", "EXTENSION", "ROLE", "USER", "GROUP", "LOGIN", "POLICY", "RULE", "SERVER", "EVENT",
		"PUBLICATION", "SUBSCRIPTION", "STATISTICS", "TABLESPACE", "COLLATION", "LANGUAGE", "SYNONYM", "PACKAGE",
		"SYSTEM":
		return true
	}
	return false
}

// maintain handles verbs that go over whole tables.
func (w *walker) maintain(upper string) {
	w.verb(upper)
	w.opaque = true
	w.skipBrackets()
	w.skipWords("FULL", "FREEZE", "VERBOSE", "ANALYZE", "LOCAL", "NO_WRITE_TO_BINLOG")
	if next := w.peek(1); next.Kind == sqltext.Word &&
		sqltext.IsAnyOf(w.Text(next), "TABLE", "TABLES", "INDEX", "SCHEMA", "DATABASE", "SYSTEM") {
		w.i++
		w.emit(object, w.Text(next))
	}
	w.skipWords("CONCURRENTLY", "ONLY", "IF", "EXISTS")
	s := w.top()
	s.want, s.list = true, true
}

// prepare handles PREPARE name AS statement. MySQL has the statement in a
// string instead.
func (w *walker) prepare(upper string) {
	w.verb(upper)
	w.opaque = true
	if next := w.peek(1); next.Kind != sqltext.Word && next.Kind != sqltext.Quoted {
		return
	}
	w.i++
	w.skipBrackets()
	if w.IsWord(w.peek(1), "AS") {
		w.i++
		w.top().start = true
		w.opaque = false
	}
}
