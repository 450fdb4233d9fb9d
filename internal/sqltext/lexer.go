package sqltext

import (
	"unicode"
	"unicode/utf8"
)

// maxInput bounds how much of a query is looked at, in bytes. Bulk inserts run
// to megabytes and are slow often enough that reading them whole would show.
// What a cut leaves open counts as a literal, so a cut anywhere is safe.
const maxInput = 64 << 10

type kind uint8

const (
	word     kind = iota + 1 // a name without quotes, or a keyword
	quoted                   // a name in quotes
	literal                  // a string, or anything else that must not be shown
	number                   // a number, with its sign where it is not an operator
	param                    // a placeholder or variable: ?, $1, :name, @name
	punct                    // one of ( ) [ ] { } , ; .
	operator                 // one other character, or ::
	ellipsis                 // what stands for text that was left out
)

// token is the part [start, end) of a query.
type token struct {
	kind       kind
	space      bool // whitespace or a comment stood before it
	start, end int
}

type lexer struct {
	dialect Dialect
	src     string
	pos     int
	space   bool
	toks    []token

	// In Other, a bracket may begin a name, [it's], or an array, ['it', 's'].
	// While pos is before bracketEnd, where the name would end, a token must not
	// reach over it: from there on the two readings would differ.
	bracketEnd int
	unclosed   [2]bool // by kind of bracket: none is closed from here on
}

// lex splits query into tokens, leaving out comments and whitespace.
func lex(d Dialect, query string) *lexer {
	if d > SQLite {
		d = Other
	}
	l := &lexer{dialect: d, src: query}
	cut := len(query) > maxInput
	if cut {
		n := maxInput
		for n > maxInput-utf8.UTFMax && !utf8.RuneStart(query[n]) {
			n--
		}
		l.src = query[:n]
	}
	l.toks = make([]token, 0, len(l.src)/4+8)
	for l.pos < len(l.src) {
		l.next()
	}
	if cut {
		l.toks = append(l.toks, token{kind: ellipsis, space: true, start: l.pos, end: l.pos})
	}
	return l
}

// at returns the byte i places ahead, or 0 at the end.
func (l *lexer) at(i int) byte {
	if l.pos+i < len(l.src) {
		return l.src[l.pos+i]
	}
	return 0
}

// add makes a token of what reaches from start to end.
func (l *lexer) add(k kind, start, end int) {
	if l.crosses(start, end) {
		k, end = literal, len(l.src)
	}
	l.toks = append(l.toks, token{kind: k, space: l.space, start: start, end: end})
	l.pos, l.space = end, false
}

// skip leaves out a comment.
func (l *lexer) skip(end int) {
	if l.crosses(l.pos, end) {
		l.rest(l.pos)
		return
	}
	l.pos, l.space = end, true
}

// rest makes everything from start to the end a literal.
func (l *lexer) rest(start int) {
	l.toks = append(l.toks, token{kind: literal, space: l.space, start: start, end: len(l.src)})
	l.pos = len(l.src)
}

func (l *lexer) crosses(start, end int) bool {
	return start < l.bracketEnd && end > l.bracketEnd
}

func (l *lexer) next() {
	c := l.src[l.pos]
	switch {
	case c <= ' ' || c == 0x7f:
		l.pos++
		l.space = true
	case c >= utf8.RuneSelf:
		l.nonASCII()
	case c == '_' || isLetter(c):
		l.word()
	case isDigit(c):
		l.add(number, l.pos, l.numberEnd(l.pos))
	default:
		l.symbol(c)
	}
}

func (l *lexer) nonASCII() {
	r, size := utf8.DecodeRuneInString(l.src[l.pos:])
	switch {
	case blank(r):
		l.pos += size
		l.space = true
	case r == '…':
		l.add(ellipsis, l.pos, l.pos+size)
	case l.isCurrency(r):
		// SQL Server reads €10 as a number.
		if isDigit(l.at(size)) || l.at(size) == '.' {
			l.add(number, l.pos, l.numberEnd(l.pos+size))
		} else {
			l.add(operator, l.pos, l.pos+size)
		}
	default:
		l.word()
	}
}

func (l *lexer) isCurrency(r rune) bool {
	return l.dialect == Other && unicode.Is(unicode.Sc, r)
}

func (l *lexer) symbol(c byte) {
	one := func(k kind) { l.add(k, l.pos, l.pos+1) }
	switch c {
	case '\'':
		l.str(l.pos, l.pos, "")
	case '"':
		l.doubleQuoted(l.pos, l.pos)
	case '`':
		l.backtick()
	case '[', '{':
		l.bracket(c)
	case '(', ')', ']', '}', ',', ';':
		one(punct)
	case '.':
		if isDigit(l.at(1)) && !l.followsName() {
			l.add(number, l.pos, l.numberEnd(l.pos))
			return
		}
		one(punct)
	case '-':
		if l.at(1) == '-' && l.dashes() {
			return
		}
		one(operator)
	case '#':
		if l.dialect == MySQL {
			l.skip(l.lineEnd("\n"))
			return
		}
		if l.dialect == Other {
			l.hideLine()
			return
		}
		one(operator)
	case '/':
		switch {
		case l.at(1) == '*':
			l.comment()
		case l.at(1) == '/' && l.dialect == Other:
			l.hideLine()
		default:
			one(operator)
		}
	case '$':
		l.dollar()
	case '?':
		l.questionMark()
	case ':':
		l.colon()
	case '@':
		l.atSign()
	default:
		one(operator)
	}
}

// followsName tells whether the character at pos stands directly behind a name,
// so that a point there separates it from the next.
func (l *lexer) followsName() bool {
	if l.space || len(l.toks) == 0 {
		return false
	}
	last := l.toks[len(l.toks)-1]
	return last.kind == word || last.kind == quoted || l.isPunct(last, ']') || l.isPunct(last, ')')
}
