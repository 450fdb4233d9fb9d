package sqltext

import "strings"

// statement is what conceal knows of the statement it is in.
type statement struct {
	words      int  // how many words it has so far
	account    bool // it may carry a password
	table      bool // PASSWORD is the name of a column
	identified bool // IDENTIFIED was there
	copying    bool // COPY …
	stdin      bool // … FROM STDIN
}

// conceal turns the tokens that are literals by their surroundings into such.
func (l *lexer) conceal() {
	var (
		out   = l.toks[:0]
		stmt  statement
		lists []bool // for each bracket that is open: it holds values
	)
	for i := 0; i < len(l.toks); i++ {
		t := l.toks[i]
		switch t.kind {
		case number:
			// The sign belongs to the number unless something stands before it
			// that can be subtracted from.
			if n := len(out); n > 0 && (l.isOperator(out[n-1], '-') || l.isOperator(out[n-1], '+')) &&
				(n == 1 || !l.isOperand(out[n-2])) {
				t.start, t.space = out[n-1].start, out[n-1].space
				out = out[:n-1]
			}
		case quoted:
			if l.dialect == SQLite && l.isStringInSQLite(out, i, lists) {
				t.kind = literal
			}
		case punct:
			switch l.src[t.start] {
			case '(', '[', '{':
				lists = append(lists, len(out) > 0 &&
					(l.isWord(out[len(out)-1], "IN") || l.isWord(out[len(out)-1], "VALUES")))
			case ')', ']', '}':
				if len(lists) > 0 {
					lists = lists[:len(lists)-1]
				}
			case ';':
				if stmt.stdin {
					out = append(out, t)
					if i+1 < len(l.toks) {
						out = append(out, l.toEnd(l.toks[i+1]))
					}
					l.toks = out
					return
				}
				stmt, lists = statement{}, lists[:0]
			}
		}
		if stmt.stdin && !l.followsStdin(out, t, len(lists)) {
			l.toks = append(out, l.toEnd(t))
			return
		}
		if l.isPassword(out, t, stmt) {
			// Some databases let more of them follow, so the statement ends here.
			t.kind = literal
			for i+1 < len(l.toks) && !l.isPunct(l.toks[i+1], ';') {
				i++
				if l.toks[i].kind != ellipsis {
					t.end = l.toks[i].end
				}
			}
		}
		if t.kind == word {
			l.note(&stmt, out, t)
		}
		if n := len(out); t.kind == literal && n > 0 && out[n-1].kind == literal {
			// Strings next to each other are one.
			out[n-1].end = t.end
			continue
		}
		out = append(out, t)
	}
	l.toks = out
}

// toEnd makes t and everything behind it a literal.
func (l *lexer) toEnd(t token) token {
	if t.kind == ellipsis && t.end == len(l.src) {
		return t
	}
	t.kind, t.end = literal, len(l.src)
	return t
}

// note takes the word t into account for the rest of its statement.
func (l *lexer) note(stmt *statement, out []token, t token) {
	w := l.text(t)
	switch {
	case stmt.words == 0:
		stmt.copying = isKeyword(w, "COPY")
		stmt.account = l.dialect != SQLite && isAnyOf(w, "ALTER", "BACKUP", "CHANGE", "CONNECT", "CREATE",
			"EXPORT", "GRANT", "IMPORT", "OPEN", "RECOVER", "RESTORE", "SET")
	case stmt.account && stmt.words < 6:
		stmt.table = stmt.table ||
			isAnyOf(w, "TABLE", "VIEW", "INDEX", "FUNCTION", "PROCEDURE", "TRIGGER", "TYPE")
	}
	stmt.words++
	switch {
	case stmt.account && isKeyword(w, "IDENTIFIED"):
		stmt.identified = true
	case stmt.copying && isKeyword(w, "STDIN"):
		n := len(out)
		stmt.stdin = n > 0 && l.isWord(out[n-1], "FROM")
	}
}

// isPassword tells whether t, which follows out, stands where a password does
// and is not in quotes, or in quotes of the wrong kind.
func (l *lexer) isPassword(out []token, t token, stmt statement) bool {
	n := len(out)
	if !stmt.account || n < 2 || (t.kind != word && t.kind != quoted) {
		return false
	}
	before := out[n-1]
	switch {
	case stmt.identified && l.isWord(before, "BY"):
		return t.kind == quoted || !isAnyOf(l.text(t), "PASSWORD", "RANDOM", "VALUES")
	case stmt.identified && l.isWord(before, "REPLACE"):
		return true
	case stmt.table:
		return false
	case l.isOperator(before, '=') && l.isWord(out[n-2], "PASSWORD"):
		return !l.isWord(t, "PASSWORD") && !l.isWord(t, "NULL")
	case l.isWord(before, "PASSWORD"):
		return t.kind == quoted || !isAnyOf(l.text(t), "EXPIRE", "FOR", "HISTORY", "NULL", "OPTIONAL",
			"POLICY", "REQUIRE", "REQUIRED", "REUSE", "TO")
	}
	return false
}

// followsStdin tells whether t can go on after COPY … FROM STDIN, with as many
// brackets open as depth. Anything else is the data.
func (l *lexer) followsStdin(out []token, t token, depth int) bool {
	switch t.kind {
	case word:
		return depth > 0 || isAnyOf(l.text(t), "AS", "BINARY", "CSV", "DELIMITER", "DELIMITERS", "ENCODING",
			"ESCAPE", "FREEZE", "HEADER", "NULL", "OIDS", "QUOTE", "USING", "WITH")
	case punct:
		if l.isPunct(t, '(') && depth == 1 {
			before := out[len(out)-1]
			return l.isWord(before, "STDIN") || l.isWord(before, "WITH")
		}
		return true
	case literal, param, ellipsis:
		return true
	}
	return depth > 0
}

// isStringInSQLite tells whether the name in double quotes that l.toks[i] is,
// and that follows out, stands where a value is usual.
func (l *lexer) isStringInSQLite(out []token, i int, lists []bool) bool {
	n := len(out)
	if n == 0 || l.src[l.toks[i].start] != '"' {
		return false
	}
	if i+2 < len(l.toks) && l.isPunct(l.toks[i+1], '.') && (l.toks[i+2].kind == word || l.toks[i+2].kind == quoted) {
		return false
	}
	before := out[n-1]
	switch before.kind {
	case operator:
		return strings.IndexByte("=<>!", l.src[before.start]) >= 0
	case word:
		return isAnyOf(l.text(before), "BETWEEN", "GLOB", "LIKE", "MATCH", "REGEXP")
	case punct:
		inList := len(lists) > 0 && lists[len(lists)-1]
		return inList && (l.isPunct(before, '(') || l.isPunct(before, ','))
	}
	return false
}

// isOperand tells whether a sign behind t is an operator.
func (l *lexer) isOperand(t token) bool {
	switch t.kind {
	case quoted, literal, number, param:
		return true
	case punct:
		return l.isPunct(t, ')') || l.isPunct(t, ']')
	case word:
		return !isAnyOf(l.text(t), "ALL", "AND", "ANY", "AS", "BETWEEN", "BY", "CASE", "DEFAULT", "DISTINCT",
			"DIV", "ELSE", "FROM", "GLOB", "HAVING", "ILIKE", "IN", "INTERVAL", "IS", "LIKE", "LIMIT", "MOD", "NOT",
			"OFFSET", "ON", "OR", "RETURN", "RETURNING", "SELECT", "SET", "SOME", "THEN", "TO", "TOP", "VALUES",
			"WHEN", "WHERE", "WITH", "XOR")
	}
	return false
}
