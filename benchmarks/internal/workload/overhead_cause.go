package workload

import (
	"fmt"
	"math"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

func (overhead) cause(t *report.Table, loss report.Loss) (text, note string) {
	if loss.Row.Candidate == traceAll {
		return traceAllCost, ""
	}
	if t.Title == overheadAllocations {
		return "Something is allocated for each operation that " + loss.To + " does not need.", ""
	}
	// The range over everything, so that the text is the same for each figure.
	lowest, highest, perRow := math.Inf(1), 0.0, 0.0
	for _, tracing := range tracings {
		for _, name := range []string{"lifeguard", "lifeguard (no cache)"} {
			for _, c := range t.Columns {
				added := stats.Median(t.Values(report.Row{Variant: tracing.name, Candidate: name}, c.Name)) -
					stats.Median(t.Values(report.Row{Variant: tracing.name, Candidate: baseline}, c.Name))
				switch {
				case !(added > 0): // or not known
				case c.Name == overheadRows:
					perRow = max(perRow, added/100)
				default:
					lowest, highest = min(lowest, added), max(highest, added)
				}
			}
		}
	}
	text = "For the limit, the order of waiters, leaks and slow queries lifeguard keeps account of every checkout and " +
		"operation: who has the connection, since when, with what and from where. Libraries that only pass calls on have " +
		"none of it."
	if highest > 0 {
		text += fmt.Sprintf(" It adds %s to %s to an operation here", report.Seconds.Format(lowest), report.Seconds.Format(highest))
		if perRow > 0 {
			text += fmt.Sprintf(", and up to %s to a row", report.Seconds.Format(perRow))
		}
		text += "."
	}
	return text, ""
}

// traceAllCost is where the time of a span goes.
const traceAllCost = "A span of lifeguard's names the place in the code that the query came from, which those of the " +
	"others do not: the stack has to be taken for it and the application's frame found."
