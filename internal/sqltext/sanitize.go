package sqltext

import "strings"

// MaxLen is the most bytes that Sanitize returns.
const MaxLen = 2048

// Sanitize returns query for reading: every literal is a question mark,
// comments and optimizer hints are left out, whitespace is a single space, and
// the whole is valid UTF-8 on one line of at most MaxLen bytes, cut between two
// words and ended by "…" where it was longer. Keywords, names, TRUE, FALSE,
// NULL and placeholders stay as they were written.
//
// Lists whose length says nothing about the query take one form:
//
//   - IN (1, 2, 3) and IN ($1, $2) become IN (?), ARRAY[1, 2] becomes ARRAY[?]:
//     elements that are alike but for their values are shown once;
//   - of the rows behind VALUES the first is shown: VALUES ($1, $2), …
//
// A password without quotes, as in Oracle's IDENTIFIED BY secret, and the data
// behind COPY … FROM STDIN count as literals. Sanitizing a result once more
// changes nothing.
func Sanitize(d Dialect, query string) string {
	l := lex(d, query)
	l.conceal()
	l.shorten()
	return l.print()
}

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

func isAnyOf(s string, keywords ...string) bool {
	for _, k := range keywords {
		if isKeyword(s, k) {
			return true
		}
	}
	return false
}

// maxElement bounds how many tokens elements of a list are compared by. The
// lists whose length varies are those of simple values.
const maxElement = 64

// bracket is one that shorten has seen open.
type bracket struct {
	opening byte
	list    bool // of IN or ARRAY
	rows    bool // the first row behind VALUES
	comma   int  // index of the comma before the present element, -1 for the first
	element int  // index of its first token
	seen    map[string]struct{}
}

// shorten leaves one element of each kind in the lists of IN and ARRAY, and the
// first row behind VALUES.
func (l *lexer) shorten() {
	var (
		out   = l.toks[:0]
		stack []bracket
	)
	for i := 0; i < len(l.toks); i++ {
		t := l.toks[i]
		if t.kind != punct {
			if n := len(out); t.kind != ellipsis || n == 0 || out[n-1].kind != ellipsis {
				out = append(out, t)
			}
			continue
		}
		n := len(stack)
		switch c := l.src[t.start]; c {
		case '(', '[', '{':
			b := bracket{opening: c, comma: -1, element: len(out) + 1}
			switch {
			case c == '(' && l.endsWith(out, "IN"):
				b.list = i+1 >= len(l.toks) || !l.isQuery(l.toks[i+1])
			case c == '(' && (l.endsWith(out, "VALUES") || l.endsWith(out, "VALUES", "ROW")):
				b.rows = true
			case c == '[':
				b.list = l.endsWith(out, "ARRAY")
			}
			stack = append(stack, b)
			out = append(out, t)
		case ',':
			// A comma before an ellipsis belongs to the rows of VALUES.
			if n > 0 && stack[n-1].list && (i+1 >= len(l.toks) || l.toks[i+1].kind != ellipsis) {
				out = l.endElement(out, &stack[n-1])
				stack[n-1].comma = len(out)
				stack[n-1].element = len(out) + 1
			}
			out = append(out, t)
		case ')', ']', '}':
			if n > 0 && matches(stack[n-1].opening, c) {
				if stack[n-1].list {
					out = l.endElement(out, &stack[n-1])
				}
				rows := stack[n-1].rows
				stack = stack[:n-1]
				out = append(out, t)
				if rows && l.startsRow(i+1) {
					comma := l.toks[i+1]
					i = l.skipRows(i+1) - 1
					out = append(out, comma, token{kind: ellipsis, space: true})
				}
				continue
			}
			out = append(out, t)
		case ';':
			stack = stack[:0]
			out = append(out, t)
		default:
			out = append(out, t)
		}
	}
	l.toks = out
}

func matches(opening, closing byte) bool {
	switch opening {
	case '(':
		return closing == ')'
	case '[':
		return closing == ']'
	default:
		return closing == '}'
	}
}

// endsWith tells whether the last tokens are the given keywords.
func (l *lexer) endsWith(toks []token, keywords ...string) bool {
	n := len(toks) - len(keywords)
	if n < 0 || (n > 0 && l.isPunct(toks[n-1], '.')) {
		return false
	}
	for i, k := range keywords {
		if !l.isWord(toks[n+i], k) {
			return false
		}
	}
	return true
}

// isQuery tells whether a bracket that begins with t holds a query.
func (l *lexer) isQuery(t token) bool {
	return t.kind == word && isAnyOf(l.text(t), "SELECT", "WITH", "VALUES", "TABLE")
}

// endElement takes the last element of b off toks again if it has seen one like
// it, and otherwise shows its placeholders as values.
func (l *lexer) endElement(toks []token, b *bracket) []token {
	element := toks[min(b.element, len(toks)):]
	if len(element) > maxElement {
		return toks
	}
	var (
		key   []byte
		value bool
	)
	for i, t := range element {
		switch t.kind {
		case literal, number, param:
			element[i].kind = literal
			key = append(key, '?')
			value = true
		default:
			key = append(key, l.text(t)...)
		}
		key = append(key, ' ')
	}
	if !value {
		return toks
	}
	if _, ok := b.seen[string(key)]; ok && b.comma >= 0 {
		return toks[:b.comma]
	}
	if b.seen == nil {
		b.seen = make(map[string]struct{})
	}
	b.seen[string(key)] = struct{}{}
	return toks
}

// startsRow tells whether another row follows the comma at i.
func (l *lexer) startsRow(i int) bool {
	if i+1 >= len(l.toks) || !l.isPunct(l.toks[i], ',') {
		return false
	}
	if l.isWord(l.toks[i+1], "ROW") {
		i++
	}
	return i+1 < len(l.toks) && l.isPunct(l.toks[i+1], '(')
}

// skipRows returns the index behind the rows that begin with the comma at i.
func (l *lexer) skipRows(i int) int {
	for l.startsRow(i) {
		depth := 0
		for i++; i < len(l.toks); i++ {
			switch t := l.toks[i]; {
			case l.isPunct(t, '('):
				depth++
			case l.isPunct(t, ')'):
				depth--
			case l.isPunct(t, ';'), t.kind == ellipsis:
				return i
			}
			if depth == 0 && !l.isWord(l.toks[i], "ROW") {
				i++
				break
			}
		}
	}
	return i
}

// print puts the tokens together again, with spaces where there were any.
func (l *lexer) print() string {
	var b strings.Builder
	b.Grow(min(len(l.src), MaxLen))
	cut := 0 // the last place at which the text can be cut and marked so
	for i, t := range l.toks {
		s := l.shown(t)
		part := i > 0 && (t.space || l.mustPart(l.toks[i-1], t))
		size := len(s)
		if part {
			size++
		}
		if b.Len()+size > MaxLen {
			if cut == 0 {
				return "…"
			}
			return b.String()[:cut] + " …"
		}
		if part {
			b.WriteByte(' ')
		}
		b.WriteString(s)
		// A name is not cut at a point: in SQLite it is by what follows that it is
		// known to be a name.
		if b.Len() <= MaxLen-len(" …") && !l.isPunct(t, '.') && (i+1 >= len(l.toks) || !l.isPunct(l.toks[i+1], '.')) {
			cut = b.Len()
		}
	}
	return b.String()
}

func (l *lexer) shown(t token) string {
	switch t.kind {
	case literal, number:
		return "?"
	case ellipsis:
		return "…"
	default:
		return clean(l.text(t))
	}
}

// mustPart tells whether two tokens need a space between them that was not
// there.
func (l *lexer) mustPart(a, b token) bool {
	if a.kind == ellipsis || b.kind == ellipsis {
		return b.kind != punct
	}
	if l.isOperator(a, '-') && l.isOperator(b, '-') {
		return true // in MySQL, --a is no comment, but -- a is
	}
	value := func(t token) bool { return t.kind == literal || t.kind == number }
	name := func(t token) bool { return t.kind == word || t.kind == quoted || t.kind == param }
	return (value(a) && (value(b) || name(b))) || (value(b) && name(a))
}
