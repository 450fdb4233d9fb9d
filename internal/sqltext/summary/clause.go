package summary

import (
	"strings"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

func (w *walker) word(t sqltext.Token) {
	s := w.top()
	text := w.Text(t)
	upper := strings.ToUpper(text)
	switch {
	case w.opaque:
		if s.want && !endsList(upper) {
			w.target()
		}
		return
	case s.with == withName:
		if upper == "RECURSIVE" && !w.IsWord(w.peek(1), "AS") {
			s.recursive = true
			return
		}
		w.defineCTE(t)
		return
	case s.with == withBody:
		return
	case s.with == withNext:
		// SEARCH and CYCLE clauses may come before the statement.
		s.start = sqltext.IsAnyOf(text, "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES", "TABLE")
	}
	if s.start && w.statement(upper) {
		return
	}
	if s.with == noWith {
		s.start = false
	}
	switch {
	case s.want && w.passOver(upper):
	case s.want && !isReserved(upper):
		w.target()
	default:
		w.clause(upper)
	}
}

// passOver tells whether the word stands between a verb and its target.
func (w *walker) passOver(upper string) bool {
	switch upper {
	case "ONLY", "LATERAL", "INTO":
		return true
	case "TABLE":
		// FROM TABLE(f(x)), INSERT OVERWRITE TABLE t
		return w.IsPunct(w.peek(1), '(') || w.top().verb == "INSERT"
	case "DELAYED", "HIGH_PRIORITY", "IGNORE", "LOW_PRIORITY", "OVERWRITE", "QUICK":
		switch w.top().verb {
		case "INSERT", "REPLACE", "UPDATE", "DELETE":
			return w.peek(1).Kind == sqltext.Word || w.peek(1).Kind == sqltext.Quoted
		}
	case "OR":
		w.i++ // INSERT OR REPLACE
		return true
	}
	return false
}

func isReserved(upper string) bool {
	switch upper {
	case "SELECT", "FROM", "JOIN", "ON", "USING", "WITH", "AS":
		return true
	}
	return endsList(upper)
}

// endsList tells whether the word ends a list of tables.
func endsList(upper string) bool {
	switch upper {
	case "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "SET", "VALUES",
		"RETURNING", "FETCH", "FOR", "DEFAULT":
		return true
	}
	return false
}

// clause follows the parts of a query.
func (w *walker) clause(upper string) {
	s := w.top()
	switch upper {
	case "SELECT":
		w.emit(verb, w.Text(w.Tokens[w.i]))
		*s = scope{verb: upper, body: s.body}
	case "FROM":
		switch s.verb {
		case "SELECT", "DELETE", "UPDATE":
			// a IS DISTINCT FROM b
			if w.IsWord(w.peek(-1), "DISTINCT") && (w.IsWord(w.peek(-2), "IS") || w.IsWord(w.peek(-2), "NOT")) {
				return
			}
			s.want, s.list = true, true
		}
	case "JOIN", "APPLY":
		if s.verb != "" || s.tables {
			s.want = true
		}
	case "STRAIGHT_JOIN":
		s.want = s.list
	case "USING":
		if s.verb == "MERGE" || (s.verb == "DELETE" && (!w.IsPunct(w.peek(1), '(') || w.IsQuery(w.peek(2)))) {
			s.want, s.list = true, s.verb == "DELETE"
		}
	case "INTO":
		if s.verb == "SELECT" && !w.IsWord(w.peek(1), "OUTFILE") && !w.IsWord(w.peek(1), "DUMPFILE") {
			for sqltext.IsAnyOf(w.Text(w.peek(1)), "TEMP", "TEMPORARY", "UNLOGGED", "TABLE", "STRICT") {
				w.i++
			}
			s.want = true
		}
	case "WITH":
		// INSERT INTO t WITH a AS (…) SELECT, and not FROM f() WITH ORDINALITY AS t
		name, behind := w.peek(1), w.peek(2)
		if w.IsWord(name, "RECURSIVE") {
			name, behind = behind, w.peek(3)
		}
		if (s.verb == "INSERT" || s.verb == "REPLACE" || s.verb == "CREATE") &&
			(name.Kind == sqltext.Word || name.Kind == sqltext.Quoted) && (w.IsWord(behind, "AS") || w.IsPunct(behind, '(')) {
			s.with = withName
		}
	default:
		if endsList(upper) || upper == "WINDOW" {
			s.want, s.list = false, false
		}
	}
}
