package sqltext

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
