package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// slowDials is a crowd of long queries on a cold pool whose server is slow to connect to: a proxy that checks tokens, TLS
// over an ocean, a database that wakes up.
type slowDials struct{}

const (
	slowDialsRequests = 50
	slowDialsTimeout  = 3 * time.Second
	slowDialsDial     = 1500 * time.Millisecond
	slowDialsQuery    = 200 * time.Millisecond
)

func (slowDials) Name() string { return "slowdials" }

const (
	slowDialsServed = "all served after"
	slowDialsMedian = "median"
	slowDialsOpened = "connections opened"
	slowDialsLost   = "timed out"
)

func (w slowDials) Run(ctx context.Context, r *Run) (_ *Section, err error) {
	// A smoke run has all times a tenth as long.
	part := pick(r, time.Duration(1), 1, 10)
	dial, takes, timeout := slowDialsDial/part, slowDialsQuery/part, slowDialsTimeout/part
	between, dsn, err := through(r.DSN, proxy.Options{Connect: dial})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, between.Close()) }()
	query := fmt.Sprintf("SELECT 1 FROM pg_sleep(%g)", takes.Seconds())
	table := &report.Table{
		Baseline: baseline,
		Columns: []report.Column{
			{Name: slowDialsLost, Unit: report.Count, Better: report.Lower},
			{Name: slowDialsServed, Unit: report.Seconds, Better: report.Lower},
			{Name: slowDialsMedian, Unit: report.Seconds, Better: report.Lower},
			{Name: slowDialsOpened, Unit: report.Count},
		},
	}
	list, others := r.pools()
	leaveOutOthers(table, others)
	for round := range r.Rounds {
		for _, c := range r.order(w.Name(), round, list) {
			var latencies []float64
			opened, lost := between.Accepted(), 0
			s := candidate.Settings{Connections: slowDialsRequests, PoolTimeout: timeout}
			err := withPool(ctx, c, dsn, s, func(pool candidate.Pool) error {
				settle()
				all, failures := crowd(ctx, pool, slowDialsRequests, query)
				for i, err := range failures {
					switch {
					case err == nil:
						latencies = append(latencies, all[i])
					case errors.Is(err, lifeguard.ErrPoolTimeout):
						lost++
					default:
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
			row := report.Row{Candidate: c.Name()}
			_, last := stats.Range(latencies)
			table.Add(row, slowDialsLost, float64(lost))
			table.Add(row, slowDialsServed, last)
			table.Add(row, slowDialsMedian, stats.Median(latencies))
			table.Add(row, slowDialsOpened, float64(between.Accepted()-opened))
			r.logf("slowdials, round %d: %-22s %d timed out, all served after %s", round+1, c.Name(), lost, report.Seconds.Format(last))
		}
	}
	table.Sort(nil, r.names())
	return &Section{
		Title: "Slow dials: a cold pool that is far away",
		Text: fmt.Sprintf("%d requests arrive at the same moment at a pool of up to %d connections that has none open. Each takes "+
			"%s, and opening a connection takes %s, which a proxy sees to. Where there is a `pool_timeout` it is %s, so that a "+
			"pool which opens its connections a few at a time loses requests that plain `database/sql` serves.",
			slowDialsRequests, slowDialsRequests, report.Duration(takes), report.Duration(dial), report.Duration(timeout)),
		Tables: []*report.Table{table},
		Cause:  plainCause(w.cause),
		Headlines: []Headline{
			{Text: "slow dials: " + slowDialsLost, Table: table, Row: report.Row{Candidate: "lifeguard"}, Column: slowDialsLost},
			{Text: "slow dials: " + slowDialsServed, Table: table, Row: report.Row{Candidate: "lifeguard"}, Column: slowDialsServed},
		},
	}, nil
}

func (slowDials) cause(*report.Table, report.Loss) string {
	return "lifeguard begins with two dials and adds more the longer somebody has waited, so its last connections are asked for " +
		"some tenths of a second later than where each request dials at once."
}
