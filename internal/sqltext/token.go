package sqltext

import (
	"strings"
	"unicode"
)

// Kind is what a token is.
type Kind uint8

// The values of [Kind].
const (
	Word     Kind = iota + 1 // a name without quotes, or a keyword
	Quoted                   // a name in quotes
	Literal                  // a string, or anything else that must not be shown
	Number                   // a number, with its sign where it is not an operator
	Param                    // a placeholder or variable: ?, $1, :name, @name
	Punct                    // one of ( ) [ ] { } , ; .
	Operator                 // one other character, or ::
	Ellipsis                 // what stands for text that was left out
)

// Token is the part [Start, End) of a query.
type Token struct {
	Kind       Kind
	Space      bool // whitespace or a comment stood before it
	Start, End int
}

// Query is a text that was read.
type Query struct {
	Dialect Dialect
	Source  string // the first 64 KiB
	Tokens  []Token
}

// Read splits a text into tokens, without comments and whitespace. What is a literal by its surroundings is one: a
// password without quotes, the data behind COPY … FROM STDIN.
func Read(d Dialect, query string) *Query {
	q := lex(d, query)
	q.conceal()
	return q
}

// Text returns the token as it was written.
func (q *Query) Text(t Token) string { return q.Source[t.Start:t.End] }

// IsPunct tells whether t is the punctuation c.
func (q *Query) IsPunct(t Token, c byte) bool {
	return t.Kind == Punct && q.Source[t.Start] == c
}

// IsOperator tells whether t is the operator c.
func (q *Query) IsOperator(t Token, c byte) bool {
	return t.Kind == Operator && q.Source[t.Start] == c && t.End == t.Start+1
}

// IsWord tells whether t is the given keyword, which is in capitals.
func (q *Query) IsWord(t Token, keyword string) bool {
	return t.Kind == Word && IsKeyword(q.Text(t), keyword)
}

// IsKeyword compares without regard to case, in ASCII alone: strings.EqualFold
// would take the long s for an S.
func IsKeyword(s, keyword string) bool {
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

// Clean makes s valid UTF-8 on one line.
func Clean(s string) string {
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

// IsAnyOf tells whether s is one of the keywords, which are in capitals.
func IsAnyOf(s string, keywords ...string) bool {
	for _, k := range keywords {
		if IsKeyword(s, k) {
			return true
		}
	}
	return false
}

// IsQuery tells whether a bracket that begins with t holds a query.
func (q *Query) IsQuery(t Token) bool {
	return t.Kind == Word && IsAnyOf(q.Text(t), "SELECT", "WITH", "VALUES", "TABLE")
}
