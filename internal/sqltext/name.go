package sqltext

import (
	"strings"
	"unicode/utf8"
)

// nameChar returns the size of the character at i if it can be part of a name,
// and otherwise 0.
func (l *lexer) nameChar(i int) int {
	if i >= len(l.Source) {
		return 0
	}
	c := l.Source[i]
	if c < utf8.RuneSelf {
		if c == '_' || c == '$' || isLetter(c) || isDigit(c) {
			return 1
		}
		return 0
	}
	r, size := utf8.DecodeRuneInString(l.Source[i:])
	if blank(r) || r == '…' || l.isCurrency(r) {
		return 0
	}
	return size
}

// nameEnd returns where the name that goes on at i ends.
func (l *lexer) nameEnd(i int) int {
	for {
		size := l.nameChar(i)
		if size == 0 {
			return i
		}
		i += size
	}
}

func (l *lexer) startsName(i int) bool {
	return l.nameChar(i) > 0 && l.Source[i] != '$' && !isDigit(l.Source[i])
}

// numberEnd takes more than a number can hold, 0x1F, 1_000, 1e-5 and 12abc
// alike: what follows a digit directly is never worth showing.
func (l *lexer) numberEnd(i int) int {
	decimal := true
	for i < len(l.Source) {
		c := l.Source[i]
		switch {
		case isDigit(c) || c == '.' || c == '_':
			i++
		case decimal && (c == 'e' || c == 'E') && i+2 < len(l.Source) &&
			(l.Source[i+1] == '-' || l.Source[i+1] == '+') && isDigit(l.Source[i+2]):
			decimal = false
			i += 3
		default:
			size := l.nameChar(i)
			if size == 0 || c == '$' { // 1$$a$$ is a number and a string
				return i
			}
			decimal = false
			i += size
		}
	}
	return i
}

// word reads a name, a keyword, or a string with its prefix.
func (l *lexer) word() {
	start := l.pos
	end := l.nameEnd(start)
	// PostgreSQL and MySQL take every byte beyond ASCII for a letter, blanks
	// included, so an E behind one is no prefix to them.
	if end-start <= 2 && (start == 0 || l.Source[start-1] < utf8.RuneSelf) {
		prefix := l.Source[start:end]
		var next byte
		if end < len(l.Source) {
			next = l.Source[end]
		}
		switch {
		case next == '\'' && l.isPrefix(prefix):
			l.str(start, end, prefix)
			return
		case next == '"' && l.Dialect == Other && l.isPrefix(prefix):
			l.str(start, end, prefix)
			return
		case next == '&' && IsKeyword(prefix, "U") && end+1 < len(l.Source) &&
			(l.Dialect == PostgreSQL || l.Dialect == Other):
			switch l.Source[end+1] {
			case '\'':
				l.str(start, end+1, prefix)
				return
			case '"':
				l.doubleQuoted(start, end+1)
				return
			}
		}
	}
	l.add(Word, start, end)
}

// isPrefix tells whether a quote directly behind s belongs to it.
func (l *lexer) isPrefix(s string) bool {
	var known string
	switch l.Dialect {
	case PostgreSQL:
		known = "E B X N"
	case MySQL:
		known = "B X N"
	case SQLite:
		known = "X"
	default:
		known = "E B X N R Q G BR RB NQ QN GX UX"
	}
	for p := range strings.FieldsSeq(known) {
		if IsKeyword(s, p) {
			return true
		}
	}
	return false
}

// variable adds the placeholder whose mark, of n bytes, stands at pos.
func (l *lexer) variable(n int) {
	end := l.nameEnd(l.pos + n)
	if end == l.pos+n {
		l.add(Operator, l.pos, l.pos+1)
		return
	}
	if l.Dialect == SQLite && end < len(l.Source) && l.Source[end] == '(' {
		// Tcl's array elements, $a(it's), are a single token to SQLite.
		l.rest(l.pos)
		return
	}
	l.add(Param, l.pos, end)
}

func (l *lexer) questionMark() {
	end := l.pos + 1
	for end < len(l.Source) && isDigit(l.Source[end]) {
		end++
	}
	switch {
	case end == l.pos+1:
		l.add(Param, l.pos, end)
	case l.Dialect == SQLite && end-l.pos <= 6 && l.numberEnd(l.pos+1) == end:
		l.add(Param, l.pos, end)
	case l.Dialect == SQLite || l.Dialect == Other:
		l.add(Number, l.pos, l.numberEnd(l.pos+1))
	default:
		l.add(Param, l.pos, l.pos+1)
	}
}

func (l *lexer) colon() {
	switch {
	case l.at(1) == ':':
		l.add(Operator, l.pos, l.pos+2)
	case l.startsName(l.pos+1) || (l.Dialect == SQLite && isDigit(l.at(1))):
		l.variable(1)
	default:
		l.add(Operator, l.pos, l.pos+1)
	}
}

func (l *lexer) atSign() {
	switch {
	case l.Dialect == PostgreSQL && l.pos > 0 && strings.IndexByte("+-*/<>=~!@#%^&|`", l.Source[l.pos-1]) >= 0:
		// The tail of an operator, as in a <@b.
		l.add(Operator, l.pos, l.pos+1)
	case l.at(1) == '@' && l.Dialect != PostgreSQL && l.startsName(l.pos+2):
		l.variable(2)
	case l.startsName(l.pos+1) || (l.Dialect == SQLite && isDigit(l.at(1))):
		l.variable(1)
	default:
		l.add(Operator, l.pos, l.pos+1)
	}
}
