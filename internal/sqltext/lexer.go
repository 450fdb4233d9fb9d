package sqltext

import (
	"strings"
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
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

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
