package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard"
)

// expectation is what must have happened: to callers, or to a metric.
type expectation struct {
	line    int
	callers []string
	outcome string // served, done, fails, never, order
	count   *span  // of rounds; nil means all
	percent int    // of rounds at least; 0 means that count counts
	is, not []string
	says    []*regexp.Regexp
	silent  []*regexp.Regexp

	from, to time.Duration // on the scenario's clock; to is 0 for any time
	within   time.Duration // of the arrival; 0 for any time

	metric string
	text   string // of log records
	value  span
}

// words cuts text at spaces; what stands in quotes or between slashes is one word.
var words = regexp.MustCompile(`"[^"]*"|/[^/]*/|\S+`)

func parseExpectation(line int, text string) (expectation, error) {
	e := expectation{line: line}
	ws := words.FindAllString(text, -1)
	if len(ws) == 0 {
		return e, fmt.Errorf("nothing is expected")
	}
	if _, ok := metrics[ws[0]]; ok {
		return e, e.parseMetric(ws)
	}
	if ws[0] == "order" {
		e.outcome = "order"
		var err error
		e.callers, err = callerNames(ws[1:])
		return e, err
	}
	if len(ws) > 2 && ws[1] == "of" {
		if err := e.parseCount(ws[0]); err != nil {
			return e, err
		}
		ws = ws[2:]
	}
	i := slices.IndexFunc(ws, func(w string) bool { return slices.Contains(outcomes, w) })
	if i < 1 {
		return e, fmt.Errorf("%q is no metric, and no CALLERS followed by %s", ws[0], strings.Join(outcomes, ", "))
	}
	var err error
	if e.callers, err = callerNames(ws[:i]); err != nil {
		return e, err
	}
	e.outcome = ws[i]
	return e, e.parseRest(ws[i+1:])
}

var outcomes = []string{"served", "done", "fails", "never"}

func (e *expectation) parseMetric(ws []string) (err error) {
	e.metric = ws[0]
	ws = ws[1:]
	if e.metric == "log" && len(ws) > 0 {
		e.text, _ = unquote(ws[0])
		ws = ws[1:]
	}
	if len(ws) != 1 {
		return fmt.Errorf("%s takes a number, or a range such as 3..5", e.metric)
	}
	e.value, err = parseSpan(ws[0])
	return err
}

func (e *expectation) parseCount(word string) (err error) {
	if share, ok := strings.CutSuffix(word, "%"); ok {
		e.percent, err = strconv.Atoi(share)
		return err
	}
	count, err := parseSpan(word)
	e.count = &count
	return err
}

func (e *expectation) parseRest(ws []string) error {
	next := func() (word string) {
		if len(ws) > 0 {
			word, ws = ws[0], ws[1:]
		}
		return word
	}
	var err error
	for len(ws) > 0 && err == nil {
		switch word := next(); word {
		case "at":
			e.from, err = time.ParseDuration(next())
			e.to = e.from
		case "by":
			e.to, err = time.ParseDuration(next())
		case "after":
			e.from, err = time.ParseDuration(next())
			e.to = unbounded * time.Microsecond
		case "from":
			if e.from, err = time.ParseDuration(next()); err == nil && next() == "to" {
				e.to, err = time.ParseDuration(next())
			}
		case "within":
			e.within, err = time.ParseDuration(next())
		case "says":
			e.says, err = appendText(e.says, next())
		case "silent":
			e.silent, err = appendText(e.silent, next())
		case "not":
			e.not = append(e.not, next())
			err = checkKind(e.not[len(e.not)-1])
		default:
			e.is = append(e.is, word)
			err = checkKind(word)
		}
	}
	return err
}

func appendText(list []*regexp.Regexp, word string) ([]*regexp.Regexp, error) {
	text, quoted := unquote(word)
	switch {
	case quoted:
		text = regexp.QuoteMeta(text)
	case len(word) > 2 && word[0] == '/' && word[len(word)-1] == '/':
		text = word[1 : len(word)-1]
	default:
		return nil, fmt.Errorf("%q is neither \"text\" nor /pattern/", word)
	}
	re, err := regexp.Compile(text)
	return append(list, re), err
}

// kinds are the errors that have a word in the format, besides the faults of a server.
var kinds = map[string]func(error) bool{
	"pool-timeout": func(err error) bool {
		var e *lifeguard.PoolTimeoutError
		return errors.Is(err, lifeguard.ErrPoolTimeout) && errors.As(err, &e) && e.Timeout()
	},
	"pool-closed": func(err error) bool { return errors.Is(err, lifeguard.ErrPoolClosed) },
	"reclaimed":   func(err error) bool { return errors.Is(err, lifeguard.ErrReclaimed) },
	"deadline":    func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
	"canceled":    func(err error) bool { return err == context.Canceled }, // as it is
	"conn-done":   func(err error) bool { return errors.Is(err, sql.ErrConnDone) },
	"tx-done":     func(err error) bool { return errors.Is(err, sql.ErrTxDone) },
	// A driver's error would do, too, if it is told as one: what counts is that the caller hears of the panic.
	"panic":          func(err error) bool { return strings.Contains(err.Error(), "the driver panics in ") },
	"bad-connection": func(err error) bool { return errors.Is(err, driver.ErrBadConn) },
}

func checkKind(word string) error {
	if _, ok := kinds[word]; ok || isFault(word) {
		return nil
	}
	return fmt.Errorf("%q is no kind of error", word)
}

// isKind tells whether err is of the kind that a word stands for.
func isKind(err error, word string) bool {
	if is, ok := kinds[word]; ok {
		return is(err)
	}
	var state interface{ SQLState() string }
	if sqlstate.MatchString(word) {
		return errors.As(err, &state) && state.SQLState() == word
	}
	want := faultError(word)
	return errors.Is(err, want) || strings.Contains(err.Error(), want.Error())
}

// check says what is wrong with the rounds of the callers.
func (e *expectation) check(w *world) []problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.outcome == "order" {
		return e.checkOrder(w)
	}
	var wrong []string
	total, right := 0, 0
	for _, r := range w.rounds {
		if !r.began || !slices.Contains(e.callers, r.caller) {
			continue
		}
		total++
		if err := e.judge(r); err != "" {
			wrong = append(wrong, fmt.Sprintf("%s, which came at %v, %s", r.caller, r.arrived, err))
		} else {
			right++
		}
	}
	var text string
	switch {
	case total == 0:
		text = "none of them asked for anything"
	case e.percent > 0 && right*100 < e.percent*total:
		text = fmt.Sprintf("%d of %d are %.1f %%, not %d %%", right, total, 100*float64(right)/float64(total), e.percent)
	case e.percent == 0 && e.count != nil && !e.count.has(right):
		text = fmt.Sprintf("%d of %d, not %v", right, total, e.count)
	case e.percent == 0 && e.count == nil && right < total:
		text = fmt.Sprintf("%d of %d", right, total)
	default:
		return nil
	}
	if more := len(wrong) - 3; more > 0 {
		wrong = append(wrong[:3], fmt.Sprintf("and %d more", more))
	}
	return []problem{{e.line, strings.Join(append([]string{text}, wrong...), "\n\t\t")}}
}

// judge says what is wrong with one round, "" if nothing is.
func (e *expectation) judge(r *round) string {
	at := r.ended
	switch {
	case e.outcome == "never":
		if r.err == nil {
			return ""
		}
	case e.outcome == "fails":
		if r.err == nil {
			return fmt.Sprintf("was served at %v", r.served)
		}
	case e.outcome == "served" && r.order != 0:
		at = r.served
	case r.err != nil:
		return fmt.Sprintf("failed at %v: %v", r.ended, r.err)
	case r.order == 0 || !r.over:
		return "was not served"
	}
	if at < e.from || e.to != 0 && at > e.to || e.within != 0 && at > r.arrived+e.within {
		return fmt.Sprintf("%s at %v (%v)", e.outcome, at, r.err)
	}
	if e.outcome == "never" {
		for _, kind := range e.is {
			if isKind(r.err, kind) {
				return fmt.Sprintf("failed with %s: %v", kind, r.err)
			}
		}
		return ""
	}
	return e.judgeError(r.err)
}

func (e *expectation) judgeError(err error) string {
	for _, kind := range e.is {
		if !isKind(err, kind) {
			return fmt.Sprintf("failed, and not with %s: %v", kind, err)
		}
	}
	for _, kind := range e.not {
		if isKind(err, kind) {
			return fmt.Sprintf("failed with %s: %v", kind, err)
		}
	}
	for _, re := range e.says {
		if !re.MatchString(err.Error()) {
			return fmt.Sprintf("failed, and nothing said %q: %v", re, err)
		}
	}
	for _, re := range e.silent {
		if re.MatchString(err.Error()) {
			return fmt.Sprintf("failed, and it said %q: %v", re, err)
		}
	}
	return ""
}

func (e *expectation) checkOrder(w *world) []problem {
	var got []*round
	for _, r := range w.rounds {
		if slices.Contains(e.callers, r.caller) && r.order != 0 {
			got = append(got, r)
		}
	}
	slices.SortFunc(got, func(a, b *round) int { return a.order - b.order })
	var names []string
	for _, r := range got {
		names = append(names, r.caller)
	}
	if !slices.Equal(names, e.callers) {
		return []problem{{e.line, "served in the order " + strings.Join(names, " ")}}
	}
	return nil
}

// metrics are the numbers that can be expected: those of the server, then those that the pool tells of itself.
var metrics = map[string]func(*world, *expectation) int{
	"dials":       func(w *world, _ *expectation) int { return w.server.Dials() },
	"dialing":     func(w *world, _ *expectation) int { return w.server.Dialing() },
	"max-dialing": func(w *world, _ *expectation) int { return w.server.MaxDialing() },
	"open":        func(w *world, _ *expectation) int { return w.server.Open() },
	"max-open":    func(w *world, _ *expectation) int { return w.server.MaxOpen() },
	"closed":      func(w *world, _ *expectation) int { return w.server.Closed() },
	"queries":     func(w *world, _ *expectation) int { return w.server.Queries() },
	"pings":       func(w *world, _ *expectation) int { return w.server.Pings() },
	"statements":  func(w *world, _ *expectation) int { return w.server.Stmts() },
	"limit":       func(w *world, _ *expectation) int { return w.pool.Stats().Limit },
	"in-use":      func(w *world, _ *expectation) int { return w.pool.Stats().InUse },
	"idle":        func(w *world, _ *expectation) int { return w.pool.Stats().Idle },
	"waiting":     func(w *world, _ *expectation) int { return w.pool.Stats().Waiting },
	"waits":       func(w *world, _ *expectation) int { return int(w.pool.Stats().Waits) },
	"timeouts":    func(w *world, _ *expectation) int { return int(w.pool.Stats().Timeouts) },
	"gave-up":     func(w *world, _ *expectation) int { return int(w.pool.Stats().Canceled) },
	"log":         func(w *world, e *expectation) int { return w.log.count(e.text) },
}

// checkMetric says what is wrong with a number now.
func (e *expectation) checkMetric(w *world) []problem {
	if n := metrics[e.metric](w, e); !e.value.has(n) {
		return []problem{{e.line, fmt.Sprintf("%s %sis %d, not %v", e.metric, quoteIf(e.text), n, e.value)}}
	}
	return nil
}

func quoteIf(text string) string {
	if text == "" {
		return ""
	}
	return strconv.Quote(text) + " "
}
