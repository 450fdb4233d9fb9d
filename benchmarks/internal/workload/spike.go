package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// spike is a crowd that comes at once to a pool that is not ready for it.
type spike struct{}

const (
	spikeRequests = 50
	spikeDial     = 150 * time.Millisecond
	spikeQuery    = "SELECT 1 FROM pg_sleep(0.002)"
)

func (spike) Name() string { return "spike" }

const (
	spikeServed = "all served after"
	spikeMedian = "median"
	spikeOpened = "connections opened"
)

func (w spike) Run(ctx context.Context, r *Run) (_ *Section, err error) {
	between, dsn, err := through(r.DSN, proxy.Options{Connect: pick(r, spikeDial, spikeDial, 10*time.Millisecond)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, between.Close()) }()
	table := &report.Table{
		Baseline: baseline, Variants: "open before",
		Columns: []report.Column{
			{Name: spikeServed, Unit: report.Seconds, Better: report.Lower},
			{Name: spikeMedian, Unit: report.Seconds, Better: report.Lower},
			{Name: spikeOpened, Unit: report.Count, Better: report.Lower},
		},
	}
	list := r.few(table)
	var variants []string
	for _, open := range []int{5, 0} {
		variant := spikeVariant(open)
		variants = append(variants, variant)
		for round := range r.Rounds {
			for _, c := range r.order(w.Name()+variant, round, list) {
				var latencies []float64
				opened := 0
				err := withPool(ctx, c, dsn, candidate.Settings{Connections: spikeRequests}, func(pool candidate.Pool) (err error) {
					if err := fill(ctx, pool, open); err != nil {
						return err
					}
					settle()
					before := between.Accepted()
					latencies, err = burst(ctx, pool, spikeRequests, spikeQuery)
					opened = between.Accepted() - before
					return err
				})
				if err != nil {
					return nil, err
				}
				row := report.Row{Variant: variant, Candidate: c.Name()}
				_, last := stats.Range(latencies)
				table.Add(row, spikeServed, last)
				table.Add(row, spikeMedian, stats.Median(latencies))
				table.Add(row, spikeOpened, float64(opened))
			}
			r.logf("spike, %s open, round %d measured", variant, round+1)
		}
	}
	table.Sort(variants, r.names())
	return &Section{
		Title: "Spike: a crowd comes at once",
		Text: fmt.Sprintf("%d requests arrive at the same moment at a pool of up to %d connections. Each takes 2 ms "+
			"(`%s`), and opening a connection takes %s, which a proxy sees to. Five connections can serve everybody "+
			"in 20 ms, so every connection that is opened is one too many. This is the experiment that HikariCP "+
			"calls spike demand; it is repeated on a pool that has none open at all.",
			spikeRequests, spikeRequests, spikeQuery, report.Duration(spikeDial)),
		Tables: []*report.Table{table},
		Cause:  plainCause(w.cause),
		Headlines: []Headline{
			w.headline(table, 0, fmt.Sprintf("%d callers at once on a cold pool: ", spikeRequests), spikeServed, true),
			w.headline(table, 5, fmt.Sprintf("%d callers at once on 5 open connections: ", spikeRequests), spikeServed, false),
			w.headline(table, 5, fmt.Sprintf("%d callers at once on 5 open connections: ", spikeRequests), spikeOpened, false),
		},
	}, nil
}

func (spike) headline(t *report.Table, open int, text, column string, front bool) Headline {
	return Headline{
		Text: text + column, Table: t, Front: front, Row: report.Row{Variant: spikeVariant(open), Candidate: "lifeguard"}, Column: column,
	}
}

func spikeVariant(open int) string { return fmt.Sprintf("%d connections", open) }

// burst has n goroutines run the query at the same time, and returns their latencies in seconds.
func burst(ctx context.Context, pool candidate.Pool, n int, query string) ([]float64, error) {
	latencies, failures := crowd(ctx, pool, n, query)
	return latencies, errors.Join(failures...)
}

// crowd is burst for queries that may fail.
func crowd(ctx context.Context, pool candidate.Pool, n int, query string) (latencies []float64, failures []error) {
	latencies, failures = make([]float64, n), make([]error, n)
	var all sync.WaitGroup
	start := make(chan struct{})
	var began time.Time
	for i := range n {
		all.Go(func() {
			<-start
			_, failures[i] = pool.Int(ctx, query)
			latencies[i] = time.Since(began).Seconds()
		})
	}
	began = time.Now()
	close(start)
	all.Wait()
	return latencies, failures
}

func (spike) cause(t *report.Table, loss report.Loss) string {
	if loss.Row.Variant == spikeVariant(0) && loss.Column != spikeOpened {
		return fmt.Sprintf("A cold pool opens a few connections at a time, which those who come first share: %s here, where "+
			"%s opened %s. What the server would have to do for so many at once is not measured.",
			report.Count.Format(stats.Median(t.Values(loss.Row, spikeOpened))), loss.To,
			report.Count.Format(stats.Median(t.Values(report.Row{Variant: loss.Row.Variant, Candidate: loss.To}, spikeOpened))))
	}
	return ""
}
