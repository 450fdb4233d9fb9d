package sqltext_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	. "github.com/go-lifeguard/lifeguard/internal/sqltext"
	"github.com/go-lifeguard/lifeguard/internal/sqltext/summary"
)

var dialects = []Dialect{Other, PostgreSQL, MySQL, SQLite}

// check holds what is true of every query.
func check(t *testing.T, d Dialect, query string) (text, shape string) {
	t.Helper()
	text = Sanitize(d, query)
	if len(text) > MaxLen {
		t.Errorf("%v: Sanitize(%q) has %d bytes", d, query, len(text))
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
		t.Errorf("%v: Sanitize(%q) = %q", d, query, text)
	}
	if again := Sanitize(d, text); again != text {
		t.Errorf("%v: Sanitize(%q)\n   = %q,\nand of that %q", d, squeeze(query), text, again)
	}
	shape = summary.Of(d, query)
	if utf8.RuneCountInString(shape) > summary.MaxLen {
		t.Errorf("%v: summary.Of(%q) has %d characters", d, query, utf8.RuneCountInString(shape))
	}
	op, target := summary.Operation(d, query), summary.Target(d, query)
	for _, s := range []string{shape, op, target} {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, isControl) {
			t.Errorf("%v: %q has the summary %q, operation %q, target %q", d, query, shape, op, target)
		}
	}
	if op != strings.ToUpper(op) || (op == "") != (shape == "") {
		t.Errorf("%v: %q has the summary %q and operation %q", d, query, shape, op)
	}
	return text, shape + op + target
}

func isControl(r rune) bool {
	return r != ' ' && (unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) || r == '\ufeff'
}

// checkServer holds what is true of a query that s can be asked.
func checkServer(t *testing.T, s *server, query string) {
	t.Helper()
	for _, d := range []Dialect{s.dialect, Other} {
		text, shape := check(t, d, query)
		if leaks(text) || leaks(shape) {
			t.Errorf("%s as %v:\n%q\nis shown as\n%q\nand\n%q", s.name, d, squeeze(query), text, shape)
		}
	}
}

// FuzzSanitize makes queries by the rules of several servers, with the same
// secret in every literal and comment, and looks for it in what is shown.
func FuzzSanitize(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range servers {
		for range 5 {
			data := make([]byte, 60)
			for j := range data {
				data[j] = byte(rnd.Uint32())
			}
			f.Add(byte(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		s := &servers[int(which)%len(servers)]
		checkServer(t, s, s.query(&choices{data}))
	})
}

// FuzzText gives arbitrary text to every dialect.
func FuzzText(f *testing.F) {
	for _, tt := range sanitizeTests {
		f.Add(tt.query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		for _, d := range dialects {
			check(t, d, query)
		}
	})
}

func TestNoLiteralSurvives(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	n := 1000
	if testing.Short() {
		n = 200
	}
	for i := range servers {
		for range n {
			data := make([]byte, 1+rnd.IntN(120))
			for j := range data {
				data[j] = byte(rnd.Uint32())
			}
			s := &servers[i]
			checkServer(t, s, s.query(&choices{data}))
			if t.Failed() {
				return
			}
		}
	}
}

// Long queries are cut in the middle of anything.
func TestNoLiteralSurvivesACut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range servers {
		s := &servers[i]
		for range 8 {
			var b strings.Builder
			b.WriteString(strings.Repeat("SELECT a ", rnd.IntN(4)))
			b.WriteString(strings.Repeat(" ", 64<<10-200+rnd.IntN(200)))
			data := make([]byte, 150)
			for j := range data {
				data[j] = byte(rnd.Uint32())
			}
			data[0] = 0
			b.WriteString(s.query(&choices{data}))
			checkServer(t, s, b.String())
			if t.Failed() {
				return
			}
		}
	}
}

// squeeze keeps the padding of a query out of messages.
func squeeze(query string) string {
	if i := strings.Index(query, "        "); i >= 0 {
		return query[:i] + "…" + strings.TrimLeft(query[i:], " ")
	}
	return query
}
