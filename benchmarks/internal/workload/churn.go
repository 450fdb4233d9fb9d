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
			Text: "dials per 100 checkouts, idle limit not set", Table: table, Front: true,
			Row: report.Row{Candidate: "lifeguard"}, Column: churnDials,
		}},
	}, nil
}

func (churn) cause(t *report.Table, loss report.Loss) string {
	switch {
	case loss.Column == churnDials && IsPGX(loss.To):
		return "lifeguard serves the first wave, which is not counted, with fewer connections than it has requests, and " +
			"opens some more in a later wave. pgxpool opens one for every request of the first wave, and keeps them all."
	case loss.Column == churnSlowest && IsPGX(loss.To):
		return "While requests wait, connections are handed from one to the next and some are still being opened: " +
			"the last of a wave waits for another's query."
	case loss.Column == churnMedian && IsPGX(loss.To):
		return fmt.Sprintf("A request of a wave that finds no connection open waits for another's query of 1 ms; with %s "+
			"a connection is open for each.", loss.To)
	}
	return ""
}
