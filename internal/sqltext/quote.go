package sqltext

import (
	"strings"
	"unicode/utf8"
)

// str reads the string whose quote stands at q and whose prefix, if it has
// one, at start.
func (l *lexer) str(start, q int, prefix string) {
	if end := l.strEnd(q, prefix); end > 0 {
		l.add(literal, start, end)
	} else {
		l.rest(start)
	}
}

// strEnd returns where the string that begins with the quote at q ends, or -1
// if it does not, or if that depends on what cannot be seen.
func (l *lexer) strEnd(q int, prefix string) int {
	plain := quoteEnd(l.src, q, false)
	switch {
	case l.dialect == SQLite:
		return plain
	case l.dialect == PostgreSQL && isKeyword(prefix, "E"):
		return quoteEnd(l.src, q, true)
	}
	end := plain
	if end < 0 || strings.IndexByte(l.src[q:end], '\\') >= 0 {
		escaped := quoteEnd(l.src, q, true)
		if escaped != plain {
			if n := len(l.toks); n > 0 && l.isWord(l.toks[n-1], "ESCAPE") &&
				strings.HasPrefix(l.src[q:], `'\'`) && !strings.HasPrefix(l.src[q:], `'\''`) {
				// LIKE … ESCAPE takes a single character, so this can only be a
				// server on which the backslash is one.
				return q + 3
			}
			return -1
		}
	}
	if l.dialect != Other || end < 0 {
		return end
	}
	quote := l.src[q : q+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(l.src[q:], triple) {
		// BigQuery's '''it's''', or a string that begins with a quote.
		if i := strings.Index(l.src[q+3:], triple); i < 0 || q+3+i+3 != end {
			return -1
		}
	}
	if (isKeyword(prefix, "Q") || isKeyword(prefix, "NQ")) && quote == "'" {
		// Oracle's q'[it's]', or an ordinary string.
		if bracketQuoteEnd(l.src, q) != end {
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
	if l.dialect == MySQL || l.dialect == Other {
		l.str(start, q, "")
		return
	}
	l.name(start, quoteEnd(l.src, q, false))
}

// name adds a name in quotes, or all the rest when its quotes are not closed.
func (l *lexer) name(start, end int) {
	if end < 0 {
		l.rest(start)
		return
	}
	l.add(quoted, start, end)
}

func (l *lexer) backtick() {
	switch l.dialect {
	case PostgreSQL:
		l.add(operator, l.pos, l.pos+1)
	case Other:
		end := quoteEnd(l.src, l.pos, false)
		if end < 0 || opens(l.src[l.pos+1:end-1]) || strings.ContainsAny(l.src[l.pos:end], `\]}`) {
			l.rest(l.pos)
			return
		}
		l.add(quoted, l.pos, end)
	default:
		l.name(l.pos, quoteEnd(l.src, l.pos, false))
	}
}

func (l *lexer) bracket(c byte) {
	if l.dialect == SQLite && c == '[' {
		end := strings.IndexByte(l.src[l.pos:], ']')
		if end >= 0 {
			end += l.pos + 1
		}
		l.name(l.pos, end)
		return
	}
	if l.dialect == Other && l.pos >= l.bracketEnd {
		closing, which := byte(']'), 0
		if c == '{' {
			closing, which = '}', 1
		}
		if !l.unclosed[which] {
			end := l.pos + 1
			for ; end < len(l.src); end++ {
				if l.src[end] != closing {
					continue
				}
				if end+1 < len(l.src) && l.src[end+1] == closing {
					end++ // a doubled bracket is part of the name
					continue
				}
				break
			}
			switch {
			case end < len(l.src):
				l.bracketEnd = end
			case strings.ContainsAny(l.src[l.pos:], `'"#`) || opensComment(l.src[l.pos:]):
				l.add(punct, l.pos, l.pos+1)
				l.rest(l.pos)
				return
			default:
				l.unclosed[which] = true
			}
		}
	}
	l.add(punct, l.pos, l.pos+1)
}

func (l *lexer) dollar() {
	start := l.pos
	if l.dialect == SQLite {
		l.variable(1)
		return
	}
	if isDigit(l.at(1)) {
		end := start + 1
		for end < len(l.src) && isDigit(l.src[end]) {
			end++
		}
		// PostgreSQL numbers its parameters to 65535. In other databases this is
		// an amount of money.
		if l.dialect == PostgreSQL && end-start <= 6 && l.numberEnd(start+1) == end {
			l.add(param, start, end)
			return
		}
		l.add(number, start, l.numberEnd(start+1))
		return
	}
	if tag := dollarTag(l.src[start:]); tag != "" {
		i := strings.Index(l.src[start+len(tag):], tag)
		if i < 0 {
			l.rest(start)
			return
		}
		// Elsewhere than in PostgreSQL this may be a name that begins with a
		// dollar, and the quotes behind it real.
		if l.dialect != PostgreSQL && opens(l.src[start+len(tag):start+len(tag)+i]) {
			l.rest(start)
			return
		}
		l.add(literal, start, start+len(tag)+i+len(tag))
		return
	}
	if l.dialect == MySQL {
		l.add(word, start, l.nameEnd(start))
		return
	}
	l.add(operator, start, start+1)
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
