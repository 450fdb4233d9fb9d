package sqltext

import (
	"strings"
	"unicode/utf8"
)

// nameChar returns the size of the character at i if it can be part of a name,
// and otherwise 0.
func (l *lexer) nameChar(i int) int {
	if i >= len(l.src) {
		return 0
	}
	c := l.src[i]
	if c < utf8.RuneSelf {
		if c == '_' || c == '$' || isLetter(c) || isDigit(c) {
			return 1
		}
		return 0
	}
	r, size := utf8.DecodeRuneInString(l.src[i:])
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
	return l.nameChar(i) > 0 && l.src[i] != '$' && !isDigit(l.src[i])
}

// numberEnd takes more than a number can hold, 0x1F, 1_000, 1e-5 and 12abc
// alike: what follows a digit directly is never worth showing.
func (l *lexer) numberEnd(i int) int {
	decimal := true
	for i < len(l.src) {
		c := l.src[i]
		switch {
		case isDigit(c) || c == '.' || c == '_':
			i++
		case decimal && (c == 'e' || c == 'E') && i+2 < len(l.src) &&
			(l.src[i+1] == '-' || l.src[i+1] == '+') && isDigit(l.src[i+2]):
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
	if end-start <= 2 && (start == 0 || l.src[start-1] < utf8.RuneSelf) {
		prefix := l.src[start:end]
		var next byte
		if end < len(l.src) {
			next = l.src[end]
		}
		switch {
		case next == '\'' && l.isPrefix(prefix):
			l.str(start, end, prefix)
			return
		case next == '"' && l.dialect == Other && l.isPrefix(prefix):
			l.str(start, end, prefix)
			return
		case next == '&' && isKeyword(prefix, "U") && end+1 < len(l.src) &&
			(l.dialect == PostgreSQL || l.dialect == Other):
			switch l.src[end+1] {
			case '\'':
				l.str(start, end+1, prefix)
				return
			case '"':
				l.doubleQuoted(start, end+1)
				return
			}
		}
	}
	l.add(word, start, end)
}

// isPrefix tells whether a quote directly behind s belongs to it.
func (l *lexer) isPrefix(s string) bool {
	var known string
	switch l.dialect {
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
		if isKeyword(s, p) {
			return true
		}
	}
	return false
}
