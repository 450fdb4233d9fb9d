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
	q := Read(d, query)
	q.shorten()
	return q.print()
}

// print puts the tokens together again, with spaces where there were any.
func (q *Query) print() string {
	var b strings.Builder
	b.Grow(min(len(q.Source), MaxLen))
	cut := 0 // the last place at which the text can be cut and marked so
	for i, t := range q.Tokens {
		s := q.shown(t)
		part := i > 0 && (t.Space || q.mustPart(q.Tokens[i-1], t))
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
		if b.Len() <= MaxLen-len(" …") && !q.IsPunct(t, '.') && (i+1 >= len(q.Tokens) || !q.IsPunct(q.Tokens[i+1], '.')) {
			cut = b.Len()
		}
	}
	return b.String()
}

func (q *Query) shown(t Token) string {
	switch t.Kind {
	case Literal, Number:
		return "?"
	case Ellipsis:
		return "…"
	default:
		return Clean(q.Text(t))
	}
}

// mustPart tells whether two tokens need a space between them that was not
// there.
func (q *Query) mustPart(a, b Token) bool {
	if a.Kind == Ellipsis || b.Kind == Ellipsis {
		return b.Kind != Punct
	}
	if q.IsOperator(a, '-') && q.IsOperator(b, '-') {
		return true // in MySQL, --a is no comment, but -- a is
	}
	value := func(t Token) bool { return t.Kind == Literal || t.Kind == Number }
	name := func(t Token) bool { return t.Kind == Word || t.Kind == Quoted || t.Kind == Param }
	return (value(a) && (value(b) || name(b))) || (value(b) && name(a))
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
func (q *Query) shorten() {
	var (
		out   = q.Tokens[:0]
		stack []bracket
	)
	for i := 0; i < len(q.Tokens); i++ {
		t := q.Tokens[i]
		if t.Kind != Punct {
			if n := len(out); t.Kind != Ellipsis || n == 0 || out[n-1].Kind != Ellipsis {
				out = append(out, t)
			}
			continue
		}
		n := len(stack)
		switch c := q.Source[t.Start]; c {
		case '(', '[', '{':
			b := bracket{opening: c, comma: -1, element: len(out) + 1}
			switch {
			case c == '(' && q.endsWith(out, "IN"):
				b.list = i+1 >= len(q.Tokens) || !q.IsQuery(q.Tokens[i+1])
			case c == '(' && (q.endsWith(out, "VALUES") || q.endsWith(out, "VALUES", "ROW")):
				b.rows = true
			case c == '[':
				b.list = q.endsWith(out, "ARRAY")
			}
			stack = append(stack, b)
			out = append(out, t)
		case ',':
			// A comma before an ellipsis belongs to the rows of VALUES.
			if n > 0 && stack[n-1].list && (i+1 >= len(q.Tokens) || q.Tokens[i+1].Kind != Ellipsis) {
				out = q.endElement(out, &stack[n-1])
				stack[n-1].comma = len(out)
				stack[n-1].element = len(out) + 1
			}
			out = append(out, t)
		case ')', ']', '}':
			if n > 0 && matches(stack[n-1].opening, c) {
				if stack[n-1].list {
					out = q.endElement(out, &stack[n-1])
				}
				rows := stack[n-1].rows
				stack = stack[:n-1]
				out = append(out, t)
				if rows && q.startsRow(i+1) {
					comma := q.Tokens[i+1]
					i = q.skipRows(i+1) - 1
					out = append(out, comma, Token{Kind: Ellipsis, Space: true})
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
	q.Tokens = out
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
func (q *Query) endsWith(toks []Token, keywords ...string) bool {
	n := len(toks) - len(keywords)
	if n < 0 || (n > 0 && q.IsPunct(toks[n-1], '.')) {
		return false
	}
	for i, k := range keywords {
		if !q.IsWord(toks[n+i], k) {
			return false
		}
	}
	return true
}

// endElement takes the last element of b off toks again if it has seen one like
// it, and otherwise shows its placeholders as values.
func (q *Query) endElement(toks []Token, b *bracket) []Token {
	element := toks[min(b.element, len(toks)):]
	if len(element) > maxElement {
		return toks
	}
	var (
		key   []byte
		value bool
	)
	for i, t := range element {
		switch t.Kind {
		case Literal, Number, Param:
			element[i].Kind = Literal
			key = append(key, '?')
			value = true
		default:
			key = append(key, q.Text(t)...)
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
func (q *Query) startsRow(i int) bool {
	if i+1 >= len(q.Tokens) || !q.IsPunct(q.Tokens[i], ',') {
		return false
	}
	if q.IsWord(q.Tokens[i+1], "ROW") {
		i++
	}
	return i+1 < len(q.Tokens) && q.IsPunct(q.Tokens[i+1], '(')
}

// skipRows returns the index behind the rows that begin with the comma at i.
func (q *Query) skipRows(i int) int {
	for q.startsRow(i) {
		depth := 0
		for i++; i < len(q.Tokens); i++ {
			switch t := q.Tokens[i]; {
			case q.IsPunct(t, '('):
				depth++
			case q.IsPunct(t, ')'):
				depth--
			case q.IsPunct(t, ';'), t.Kind == Ellipsis:
				return i
			}
			if depth == 0 && !q.IsWord(q.Tokens[i], "ROW") {
				i++
				break
			}
		}
	}
	return i
}
