package sqltext

import (
	"strings"
	"unicode"
)

// text returns the token as it was written.
func (l *lexer) text(t token) string { return l.src[t.start:t.end] }

func (l *lexer) isPunct(t token, c byte) bool {
	return t.kind == punct && l.src[t.start] == c
}

func (l *lexer) isOperator(t token, c byte) bool {
	return t.kind == operator && l.src[t.start] == c && t.end == t.start+1
}

// isWord tells whether t is the given keyword, which is in capitals.
func (l *lexer) isWord(t token, keyword string) bool {
	return t.kind == word && isKeyword(l.text(t), keyword)
}

// isKeyword compares without regard to case, in ASCII alone: strings.EqualFold
// would take the long s for an S.
func isKeyword(s, keyword string) bool {
	if len(s) != len(keyword) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != keyword[i] {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// blank tells whether r is shown as a space: whitespace, control characters,
// and those that turn the direction of the text around them.
func blank(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\ufeff'
}

// clean makes s valid UTF-8 on one line.
func clean(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return strings.Map(func(r rune) rune {
				if blank(r) {
					return ' '
				}
				return r // strings.Map gives utf8.RuneError for an invalid byte
			}, s)
		}
	}
	return s
}

func isAnyOf(s string, keywords ...string) bool {
	for _, k := range keywords {
		if isKeyword(s, k) {
			return true
		}
	}
	return false
}
