package pool_test

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scenario is one scenario of a file in testdata, whose format testdata/README.md describes.
type scenario struct {
	file  string
	line  int
	title string

	settings     []string // as a DSN has them: "connection_limit=5"
	handles      []handle // the first is "main"
	withoutReset bool     // the driver has neither ResetSession nor IsValid
	loggerPanics bool

	setup   []rule  // of the server, before the pool is opened
	events  []event // in the order of their times
	expects []expectation
}

type handle struct {
	name    string
	maxOpen int // for sql.DB.SetMaxOpenConns; 0 leaves it
}

// event is what happens at one time: exactly one of the last three is set.
type event struct {
	line  int
	at    time.Duration
	rule  *rule
	check *expectation // of a metric
	move  *move
}

// move gives steps to callers.
type move struct {
	callers []string
	fresh   bool // each is a caller of its own, also if one of that name exists
	steps   []step
}

// step is one thing that a caller does.
type step struct {
	line int
	verb string
	word string        // a name, a place, or the text of a query
	took time.Duration // a deadline, a pause, or how long a query takes
	n    int
}

type parser struct {
	file   string
	line   int
	all    []*scenario
	s      *scenario // the one being read
	called map[string]bool
}

// parseFile reads the scenarios of one file. Its error names file and line.
func parseFile(path string) ([]*scenario, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(path, f)
}

func parse(file string, r io.Reader) ([]*scenario, error) {
	p := &parser{file: file}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.line++
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if err := p.statement(text); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, p.line, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.all, nil
}

// statement reads one line.
func (p *parser) statement(text string) error {
	first, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	if first == "scenario" {
		if err := p.finish(); err != nil {
			return err
		}
		p.s = &scenario{file: p.file, line: p.line, title: rest, handles: []handle{{name: "main"}}}
		p.called = map[string]bool{}
		p.all = append(p.all, p.s)
		if rest == "" {
			return fmt.Errorf("a scenario needs a title")
		}
		for _, other := range p.all[:len(p.all)-1] {
			if other.title == rest {
				return fmt.Errorf("there is a scenario %q already", rest)
			}
		}
		return nil
	}
	if p.s == nil {
		return fmt.Errorf("%q stands before the first scenario", first)
	}
	switch first {
	case "why":
		return nil
	case "pool":
		return p.pool(rest)
	case "handle":
		return p.handle(strings.Fields(rest))
	case "driver":
		if rest != "without reset" {
			return fmt.Errorf("a driver may be %q, not %q", "without reset", rest)
		}
		p.s.withoutReset = true
		return nil
	case "logger":
		if rest != "panics" {
			return fmt.Errorf("a logger may be said to %q, not %q", "panics", rest)
		}
		p.s.loggerPanics = true
		return nil
	case "server":
		r, err := parseRule(strings.Fields(rest))
		if err != nil {
			return err
		}
		p.s.setup = append(p.s.setup, r)
		return nil
	case "at":
		return p.at(rest)
	case "from":
		return p.from(rest)
	case "expect":
		e, err := parseExpectation(p.line, rest)
		if err != nil {
			return err
		}
		p.s.expects = append(p.s.expects, e)
		return nil
	}
	return fmt.Errorf("%q begins no line: there are scenario, why, pool, handle, driver, logger, server, at, from, expect", first)
}

// finish checks the scenario that has been read, now that all callers are known.
func (p *parser) finish() error {
	s := p.s
	if s == nil {
		return nil
	}
	slices.SortStableFunc(s.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	for _, e := range s.expects {
		for _, name := range e.callers {
			if !p.called[name] {
				return fmt.Errorf("%s:%d: nobody is called %q", s.file, e.line, name)
			}
		}
	}
	if len(s.expects) == 0 {
		return fmt.Errorf("%s:%d: scenario %q expects nothing", s.file, s.line, s.title)
	}
	p.s = nil
	return nil
}

func (p *parser) pool(settings string) error {
	for _, setting := range strings.Fields(settings) {
		if name, value, ok := strings.Cut(setting, "="); !ok || name == "" || value == "" {
			return fmt.Errorf("a setting is NAME=VALUE, not %q", setting)
		}
		p.s.settings = append(p.s.settings, setting)
	}
	return nil
}

func (p *parser) handle(words []string) error {
	if len(words) != 1 && (len(words) != 3 || words[1] != "max-open") {
		return fmt.Errorf("a handle is NAME, or NAME max-open N")
	}
	h := handle{name: words[0]}
	if len(words) == 3 {
		n, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		h.maxOpen = n
	}
	if i := p.s.handleNamed(h.name); i >= 0 {
		p.s.handles[i] = h
	} else {
		p.s.handles = append(p.s.handles, h)
	}
	return nil
}

func (s *scenario) handleNamed(name string) int {
	return slices.IndexFunc(s.handles, func(h handle) bool { return h.name == name })
}

// at reads what happens at one time: "T server …", "T expect METRIC RANGE" or "T CALLERS: STEPS".
func (p *parser) at(text string) error {
	when, rest, _ := strings.Cut(text, " ")
	at, err := time.ParseDuration(when)
	if err != nil {
		return fmt.Errorf("a time such as 1.5s has to follow, not %q", when)
	}
	e := event{line: p.line, at: at}
	rest = strings.TrimSpace(rest)
	switch first, more, _ := strings.Cut(rest, " "); first {
	case "server":
		r, err := parseRule(strings.Fields(more))
		if err != nil {
			return err
		}
		e.rule = &r
	case "expect":
		x, err := parseExpectation(p.line, more)
		if err != nil {
			return err
		}
		if x.metric == "" {
			return fmt.Errorf("what callers see is looked at in the end: write it without \"at %s\"", when)
		}
		e.check = &x
	default:
		if e.move, err = p.move(rest); err != nil {
			return err
		}
	}
	p.s.events = append(p.s.events, e)
	return nil
}

var fromTo = regexp.MustCompile(`^(\S+) to (\S+) every (\S+) (.*)$`)

// from reads arrivals at even distances: "T to T every D CALLER: STEPS". Each is a caller of its own.
func (p *parser) from(text string) error {
	m := fromTo.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("arrivals are written: from T to T every D CALLER: STEPS")
	}
	var times [3]time.Duration
	for i := range times {
		d, err := time.ParseDuration(m[i+1])
		if err != nil {
			return err
		}
		times[i] = d
	}
	if times[2] <= 0 {
		return fmt.Errorf("arrivals every %s never end", m[3])
	}
	mv, err := p.move(m[4])
	if err != nil {
		return err
	}
	mv.fresh = true
	for at := times[0]; at < times[1]; at += times[2] {
		p.s.events = append(p.s.events, event{line: p.line, at: at, move: mv})
	}
	return nil
}

// move reads "CALLERS: STEP, STEP".
func (p *parser) move(text string) (*move, error) {
	names, steps, ok := strings.Cut(text, ":")
	if !ok {
		return nil, fmt.Errorf("%q is neither server, expect nor CALLERS: STEPS", text)
	}
	callers, err := callerNames(strings.Fields(names))
	if err != nil {
		return nil, err
	}
	m := &move{callers: callers}
	for _, name := range callers {
		p.called[name] = true
	}
	for _, text := range splitOutside(steps, ',') {
		st, err := p.step(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		st.line = p.line
		m.steps = append(m.steps, st)
	}
	return m, nil
}

var (
	callerName  = regexp.MustCompile(`^[a-z]+[0-9]*$`)
	callerRange = regexp.MustCompile(`^([a-z]+)([0-9]+)\.\.([a-z]+)([0-9]+)$`)
)

// callerNames writes ranges out: "a1..a3 b" is a1, a2, a3, b.
func callerNames(words []string) ([]string, error) {
	var names []string
	for _, word := range words {
		if callerName.MatchString(word) {
			names = append(names, word)
			continue
		}
		m := callerRange.FindStringSubmatch(word)
		if m == nil || m[1] != m[3] {
			return nil, fmt.Errorf("%q is no caller: write a, a1 or a1..a9", word)
		}
		from, _ := strconv.Atoi(m[2])
		to, _ := strconv.Atoi(m[4])
		for i := from; i <= to; i++ {
			names = append(names, fmt.Sprint(m[1], i))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no caller is named")
	}
	return names, nil
}

// step reads one step. What may follow a verb is the second part of its line in verbs.
func (p *parser) step(text string) (step, error) {
	for _, v := range verbs {
		rest, ok := strings.CutPrefix(text, v.verb)
		if !ok || rest != "" && rest[0] != ' ' {
			continue
		}
		st := step{verb: v.verb}
		rest = strings.TrimSpace(rest)
		if rest == "" && !v.optional && v.takes != "" || rest != "" && v.takes == "" {
			return st, fmt.Errorf("%q: %s takes %s", text, v.verb, cmp.Or(v.takes, "nothing"))
		}
		if rest == "" {
			return st, nil
		}
		var err error
		switch v.takes {
		case "D":
			st.took, err = time.ParseDuration(rest)
		case "N":
			st.n, err = strconv.Atoi(rest)
		case "D or TEXT":
			if quoted, isText := unquote(rest); isText {
				st.word = quoted
			} else {
				st.took, err = time.ParseDuration(rest)
			}
		case "as PLACE":
			if st.word, ok = strings.CutPrefix(rest, "as "); !ok || places[st.word] == nil {
				err = fmt.Errorf("%q: there are the places export and report", text)
			}
		case "NAME":
			st.word = rest
			if v.verb == "on" && p.s.handleNamed(rest) < 0 {
				err = fmt.Errorf("there is no handle %q", rest)
			}
		}
		return st, err
	}
	return step{}, fmt.Errorf("%q is no step", text)
}

func unquote(text string) (string, bool) {
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		return text[1 : len(text)-1], true
	}
	return text, false
}

// splitOutside cuts text at every sep that is not in quotes.
func splitOutside(text string, sep byte) []string {
	var parts []string
	quoted, from := false, 0
	for i := range len(text) {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case text[i] == sep && !quoted:
			parts = append(parts, text[from:i])
			from = i + 1
		}
	}
	return append(parts, text[from:])
}

// span is a range of whole numbers, both ends included: "3", "3..", "..3", "3..5".
type span struct{ from, to int }

const unbounded = 1 << 40

func parseSpan(text string) (span, error) {
	low, high, isRange := strings.Cut(text, "..")
	s := span{0, unbounded}
	var err error
	if low != "" {
		s.from, err = strconv.Atoi(low)
	}
	if !isRange {
		s.to = s.from
	} else if err == nil && high != "" {
		s.to, err = strconv.Atoi(high)
	}
	if err != nil || s.from > s.to || text == "" || text == ".." {
		return s, fmt.Errorf("%q is no number and no range such as 3..5, 3.. or ..5", text)
	}
	return s, nil
}

func (s span) has(n int) bool { return s.from <= n && n <= s.to }

func (s span) String() string {
	switch {
	case s.from == s.to:
		return strconv.Itoa(s.from)
	case s.to == unbounded:
		return fmt.Sprintf("at least %d", s.from)
	case s.from == 0:
		return fmt.Sprintf("at most %d", s.to)
	}
	return fmt.Sprintf("%d to %d", s.from, s.to)
}
