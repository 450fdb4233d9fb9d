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
func (q *Query) conceal() {
	var (
		out   = q.Tokens[:0]
		stmt  statement
		lists []bool // for each bracket that is open: it holds values
	)
	for i := 0; i < len(q.Tokens); i++ {
		t := q.Tokens[i]
		switch t.Kind {
		case Number:
			// The sign belongs to the number unless something stands before it
			// that can be subtracted from.
			if n := len(out); n > 0 && (q.IsOperator(out[n-1], '-') || q.IsOperator(out[n-1], '+')) &&
				(n == 1 || !q.isOperand(out[n-2])) {
				t.Start, t.Space = out[n-1].Start, out[n-1].Space
				out = out[:n-1]
			}
		case Quoted:
			if q.Dialect == SQLite && q.isStringInSQLite(out, i, lists) {
				t.Kind = Literal
			}
		case Punct:
			switch q.Source[t.Start] {
			case '(', '[', '{':
				lists = append(lists, len(out) > 0 &&
					(q.IsWord(out[len(out)-1], "IN") || q.IsWord(out[len(out)-1], "VALUES")))
			case ')', ']', '}':
				if len(lists) > 0 {
					lists = lists[:len(lists)-1]
				}
			case ';':
				if stmt.stdin {
					out = append(out, t)
					if i+1 < len(q.Tokens) {
						out = append(out, q.toEnd(q.Tokens[i+1]))
					}
					q.Tokens = out
					return
				}
				stmt, lists = statement{}, lists[:0]
			}
		}
		if stmt.stdin && !q.followsStdin(out, t, len(lists)) {
			q.Tokens = append(out, q.toEnd(t))
			return
		}
		if q.isPassword(out, t, stmt) {
			// Some databases let more of them follow, so the statement ends here.
			t.Kind = Literal
			for i+1 < len(q.Tokens) && !q.IsPunct(q.Tokens[i+1], ';') {
				i++
				if q.Tokens[i].Kind != Ellipsis {
					t.End = q.Tokens[i].End
				}
			}
		}
		if t.Kind == Word {
			q.note(&stmt, out, t)
		}
		if n := len(out); t.Kind == Literal && n > 0 && out[n-1].Kind == Literal {
			// Strings next to each other are one.
			out[n-1].End = t.End
			continue
		}
		out = append(out, t)
	}
	q.Tokens = out
}

// toEnd makes t and everything behind it a literal.
func (q *Query) toEnd(t Token) Token {
	if t.Kind == Ellipsis && t.End == len(q.Source) {
		return t
	}
	t.Kind, t.End = Literal, len(q.Source)
	return t
}

// note takes the word t into account for the rest of its statement.
func (q *Query) note(stmt *statement, out []Token, t Token) {
	w := q.Text(t)
	switch {
	case stmt.words == 0:
		stmt.copying = IsKeyword(w, "COPY")
		stmt.account = q.Dialect != SQLite && IsAnyOf(w, "ALTER", "BACKUP", "CHANGE", "CONNECT", "CREATE",
			"EXPORT", "GRANT", "IMPORT", "OPEN", "RECOVER", "RESTORE", "SET")
	case stmt.account && stmt.words < 6:
		stmt.table = stmt.table ||
			IsAnyOf(w, "TABLE", "VIEW", "INDEX", "FUNCTION", "PROCEDURE", "TRIGGER", "TYPE")
	}
	stmt.words++
	switch {
	case stmt.account && IsKeyword(w, "IDENTIFIED"):
		stmt.identified = true
	case stmt.copying && IsKeyword(w, "STDIN"):
		n := len(out)
		stmt.stdin = n > 0 && q.IsWord(out[n-1], "FROM")
	}
}

// isPassword tells whether t, which follows out, stands where a password does
// and is not in quotes, or in quotes of the wrong kind.
func (q *Query) isPassword(out []Token, t Token, stmt statement) bool {
	n := len(out)
	if !stmt.account || n < 2 || (t.Kind != Word && t.Kind != Quoted) {
		return false
	}
	before := out[n-1]
	switch {
	case stmt.identified && q.IsWord(before, "BY"):
		return t.Kind == Quoted || !IsAnyOf(q.Text(t), "PASSWORD", "RANDOM", "VALUES")
	case stmt.identified && q.IsWord(before, "REPLACE"):
		return true
	case stmt.table:
		return false
	case q.IsOperator(before, '=') && q.IsWord(out[n-2], "PASSWORD"):
		return !q.IsWord(t, "PASSWORD") && !q.IsWord(t, "NULL")
	case q.IsWord(before, "PASSWORD"):
		return t.Kind == Quoted || !IsAnyOf(q.Text(t), "EXPIRE", "FOR", "HISTORY", "NULL", "OPTIONAL",
			"POLICY", "REQUIRE", "REQUIRED", "REUSE", "TO")
	}
	return false
}

// followsStdin tells whether t can go on after COPY … FROM STDIN, with as many
// brackets open as depth. Anything else is the data.
func (q *Query) followsStdin(out []Token, t Token, depth int) bool {
	switch t.Kind {
	case Word:
		return depth > 0 || IsAnyOf(q.Text(t), "AS", "BINARY", "CSV", "DELIMITER", "DELIMITERS", "ENCODING",
			"ESCAPE", "FREEZE", "HEADER", "NULL", "OIDS", "QUOTE", "USING", "WITH")
	case Punct:
		if q.IsPunct(t, '(') && depth == 1 {
			before := out[len(out)-1]
			return q.IsWord(before, "STDIN") || q.IsWord(before, "WITH")
		}
		return true
	case Literal, Param, Ellipsis:
		return true
	}
	return depth > 0
}

// isStringInSQLite tells whether the name in double quotes that q.toks[i] is,
// and that follows out, stands where a value is usual.
func (q *Query) isStringInSQLite(out []Token, i int, lists []bool) bool {
	n := len(out)
	if n == 0 || q.Source[q.Tokens[i].Start] != '"' {
		return false
	}
	if i+2 < len(q.Tokens) && q.IsPunct(q.Tokens[i+1], '.') && (q.Tokens[i+2].Kind == Word || q.Tokens[i+2].Kind == Quoted) {
		return false
	}
	before := out[n-1]
	switch before.Kind {
	case Operator:
		return strings.IndexByte("=<>!", q.Source[before.Start]) >= 0
	case Word:
		return IsAnyOf(q.Text(before), "BETWEEN", "GLOB", "LIKE", "MATCH", "REGEXP")
	case Punct:
		inList := len(lists) > 0 && lists[len(lists)-1]
		return inList && (q.IsPunct(before, '(') || q.IsPunct(before, ','))
	}
	return false
}

// isOperand tells whether a sign behind t is an operator.
func (q *Query) isOperand(t Token) bool {
	switch t.Kind {
	case Quoted, Literal, Number, Param:
		return true
	case Punct:
		return q.IsPunct(t, ')') || q.IsPunct(t, ']')
	case Word:
		return !IsAnyOf(q.Text(t), "ALL", "AND", "ANY", "AS", "BETWEEN", "BY", "CASE", "DEFAULT", "DISTINCT",
			"DIV", "ELSE", "FROM", "GLOB", "HAVING", "ILIKE", "IN", "INTERVAL", "IS", "LIKE", "LIMIT", "MOD", "NOT",
			"OFFSET", "ON", "OR", "RETURN", "RETURNING", "SELECT", "SET", "SOME", "THEN", "TO", "TOP", "VALUES",
			"WHEN", "WHERE", "WITH", "XOR")
	}
	return false
}
