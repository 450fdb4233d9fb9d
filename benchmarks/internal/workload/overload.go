package workload

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// overload is requests that come whether or not there is room for them.
type overload struct{}

const (
	overloadConnections = 5
	overloadQuery       = "SELECT 1 FROM pg_sleep(0.02)"
)

// settling is what the warm-up has beyond the time after which the first requests have been answered or have given up:
// only then has a pool seen what the load is.
const settling = 300 * time.Millisecond

// patience is what ends a wait.
type patience struct {
	name, title string
	short, file string
	deadline    time.Duration // of each request's context, 0 for none
	poolTimeout time.Duration // where the candidate has one, 0 for its default
	inTime      time.Duration // an answer later than this is late
}

var patiences = []patience{
	{
		name:     "deadline",
		title:    "Every request has a deadline of 500 ms",
		short:    "deadlines of 500 ms",
		file:     "bench-overload-deadline.svg",
		deadline: 500 * time.Millisecond,
		inTime:   500 * time.Millisecond,
	},
	{
		name:        "pool_timeout",
		short:       "no deadlines",
		title:       "No deadlines, `pool_timeout` of 500 ms where there is one; in time is within 600 ms",
		file:        "bench-overload-timeout.svg",
		poolTimeout: 500 * time.Millisecond,
		inTime:      600 * time.Millisecond,
	},
}

// shortened is not what its title says, and quicker.
func (p patience) shortened(times time.Duration) patience {
	p.deadline, p.poolTimeout, p.inTime = p.deadline/times, p.poolTimeout/times, p.inTime/times
	return p
}

// Columns of the tables.
const (
	overloadAnswered = "answered in time"
	overloadPossible = "of what is possible"
	overloadMedian   = "their median"
	overloadP99      = "their p99"
	overloadLate     = "answered late"
	overloadTimeout  = "timed out"
	overloadAfter    = "after (median)"
	overloadError    = "other errors"
)

func (overload) Name() string { return "overload" }

func (w overload) Run(ctx context.Context, r *Run) (*Section, error) {
	loads := pick(r, []float64{0.5, 0.9, 1.1, 2}, []float64{0.9, 2}, []float64{2})
	window := pick(r, 1500*time.Millisecond, time.Second, 200*time.Millisecond)

	pools, others := r.pools()
	tables := map[string]*report.Table{}
	var variants []string
	patiences := slices.Clone(patiences)
	for i, p := range patiences {
		if r.Extent == Smoke {
			patiences[i] = p.shortened(10)
		}
		tables[p.name] = overloadTable(p.title)
		leaveOutOthers(tables[p.name], others)
	}
	loadsOf := map[string][]float64{}
	for _, p := range patiences {
		loadsOf[p.name] = loads
	}
	if r.Extent != Full {
		loadsOf["pool_timeout"] = loads[len(loads)-1:]
	}
	for _, load := range loads {
		variants = append(variants, variantOf(load))
	}

	var capacities []float64
	for round := range r.Rounds {
		capacity, err := w.capacity(ctx, r)
		if err != nil {
			return nil, err
		}
		capacities = append(capacities, capacity)
		r.logf("overload, round %d: capacity %.0f/s", round+1, capacity)
		for _, p := range patiences {
			for _, load := range loadsOf[p.name] {
				if err := w.offer(ctx, r, round, p, load, capacity, window, tables[p.name]); err != nil {
					return nil, err
				}
			}
		}
	}

	s := w.section(stats.Median(capacities), window)
	for _, p := range patiences {
		t := tables[p.name]
		t.Sort(variants, r.names())
		s.Tables = append(s.Tables, t)
		s.Headlines = append(s.Headlines, w.headlines(p, t, loadsOf[p.name])...)
		s.Pictures = append(s.Pictures, w.picture(pools, p, t, loadsOf[p.name], stats.Median(capacities)))
	}
	return s, nil
}

func overloadTable(title string) *report.Table {
	return &report.Table{
		Title: title, Baseline: baseline, Variants: "load",
		Columns: []report.Column{
			{Name: overloadAnswered, Unit: report.PerSecond, Better: report.Higher},
			{Name: overloadPossible, Unit: report.Percent},
			{Name: overloadMedian, Unit: report.Seconds, Better: report.Lower},
			{Name: overloadP99, Unit: report.Seconds, Better: report.Lower},
			{Name: overloadLate, Unit: report.Percent},
			{Name: overloadTimeout, Unit: report.Percent},
			{Name: overloadAfter, Unit: report.Seconds},
			{Name: overloadError, Unit: report.Percent},
		},
	}
}

// offer offers one load to all candidates, with the same arrivals.
func (w overload) offer(ctx context.Context, r *Run, round int, p patience, load, capacity float64, window time.Duration, to *report.Table) error {
	pools, _ := r.pools()
	for _, c := range r.order(w.Name()+p.name+variantOf(load), round, pools) {
		arrivals := arrivals{
			rng:      r.rng(fmt.Sprintf("arrivals %s %v", p.name, load), round),
			rate:     load * capacity,
			warm:     p.inTime + pick(r, settling, settling, 0),
			window:   window,
			patience: p,
		}
		if load > 1 {
			// What would be waiting already if it had been so for long; without it the time measured would
			// show how the queue grows.
			arrivals.backlog = int(capacity * p.inTime.Seconds())
		}
		var o outcome
		s := candidate.Settings{Connections: overloadConnections, PoolTimeout: p.poolTimeout}
		err := withPool(ctx, c, r.DSN, s, func(pool candidate.Pool) (err error) {
			o, err = arrivals.offer(ctx, pool)
			return err
		})
		if err != nil {
			return err
		}
		o.add(to, report.Row{Variant: variantOf(load), Candidate: c.Name()}, capacity)
		r.logf("overload, round %d, %s, %.1f × capacity: %-22s %.0f/s in time, median %s; %s", round+1, p.name, load,
			c.Name(), o.answeredPerSecond(), report.Seconds.Format(o.quantile(0.5)), o.rest())
	}
	return nil
}

func (w overload) section(capacity float64, window time.Duration) *Section {
	return &Section{
		Title: "Overload: requests that come anyway",
		Text: fmt.Sprintf("Requests arrive as a Poisson process, whether or not earlier ones have been answered, on a "+
			"pool of %d connections; each runs a query of 20 ms (`%s`). The load is relative to the capacity, which "+
			"is measured at the beginning of each round in a closed loop on %s: %s a second. The latency counts from "+
			"the moment at which the request was meant to arrive, so that a slow program cannot improve its figures "+
			"by asking later. Every candidate gets the same arrivals. They are counted for %s after a warm-up; above "+
			"the capacity the warm-up begins with as many requests waiting as can be answered in time, as if the "+
			"load had been there for long. The median and the p99 are of those who were answered in time, and not given "+
			"for fewer than %d and %d of them; a candidate that answers few can have a good one. The rest were answered "+
			"late, timed out (after which time is their median), or got another error.",
			overloadConnections, overloadQuery, baseline, report.Count.Format(capacity), report.Duration(window),
			enoughForMedian, enoughForP99),
		Cause: plainCause(w.cause),
	}
}

// headlines are the figures for the highest load.
func (overload) headlines(p patience, t *report.Table, loads []float64) []Headline {
	row := report.Row{Variant: variantOf(loads[len(loads)-1]), Candidate: "lifeguard"}
	if p.deadline == 0 {
		return nil // the summary is to be short
	}
	return []Headline{
		{
			Text: fmt.Sprintf("%s, %s: answered in time", row.Variant, p.short), Table: t, Row: row, Column: overloadAnswered,
		},
		{
			Text: fmt.Sprintf("%s, %s: half of those within", row.Variant, p.short), Table: t, Row: row, Column: overloadMedian,
			Front: true,
		},
	}
}

// cause goes by the load: what an order of waiters does depends on whether all of them can be served.
func (overload) cause(t *report.Table, loss report.Loss) string {
	var load float64
	_, _ = fmt.Sscanf(loss.Row.Variant, "%g", &load)
	answered := func(candidate string) float64 {
		return stats.Median(t.Values(report.Row{Variant: loss.Row.Variant, Candidate: candidate}, overloadAnswered))
	}
	mine, theirs := answered(loss.Row.Candidate), answered(loss.To)
	switch {
	case loss.Column == overloadAnswered && load > 1:
		return "Until a waiter is about to run out of time lifeguard serves in turn, and those who are served then have " +
			"waited nearly as long as they can: some of their queries end too late, and were done for nothing."
	case loss.Column != overloadAnswered && mine > 1.05*theirs:
		return fmt.Sprintf("The figure is of those who were answered in time, and %s answers fewer: %s a second, lifeguard %s. "+
			"Who would have waited longest is not among them.", loss.To, report.Count.Format(theirs), report.Count.Format(mine))
	case loss.Column == overloadMedian:
		return "Near the capacity lifeguard serves in turn, and everybody waits about as long as everybody else. Served at " +
			"random, many are lucky, at the price of those who are not: see the p99."
	case loss.Column == overloadP99 && load > 1:
		return "When lifeguard goes from serving in turn to serving the newest first, those who came before are left to " +
			"wait, and are answered late in their time if at all."
	}
	return ""
}

func variantOf(load float64) string { return fmt.Sprintf("%g × capacity", load) }

// capacity is how many queries a second the connections can do: twice as many goroutines, so that there is always one
// waiting, each asking as soon as it has its answer.
func (overload) capacity(ctx context.Context, r *Run) (perSecond float64, err error) {
	length := pick(r, 1500*time.Millisecond, 800*time.Millisecond, 200*time.Millisecond)
	err = withPool(ctx, candidate.All()[0], r.DSN, candidate.Settings{Connections: overloadConnections}, func(pool candidate.Pool) error {
		if err := fill(ctx, pool, overloadConnections); err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var answered atomic.Int64
		var stop atomic.Bool
		var workers sync.WaitGroup
		for range 2 * overloadConnections {
			workers.Go(func() {
				for !stop.Load() && ctx.Err() == nil {
					if _, err := pool.Int(ctx, overloadQuery); err != nil {
						cancel(err)
						return
					}
					answered.Add(1)
				}
			})
		}
		err := sleep(ctx, length/4)
		from, begin := answered.Load(), time.Now()
		if err == nil {
			err = sleep(ctx, length)
		}
		perSecond = float64(answered.Load()-from) / time.Since(begin).Seconds()
		stop.Store(true)
		workers.Wait()
		if err != nil {
			return context.Cause(ctx)
		}
		return nil
	})
	return perSecond, err
}

func (overload) picture(pools []candidate.Candidate, p patience, t *report.Table, loads []float64, capacity float64) Picture {
	lines := &chart.Lines{
		Title:       "Answered in time while the load grows: " + p.short,
		Description: "Requests answered in time per second, over the requests offered, both relative to the capacity.",
		X:           chart.Axis{Name: "offered load, relative to the capacity"},
		Y:           chart.Axis{Name: "answered in time, per second"},
		Mark:        capacity, MarkName: "capacity",
	}
	lines.X.Ticks = append(lines.X.Ticks, chart.Tick{At: 0, Name: "0"})
	for _, load := range loads {
		lines.X.Ticks = append(lines.X.Ticks, chart.Tick{At: load, Name: fmt.Sprint(load)})
	}
	for _, c := range pools {
		line := chart.Line{Name: c.Name(), Tone: tone(c), Points: []chart.Point{{X: 0, Y: 0}}}
		for _, load := range loads {
			v := stats.Median(t.Values(report.Row{Variant: variantOf(load), Candidate: c.Name()}, overloadAnswered))
			line.Points = append(line.Points, chart.Point{X: load, Y: v})
		}
		lines.Lines = append(lines.Lines, line)
	}
	lines.Y.Ticks = chart.Even(capacity*1.1, report.Count.Format)
	return Picture{File: p.file, Alt: "Requests answered in time over offered load, " + p.short, Chart: lines}
}
