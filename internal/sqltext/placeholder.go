package sqltext

import "strings"

// variable adds the placeholder whose mark, of n bytes, stands at pos.
func (l *lexer) variable(n int) {
	end := l.nameEnd(l.pos + n)
	if end == l.pos+n {
		l.add(operator, l.pos, l.pos+1)
		return
	}
	if l.dialect == SQLite && end < len(l.src) && l.src[end] == '(' {
		// Tcl's array elements, $a(it's), are a single token to SQLite.
		l.rest(l.pos)
		return
	}
	l.add(param, l.pos, end)
}

func (l *lexer) questionMark() {
	end := l.pos + 1
	for end < len(l.src) && isDigit(l.src[end]) {
		end++
	}
	switch {
	case end == l.pos+1:
		l.add(param, l.pos, end)
	case l.dialect == SQLite && end-l.pos <= 6 && l.numberEnd(l.pos+1) == end:
		l.add(param, l.pos, end)
	case l.dialect == SQLite || l.dialect == Other:
		l.add(number, l.pos, l.numberEnd(l.pos+1))
	default:
		l.add(param, l.pos, l.pos+1)
	}
}

func (l *lexer) colon() {
	switch {
	case l.at(1) == ':':
		l.add(operator, l.pos, l.pos+2)
	case l.startsName(l.pos+1) || (l.dialect == SQLite && isDigit(l.at(1))):
		l.variable(1)
	default:
		l.add(operator, l.pos, l.pos+1)
	}
}

func (l *lexer) atSign() {
	switch {
	case l.dialect == PostgreSQL && l.pos > 0 && strings.IndexByte("+-*/<>=~!@#%^&|`", l.src[l.pos-1]) >= 0:
		// The tail of an operator, as in a <@b.
		l.add(operator, l.pos, l.pos+1)
	case l.at(1) == '@' && l.dialect != PostgreSQL && l.startsName(l.pos+2):
		l.variable(2)
	case l.startsName(l.pos+1) || (l.dialect == SQLite && isDigit(l.at(1))):
		l.variable(1)
	default:
		l.add(operator, l.pos, l.pos+1)
	}
}
