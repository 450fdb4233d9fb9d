package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// churn is waves of requests on a pool whose idle limit nobody has thought about.
type churn struct{}

const (
	wave       = 10
	churnQuery = "SELECT 1 FROM pg_sleep(0.001)"
)

func (churn) Name() string { return "churn" }

const (
	churnOpen    = "opened by the first wave"
	churnDials   = "dials per 100 checkouts"
	churnMedian  = "median"
	churnSlowest = "slowest of a wave (median)"
)

func (w churn) Run(ctx context.Context, r *Run) (_ *Section, err error) {
	between, dsn, err := through(r.DSN, proxy.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, between.Close()) }()
	waves := pick(r, 25, 15, 4)
	table := &report.Table{
		Baseline: baseline,
		Columns: []report.Column{
			{Name: churnOpen, Unit: report.Count},
			{Name: churnDials, Unit: report.Count, Better: report.Lower},
			{Name: churnMedian, Unit: report.Seconds, Better: report.Lower},
			{Name: churnSlowest, Unit: report.Seconds, Better: report.Lower},
		},
	}
	list := r.few(table)
	for round := range r.Rounds {
		for _, c := range r.order(w.Name(), round, list) {
			err := withPool(ctx, c, dsn, candidate.Settings{Connections: wave, IdleDefault: true}, func(pool candidate.Pool) error {
				settle()
				none := between.Accepted()
				// The first wave finds an empty pool, which is not what is asked here.
				if _, err := burst(ctx, pool, wave, churnQuery); err != nil {
					return err
				}
				before := between.Accepted()
				var all, slowest []float64
				for range waves {
					if err := sleep(ctx, 3*time.Millisecond); err != nil {
						return err
					}
					latencies, err := burst(ctx, pool, wave, churnQuery)
					if err != nil {
						return err
					}
					all = append(all, latencies...)
					_, last := stats.Range(latencies)
					slowest = append(slowest, last)
				}
				row := report.Row{Candidate: c.Name()}
				table.Add(row, churnOpen, float64(before-none))
				table.Add(row, churnDials, float64(between.Accepted()-before)*100/float64(waves*wave))
				table.Add(row, churnMedian, stats.Median(all))
				table.Add(row, churnSlowest, stats.Median(slowest))
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		r.logf("churn, round %d measured", round+1)
	}
	table.Sort(nil, r.names())
	return &Section{
		Title: "Churn: the idle limit nobody set",
		Text: fmt.Sprintf("Waves of %d requests of 1 ms (`%s`) on a pool of %d connections whose number of idle "+
			"connections is left at its default, with pauses of 3 ms. `database/sql` keeps two and closes the "+
			"others, to open them again for the next wave.",
			wave, churnQuery, wave),
		Tables: []*report.Table{table},
		Cause:  plainCause(w.cause),
		Headlines: []Headline{{
			Text: "dials per 100 checkouts, idle limit not set", Table: table,
			Row: report.Row{Candidate: "lifeguard"}, Column: churnDials,
		}},
	}, nil
}

func (churn) cause(t *report.Table, loss report.Loss) string {
	if !IsPGX(loss.To) {
		return ""
	}
	open := func(candidate string) float64 {
		return stats.Median(t.Values(report.Row{Candidate: candidate}, churnOpen))
	}
	mine, theirs := open(loss.Row.Candidate), open(loss.To)
	switch {
	case mine >= theirs && loss.Column != churnDials:
		return "Both have a connection open for each request of a wave. What is left is the processor time of ten queries at " +
			"once, of which pgx needs less than lib/pq: see PostgreSQL."
	case mine >= theirs:
		return ""
	case loss.Column == churnDials:
		return fmt.Sprintf("lifeguard serves the first wave, which is not counted, with fewer connections than it has requests, "+
			"%s where %s opens %s, and opens some more in a later wave.", report.Count.Format(mine), loss.To, report.Count.Format(theirs))
	default:
		return fmt.Sprintf("lifeguard opened %s connections for waves of %d, and %s %s: with fewer, some of a wave wait for "+
			"another's query of 1 ms.", report.Count.Format(mine), wave, loss.To, report.Count.Format(theirs))
	}
}
