package sqltext

import (
	"strings"
	"unicode/utf8"
)

// str reads the string whose quote stands at q and whose prefix, if it has
// one, at start.
func (l *lexer) str(start, q int, prefix string) {
	if end := l.strEnd(q, prefix); end > 0 {
		l.add(Literal, start, end)
	} else {
		l.rest(start)
	}
}

// strEnd returns where the string that begins with the quote at q ends, or -1
// if it does not, or if that depends on what cannot be seen.
func (l *lexer) strEnd(q int, prefix string) int {
	plain := quoteEnd(l.Source, q, false)
	switch {
	case l.Dialect == SQLite:
		return plain
	case l.Dialect == PostgreSQL && IsKeyword(prefix, "E"):
		return quoteEnd(l.Source, q, true)
	}
	end := plain
	if end < 0 || strings.IndexByte(l.Source[q:end], '\\') >= 0 {
		escaped := quoteEnd(l.Source, q, true)
		if escaped != plain {
			if n := len(l.Tokens); n > 0 && l.IsWord(l.Tokens[n-1], "ESCAPE") &&
				strings.HasPrefix(l.Source[q:], `'\'`) && !strings.HasPrefix(l.Source[q:], `'\''`) {
				// LIKE … ESCAPE takes a single character, so this can only be a
				// server on which the backslash is one.
				return q + 3
			}
			return -1
		}
	}
	if l.Dialect != Other || end < 0 {
		return end
	}
	quote := l.Source[q : q+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(l.Source[q:], triple) {
		// BigQuery's '''it's''', or a string that begins with a quote.
		if i := strings.Index(l.Source[q+3:], triple); i < 0 || q+3+i+3 != end {
			return -1
		}
	}
	if (IsKeyword(prefix, "Q") || IsKeyword(prefix, "NQ")) && quote == "'" {
		// Oracle's q'[it's]', or an ordinary string.
		if bracketQuoteEnd(l.Source, q) != end {
			return -1
		}
	}
	return end
}

// quoteEnd returns the index behind the quote that closes the one at q, or -1.
// A doubled quote stands for itself, and so does one behind a backslash where
// backslash is set.
func quoteEnd(s string, q int, backslash bool) int {
	quote := s[q]
	for i := q + 1; i < len(s); i++ {
		switch {
		case s[i] == quote:
			if i+1 >= len(s) || s[i+1] != quote {
				return i + 1
			}
			i++
		case s[i] == '\\' && backslash:
			i++
		}
	}
	return -1
}

// bracketQuoteEnd does the same for q'[…]', q'!…!' and the like.
func bracketQuoteEnd(s string, q int) int {
	r, size := utf8.DecodeRuneInString(s[q+1:])
	closing := s[q+1 : q+1+size]
	switch r {
	case '[':
		closing = "]"
	case '(':
		closing = ")"
	case '{':
		closing = "}"
	case '<':
		closing = ">"
	}
	body := q + 1 + size
	i := strings.Index(s[body:], closing+"'")
	if i < 0 {
		return -1
	}
	return body + i + len(closing) + 1
}

func (l *lexer) doubleQuoted(start, q int) {
	if l.Dialect == MySQL || l.Dialect == Other {
		l.str(start, q, "")
		return
	}
	l.name(start, quoteEnd(l.Source, q, false))
}

// name adds a name in quotes, or all the rest when its quotes are not closed.
func (l *lexer) name(start, end int) {
	if end < 0 {
		l.rest(start)
		return
	}
	l.add(Quoted, start, end)
}

func (l *lexer) backtick() {
	switch l.Dialect {
	case PostgreSQL:
		l.add(Operator, l.pos, l.pos+1)
	case Other:
		end := quoteEnd(l.Source, l.pos, false)
		if end < 0 || opens(l.Source[l.pos+1:end-1]) || strings.ContainsAny(l.Source[l.pos:end], `\]}`) {
			l.rest(l.pos)
			return
		}
		l.add(Quoted, l.pos, end)
	default:
		l.name(l.pos, quoteEnd(l.Source, l.pos, false))
	}
}

func (l *lexer) bracket(c byte) {
	if l.Dialect == SQLite && c == '[' {
		end := strings.IndexByte(l.Source[l.pos:], ']')
		if end >= 0 {
			end += l.pos + 1
		}
		l.name(l.pos, end)
		return
	}
	if l.Dialect == Other && l.pos >= l.bracketEnd {
		closing, which := byte(']'), 0
		if c == '{' {
			closing, which = '}', 1
		}
		if !l.unclosed[which] {
			end := l.pos + 1
			for ; end < len(l.Source); end++ {
				if l.Source[end] != closing {
					continue
				}
				if end+1 < len(l.Source) && l.Source[end+1] == closing {
					end++ // a doubled bracket is part of the name
					continue
				}
				break
			}
			switch {
			case end < len(l.Source):
				l.bracketEnd = end
			case strings.ContainsAny(l.Source[l.pos:], `'"#`) || opensComment(l.Source[l.pos:]):
				l.add(Punct, l.pos, l.pos+1)
				l.rest(l.pos)
				return
			default:
				l.unclosed[which] = true
			}
		}
	}
	l.add(Punct, l.pos, l.pos+1)
}

func (l *lexer) dollar() {
	start := l.pos
	if l.Dialect == SQLite {
		l.variable(1)
		return
	}
	if isDigit(l.at(1)) {
		end := start + 1
		for end < len(l.Source) && isDigit(l.Source[end]) {
			end++
		}
		// PostgreSQL numbers its parameters to 65535. In other databases this is
		// an amount of money.
		if l.Dialect == PostgreSQL && end-start <= 6 && l.numberEnd(start+1) == end {
			l.add(Param, start, end)
			return
		}
		l.add(Number, start, l.numberEnd(start+1))
		return
	}
	if tag := dollarTag(l.Source[start:]); tag != "" {
		i := strings.Index(l.Source[start+len(tag):], tag)
		if i < 0 {
			l.rest(start)
			return
		}
		// Elsewhere than in PostgreSQL this may be a name that begins with a
		// dollar, and the quotes behind it real.
		if l.Dialect != PostgreSQL && opens(l.Source[start+len(tag):start+len(tag)+i]) {
			l.rest(start)
			return
		}
		l.add(Literal, start, start+len(tag)+i+len(tag))
		return
	}
	if l.Dialect == MySQL {
		l.add(Word, start, l.nameEnd(start))
		return
	}
	l.add(Operator, start, start+1)
}

// dollarTag returns the $tag$ that s begins with, or nothing.
func dollarTag(s string) string {
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '$':
			return s[:i+1]
		case c == '_' || isLetter(c) || c >= utf8.RuneSelf || (i > 1 && isDigit(c)):
		default:
			return ""
		}
	}
	return ""
}

// opens tells whether s holds anything that begins a literal, a name in quotes
// or a comment by some database's rules.
func opens(s string) bool {
	return opensLines(s) || opensComment(s) || strings.IndexByte(s, '#') >= 0
}

func opensComment(s string) bool {
	return strings.Contains(s, "--") || strings.Contains(s, "/*") || strings.Contains(s, "//")
}

// opensLines is the same for what can reach beyond the end of a line.
func opensLines(s string) bool {
	return strings.ContainsAny(s, "'\"`[{\r") || strings.Contains(s, "/*") || strings.Count(s, "$") > 1
}

// lineEnd returns the index of the first of the given characters, or the end.
func (l *lexer) lineEnd(ends string) int {
	if i := strings.IndexAny(l.Source[l.pos:], ends); i >= 0 {
		return l.pos + i
	}
	return len(l.Source)
}

// dashes handles -- and reports whether it was a comment.
func (l *lexer) dashes() bool {
	switch l.Dialect {
	case PostgreSQL:
		l.skip(l.lineEnd("\n\r"))
	case SQLite:
		l.skip(l.lineEnd("\n"))
	case MySQL:
		// 5--1 is six.
		if c := l.at(2); c > ' ' && c != 0x7f {
			return false
		}
		l.skip(l.lineEnd("\n"))
	default:
		end := l.lineEnd("\n")
		line := strings.TrimSuffix(l.Source[l.pos+2:end], "\r")
		if strings.IndexByte(line, '\r') >= 0 || (l.at(2) > ' ' && opensLines(line)) {
			l.rest(l.pos)
			return true
		}
		l.skip(end)
	}
	return true
}

// hideLine handles what is a comment in some databases and an operator or part
// of a name in others: the rest of the line is not shown.
func (l *lexer) hideLine() {
	end := l.lineEnd("\n")
	if opensLines(strings.TrimSuffix(l.Source[l.pos:end], "\r")) {
		l.rest(l.pos)
		return
	}
	l.add(Literal, l.pos, end)
}

func (l *lexer) comment() {
	body := l.pos + 2
	end := -1
	switch {
	case l.Dialect == PostgreSQL:
		end = nestedEnd(l.Source, l.pos)
	default:
		if i := strings.Index(l.Source[body:], "*/"); i >= 0 {
			end = body + i + 2
		}
	}
	if end < 0 {
		l.rest(l.pos)
		return
	}
	inner := l.Source[body : end-2]
	if l.Dialect == Other && strings.Contains(inner, "/*") {
		l.rest(l.pos)
		return
	}
	if l.Dialect == MySQL || l.Dialect == Other {
		// MySQL runs the inside of /*! and MariaDB of /*M! too: there, a string
		// can hold what would end the comment.
		if (strings.HasPrefix(inner, "!") || strings.HasPrefix(inner, "M!")) && opens(inner) {
			l.rest(l.pos)
			return
		}
	}
	l.skip(end)
}

// nestedEnd returns the index behind the comment at i, or -1.
func nestedEnd(s string, i int) int {
	depth := 0
	for i+1 < len(s) {
		switch {
		case s[i] == '/' && s[i+1] == '*':
			depth++
			i += 2
		case s[i] == '*' && s[i+1] == '/':
			depth--
			i += 2
			if depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return -1
}
