package drivertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A testScript is one script of testdata/scripts, whose README describes the format.
type testScript struct {
	name       string
	file       string
	line       int
	drivers    []string // the targets it runs on
	limit      int      // connections on both sides
	params     []string // added to both DSNs
	ours       []string // added to lifeguard's DSN
	ownServer  bool     // settings of the whole server are changed
	unchecked  bool     // any step may fail
	random     bool     // it was composed
	difference string   // why lifeguard is expected to differ, "" if it is not
	mayDiffer  bool     // marked steps may differ, and need not
	steps      []*step
}

// String is the script as it can be put into a file.
func (s *testScript) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "script %s\nunchecked\n", s.name)
	if s.limit != 1 {
		fmt.Fprintf(&b, "limit %d\n", s.limit)
	}
	if len(s.params) > 0 {
		fmt.Fprintf(&b, "dsn %s\n", strings.Join(s.params, " "))
	}
	for _, st := range s.steps {
		fmt.Fprintln(&b, strings.ReplaceAll(st.text, "\n", "\n  "))
	}
	return b.String()
}

// A step is one line of a script.
type step struct {
	line    int
	text    string
	name    string // of what it makes, "" for nothing
	who     string // the handle, connection, transaction, statement or rows it uses
	verb    string
	behind  bool   // it is begun, and its end is waited for by await
	fails   string // error codes, one of which it must end with; "" if it must succeed
	differs bool   // its outcome may differ
	words   []string
	sql     string
	runs    [][]any // the arguments of each run
}

// The verbs, by what follows them: a text of SQL, words, or nothing.
var (
	verbsWithSQL   = []string{"exec", "query", "prepare", "rows", "until"}
	verbsWithWords = []string{"conn", "tx", "stmt", "next", "commit", "rollback", "close"}
	makers         = []string{"prepare", "rows", "conn", "tx", "stmt"}
)

// loadScripts reads all files of testdata/scripts.
func loadScripts(t testing.TB) (scripts []*testScript) {
	t.Helper()
	files, err := filepath.Glob("testdata/scripts/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	names := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		parsed, err := parseScripts(filepath.Base(file), string(text))
		require.NoError(t, err)
		for _, s := range parsed {
			require.Empty(t, names[s.name], "%s: two scripts named %q", file, s.name)
			names[s.name] = file
		}
		scripts = append(scripts, parsed...)
	}
	return scripts
}

// parseScripts reads the scripts of one file.
func parseScripts(file, text string) (scripts []*testScript, err error) {
	var s *testScript
	for number, line := range logicalLines(text) {
		fail := func(err error) error { return fmt.Errorf("%s:%d: %s: %w", file, number, line, err) }
		word, rest, _ := strings.Cut(line, " ")
		if word == "script" {
			s = &testScript{name: rest, file: file, line: number, limit: 1, drivers: []string{"pq"}}
			scripts = append(scripts, s)
			continue
		}
		if s == nil {
			return nil, fail(errors.New("no script yet"))
		}
		if known, err := s.directive(word, rest); err != nil {
			return nil, fail(err)
		} else if known {
			continue
		}
		st, err := parseStep(line)
		if err != nil {
			return nil, fail(err)
		}
		st.line = number
		s.steps = append(s.steps, st)
	}
	for _, s := range scripts {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", file, s.line, s.name, err)
		}
	}
	return scripts, nil
}

// logicalLines gives the lines that are not empty and no comments, by their numbers. An indented line continues the one
// before.
func logicalLines(text string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		var begun int
		var whole []string
		flush := func() bool {
			more := len(whole) == 0 || yield(begun, strings.Join(whole, "\n"))
			whole = nil
			return more
		}
		for i, line := range strings.Split(text, "\n") {
			if rest, indented := strings.CutPrefix(line, "  "); indented && len(whole) > 0 {
				whole = append(whole, rest)
				continue
			}
			if !flush() {
				return
			}
			if line = strings.TrimRight(line, " "); line != "" && line[0] != '#' {
				begun, whole = i+1, []string{line}
			}
		}
		flush()
	}
}

// directive reads a line that says how a script is run.
func (s *testScript) directive(word, rest string) (known bool, err error) {
	switch word {
	case "drivers":
		s.drivers = strings.Fields(rest)
	case "limit":
		s.limit, err = strconv.Atoi(rest)
	case "dsn":
		s.params = strings.Fields(rest)
	case "lifeguard":
		s.ours = strings.Fields(rest)
	case "own-server":
		s.ownServer = true
	case "unchecked":
		s.unchecked = true
	case "expects-difference":
		s.difference = rest
	case "may-differ":
		s.mayDiffer = rest != ""
	default:
		return false, nil
	}
	return true, err
}

func (s *testScript) check() error {
	if len(s.steps) == 0 {
		return errors.New("no steps")
	}
	for _, d := range s.drivers {
		if targetNamed(d) == nil {
			return fmt.Errorf("unknown driver %q", d)
		}
	}
	marked := slices.ContainsFunc(s.steps, func(st *step) bool { return st.differs })
	if marked != (s.difference != "" || s.mayDiffer) {
		return errors.New("a step marked with ~ needs expects-difference or may-differ with a reason, and the other way round")
	}
	return nil
}

// parseStep reads [&][NAME =] WHO VERB[!CODES][~] [xN] [SQL or words] [<- arguments].
func parseStep(line string) (*step, error) {
	st := &step{text: line, runs: [][]any{nil}}
	line, st.behind = strings.CutPrefix(line, "&")
	first, rest, _ := strings.Cut(line, " ")
	switch first {
	case "wait", "blocked", "await":
		st.verb, st.words = first, strings.Fields(rest)
		if len(st.words) != 1 {
			return nil, errors.New("one word has to follow")
		}
		return st, nil
	}
	if after, made := strings.CutPrefix(rest, "= "); made {
		st.name = first
		first, rest, _ = strings.Cut(after, " ")
	}
	st.who = first
	st.verb, rest, _ = strings.Cut(rest, " ")
	st.verb, st.differs = strings.CutSuffix(st.verb, "~")
	st.verb, st.fails, _ = strings.Cut(st.verb, "!")
	if slices.Contains(makers, st.verb) != (st.name != "") {
		return nil, fmt.Errorf("a name goes with %s and no other verb", strings.Join(makers, ", "))
	}
	times := 1
	if word, after, _ := strings.Cut(rest, " "); len(word) > 1 && word[0] == 'x' {
		if n, err := strconv.Atoi(word[1:]); err == nil {
			times, rest = n, after
		}
	}
	if i := strings.LastIndex(rest, "<- "); i == 0 || i > 0 && (rest[i-1] == ' ' || rest[i-1] == '\n') {
		runs, err := parseRuns(rest[i+len("<- "):])
		if err != nil {
			return nil, err
		}
		st.runs, rest = runs, strings.TrimRight(rest[:max(i-1, 0)], " ")
	}
	st.runs = slices.Repeat(st.runs, times)
	switch {
	case slices.Contains(verbsWithSQL, st.verb):
		st.sql = rest
	case slices.Contains(verbsWithWords, st.verb):
		st.words = strings.Fields(rest)
	default:
		return nil, fmt.Errorf("unknown verb %q", st.verb)
	}
	return st, nil
}

// parseRuns reads arguments, separated by commas, of runs, separated by semicolons.
func parseRuns(text string) (runs [][]any, err error) {
	run := []any{}
	for {
		text = strings.TrimLeft(text, " ")
		end := strings.IndexAny(text, ",;")
		if strings.HasPrefix(text, `"`) {
			quoted, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, err
			}
			end = len(quoted)
		} else if end < 0 {
			end = len(text)
		}
		v, err := parseArgument(strings.TrimRight(text[:end], " "))
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", text[:end], err)
		}
		run = append(run, v)
		text = strings.TrimLeft(text[end:], " ")
		switch {
		case text == "":
			return append(runs, run), nil
		case text[0] == ';':
			runs, run = append(runs, run), []any{}
		case text[0] != ',':
			return nil, fmt.Errorf("a comma or a semicolon is missing before %q", text)
		}
		text = text[1:]
	}
}

// parseArgument reads a value of one of the types that database/sql hands to drivers.
func parseArgument(text string) (any, error) {
	switch {
	case text == "null":
		return nil, nil
	case text == "true" || text == "false":
		return text == "true", nil
	case strings.HasPrefix(text, `"`):
		return strconv.Unquote(text)
	case strings.HasPrefix(text, "@"):
		return time.Parse(time.RFC3339Nano, text[1:])
	case strings.HasPrefix(text, `\x`):
		b := make([]byte, 0, len(text)/2)
		for i := 2; i < len(text); i += 2 {
			n, err := strconv.ParseUint(text[i:min(i+2, len(text))], 16, 8)
			if err != nil {
				return nil, err
			}
			b = append(b, byte(n))
		}
		return b, nil
	case strings.ContainsAny(text, ".eN"):
		return strconv.ParseFloat(text, 64)
	default:
		return strconv.ParseInt(text, 10, 64)
	}
}

func TestDifferentialFormat(t *testing.T) {
	scripts, err := parseScripts("file", "# comment\n\nscript of two words\ndrivers pq pgx\nlimit 2\n"+
		"expects-difference for a reason\n"+
		"db query!22P02/1062~ x2 SELECT\n  $1 -- <- no arguments\n  <- 1, \"a, \\\"b\\\"\"; null, @2026-01-01T12:00:00+05:00\n"+
		"&s = c1 prepare SELECT 1\ns query <- 1.5, true, \\x00ff\nt = db tx serializable\n")
	require.NoError(t, err)
	require.Len(t, scripts, 1)
	s := scripts[0]
	assert.Equal(t, "of two words", s.name)
	assert.Equal(t, []string{"pq", "pgx"}, s.drivers)
	assert.Equal(t, 2, s.limit)
	require.Len(t, s.steps, 4)
	query := s.steps[0]
	assert.Equal(t, 7, query.line)
	assert.Equal(t, "SELECT\n$1 -- <- no arguments", query.sql)
	assert.Equal(t, "22P02/1062", query.fails)
	assert.True(t, query.differs)
	require.Len(t, query.runs, 4)
	assert.Equal(t, []any{int64(1), `a, "b"`}, query.runs[2])
	assert.Nil(t, query.runs[3][0])
	assert.True(t, time.Date(2026, 1, 1, 7, 0, 0, 0, time.UTC).Equal(query.runs[3][1].(time.Time)))
	assert.Equal(t, "s", s.steps[1].name)
	assert.True(t, s.steps[1].behind)
	assert.Equal(t, [][]any{{1.5, true, []byte{0, 255}}}, s.steps[2].runs)
	assert.Equal(t, []string{"serializable"}, s.steps[3].words)
	for _, wrong := range []string{
		"db query SELECT 1", "script x", "script x\nlimit many\ndb query SELECT 1", "script x\ndb dance", "script x\ndb conn",
		"script x\nc = db query SELECT 1", "script x\ndrivers oracle\ndb query SELECT 1", "script x\ndb query~ SELECT 1",
		"script x\nexpects-difference y\ndb query SELECT 1", "script x\ndb query SELECT $1 <- abc", "script x\nwait",
		`script x` + "\n" + `db query SELECT $1 <- "a" "b"`,
	} {
		_, err := parseScripts("file", wrong)
		assert.Error(t, err, wrong)
	}
}
