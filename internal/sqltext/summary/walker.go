package summary

import (
	"strings"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// scope is what the walker knows within one pair of brackets.
type scope struct {
	verb   string // of the statement it is in, in capitals
	start  bool   // a statement can begin here
	want   bool   // a name here is a target
	list   bool   // a comma brings another target
	tables bool   // these are the brackets of FROM (a JOIN b)

	with      with
	recursive bool
	cte       string // the common table expression being defined
	body      bool   // these are its brackets
}

// with is how far a WITH clause has come.
type with uint8

const (
	noWith with = iota
	withName
	withBody
	withNext
)

// walker goes through the tokens of a query once.
type walker struct {
	*sqltext.Query
	i      int
	parts  []part
	scopes []scope
	ctes   map[string]struct{}
	opaque bool // nothing but a list of targets matters until the next statement
	begin  int  // index of the first part of the present statement
	prior  int  // and of the one before
	first  int  // how many parts the first statement has
}

// summarize returns the parts of the summary of query, and how many of them
// belong to its first statement.
func summarize(d sqltext.Dialect, query string) ([]part, int) {
	w := walker{Query: sqltext.Read(d, query)}
	w.reset()
	for w.i = 0; w.i < len(w.Tokens); w.i++ {
		w.step(w.Tokens[w.i])
	}
	w.endStatement()
	return w.parts, w.first
}

func (w *walker) reset() {
	w.scopes = append(w.scopes[:0], scope{start: true})
	w.ctes = nil
	w.opaque = false
}

// endStatement forgets the statement that has ended if it is like the one before.
func (w *walker) endStatement() {
	last, prior := w.parts[w.begin:], w.parts[w.prior:w.begin]
	if len(last) == 0 {
		return
	}
	if len(last) == len(prior) {
		same := true
		for i := range last {
			same = same && last[i] == prior[i]
		}
		if same {
			w.parts = w.parts[:w.begin]
			return
		}
	}
	w.prior, w.begin = w.begin, len(w.parts)
	if w.first == 0 {
		w.first = w.begin
	}
}

func (w *walker) top() *scope { return &w.scopes[len(w.scopes)-1] }

func (w *walker) emit(r role, text string) {
	w.parts = append(w.parts, part{r, sqltext.Clean(text), len(w.scopes) - 1})
}

// peek returns the token n places ahead, or one of no kind.
func (w *walker) peek(n int) sqltext.Token {
	if i := w.i + n; i >= 0 && i < len(w.Tokens) {
		return w.Tokens[i]
	}
	return sqltext.Token{}
}

func (w *walker) step(t sqltext.Token) {
	s := w.top()
	switch t.Kind {
	case sqltext.Punct:
		w.punct(t)
	case sqltext.Word:
		if !w.IsPunct(w.peek(-1), '.') {
			w.word(t)
		}
	case sqltext.Quoted:
		switch {
		case s.with == withName:
			w.defineCTE(t)
		case s.want:
			w.target()
		}
		s.start = false
	default:
		// EXEC @result = f
		s.want = s.want && strings.HasPrefix(s.verb, "EXEC")
		// {? = call f(?)} is how other languages' drivers spell CALL.
		if t.Kind != sqltext.Param && t.Kind != sqltext.Operator {
			s.start = false
		}
	}
}

func (w *walker) punct(t sqltext.Token) {
	s := w.top()
	switch c := w.Source[t.Start]; c {
	case '(', '[':
		if c == '[' && s.want && w.target() {
			return
		}
		child := scope{start: c == '('}
		if c == '(' && s.want {
			child.want, child.list, child.tables = true, true, true
		}
		if s.with == withBody {
			child.body = w.IsWord(w.peek(-1), "AS") || w.IsWord(w.peek(-1), "MATERIALIZED")
		}
		s.want = false
		w.scopes = append(w.scopes, child)
	case ')', ']':
		if len(w.scopes) == 1 {
			return
		}
		body := s.body
		w.scopes = w.scopes[:len(w.scopes)-1]
		if s = w.top(); body {
			w.addCTE(s.cte)
			s.with = withNext
		}
	case ',':
		switch {
		case s.with == withNext:
			s.with = withName
		case s.list:
			s.want = true
		}
	case ';':
		w.endStatement()
		w.reset()
	}
}

func (w *walker) defineCTE(t sqltext.Token) {
	s := w.top()
	s.cte = w.Text(t)
	s.with = withBody
	if s.recursive {
		w.addCTE(s.cte)
	}
}

// addCTE makes name known as that of a common table expression. Without
// RECURSIVE it is known only behind its own definition: in
// WITH users AS (SELECT * FROM users) the second is the table.
func (w *walker) addCTE(name string) {
	if w.ctes == nil {
		w.ctes = make(map[string]struct{})
	}
	w.ctes[fold(name)] = struct{}{}
}

func fold(name string) string {
	return strings.ToLower(strings.Trim(name, "\"`[]"))
}

// target takes the name at i for a target, and reports whether it is one.
func (w *walker) target() bool {
	s := w.top()
	var (
		b     strings.Builder
		parts int
	)
	for j := w.i; ; {
		end := w.namePart(j)
		if end == j {
			break
		}
		for ; j < end; j++ {
			if t := w.Tokens[j]; t.Space && j > w.i && w.Source[t.Start] != ']' && w.Tokens[j-1].Kind == sqltext.Word {
				b.WriteByte(' ')
			}
			b.WriteString(w.Text(w.Tokens[j]))
		}
		parts++
		w.i = j - 1
		points := j
		for j < len(w.Tokens) && w.IsPunct(w.Tokens[j], '.') {
			j++
		}
		if j > points && j < len(w.Tokens) && (w.Tokens[j].Kind == sqltext.Literal || w.Tokens[j].Kind == sqltext.Param) {
			// The rest of the name is in quotes that may be those of a string.
			s.want = false
			return true
		}
		if j == points || w.namePart(j) == j {
			break
		}
		b.WriteString(strings.Repeat(".", j-points))
	}
	if parts == 0 {
		return false
	}
	s.want, s.start = false, false
	if _, ok := w.ctes[fold(b.String())]; parts > 1 || !ok {
		w.emit(target, b.String())
	}
	return true
}

// namePart returns the index behind the part of a name at i, or i.
func (w *walker) namePart(i int) int {
	if i >= len(w.Tokens) {
		return i
	}
	switch t := w.Tokens[i]; {
	case t.Kind == sqltext.Word || t.Kind == sqltext.Quoted:
		return i + 1
	case w.Dialect == sqltext.Other && w.IsPunct(t, '['):
		// SQL Server's [Order Details]. Anything but words inside may be values.
		for j := i + 1; j < len(w.Tokens) && j <= i+8; j++ {
			if j > i+1 && w.IsPunct(w.Tokens[j], ']') {
				return j + 1
			}
			if w.Tokens[j].Kind != sqltext.Word {
				return i
			}
		}
	}
	return i
}
