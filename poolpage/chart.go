package poolpage

import (
	"fmt"
	"html/template"

	"github.com/go-lifeguard/lifeguard/internal/plot"
)

const chartHeight = 60 // in a chart's own units, as its width, kept; CSS stretches it

// chart is a small picture of the last five minutes. Its label says the same in words.
type chart struct {
	Title, Now, Top, Label string
	Lines                  template.HTML // paths, made of numbers alone
	Key                    []chartKey
}

// chartKey names a line by its look. Lines differ in their dashes, not in colour alone.
type chartKey struct{ Class, Text string }

func paths(top float64, lines ...plot.Line) template.HTML {
	return template.HTML(plot.Paths(kept, chartHeight, top, lines...)) // numbers, and the classes below
}

// charts are those of the page.
func charts(p *Pool) []chart {
	h := p.History
	of := func(value func(*Second) float64) plot.Series {
		all := make(plot.Series, len(h))
		for i := range h {
			all[i] = value(&h[i])
		}
		return all
	}
	inUse := of(func(s *Second) float64 { return float64(s.InUse) })
	open := of(func(s *Second) float64 { return float64(s.Open) })
	limit := of(func(s *Second) float64 { return float64(s.Limit) })
	waiting := of(func(s *Second) float64 { return float64(s.Waiting) })
	p50 := of(func(s *Second) float64 { return float64(s.WaitP50) })
	p99 := of(func(s *Second) float64 { return float64(s.WaitP99) })
	acquired := of(func(s *Second) float64 { return float64(s.Acquired) })
	timeouts := of(func(s *Second) float64 { return float64(s.Timeouts) })
	dials := of(func(s *Second) float64 { return float64(s.DialErrors) })

	most := limit.Highest()
	mostWaiting, mostWait := waiting.Highest(), p99.Highest()
	now := Second{Limit: p.Limit, InUse: p.InUse, Waiting: p.Waiting}
	if len(h) > 0 {
		now.WaitP50, now.WaitP99, now.Acquired = h[len(h)-1].WaitP50, h[len(h)-1].WaitP99, h[len(h)-1].Acquired
	}
	return []chart{
		{
			Title: "In use", Now: fmt.Sprintf("%d of %d", now.InUse, now.Limit), Top: fmt.Sprint(most),
			Label: fmt.Sprintf("Connections in use, five minutes: %d now, %g at most, limit %d", now.InUse, inUse.Highest(), now.Limit),
			Lines: paths(most, plot.Line{Class: "a", Values: inUse, Area: true}, plot.Line{Class: "b", Values: open}, plot.Line{Class: "c", Values: limit}),
			Key:   []chartKey{{"a", "in use"}, {"b", "open"}, {"c", "limit"}},
		}, {
			Title: "Waiting", Now: fmt.Sprint(now.Waiting), Top: fmt.Sprint(mostWaiting),
			Label: fmt.Sprintf("Callers waiting, five minutes: %d now, %g at most", now.Waiting, mostWaiting),
			Lines: paths(mostWaiting, plot.Line{Class: "a", Values: waiting, Area: true}),
			Key:   []chartKey{{"a", "callers in the queue"}},
		}, {
			Title: "Wait", Now: now.WaitP99.String(), Top: Seconds(mostWait).String(),
			Label: fmt.Sprintf("Time waited by those who waited, five minutes: p50 %s and p99 %s in the last second, %s at most", now.WaitP50, now.WaitP99, Seconds(mostWait)),
			Lines: paths(mostWait, plot.Line{Class: "a", Values: p99}, plot.Line{Class: "b", Values: p50}),
			Key:   []chartKey{{"a", "p99"}, {"b", "p50, of the waits that ended"}},
		}, {
			Title: "Checkouts", Now: fmt.Sprintf("%d /s", now.Acquired), Top: fmt.Sprint(acquired.Highest()),
			Label: fmt.Sprintf("Checkouts a second, five minutes: %d now, %g at most", now.Acquired, acquired.Highest()),
			Lines: paths(acquired.Highest(), plot.Line{Class: "a", Values: acquired, Area: true}),
			Key:   []chartKey{{"a", "a second"}},
		}, {
			Title: "Timeouts", Now: fmt.Sprint(timeouts.Sum()), Top: fmt.Sprint(timeouts.Highest()),
			Label: fmt.Sprintf("Waits that timed out, five minutes: %g, at most %g in a second", timeouts.Sum(), timeouts.Highest()),
			Lines: paths(timeouts.Highest(), plot.Line{Class: "e", Values: timeouts, Area: true}),
			Key:   []chartKey{{"e", "a second; the number is of five minutes"}},
		}, {
			Title: "Dial errors", Now: fmt.Sprint(dials.Sum()), Top: fmt.Sprint(dials.Highest()),
			Label: fmt.Sprintf("Dials that failed, five minutes: %g, at most %g in a second", dials.Sum(), dials.Highest()),
			Lines: paths(dials.Highest(), plot.Line{Class: "e", Values: dials, Area: true}),
			Key:   []chartKey{{"e", "a second; the number is of five minutes"}},
		},
	}
}
