package poolpage

import (
	"fmt"
	"html/template"
	"strings"
)

// Size of a chart in its own units. CSS stretches it.
const (
	chartWidth  = kept
	chartHeight = 60
)

// chart is a small picture of the last five minutes. Its label says the same in words.
type chart struct {
	Title, Now, Top, Label string
	Lines                  template.HTML // paths, made of numbers alone
	Key                    []chartKey
}

// chartKey names a line by its look. Lines differ in their dashes, not in colour alone.
type chartKey struct{ Class, Text string }

// line is what a chart draws.
type line struct {
	class string
	value func(*Second) float64
	area  bool
}

// paths draws lines to one scale.
func paths(history []Second, top float64, lines ...line) template.HTML {
	var b strings.Builder
	first := kept - len(history)
	for _, l := range lines {
		if top == 0 {
			continue // a line on the axis says nothing
		}
		if l.area && len(history) > 0 {
			fmt.Fprintf(&b, `<path class="%s-area" d="M%d %d`, l.class, first, chartHeight)
			draw(&b, "L", first, history, top, l.value)
			fmt.Fprintf(&b, `L%d %dZ"/>`, kept, chartHeight)
		}
		fmt.Fprintf(&b, `<path class="%s" d="`, l.class)
		draw(&b, "M", first, history, top, l.value)
		b.WriteString(`"/>`)
	}
	return template.HTML(b.String()) // numbers, and classes from this file
}

// draw writes steps: a value holds for a second. What does not change is one step.
func draw(b *strings.Builder, move string, first int, history []Second, top float64, value func(*Second) float64) {
	last := -1.0
	for i := range history {
		y := chartHeight - min(value(&history[i])/top, 1)*(chartHeight-2)
		if y == last {
			continue
		}
		if i == 0 {
			fmt.Fprintf(b, "%s%d %.4g", move, first, y)
		} else {
			fmt.Fprintf(b, "H%dV%.4g", first+i, y)
		}
		last = y
	}
	if len(history) > 0 {
		fmt.Fprintf(b, "H%d", kept)
	}
}

// highest is the largest value in the history.
func highest(history []Second, value func(*Second) float64) (top float64) {
	for i := range history {
		top = max(top, value(&history[i]))
	}
	return top
}

func sum(history []Second, value func(*Second) float64) (all float64) {
	for i := range history {
		all += value(&history[i])
	}
	return all
}

// charts are those of the page.
func charts(p *Pool) []chart {
	h := p.History
	inUse := func(s *Second) float64 { return float64(s.InUse) }
	open := func(s *Second) float64 { return float64(s.Open) }
	limit := func(s *Second) float64 { return float64(s.Limit) }
	waiting := func(s *Second) float64 { return float64(s.Waiting) }
	p50 := func(s *Second) float64 { return float64(s.WaitP50) }
	p99 := func(s *Second) float64 { return float64(s.WaitP99) }
	acquired := func(s *Second) float64 { return float64(s.Acquired) }
	timeouts := func(s *Second) float64 { return float64(s.Timeouts) }
	dials := func(s *Second) float64 { return float64(s.DialErrors) }

	most := highest(h, limit)
	mostWaiting, mostWait := highest(h, waiting), highest(h, p99)
	now := Second{Limit: p.Limit, InUse: p.InUse, Waiting: p.Waiting}
	if len(h) > 0 {
		last := h[len(h)-1]
		now.WaitP50, now.WaitP99, now.Acquired = last.WaitP50, last.WaitP99, last.Acquired
	}
	return []chart{
		{
			Title: "In use", Now: fmt.Sprintf("%d of %d", now.InUse, now.Limit), Top: fmt.Sprint(most),
			Label: fmt.Sprintf("Connections in use, five minutes: %d now, %g at most, limit %d", now.InUse, highest(h, inUse), now.Limit),
			Lines: paths(h, most, line{class: "a", value: inUse, area: true}, line{class: "b", value: open}, line{class: "c", value: limit}),
			Key:   []chartKey{{"a", "in use"}, {"b", "open"}, {"c", "limit"}},
		}, {
			Title: "Waiting", Now: fmt.Sprint(now.Waiting), Top: fmt.Sprint(mostWaiting),
			Label: fmt.Sprintf("Callers waiting, five minutes: %d now, %g at most", now.Waiting, mostWaiting),
			Lines: paths(h, mostWaiting, line{class: "a", value: waiting, area: true}),
			Key:   []chartKey{{"a", "callers in the queue"}},
		}, {
			Title: "Wait", Now: now.WaitP99.String(), Top: Seconds(mostWait).String(),
			Label: fmt.Sprintf("Time waited by those who waited, five minutes: p50 %s and p99 %s in the last second, %s at most", now.WaitP50, now.WaitP99, Seconds(mostWait)),
			Lines: paths(h, mostWait, line{class: "a", value: p99}, line{class: "b", value: p50}),
			Key:   []chartKey{{"a", "p99"}, {"b", "p50, of the waits that ended"}},
		}, {
			Title: "Checkouts", Now: fmt.Sprintf("%d /s", now.Acquired), Top: fmt.Sprint(highest(h, acquired)),
			Label: fmt.Sprintf("Checkouts a second, five minutes: %d now, %g at most", now.Acquired, highest(h, acquired)),
			Lines: paths(h, highest(h, acquired), line{class: "a", value: acquired, area: true}),
			Key:   []chartKey{{"a", "a second"}},
		}, {
			Title: "Timeouts", Now: fmt.Sprint(sum(h, timeouts)), Top: fmt.Sprint(highest(h, timeouts)),
			Label: fmt.Sprintf("Waits that timed out, five minutes: %g, at most %g in a second", sum(h, timeouts), highest(h, timeouts)),
			Lines: paths(h, highest(h, timeouts), line{class: "e", value: timeouts, area: true}),
			Key:   []chartKey{{"e", "a second; the number is of five minutes"}},
		}, {
			Title: "Dial errors", Now: fmt.Sprint(sum(h, dials)), Top: fmt.Sprint(highest(h, dials)),
			Label: fmt.Sprintf("Dials that failed, five minutes: %g, at most %g in a second", sum(h, dials), highest(h, dials)),
			Lines: paths(h, highest(h, dials), line{class: "e", value: dials, area: true}),
			Key:   []chartKey{{"e", "a second; the number is of five minutes"}},
		},
	}
}
