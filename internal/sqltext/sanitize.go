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
