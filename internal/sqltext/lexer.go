package sqltext

import (
	"unicode"
	"unicode/utf8"
)

// maxInput bounds how much of a query is looked at, in bytes. Bulk inserts run
// to megabytes and are slow often enough that reading them whole would show.
// What a cut leaves open counts as a literal, so a cut anywhere is safe.
const maxInput = 64 << 10

// lexer splits a query into tokens.
type lexer struct {
	Query
	pos   int
	space bool

	// In Other, a bracket may begin a name, [it's], or an array, ['it', 's'].
	// While pos is before bracketEnd, where the name would end, a token must not
	// reach over it: from there on the two readings would differ.
	bracketEnd int
	unclosed   [2]bool // by kind of bracket: none is closed from here on
}

// lex splits query into tokens, leaving out comments and whitespace.
func lex(d Dialect, query string) *Query {
	if d > SQLite {
		d = Other
	}
	l := &lexer{Query: Query{Dialect: d, Source: query}}
	cut := len(query) > maxInput
	if cut {
		n := maxInput
		for n > maxInput-utf8.UTFMax && !utf8.RuneStart(query[n]) {
			n--
		}
		l.Source = query[:n]
	}
	l.Tokens = make([]Token, 0, len(l.Source)/4+8)
	for l.pos < len(l.Source) {
		l.next()
	}
	if cut {
		l.Tokens = append(l.Tokens, Token{Kind: Ellipsis, Space: true, Start: l.pos, End: l.pos})
	}
	return &l.Query
}

// at returns the byte i places ahead, or 0 at the end.
func (l *lexer) at(i int) byte {
	if l.pos+i < len(l.Source) {
		return l.Source[l.pos+i]
	}
	return 0
}

// add makes a token of what reaches from start to end.
func (l *lexer) add(k Kind, start, end int) {
	if l.crosses(start, end) {
		k, end = Literal, len(l.Source)
	}
	l.Tokens = append(l.Tokens, Token{Kind: k, Space: l.space, Start: start, End: end})
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
	l.Tokens = append(l.Tokens, Token{Kind: Literal, Space: l.space, Start: start, End: len(l.Source)})
	l.pos = len(l.Source)
}

func (l *lexer) crosses(start, end int) bool {
	return start < l.bracketEnd && end > l.bracketEnd
}

func (l *lexer) next() {
	c := l.Source[l.pos]
	switch {
	case c <= ' ' || c == 0x7f:
		l.pos++
		l.space = true
	case c >= utf8.RuneSelf:
		l.nonASCII()
	case c == '_' || isLetter(c):
		l.word()
	case isDigit(c):
		l.add(Number, l.pos, l.numberEnd(l.pos))
	default:
		l.symbol(c)
	}
}

func (l *lexer) nonASCII() {
	r, size := utf8.DecodeRuneInString(l.Source[l.pos:])
	switch {
	case blank(r):
		l.pos += size
		l.space = true
	case r == '…':
		l.add(Ellipsis, l.pos, l.pos+size)
	case l.isCurrency(r):
		// SQL Server reads €10 as a number.
		if isDigit(l.at(size)) || l.at(size) == '.' {
			l.add(Number, l.pos, l.numberEnd(l.pos+size))
		} else {
			l.add(Operator, l.pos, l.pos+size)
		}
	default:
		l.word()
	}
}

func (l *lexer) isCurrency(r rune) bool {
	return l.Dialect == Other && unicode.Is(unicode.Sc, r)
}

func (l *lexer) symbol(c byte) {
	one := func(k Kind) { l.add(k, l.pos, l.pos+1) }
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
		one(Punct)
	case '.':
		if isDigit(l.at(1)) && !l.followsName() {
			l.add(Number, l.pos, l.numberEnd(l.pos))
			return
		}
		one(Punct)
	case '-':
		if l.at(1) == '-' && l.dashes() {
			return
		}
		one(Operator)
	case '#':
		if l.Dialect == MySQL {
			l.skip(l.lineEnd("\n"))
			return
		}
		if l.Dialect == Other {
			l.hideLine()
			return
		}
		one(Operator)
	case '/':
		switch {
		case l.at(1) == '*':
			l.comment()
		case l.at(1) == '/' && l.Dialect == Other:
			l.hideLine()
		default:
			one(Operator)
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
		one(Operator)
	}
}

// followsName tells whether the character at pos stands directly behind a name,
// so that a point there separates it from the next.
func (l *lexer) followsName() bool {
	if l.space || len(l.Tokens) == 0 {
		return false
	}
	last := l.Tokens[len(l.Tokens)-1]
	return last.Kind == Word || last.Kind == Quoted || l.IsPunct(last, ']') || l.IsPunct(last, ')')
}
