package sqltext

import "strings"

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
	if i := strings.IndexAny(l.src[l.pos:], ends); i >= 0 {
		return l.pos + i
	}
	return len(l.src)
}

// dashes handles -- and reports whether it was a comment.
func (l *lexer) dashes() bool {
	switch l.dialect {
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
		line := strings.TrimSuffix(l.src[l.pos+2:end], "\r")
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
	if opensLines(strings.TrimSuffix(l.src[l.pos:end], "\r")) {
		l.rest(l.pos)
		return
	}
	l.add(literal, l.pos, end)
}

func (l *lexer) comment() {
	body := l.pos + 2
	end := -1
	switch {
	case l.dialect == PostgreSQL:
		end = nestedEnd(l.src, l.pos)
	default:
		if i := strings.Index(l.src[body:], "*/"); i >= 0 {
			end = body + i + 2
		}
	}
	if end < 0 {
		l.rest(l.pos)
		return
	}
	inner := l.src[body : end-2]
	if l.dialect == Other && strings.Contains(inner, "/*") {
		l.rest(l.pos)
		return
	}
	if l.dialect == MySQL || l.dialect == Other {
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
